/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Source translation: many senders behind one address, told apart by the port (of ICMP echo: the identifier).
 *
 * A flow has two entries in `nat`. NAT_IN, found by what comes back, owns the port: it is made with
 * BPF_NOEXIST, it has the flow's state and its end. NAT_OUT, found by what is sent, is a hint where to find
 * the other. The table forgets what was not used for long, one entry at a time, so either may be gone:
 *
 *   NAT_OUT gone	the ports are tried in the same order as before, and the own NAT_IN is met and taken.
 *   NAT_IN gone	it is made again, unless somebody took the port meanwhile; then the flow gets another.
 *   both gone	the same order gives the same port again, if it is still free.
 *
 * The order is a hash of the flow with a seed that no outsider knows. A port serves as many flows as there
 * are peers, since the peer is part of the key.
 *
 * Both entries lie in `nat_openings` until the sender goes on after an answer, and then move to `nat`: what
 * nobody answers, or nobody goes on with, pushes out nothing that is open. Both are always in the same table;
 * `nat` is asked first, so that what is open costs one lookup for each.
 */
#pragma once

#include "nat.h"
#include "conntrack.h"

#define NAT_PROBES 32
#define EEXIST 17

/* What a packet going out belongs to, as the flow's first packet was sent. False: not to be translated. */
static __always_inline bool nat_out_key(struct nat_key *key, const struct packet *p)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->direction = NAT_OUT;
	if (p->related) {
		/* It quotes a packet that came in. */
		key->protocol = p->inner_protocol;
		key->source = p->inner_destination;
		key->destination = p->inner_source;
		if (is_icmp(p->inner_protocol)) {
			key->source_port = p->inner_source_port;
		} else {
			key->source_port = p->inner_destination_port;
			key->destination_port = p->inner_source_port;
		}
		return true;
	}
	key->protocol = p->protocol;
	key->source = p->source;
	key->destination = p->destination;
	if (has_ports(p->protocol)) {
		key->source_port = p->source_port;
		key->destination_port = p->destination_port;
		return true;
	}
	key->source_port = p->icmp_id;
	return is_icmp(p->protocol) && is_echo_request(p);
}

/* The same for a packet coming in; false: nothing that was sent out can be meant. */
static __always_inline bool nat_in_key(struct nat_key *key, const struct packet *p)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->direction = NAT_IN;
	if (p->related) {
		/* It quotes a packet that went out. */
		key->protocol = p->inner_protocol;
		key->source = p->inner_destination;
		key->destination = p->inner_source;
		key->destination_port = p->inner_source_port;
		if (!is_icmp(p->inner_protocol))
			key->source_port = p->inner_destination_port;
	} else {
		key->protocol = p->protocol;
		key->source = p->source;
		key->destination = p->destination;
		if (has_ports(p->protocol)) {
			key->source_port = p->source_port;
			key->destination_port = p->destination_port;
		} else {
			key->destination_port = p->icmp_id;
			if (!is_icmp(p->protocol) || !is_echo(p) || is_echo_request(p))
				return false;
		}
	}
	return key->protocol == IPPROTO_SCTP || bpf_ntohs(key->destination_port) >= config.nat_lowest;
}

/* What the functions below work on; too large for the stack. Packet programs run with bottom halves off. */
static __always_inline struct nat_work *nat_work(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nat_scratch, &zero);
}

/* `in` becomes the key of what comes back to `to`, but for the port. */
static __always_inline void nat_reverse(struct nat_work *w)
{
	__builtin_memset(&w->in, 0, sizeof(w->in));
	w->in.source = w->out.destination;
	w->in.destination = w->to;
	w->in.source_port = w->out.destination_port;
	w->in.protocol = w->out.protocol;
	w->in.direction = NAT_IN;
}

/* Whether the entry that has a port has it for this flow. */
static __always_inline bool nat_names(const struct nat_value *in, const struct nat_key *out)
{
	return in->port == out->source_port && same_address(&in->address, &out->source);
}

/* The flow's state after a packet of it, and how long it is kept from now on. One that is still being opened
 * never gets the time of one that is open. */
