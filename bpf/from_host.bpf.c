// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * from_host: tcx egress of fairlead_host, where the routes to other nodes' pods lead in tunnel mode.
 * May assume: the packet was routed here by this node; a pod's packet was judged by from_pod.
 */
#define FILE_NUMBER 5
#include "lib/host_firewall.h"
#include "lib/encap.h"

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct packet p = {};
	struct report r = {.direction = EGRESS, .reply = REPLY_UNKNOWN};
	struct peer to, from;
	struct endpoint *ep;
	int err;

	err = parse(skb, &p);
	if (err)
		return err == PASS_TO_KERNEL ? TC_ACT_SHOT : drop(skb, &p, &r, err);
	find_peer(&p.source, &from);
	ep = in_pod_range(&p.source) ? local_endpoint(&p.source) : NULL;
	if (ep)
		from.identity = ep->identity;
	else if (from.identity != IDENTITY_HOST)
		/* Forwarded from the wire, where anybody can claim any address. */
		from.identity = IDENTITY_WORLD;
	find_peer(&p.destination, &to);
	r.source_identity = from.identity;
	r.dest_identity = to.identity;
	r.vni = identity_to_vni(from.identity);
	if (from.identity == IDENTITY_HOST) {
		struct tracking t = {.peer_known = true, .peer = to};

		err = host_egress(skb, &p, &r, &t);
		if (err)
			return drop(skb, &p, &r, err);
	}
	r.tunnel = to.tunnel;
	err = encapsulate(skb, to.tunnel, from.identity);
	if (err < 0)
		return drop(skb, &p, &r, err);
	trace(skb, &p, &r, TO_OVERLAY, !config.aggregate || (p.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
	return err;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
