// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * from_netdev: tcx ingress of the node's devices: packets for this node's pods that come as they are.
 * May assume: Ethernet frames. What is not for a pod is left alone, unless it claims to come from one.
 */
#define FILE_NUMBER 3
#include "lib/deliver.h"

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	struct packet p = {};
	struct report r = {.direction = INGRESS, .reply = REPLY_UNKNOWN};
	struct tracking in = {.side = IN, .peer_known = true, .from_wire = true};
	struct endpoint *ep;
	struct ends {
		__be32 source, destination;
	} ends;
	int err;

	if (skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &ends, sizeof(ends)))
		return TC_ACT_UNSPEC;
	/* Almost everything ends here: packets of the node itself, the tunnel's among them. */
	if (!in_pod_range(ends.source) && !in_pod_range(ends.destination))
		return TC_ACT_UNSPEC;
	err = parse(skb, &p);
	if (err == PASS_TO_KERNEL)
		return TC_ACT_UNSPEC;
	if (in_pod_range(ends.source) && local_endpoint(ends.source))
		return drop(skb, &p, &r, DROP_INVALID_SIP);
	ep = local_endpoint(ends.destination);
	if (!ep)
		return TC_ACT_UNSPEC;
	if (err < 0)
		return drop(skb, &p, &r, err);
	find_peer(p.source, &in.peer);
	/* Pods of other nodes come by the tunnel where there is one; the node itself does not come by the
	 * wire. */
	if ((config.tunnel && in.peer.tunnel) || in.peer.identity == IDENTITY_HOST)
		return drop(skb, &p, &r, DROP_INVALID_SIP);
	err = admit(skb, &p, ep, &in, &r);
	if (err)
		return drop(skb, &p, &r, err);
	err = to_peer_of(skb, ep);
	if (err < 0)
		return drop(skb, &p, &r, err);
	trace(skb, &p, &r, TO_ENDPOINT, in.report);
	return err;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