static __always_inline void nat_touch(struct nat_value *in, const struct packet *p, bool out, __u64 now,
				      bool opening)
{
	__u64 lifetime = LIFETIME_OTHER;

	if (config.dry_run || p->related)
		return;
	if (is_stream(p->protocol)) {
		/* The sender uses its port again. */
		if (out && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			in->flags &= NAT_OWN;
		if (p->tcp_flags & TCP_FIN)
			in->flags |= out ? NAT_FIN_OUT : NAT_FIN_IN;
		if (p->tcp_flags & TCP_RST)
			in->flags |= NAT_RESET;
	}
	if (!out)
		in->flags |= NAT_REPLIED;
	if (is_stream(p->protocol)) {
		lifetime = !opening && (in->flags & NAT_REPLIED) ? LIFETIME_TCP : LIFETIME_TCP_SYN;
		if ((in->flags & NAT_RESET) ||
		    (in->flags & (NAT_FIN_OUT | NAT_FIN_IN)) == (NAT_FIN_OUT | NAT_FIN_IN))
			lifetime = LIFETIME_TCP_CLOSING;
	}
	in->expires = now + lifetime;
}

/* The entry that has the port of w->in, of an open flow or, then w->opening, of one that is being opened. */
static __always_inline struct nat_value *nat_owner(struct nat_work *w)
{
	struct nat_value *in = bpf_map_lookup_elem(&nat, &w->in);

	w->opening = false;
	if (in)
		return in;
	w->opening = true;
	return bpf_map_lookup_elem(&nat_openings, &w->in);
}

/* What leads a sender's packets to its port; only a hint. */
static __always_inline void nat_hint(struct nat_work *w, __u64 now)
{
	__builtin_memset(&w->fresh, 0, sizeof(w->fresh));
	w->fresh.expires = now;
	w->fresh.address = w->to;
	w->fresh.port = w->in.destination_port;
}

/*
 * A packet going out of the flow whose entry is `in`. Where its sender goes on after an answer the flow is
 * open from now on: its entries move, this one first, so that its port is never without an owner.
 */
static __always_inline void nat_use(struct nat_work *w, struct nat_value *in, const struct packet *p)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	bool opens = w->opening && !p->related && (in->flags & NAT_REPLIED) &&
		     (p->tcp_flags & (TCP_SYN | TCP_RST)) == 0;
	long err;

	nat_touch(in, p, true, now, w->opening && !opens);
	if (!opens || config.dry_run)
		return;
	err = bpf_map_update_elem(&nat, &w->in, in, BPF_NOEXIST);
	/* No room just now: with the next packet. */
	if (err && err != -EEXIST)
		return;
	if (!same_address(&w->out.source, &w->to) || w->out.source_port != w->in.destination_port) {
		nat_hint(w, now);
		bpf_map_update_elem(&nat, &w->out, &w->fresh, BPF_ANY);
		bpf_map_delete_elem(&nat_openings, &w->out);
	}
	bpf_map_delete_elem(&nat_openings, &w->in);
	w->opening = false;
}

