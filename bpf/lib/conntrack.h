/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Connections, one entry per endpoint and connection, found with one lookup from either side.
 *
 * An entry of an older policy revision than its endpoint's is judged again in the direction in which the
 * connection was opened. One that is no longer allowed stays in the table unrefreshed: were it deleted, the
 * other side's packets would open a connection of their own.
 */
#pragma once

#include "openings.h"
#include "policy.h"
#include "proxy.h"

static __always_inline void connection_key(struct connection_key *key, struct packet *p, __u16 endpoint,
					   __u8 side)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->endpoint = endpoint;
	if (p->related) {
		/* An error coming in speaks of a packet that went out. */
		key->protocol = p->inner_protocol;
		key->local = side == IN ? p->inner_source : p->inner_destination;
		key->remote = side == IN ? p->inner_destination : p->inner_source;
		key->local_port = side == IN ? p->inner_source_port : p->inner_destination_port;
		key->remote_port = side == IN ? p->inner_destination_port : p->inner_source_port;
		return;
	}
	key->protocol = p->protocol;
	key->local = side == OUT ? p->source : p->destination;
	key->remote = side == OUT ? p->destination : p->source;
	if (is_icmp(p->protocol)) {
		/* The identifier stands on the side that asks, so that both may ask with the same. */
		bool local_asks = is_echo_request(p) == (side == OUT);

		/* Other types have both ports, which no echo has. */
		if (!is_echo(p)) {
			key->local_port = bpf_htons(0xff00 | p->icmp_type);
			key->remote_port = bpf_htons(0xffff);
		} else if (local_asks)
			key->local_port = p->icmp_id;
		else
			key->remote_port = p->icmp_id;
		return;
	}
	key->local_port = side == OUT ? p->source_port : p->destination_port;
	key->remote_port = side == OUT ? p->destination_port : p->source_port;
}

/* The key of the packet that is looked at; track() fills it, what it calls reads it. */
static __always_inline struct connection_key *track_key(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&track_scratch, &zero);
}

/* A dry run changes the copy. */
static __always_inline struct connection *connection_copy(struct connection *c)
{
	__u32 zero = 0;
	struct connection *copy = bpf_map_lookup_elem(&scratch, &zero);

	if (copy)
		__builtin_memcpy(copy, c, sizeof(*c));
	return copy;
}

/* One that is still being opened never gets the time of one that is open: nobody may be behind it. */
static __always_inline __u64 lifetime(struct connection *c, struct packet *p, __u8 side, bool opening)
{
	if (!is_stream(p->protocol))
		return LIFETIME_OTHER;
	if (p->tcp_flags & TCP_FIN)
		c->flags |= side == OUT ? CONNECTION_FIN_OUT : CONNECTION_FIN_IN;
	if (p->tcp_flags & TCP_RST)
		c->flags |= CONNECTION_RESET;
	if ((c->flags & CONNECTION_RESET) ||
	    (c->flags & (CONNECTION_FIN_OUT | CONNECTION_FIN_IN)) == (CONNECTION_FIN_OUT | CONNECTION_FIN_IN))
		return LIFETIME_TCP_CLOSING;
	return !opening && (c->flags & CONNECTION_REPLIED) ? LIFETIME_TCP : LIFETIME_TCP_SYN;
}

static __always_inline void refresh(struct connection *c, struct packet *p, __u8 side, __u64 now,
				    bool opening)
{
	c->expires = now + lifetime(c, p, side, opening);
	c->packets[side & 1]++;
	c->bytes[side & 1] += p->length;
}

static __always_inline bool report_due(struct connection *c, struct packet *p, __u8 side, __u64 now)
{
	__u8 flags = p->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST);
	bool due = !config.aggregate || (flags & ~c->seen[side & 1]) ||
		   now - c->reported[side & 1] >= config.report_interval;

	if (due) {
		c->seen[side & 1] |= flags;
		c->reported[side & 1] = now;
	}
	return due;
}

static __always_inline void report_sides(struct report *r, struct endpoint *ep, struct tracking *t)
{
	r->endpoint = ep->id;
	r->direction = t->side == OUT ? EGRESS : INGRESS;
	r->source_identity = t->side == OUT ? ep->identity : t->peer.identity;
	r->dest_identity = t->side == OUT ? t->peer.identity : ep->identity;
}

