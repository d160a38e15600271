/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The node itself as an endpoint, where policies govern it (host firewall): its entry in `endpoints` has the
 * address of all zeros. Judged is what comes from the wire, the tunnel and pods to an address of the node's
 * for its own sockets, and what those sockets send; never the tunnel's own packets, neighbour discovery and
 * what is merely forwarded.
 */
#pragma once

#include "work.h"
#include "deliver.h"

/* NULL where no policy can govern the node. */
static __always_inline struct endpoint *host_endpoint(void)
{
	struct address none = {};

	return config.host_firewall ? local_endpoint(&none) : NULL;
}

/* Without these there is no link to hear anything on. */
static __always_inline bool is_link_upkeep(struct packet *p)
{
	return p->protocol == IPPROTO_ICMPV6 && p->icmp_type >= 130 && p->icmp_type <= 143 &&
	       p->icmp_type != 138 && p->icmp_type != 139 && p->icmp_type != 140;
}

/*
 * What comes to the node itself. `t` is the caller's, to save the stack: peer_known and peer of it are read,
 * nothing of it means anything afterwards. 0 or a negative drop reason, with the sides of the report filled.
 */
static __always_inline int host_ingress(struct __sk_buff *skb, struct work *w, struct tracking *t)
{
	struct endpoint *host = host_endpoint();

	if (!host || is_link_upkeep(&w->packet))
		return 0;
	t->side = IN;
	t->has_service = false;
	return track(skb, w, host, t, NULL);
}

/*
 * What the node itself sends: the caller made sure that the source is the node's. A packet without a socket
 * is forwarded, whatever source it was given on the way. `t` as of host_ingress.
 */
static __always_inline int host_egress(struct __sk_buff *skb, struct work *w, struct tracking *t)
{
	struct endpoint *host = host_endpoint();
	struct packet *p = &w->packet;

	if (!host || !skb->sk || skb->ingress_ifindex || is_link_upkeep(p))
		return 0;
	if (config.untunnel && p->protocol == IPPROTO_UDP && p->destination_port == config.tunnel_port)
		return 0;
	t->side = OUT;
	t->has_service = false;
	return track(skb, w, host, t, NULL);
}

/*
 * The last word of from_netdev about what it leaves to the node's stack: `leave` is returned for what may
 * pass. The packet is parsed anew, for a service may have translated it, in the place of what was worked out
 * before.
 */
static __noinline int to_node(struct __sk_buff *skb, int leave)
{
	struct endpoint *host = host_endpoint();
	struct tracking *t;
	struct packet *p;
	struct work *w;
	int err;

	if (!host)
		return leave;
	w = begin_work(INGRESS);
	if (!w)
		return TC_ACT_SHOT;
	p = &w->packet;
	t = &w->in;
	t->peer_known = false;
	err = parse(skb, p);
	if (err == PASS_TO_KERNEL)
		return leave;
	/* What is left to the tunnel device is judged when it comes out of it. */
	if (config.untunnel && p->protocol == IPPROTO_UDP && p->destination_port == config.tunnel_port)
		return leave;
	find_peer(&p->destination, &t->peer);
	if (t->peer.identity != IDENTITY_HOST)
		return leave;
	/* What cannot be told apart cannot be allowed; where nothing is enforced it is the stack's business.
	 */
	if (!err)
		err = host_ingress(skb, w, t);
	else if (!(host->flags & ENDPOINT_POLICY_INGRESS) || (host->flags & ENDPOINT_AUDIT))
		return leave;
	return err ? drop(skb, p, &w->report, err) : leave;
}