static __always_inline __u32 nat_hash(const struct nat_key *key)
{
	const __u32 *word = (const __u32 *)key;
	__u32 hash = config.nat_seed;

#pragma unroll
	for (int i = 0; i < (int)(sizeof(*key) / 4); i++) {
		hash ^= word[i];
		hash *= 0x85ebca6b;
		hash ^= hash >> 15;
	}
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/*
 * Whether the port of w->in could be taken for w->fresh. Of a port that is given twice at the same moment one
 * of the two makes the entry; whoever's flow became open meanwhile has it in the other table by then.
 */
static __always_inline bool nat_claim(struct nat_work *w, struct nat_value *ended, __u64 ends, __u64 now)
{
	struct nat_value *in;
	long err;

	w->opening = true;
	if (config.dry_run)
		return true;
	if (ended) {
		/* Only one takes over what ended. */
		if (__sync_val_compare_and_swap(&ended->expires, ends, now + LIFETIME_OTHER) != ends)
			return false;
		err = bpf_map_update_elem(&nat_openings, &w->in, &w->fresh, BPF_EXIST);
	} else {
		err = bpf_map_update_elem(&nat_openings, &w->in, &w->fresh, BPF_NOEXIST);
		/* Under contention the table may refuse once. */
		if (err && err != -EEXIST)
			err = bpf_map_update_elem(&nat_openings, &w->in, &w->fresh, BPF_NOEXIST);
	}
	if (err)
		return false;
	in = bpf_map_lookup_elem(&nat, &w->in);
	if (!in)
		return true;
	bpf_map_delete_elem(&nat_openings, &w->in);
	return false;
}

/*
 * Takes a port for the flow w->out and leaves it in w->in. `own`: of the node's own sockets, which keep
 * theirs if they can. 0 or a negative drop reason.
 */
__verified_once int nat_allocate(struct nat_work *w, struct packet *p, bool own)
{
	struct nat_value *in;
	__u32 range = 0x10000 - config.nat_first, start, probes = NAT_PROBES;
	__u64 now = bpf_ktime_get_coarse_ns(), ends, oldest = ~0ULL;
	__be16 giving = 0;

	if (!w || !p)
		return -DROP_NAT_NO_MAPPING;
	start = nat_hash(&w->out) % range;
	nat_reverse(w);
	__builtin_memset(&w->fresh, 0, sizeof(w->fresh));
	w->fresh.address = w->out.source;
	w->fresh.port = w->out.source_port;
	w->fresh.flags = own ? NAT_OWN : 0;
	nat_touch(&w->fresh, p, true, now, true);
	/* Its checksum is over ports that no fragment can change. */
	if (w->out.protocol == IPPROTO_SCTP && p->fragment)
		probes = 1;
	for (__u32 i = 0; i < NAT_PROBES; i++) {
		if (i >= probes)
			break;
		if (probes == 1 || (own && !i))
			w->in.destination_port = w->out.source_port;
		else
			w->in.destination_port = bpf_htons(config.nat_first + (start + i) % range);
		in = nat_owner(w);
		if (in && nat_names(in, &w->out)) {
			nat_use(w, in, p);
			return 0;
		}
		ends = in ? in->expires : 0;
		if (in && ends >= now) {
			if (w->opening && ends < oldest && !(in->flags & NAT_OWN)) {
				oldest = ends;
				giving = w->in.destination_port;
			}
			continue;
		}
		if (in && !w->opening) {
			/* What ended leaves the table of open ones; only one sees to that. */
			if (!config.dry_run) {
				if (__sync_val_compare_and_swap(&in->expires, ends, 0) != ends)
					continue;
				bpf_map_delete_elem(&nat, &w->in);
			}
			in = NULL;
		}
		if (nat_claim(w, in, ends, now))
			return 0;
	}
	/* A flood may have all of them: of those that are being opened the one gives way that was silent for
	 * longest, but none of the node itself. */
	if (giving && probes > 1) {
		w->in.destination_port = giving;
		in = bpf_map_lookup_elem(&nat_openings, &w->in);
		if (in && nat_claim(w, in, oldest, now))
			return 0;
	}
	return -DROP_NAT_NO_MAPPING;
}

/*
 * The flow's entry in one of the tables, by way of its hint there; its port is in w->in then. `client`: see
 * snat_client().
 */
static __always_inline struct nat_value *nat_by_hint(void *table, struct nat_work *w, const struct packet *p,
						     bool client, bool *hinted)
{
	struct nat_value *known = bpf_map_lookup_elem(table, &w->out), *in;

	*hinted = known;
	if (!known)
		return NULL;
	if (client && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN && is_host(&known->address))
		w->to = known->address;
	else if (!same_address(&known->address, &w->to))
		return NULL;
	nat_reverse(w);
	w->in.destination_port = known->port;
	in = bpf_map_lookup_elem(table, &w->in);
	return in && nat_names(in, &w->out) ? in : NULL;
}

/* Whether the flow w->out has a mapping; its port is in w->in then. */
static __always_inline bool nat_find(struct nat_work *w, struct packet *p, bool client)
{
	struct nat_value *in = nat_by_hint(&nat, w, p, client, &w->stale);
	bool hinted;

	w->opening = !in;
	if (!in)
		in = nat_by_hint(&nat_openings, w, p, client, &hinted);
	if (!in)
		return false;
	nat_use(w, in, p);
	return true;
}

static __always_inline void nat_step(struct nat_work *w, bool existed)
{
	step(STEP_NAT, NAT_OUT, s->found = existed, s->number[0] = w->opening, s->address[0] = w->out.source,
	     s->port[0] = w->out.source_port, s->address[1] = w->to, s->port[1] = w->in.destination_port);
}

/* A flow that needs a mapping gets one, and the packet its new source. */
static __always_inline int nat_open(struct __sk_buff *skb, struct packet *p, struct nat_work *w, bool own)
{
	int err;

	/* An error that quotes a connection which was never translated. */
	if (p->related)
		return own ? 0 : -DROP_NAT_UNSUPPORTED_L4;
	err = nat_allocate(w, p, own);
	if (err)
		return err;
	if (own && w->in.destination_port == w->out.source_port)
		return 0;
	nat_step(w, false);
	nat_hint(w, bpf_ktime_get_coarse_ns());
	/* Without it the next packet finds the port as the first one did. */
	if (config.dry_run) {
	} else if (w->opening) {
		/* One that leads to a port that is somebody else's now would be looked at first. */
		if (w->stale)
			bpf_map_delete_elem(&nat, &w->out);
		bpf_map_update_elem(&nat_openings, &w->out, &w->fresh, BPF_ANY);
	} else {
		bpf_map_update_elem(&nat, &w->out, &w->fresh, BPF_ANY);
	}
	return nat_rewrite(skb, p, true, &w->to, w->in.destination_port);
}

/*
 * Clients of services: the source becomes `to`, the node's or the router's address by the routing mode, and a
 * port that is free towards this destination. What was opened with the other address keeps it: after a change
 * of the mode its answers come back in either form. 0 or a negative drop reason.
 */
static __noinline int snat_client(struct __sk_buff *skb, struct packet *p, const struct address *to)
{
	struct nat_work *w = nat_work();

	if (!w)
		return -DROP_NAT_NO_MAPPING;
	w->to = *to;
	if (!nat_out_key(&w->out, p))
		return -DROP_NAT_UNSUPPORTED_L4;
	if (!nat_find(w, p, true))
		return nat_open(skb, p, w, false);
	nat_step(w, true);
	return nat_rewrite(skb, p, true, &w->to, w->in.destination_port);
}

/* What leaves the cluster, of flows that have a mapping; 1: it has none, and the packet is as it was. */
static __noinline int snat_known(struct __sk_buff *skb, struct packet *p, const struct address *to)
{
	struct nat_work *w = nat_work();

	if (!w)
		return 1;
	w->to = *to;
	if (!nat_out_key(&w->out, p) || !nat_find(w, p, false))
		return 1;
	nat_step(w, true);
	return nat_rewrite(skb, p, true, &w->to, w->in.destination_port);
}

/* The same where snat_known() found none: it gets one. */
static __noinline int snat_new(struct __sk_buff *skb, struct packet *p)
{
	struct nat_work *w = nat_work();

	if (!w || !nat_out_key(&w->out, p))
		return -DROP_NAT_UNSUPPORTED_L4;
	return nat_open(skb, p, w, false);
}

/*
 * Packets that have `to` as their source already: nobody else may get the port. Where somebody has it, what a
 * socket of the node sends travels with another port; what has no socket is that somebody's, translated
 * before it came here. 0 or a negative drop reason.
 */
static __noinline int snat_own(struct __sk_buff *skb, struct packet *p, const struct address *to)
{
	struct nat_work *w = nat_work();
	struct nat_value *in;

	if (!w)
		return 0;
	w->to = *to;
	if (!nat_out_key(&w->out, p) || bpf_ntohs(w->out.source_port) < config.nat_first)
		return 0;
	nat_reverse(w);
	w->in.destination_port = w->out.source_port;
	w->stale = false;
	in = nat_owner(w);
	if (in && nat_names(in, &w->out)) {
		nat_use(w, in, p);
		return 0;
	}
	if (in) {
		if (!of_own_socket(skb))
			return 0;
		if (nat_find(w, p, false))
			return nat_rewrite(skb, p, true, &w->to, w->in.destination_port);
	}
	return nat_open(skb, p, w, true);
}

#define SNAT_NONE 0
#define SNAT_RESTORED 1
#define SNAT_OWN 2

/*
 * Coming in: what was the source before goes back into the destination. SNAT_NONE: no mapping. SNAT_RESTORED.
 * SNAT_OWN: for the node's own socket. Or a negative drop reason.
 */
static __noinline int snat_in(struct __sk_buff *skb, struct packet *p)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct nat_work *w = nat_work();
	struct nat_value *in;
	bool own;
	int err;

	if (!w || !nat_in_key(&w->in, p))
		return SNAT_NONE;
	in = nat_owner(w);
	if (!in || in->expires < now)
		return SNAT_NONE;
	nat_touch(in, p, false, now, w->opening);
	own = in->flags & NAT_OWN;
	if (own && in->port == w->in.destination_port)
		return SNAT_OWN;
	w->to = in->address;
	step(STEP_NAT, NAT_IN, s->found = 1, s->number[0] = w->opening, s->address[0] = w->in.destination,
	     s->port[0] = w->in.destination_port, s->address[1] = w->to, s->port[1] = in->port);
	err = nat_rewrite(skb, p, false, &w->to, in->port);
	if (err)
		return err;
	return own ? SNAT_OWN : SNAT_RESTORED;
}