/* Asks the policy about the connection in the direction in which it was opened. */
static __always_inline int judge_connection(struct packet *p, struct endpoint *ep, struct connection_key *key,
					    __u8 initiator, __u32 identity, struct verdict *v)
{
	struct question q = {.endpoint = ep->id,
			     .identity = identity,
			     .flags = ep->flags,
			     .direction = initiator,
			     .protocol = key->protocol,
			     .port = initiator == EGRESS ? key->remote_port : key->local_port};

	/* A pod may always talk to itself. */
	if (same_address(&key->local, &key->remote)) {
		v->reason = 0;
		v->rule = 0;
		v->match = 0;
		v->proxy_port = 0;
		return 0;
	}
	if (is_icmp(key->protocol))
		q.port = bpf_htons(key->local_port && key->remote_port ? bpf_ntohs(key->local_port) & 0xff
				   : key->protocol == IPPROTO_ICMP     ? ICMP_ECHO
								       : ICMP6_ECHO_REQUEST);
	return judge(&q, &key->remote, v);
}

/*
 * A policy for the node that comes into force cuts no connection that is open: a packet in the middle of one
 * that nobody saw opening passes, unless a rule denies it. Its opening was judged, or was before the policy.
 */
static __always_inline bool spares_host(struct packet *p, struct endpoint *ep, int reason)
{
	return ep->id == HOST_ENDPOINT && reason == DROP_POLICY && p->protocol == IPPROTO_TCP &&
	       (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
}

/*
 * The tunnel of a connection's peer. Without tunnel it is none: programs with one that come later must not
 * take a way that the other node does not know yet.
 */
static __always_inline __be32 way_to(const struct peer *peer)
{
	return config.tunnel ? peer->tunnel : 0;
}

/*
 * The packet has no connection. `stale` is what `connections` has under track_key() of one that is over, or
 * NULL.
 */
__verified_once int open_connection(struct __sk_buff *skb, struct work *w, struct endpoint *ep,
				    struct tracking *t, struct connection *stale)
{
	struct connection_key *key = track_key();
	struct connection *c;
	struct packet *p;
	struct report *r;
	__u32 zero = 0;
	struct verdict v = {};
	__u64 now = bpf_ktime_get_coarse_ns();

	c = bpf_map_lookup_elem(&scratch, &zero);
	if (!c || !key || !w || !ep || !t)
		return -DROP_CT_INSERT;
	p = &w->packet;
	r = &w->report;
	__builtin_memset(c, 0, sizeof(*c));
	c->initiator = t->side == OUT ? EGRESS : INGRESS;
	judge_connection(p, ep, key, c->initiator, t->peer.identity, &v);
	r->rule = v.rule;
	r->match = v.match;
	r->reply = 0;
	r->trace_reason = TRACE_NEW;
	if (v.rule || v.reason ||
	    (ep->flags & (c->initiator == EGRESS ? ENDPOINT_POLICY_EGRESS : ENDPOINT_POLICY_INGRESS))) {
		r->type = EVENT_VERDICT;
		r->subtype = 0;
		r->denied = v.audited ? VERDICT_AUDIT : v.reason != 0;
		emit(skb, p, r);
	}
	if (spares_host(p, ep, v.reason))
		return 0;
	if (v.reason)
		return -v.reason;
	c->revision = ep->revision;
	c->rule = v.rule;
	c->peer = t->peer.identity;
	c->tunnel = way_to(&t->peer);
	if (t->from_wire)
		c->flags |= CONNECTION_WIRE;
	if (t->has_service) {
		c->flags |= CONNECTION_REVERSE;
		c->translated = t->service;
		c->translated_port = t->service_port;
	}
	if (v.proxy_port) {
		c->proxy_port = v.proxy_port;
		c->flags |= CONNECTION_PROXY | CONNECTION_REPLIED;
		t->to_proxy = true;
		t->proxy_port = v.proxy_port;
	}
	/* The proxy's own connection into the pod, with the client's address. */
	if (t->side == IN && is_from_proxy(skb, INGRESS)) {
		c->flags |= CONNECTION_PROXY;
		t->to_proxy = false;
	}
	refresh(c, p, t->side, now, true);
	c->reported[t->side & 1] = now;
	c->seen[t->side & 1] = p->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST);
	if (stale && may_reopen(stale, now))
		c->seen[IN] |= SEEN_REOPENED;
	/* Without state the packet still passes, its reply will be judged. */
	if (keep_opening(key, c, stale, now))
		count(DROP_CT_INSERT, r->direction, 0);
	t->report = true;
	t->has_service = false;
	return 0;
}

