/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Service addresses in a pod's packets, which no socket program replaced. */
#pragma once

#include "choice.h"
#include "refuse.h"

/*
 * A pod that reaches itself through a service sees a client with this address, so that its answers come back
 * here and can get the service's address: 169.254.42.1, as with Cilium, and an address out of the range that
 * leads nowhere (RFC 6666).
 */
static __always_inline struct address hairpin_address(bool v6)
{
	struct address a = {};

	if (!v6)
		return mapped(bpf_htonl(0xa9fe2a01));
	a.word[0] = bpf_htonl(0x01000000);
	a.word[3] = bpf_htonl(0x2a01);
	return a;
}

/* 0, REFUSED or a negative drop reason. */
__verified_once int translate(struct __sk_buff *skb, struct packet *p, struct endpoint *ep,
			      struct tracking *t)
{
	struct service_work *w = service_work();
	int err;

	if (!p || !ep || !t || !w)
		return -DROP_INVALID;
	err = choose_backend(p, INSIDE, ep->id);
	if (err)
		return err == NO_SERVICE ? 0 : err;
	t->has_service = true;
	t->service = w->front;
	t->service_port = w->front_port;
	t->opening = w->opening;
	return nat_rewrite(skb, p, false, &w->backend, w->port);
}

/* The pod is its own backend: it gets a client with another address. 0 or a negative drop reason. */
__verified_once int hairpin(struct __sk_buff *skb, struct packet *p, struct endpoint *ep, struct tracking *t)
{
	struct service_work *w = service_work();
	struct connection *c;
	__u64 now = bpf_ktime_get_coarse_ns();
	bool opening;

	if (!p || !ep || !t || !w)
		return -DROP_INVALID;
	w->from = hairpin_address(p->v6);
	if (p->related)
		return nat_rewrite(skb, p, true, &w->from, p->inner_destination_port);
	__builtin_memset(&w->key, 0, sizeof(w->key));
	w->key.endpoint = ep->id;
	w->key.protocol = p->protocol;
	w->key.local = p->destination;
	w->key.local_port = p->destination_port;
	w->key.remote = w->from;
	w->key.remote_port = p->source_port;
	c = find_entry(&w->key, now, &opening);
	if (c && !w->fresh) {
		touch_entry(c, p, IN, now, opening);
		if (goes_on(p, c)) {
			if (opening)
				confirm(&w->key, c, now);
			open_choice(p, ep->id);
		}
		return rewrite(skb, p, true, &w->from, p->source_port);
	}
	c = new_entry(CONNECTION_REVERSE, &t->service, t->service_port);
	if (!c)
		return -DROP_CT_INSERT;
	c->initiator = INGRESS;
	c->peer = ep->identity;
	c->revision = ep->revision;
	if (keep_instead(&w->key, c, p, now))
		return -DROP_CT_INSERT;
	return rewrite(skb, p, true, &w->from, p->source_port);
}

static __always_inline bool is_hairpin(const struct packet *p)
{
	struct address self = hairpin_address(p->v6);

	return same_address(&p->destination, &self);
}

/* What the pod answers itself. 0 or a negative drop reason. */
__verified_once int hairpin_back(struct __sk_buff *skb, struct packet *p, struct endpoint *ep)
{
	struct service_work *w = service_work();
	struct connection *c;
	__u64 now = bpf_ktime_get_coarse_ns();
	bool opening;
	int err;

	if (!p || !ep || !w)
		return -DROP_INVALID;
	w->from = p->source;
	connection_key(&w->key, p, ep->id, OUT);
	c = find_entry(&w->key, now, &opening);
	if (!c || !(c->flags & CONNECTION_REVERSE))
		return -DROP_NO_BACKEND;
	touch_entry(c, p, OUT, now, opening);
	err = nat_rewrite(skb, p, true, &c->translated, c->translated_port);
	if (err)
		return err;
	return nat_rewrite(skb, p, false, &w->from, p->related ? p->inner_source_port : p->destination_port);
}
