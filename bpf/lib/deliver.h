/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Into a pod of this node: its ingress policy, then straight to its interface. */
#pragma once

#include "conntrack.h"
#include "nat.h"
#include "bandwidth.h"

/* The endpoint's ingress side of a packet, and the service's address put back. 0 or a negative drop reason.
 */
static __always_inline int admit(struct __sk_buff *skb, struct work *w, struct endpoint *ep,
				 struct tracking *t)
{
	struct packet *p = &w->packet;
	int err = track(skb, w, ep, t, NULL);

	if (err)
		return err;
	/* What a proxy takes reaches the pod when the proxy sends it; the node's own probes always do. */
	if (config.bandwidth && (ep->flags & ENDPOINT_LIMIT_INGRESS) && !t->to_proxy &&
	    t->peer.identity != IDENTITY_HOST) {
		err = limit_ingress(skb, p, ep);
		if (err)
			return err;
	}
	if (!t->reverse || t->to_proxy)
		return 0;
	/* An error that somebody on the way sent keeps its sender. */
	if (p->related && !same_address(&p->source, &p->inner_destination))
		return rewrite_quoted(skb, p, false, &t->service, t->service_port);
	return nat_rewrite(skb, p, true, &t->service, t->service_port);
}

/* What admit() let in: to its proxy. The proxy opens a connection of its own into the pod. */
static __always_inline int admitted_to_proxy(struct __sk_buff *skb, struct packet *p, struct tracking *t,
					     struct report *r)
{
	trace(skb, p, r, TO_PROXY, t->report);
	return redirect_to_proxy(skb, t->proxy_port);
}

static __always_inline int to_peer_of(struct __sk_buff *skb, struct endpoint *ep)
{
	__u8 macs[12];

	__builtin_memcpy(macs, ep->pod_mac, 6);
	__builtin_memcpy(macs + 6, ep->host_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return -DROP_WRITE_ERROR;
	step(STEP_REDIRECT, REDIRECT_PEER, s->number[0] = ep->ifindex);
	return bpf_redirect_peer(ep->ifindex, 0);
}
