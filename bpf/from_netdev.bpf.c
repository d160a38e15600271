// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * from_netdev: tcx ingress of the node's devices: packets for this node's pods, as they are or in VXLAN.
 * May assume: Ethernet frames. What is not for a pod is left alone, unless it claims to come from one.
 */
#define FILE_NUMBER 3
#include "lib/decap.h"
#include "lib/nodeport.h"
#include "lib/host_firewall.h"

/* Packets of the tunnel that can be taken out of it here; TC_ACT_UNSPEC for all others. */
static __noinline int from_tunnel(struct __sk_buff *skb, struct iphdr *outer)
{
	struct packet p = {};
	struct report r = {.direction = INGRESS, .reply = REPLY_UNKNOWN};
	struct tracking in = {.side = IN, .peer_known = true};
	struct endpoint *ep;
	__u32 vni;
	int err;

	if (!decapsulate(skb, outer, &vni))
		return TC_ACT_UNSPEC;
	err = parse(skb, &p);
	if (err)
		return drop(skb, &p, &r, err < 0 ? err : DROP_INVALID);
	err = overlay_sender(&p, &r, &in.peer, vni, outer->saddr, true);
	if (err)
		return drop(skb, &p, &r, err);
	ep = local_endpoint(&p.destination);
	if (!ep)
		return drop(skb, &p, &r, DROP_NO_LOCAL_ENDPOINT);
	err = admit(skb, &p, ep, &in, &r);
	if (err)
		return drop(skb, &p, &r, err);
	if (in.to_proxy)
		return admitted_to_proxy(skb, &p, &in, &r);
	err = to_peer_of(skb, ep);
	if (err < 0)
		return drop(skb, &p, &r, err);
	trace(skb, &p, &r, TO_ENDPOINT, in.report);
	return err;
}

/* Packets with pods' addresses of their own. */
static __noinline int from_wire(struct __sk_buff *skb)
{
	struct packet p = {};
	struct report r = {.direction = INGRESS, .reply = REPLY_UNKNOWN};
	struct tracking in = {.side = IN, .peer_known = true, .from_wire = true};
	struct endpoint *ep;
	int err;

	err = parse(skb, &p);
	if (err == PASS_TO_KERNEL)
		return TC_ACT_UNSPEC;
	/* Also of packets that could not be parsed to the end; their addresses are known then. */
	if (in_pod_range(&p.source) && local_endpoint(&p.source))
		return drop(skb, &p, &r, DROP_INVALID_SIP);
	ep = local_endpoint(&p.destination);
	if (!ep) {
		int verdict = NOT_SERVED;

		if (config.services && !err)
			verdict = serve_reply(skb, &p, &r);
		if (config.services && !err && verdict == NOT_SERVED)
			verdict = serve_client(skb, &p, &r, &in);
		if (verdict == ELSEWHERE) {
			verdict = to_backend(skb, &p, &r);
			if (verdict == ENCAPSULATE)
				verdict = encapsulate_here(skb, &p, r.tunnel, IDENTITY_WORLD);
			if (verdict < 0)
				return drop(skb, &p, &r, verdict);
			trace(skb, &p, &r, r.tunnel ? TO_OVERLAY : TO_NETWORK,
			      !config.aggregate || (p.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
		}
		if (verdict != NOT_SERVED)
			return verdict;
		ep = local_endpoint(&p.destination);
		if (!ep)
			return TC_ACT_UNSPEC;
	}
	if (err < 0)
		return drop(skb, &p, &r, err);
	find_peer(&p.source, &in.peer);
	/* Pods of other nodes come by the tunnel where there is one; the node itself does not come by the
	 * wire. */
	if ((config.tunnel && in.peer.tunnel) || in.peer.identity == IDENTITY_HOST)
		return drop(skb, &p, &r, DROP_INVALID_SIP);
	if (config.dsr)
		hear_front(skb, &p, &in);
	err = admit(skb, &p, ep, &in, &r);
	if (err)
		return drop(skb, &p, &r, err);
	if (in.to_proxy)
		return admitted_to_proxy(skb, &p, &in, &r);
	err = to_peer_of(skb, ep);
	if (err < 0)
		return drop(skb, &p, &r, err);
	trace(skb, &p, &r, TO_ENDPOINT, in.report);
	return err;
}

/* To the node's end of the tunnel, or a later fragment that may be. */
static __always_inline bool is_tunneled(struct __sk_buff *skb, struct iphdr *ip)
{
	__be16 port;

	if (!config.tunnel || ip->daddr != config.node_address.word[3] || ip->protocol != IPPROTO_UDP)
		return false;
	if (ip->frag_off & bpf_htons(0x1fff))
		return true;
	return !bpf_skb_load_bytes(skb, ETH_HLEN + ip->ihl * 4 + offsetof(struct udp_header, destination),
				   &port, 2) &&
	       port == config.tunnel_port;
}

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	struct iphdr ip;
	int verdict;

	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_UNSPEC;
	if (is_tunneled(skb, &ip))
		return from_tunnel(skb, &ip);
	/* Almost everything else ends here where no service is looked for: packets of the node itself. */
	if (!config.services && !config.host_firewall &&
	    (ip.saddr & config.pod_mask.word[3]) != config.pod_net.word[3] &&
	    (ip.daddr & config.pod_mask.word[3]) != config.pod_net.word[3])
		return TC_ACT_UNSPEC;
	verdict = from_wire(skb);
	if (config.host_firewall && (verdict == TC_ACT_UNSPEC || verdict == TC_ACT_OK))
		return to_node(skb, verdict);
	return verdict;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
