/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Under the client and the backend: the service's address, which answers of a backend elsewhere get back. */
#pragma once

#include "choice.h"
#include "snat.h"

/* Keeps or refreshes what answers of this backend get as their source. Before the source is translated. */
static __always_inline int remember_front(struct packet *p, struct service_work *w)
{
	struct connection *c;
	__u64 now = bpf_ktime_get_coarse_ns();
	bool opening;

	connection_key(&w->key, p, NODE_ENDPOINT, OUT);
	c = find_entry(&w->key, now, &opening);
	if (c && !w->fresh) {
		touch_entry(c, p, OUT, now, opening);
		if (!goes_on(p, c))
			return 0;
		if (opening)
			confirm(&w->key, c, now);
		return open_choice(p, NODE_ENDPOINT);
	}
	c = new_entry(CONNECTION_REVERSE, &w->front, w->front_port);
	return c ? keep_instead(&w->key, c, p, now) : -DROP_CT_INSERT;
}

/*
 * An answer of a backend to a client outside, with the client as its destination already: the service's
 * address back as its source. 1: done; 0: it is no such answer; or a negative drop reason.
 */
__verified_once int restore_front(struct __sk_buff *skb, struct packet *p)
{
	struct service_work *w = service_work();
	struct connection *c;
	__u64 now = bpf_ktime_get_coarse_ns();
	bool opening;
	int err;

	if (!p || !w || !(has_ports(p->protocol) || p->related))
		return 0;
	connection_key(&w->key, p, NODE_ENDPOINT, IN);
	c = find_entry(&w->key, now, &opening);
	if (!c || !(c->flags & CONNECTION_REVERSE))
		return 0;
	touch_entry(c, p, IN, now, opening);
	err = nat_rewrite(skb, p, true, &c->translated, c->translated_port);
	return err ? err : 1;
}
