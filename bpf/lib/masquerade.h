/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Whether what leaves the node carries the node's address, the first that applies:
 *
 *   the node's own address		no; its port is kept from others (lib/snat.h)
 *   not of a pod			no
 *   native routing range, a node that	no: the wire knows the way back to a pod
 *   is reached directly, a rule
 *   a reply to what came from outside	no: the other side knows the pod by its own address
 *   everything else			yes
 */
#pragma once

#include "fib.h"
#include "snat.h"

/* A node that is reached directly, or a rule of the operator. */
static __always_inline bool is_exempt(const struct address *destination)
{
	struct ipcache_key key = {.prefixlen = 128, .address = *destination};

	return bpf_map_lookup_elem(&unmasqueraded, &key);
}

/* Opened from outside and admitted with the pod's own address. */
static __always_inline bool is_reply_outward(struct packet *p)
{
	struct endpoint *ep = local_endpoint(&p->source);
	struct connection_key *key = track_key();
	struct connection *c;

	if (!ep || !key)
		return false;
	connection_key(key, p, ep->id, OUT);
	c = bpf_map_lookup_elem(&connections, key);
	if (!c)
		c = bpf_map_lookup_elem(&openings, key);
	return c && c->initiator == INGRESS && c->expires >= bpf_ktime_get_coarse_ns();
}

/* A packet of a pod on its way out. 0, or a negative drop reason. */
static __always_inline int masquerade(struct __sk_buff *skb, struct packet *p, const struct address *to)
{
	int err = snat_known(skb, p, to);

	/* Flows that have a port keep it, also where masquerading is off now or a rule came meanwhile. */
	if (err <= 0)
		return err;
	if (!masquerades(&p->source) || is_exempt(&p->destination) || is_reply_outward(p))
		return 0;
	return snat_new(skb, p);
}