static __noinline int judge_again(struct packet *p, struct endpoint *ep, struct connection_key *key,
				  struct connection *c, struct tracking *t)
{
	struct verdict v = {};

	/* Opened while no rule was in force; see spares_host. */
	if (ep->id == HOST_ENDPOINT && !c->rule && p->protocol == IPPROTO_TCP)
		return 0;
	if (!t->peer_known)
		find_peer(&key->remote, &t->peer);
	c->peer = t->peer.identity;
	c->tunnel = way_to(&t->peer);
	if (judge_connection(p, ep, key, c->initiator, c->peer, &v)) {
		c->rule = v.rule;
		return -v.reason;
	}
	c->rule = v.rule;
	c->revision = ep->revision;
	/* What the proxy has stays with it: it knows that rules are gone. A connection that was none of its
	 * business and is now comes to it in the middle, and is refused. */
	if (v.proxy_port) {
		c->proxy_port = v.proxy_port;
		c->flags |= CONNECTION_PROXY;
	}
	return 0;
}

/*
 * A packet to the pod of a connection that the proxy opened on the pod's behalf: the proxy's socket is the
 * only trace of it. True: it is tracked now. No policy: the proxy asked it.
 */
__verified_once int adopt(struct __sk_buff *skb, struct packet *p, struct endpoint *ep, struct tracking *t,
			  struct report *r)
{
	struct connection_key key;
	struct connection *c;
	__u32 zero = 0;
	__u64 now = bpf_ktime_get_coarse_ns();

	c = bpf_map_lookup_elem(&scratch, &zero);
	if (!c || !p || !ep || !t || !r || !proxy_has(skb, p))
		return 0;
	__builtin_memset(c, 0, sizeof(*c));
	connection_key(&key, p, ep->id, IN);
	c->initiator = EGRESS;
	c->flags = CONNECTION_PROXY | CONNECTION_REPLIED;
	c->revision = ep->revision;
	c->peer = t->peer.identity;
	c->tunnel = way_to(&t->peer);
	refresh(c, p, IN, now, false);
	c->reported[IN] = now;
	c->seen[IN] = p->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST);
	/* Where the table is full it is found by its socket again. */
	if (!config.dry_run)
		bpf_map_update_elem(&connections, &key, c, BPF_ANY);
	t->to_proxy = true;
	t->proxy_port = 0;
	t->report = true;
	t->reply = true;
	t->has_service = false;
	r->reply = 1;
	r->trace_reason = TRACE_REPLY;
	return 1;
}

/* Whether a packet of a connection that the proxy has a part in goes to it, and where it may open one. */
static __always_inline void find_proxy(struct __sk_buff *skb, struct packet *p, struct connection *c,
				       struct tracking *t)
{
	bool opens = (c->initiator == EGRESS) == (t->side == OUT);

	if (t->side == IN && is_from_proxy(skb, c->initiator))
		return;
	t->proxy_port = opens ? c->proxy_port : 0;
	t->to_proxy = p->protocol != IPPROTO_UDP || opens || proxy_has(skb, p);
}

/*
 * The entry of a packet's open connection under its own addresses, where that is no choice of a backend: then
 * nobody asked a service, and track() need not look again. track_key() is that of the packet's afterwards.
 */
static __always_inline struct connection *open_without_service(struct packet *p, struct endpoint *ep)
{
	struct connection_key *key = track_key();
	struct connection *c;

	if (!key || p->related)
		return NULL;
	connection_key(key, p, ep->id, OUT);
	c = bpf_map_lookup_elem(&connections, key);
	if (!c || (c->flags & CONNECTION_SERVICE) || !usable(c, p, bpf_ktime_get_coarse_ns()))
		return NULL;
	step_lookup(MAP_CONNECTIONS, key, c);
	return c;
}

/*
 * A pod's first segment of another connection, between ends that `c` is open between already: one of them
 * goes to a service and the other to the same backend by its own address, or by another service. To the pod
 * these are different, so that it may have them by one port; to the backend they are the same.
 */
