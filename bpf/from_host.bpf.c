// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * from_host: tcx egress of fairlead_host, where the routes to other nodes' pods lead in tunnel mode, and
 * those to this node's pods where they have none of their own. May assume: the packet was routed here by this
 * node; a pod's packet was judged by from_pod.
 */
#define FILE_NUMBER 5
#include "lib/work.h"
#include "lib/host_firewall.h"
#include "lib/encap.h"

static __always_inline int to_interface_of(struct __sk_buff *skb, struct endpoint *ep)
{
	__u8 macs[12];

	__builtin_memcpy(macs, ep->pod_mac, 6);
	__builtin_memcpy(macs + 6, ep->host_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return -DROP_WRITE_ERROR;
	step(STEP_REDIRECT, REDIRECT_DEVICE, s->number[0] = ep->ifindex);
	return bpf_redirect(ep->ifindex, 0);
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct work *w = begin_work(EGRESS);
	struct packet *p;
	struct report *r;
	struct peer to, from;
	struct endpoint *ep, *to_local;
	int err;

	if (!w)
		return TC_ACT_SHOT;
	p = &w->packet;
	r = &w->report;
	err = parse(skb, p);
	if (err)
		/* Nobody is behind this interface whom the host could ask for an address. */
		return drop(skb, p, r, err == PASS_TO_KERNEL ? DROP_UNSUPPORTED_L3 : err);
	find_peer(&p->source, &from);
	ep = in_pod_range(&p->source) ? local_endpoint(&p->source) : NULL;
	if (ep)
		from.identity = ep->identity;
	else if (from.identity != IDENTITY_HOST)
		/* Forwarded from the wire, where anybody can claim any address. */
		from.identity = IDENTITY_WORLD;
	/* Without a route per pod the host's packets come by here; to_pod judges them. */
	to_local = local_endpoint(&p->destination);
	if (to_local) {
		err = to_interface_of(skb, to_local);
		return err < 0 ? drop(skb, p, r, err) : err;
	}
	find_peer(&p->destination, &to);
	r->source_identity = from.identity;
	r->dest_identity = to.identity;
	r->vni = identity_to_vni(from.identity);
	if (from.identity == IDENTITY_HOST) {
		struct tracking *t = &w->in;

		t->side = 0;
		t->peer = to;
		err = host_egress(skb, w, t);
		if (err)
			return drop(skb, p, r, err);
	}
	r->tunnel = to.tunnel;
	err = encapsulate(skb, to.tunnel, from.identity);
	if (err < 0)
		return drop(skb, p, r, err);
	trace(skb, p, r, TO_OVERLAY, !config.aggregate || (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
	return err;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