static __always_inline bool meets_another(struct packet *p, struct connection *c, struct tracking *t)
{
	bool to_service = c->flags & CONNECTION_REVERSE;

	if (t->side != OUT || c->initiator != EGRESS || p->related ||
	    (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return false;
	return to_service != t->has_service || (to_service && (!same_address(&c->translated, &t->service) ||
							       c->translated_port != t->service_port));
}

/*
 * One endpoint's view of a packet: its connection (`known`, where the caller has found it in `connections`),
 * and whether it may pass. 0 or a negative drop reason. `w` has the packet and the report, of which the
 * sides, rule and trace reason are filled; `t` is one of its own.
 */
__verified_once int track(struct __sk_buff *skb, struct work *w, struct endpoint *ep, struct tracking *t,
			  struct connection *known)
{
	struct connection_key *key = track_key();
	struct connection *c = known, *stale = NULL;
	struct packet *p;
	struct report *r;
	__u64 now = bpf_ktime_get_coarse_ns();
	bool opening, outside;
	int err;

	if (!w || !ep || !t || !key)
		return -DROP_CT_INSERT;
	p = &w->packet;
	r = &w->report;
	outside = t->side == IN && t->from_wire;
	if (c) {
		opening = is_reopened(c);
	} else {
		connection_key(key, p, ep->id, t->side);
		c = find_connection(key, p, now, &opening, &stale);
	}
	if (p->related && !c) {
		/* It speaks of a connection that does not exist: judged as what it is, and not as what it
		 * quotes. */
		p->related = false;
		connection_key(key, p, ep->id, t->side);
		c = find_connection(key, p, now, &opening, &stale);
	}
	if (!c) {
		if (!t->peer_known)
			find_peer(t->side == OUT ? &p->destination : &p->source, &t->peer);
		report_sides(r, ep, t);
		if (outside && t->peer.identity == IDENTITY_HOST)
			return -DROP_INVALID_SIP;
		if (config.proxy_ifindex && t->side == IN && may_be_proxys(p) && adopt(skb, p, ep, t, r))
			return 0;
		return open_connection(skb, w, ep, t, stale);
	}
	if (meets_another(p, c, t)) {
		t->peer.identity = c->peer;
		report_sides(r, ep, t);
		return -DROP_CT_INSERT;
	}
	if (config.dry_run && !(c = connection_copy(c)))
		return -DROP_CT_INSERT;
	c->packets[t->side & 1] += w->short_packets;
	c->bytes[t->side & 1] += w->short_bytes;
	if (c->revision != ep->revision) {
		err = judge_again(p, ep, key, c, t);
		r->rule = c->rule;
		t->peer.identity = c->peer;
		report_sides(r, ep, t);
		if (err)
			return err;
	}
	/* The node itself does not come by the wire. */
	if (outside && c->peer == IDENTITY_HOST)
		return -DROP_INVALID_SIP;
	/* What comes by the tunnel is answered by it, also to a node's own address. */
	if (t->side == IN && !c->tunnel && t->peer.tunnel)
		c->tunnel = way_to(&t->peer);
	t->peer.identity = c->peer;
	t->peer.tunnel = c->tunnel;
	t->reply = (c->initiator == EGRESS) != (t->side == OUT);
	t->from_wire = c->flags & CONNECTION_WIRE;
	t->has_service = false;
	if (c->flags & CONNECTION_PROXY)
		find_proxy(skb, p, c, t);
	if (p->related) {
		t->report = true;
		r->trace_reason = TRACE_RELATED;
	} else {
		if (t->reply)
			c->flags |= CONNECTION_REPLIED;
		refresh(c, p, t->side, now, opening);
		t->report = report_due(c, p, t->side, now);
		r->trace_reason = t->reply ? TRACE_REPLY : TRACE_ESTABLISHED;
	}
	if (t->reply && (c->flags & CONNECTION_REVERSE)) {
		t->reverse = true;
		t->has_service = true;
		t->service = c->translated;
		t->service_port = c->translated_port;
	}
	r->rule = c->rule;
	r->reply = t->reply;
	report_sides(r, ep, t);
	t->open = !opening;
	if (opening && !t->reply && goes_on(p, c)) {
		t->open = true;
		confirm(key, c, now);
	}
	return 0;
}
