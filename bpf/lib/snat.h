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
	return key->protocol == IPPROTO_SCTP || bpf_ntohs(key->destination_port) >= config.nat_first;
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

/* The flow's state after a packet of it, and how long it is kept from now on. */
static __always_inline void nat_touch(struct nat_value *in, const struct packet *p, bool out, __u64 now)
{
	__u64 lifetime = LIFETIME_OTHER;

	if (config.dry_run || p->related)
		return;
	if (p->protocol == IPPROTO_TCP) {
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
	if (p->protocol == IPPROTO_TCP) {
		lifetime = in->flags & NAT_REPLIED ? LIFETIME_TCP : LIFETIME_TCP_SYN;
		if ((in->flags & NAT_RESET) ||
		    (in->flags & (NAT_FIN_OUT | NAT_FIN_IN)) == (NAT_FIN_OUT | NAT_FIN_IN))
			lifetime = LIFETIME_TCP_CLOSING;
	}
	in->expires = now + lifetime;
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
 * Takes a port for the flow w->out and leaves it in w->in. `own`: of the node's own sockets, which keep
 * theirs if they can. 0 or a negative drop reason.
 */
__verified_once int nat_allocate(struct nat_work *w, struct packet *p, bool own)
{
	struct nat_value *in;
	__u32 range = 0x10000 - config.nat_first, start, probes = NAT_PROBES;
	__u64 now = bpf_ktime_get_coarse_ns(), ends;
	long err;

	if (!w || !p)
		return -DROP_NAT_NO_MAPPING;
	start = nat_hash(&w->out) % range;
	nat_reverse(w);
	__builtin_memset(&w->fresh, 0, sizeof(w->fresh));
	w->fresh.address = w->out.source;
	w->fresh.port = w->out.source_port;
	w->fresh.flags = own ? NAT_OWN : 0;
	nat_touch(&w->fresh, p, true, now);
	/* Its checksum is over the ports, and no helper does it again. */
	if (w->out.protocol == IPPROTO_SCTP)
		probes = 1;
	for (__u32 i = 0; i < NAT_PROBES; i++) {
		if (i >= probes)
			break;
		if (w->out.protocol == IPPROTO_SCTP || (own && !i))
			w->in.destination_port = w->out.source_port;
		else
			w->in.destination_port = bpf_htons(config.nat_first + (start + i) % range);
		in = bpf_map_lookup_elem(&nat, &w->in);
		if (!in) {
			err = config.dry_run ? 0 : bpf_map_update_elem(&nat, &w->in, &w->fresh, BPF_NOEXIST);
			/* Under contention the table may refuse once. */
			if (err && err != -EEXIST)
				err = bpf_map_update_elem(&nat, &w->in, &w->fresh, BPF_NOEXIST);
		} else if (nat_names(in, &w->out)) {
			nat_touch(in, p, true, now);
			err = 0;
		} else {
			ends = in->expires;
			if (ends >= now)
				continue;
			/* Only one takes over what ended. */
			err = !config.dry_run && (__sync_val_compare_and_swap(&in->expires, ends,
									      now + LIFETIME_OTHER) != ends ||
						  bpf_map_update_elem(&nat, &w->in, &w->fresh, BPF_EXIST));
		}
		if (!err)
			return 0;
	}
	return -DROP_NAT_NO_MAPPING;
}

/* Address only; `change` is the difference of the checksums. */
static __always_inline int rewrite_address(struct __sk_buff *skb, struct packet *p, bool source,
					   const struct address *to, __s64 change)
{
	if (p->v6)
		return bpf_skb_store_bytes(
		    skb,
		    ETH_HLEN + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr)),
		    to, sizeof(*to), 0);
	return bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, change, 0) ||
	       bpf_skb_store_bytes(
		   skb, ETH_HLEN + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr)),
		   &to->word[3], 4, 0);
}

static __always_inline __sum16 checksum_changed(__sum16 checksum, __s64 change)
{
	__u64 sum = (__u16)~checksum + (__u64)(__u32)change;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * The packet that an ICMP error quotes: its source or destination becomes `to` and `port`. Its checksums are
 * made right as far as they are quoted, and so is the error's own. 0 or a negative drop reason.
 */
__verified_once int rewrite_quoted(struct __sk_buff *skb, struct packet *p, bool source, struct address *to,
				   __be16 port)
{
	__u32 ip_at, l4_at, at, error_check, check_at = 0;
	struct address *field;
	__be16 *port_field, ports[2];
	__sum16 before, after;
	__s64 change;

	if (!p || !to)
		return -DROP_WRITE_ERROR;
	ip_at = p->l4 + sizeof(struct icmp_header);
	error_check = p->l4 + offsetof(struct icmp_header, checksum);
	field = source ? &p->inner_source : &p->inner_destination;
	port_field =
	    source || is_icmp(p->inner_protocol) ? &p->inner_source_port : &p->inner_destination_port;
	change = bpf_csum_diff(field->word, sizeof(*field), to->word, sizeof(*to), 0);
	if (change < 0)
		return -DROP_WRITE_ERROR;
	if (p->v6) {
		at = ip_at + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
		l4_at = ip_at + sizeof(struct ipv6hdr);
		if (bpf_skb_store_bytes(skb, at, to, sizeof(*to), 0) ||
		    bpf_l4_csum_replace(skb, error_check, 0, change, 0))
			return -DROP_WRITE_ERROR;
	} else {
		__u8 version_ihl;

		at = ip_at + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		if (bpf_skb_load_bytes(skb, ip_at, &version_ihl, 1))
			return -DROP_INVALID;
		l4_at = ip_at + (version_ihl & 15) * 4;
		/* The header's checksum undoes what the address does to the error's. */
		if (bpf_l3_csum_replace(skb, ip_at + offsetof(struct iphdr, check), 0, change, 0) ||
		    bpf_skb_store_bytes(skb, at, &to->word[3], 4, 0))
			return -DROP_WRITE_ERROR;
	}
	/* An echo's identifier, or the port. */
	at = l4_at + (is_icmp(p->inner_protocol) ? 4 : source ? 0 : 2);
	if (p->inner_protocol == IPPROTO_TCP)
		check_at = l4_at + 16;
	else if (p->inner_protocol == IPPROTO_UDP)
		check_at = l4_at + 6;
	else if (is_icmp(p->inner_protocol))
		check_at = l4_at + 2;
	if (check_at && !bpf_skb_load_bytes(skb, check_at, &before, 2) &&
	    (before || p->inner_protocol != IPPROTO_UDP)) {
		/* Version 4's ICMP has no pseudo header. */
		after = checksum_changed(before, p->inner_protocol == IPPROTO_ICMP ? 0 : change);
		ports[0] = *port_field;
		ports[1] = port;
		after = checksum_changed(after, (__u16)~ports[0]);
		after = checksum_changed(after, ports[1]);
		if (bpf_skb_store_bytes(skb, check_at, &after, 2, 0) ||
		    bpf_l4_csum_replace(skb, error_check, before, after, 2))
			return -DROP_WRITE_ERROR;
	}
	if (bpf_skb_store_bytes(skb, at, &port, 2, 0) ||
	    bpf_l4_csum_replace(skb, error_check, *port_field, port, 2))
		return -DROP_WRITE_ERROR;
	*field = *to;
	*port_field = port;
	return 0;
}

/*
 * One side of a packet becomes `to` and `port`; of an ICMP error, the outer address and the opposite side of
 * what it quotes.
 */
__verified_once int nat_rewrite(struct __sk_buff *skb, struct packet *p, bool source, struct address *to,
				__be16 port)
{
	struct address *field;
	__s64 change;
	int err;

	if (!p || !to)
		return -DROP_WRITE_ERROR;
	if (!p->related && (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP))
		return rewrite(skb, p, source, to, port);
	if (p->related) {
		err = rewrite_quoted(skb, p, !source, to, port);
		if (err)
			return err;
	}
	field = source ? &p->source : &p->destination;
	change = bpf_csum_diff(field->word, sizeof(*field), to->word, sizeof(*to), 0);
	if (change < 0 || rewrite_address(skb, p, source, to, change))
		return -DROP_WRITE_ERROR;
	*field = *to;
	if (p->later_fragment || !is_icmp(p->protocol))
		return 0;
	/* Version 6 has a pseudo header in it. */
	if (p->v6 && bpf_l4_csum_replace(skb, p->l4 + 2, 0, change, BPF_F_PSEUDO_HDR))
		return -DROP_WRITE_ERROR;
	if (!p->related) {
		if (bpf_l4_csum_replace(skb, p->l4 + 2, p->icmp_id, port, 2) ||
		    bpf_skb_store_bytes(skb, p->l4 + offsetof(struct icmp_header, id), &port, 2, 0))
			return -DROP_WRITE_ERROR;
		p->icmp_id = port;
	}
	return 0;
}

/* Whether the flow w->out has a mapping; its port is in w->in then. */
static __always_inline bool nat_find(struct nat_work *w, struct packet *p)
{
	struct nat_value *known = bpf_map_lookup_elem(&nat, &w->out), *in;

	if (!known || !same_address(&known->address, &w->to))
		return false;
	nat_reverse(w);
	w->in.destination_port = known->port;
	in = bpf_map_lookup_elem(&nat, &w->in);
	if (!in || !nat_names(in, &w->out))
		return false;
	nat_touch(in, p, true, bpf_ktime_get_coarse_ns());
	return true;
}

static __always_inline void nat_step(struct nat_work *w, bool existed)
{
	step(STEP_NAT, 0, s->found = existed, s->address[0] = w->out.source, s->port[0] = w->out.source_port,
	     s->address[1] = w->to, s->port[1] = w->in.destination_port);
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
	w->fresh.address = w->to;
	w->fresh.port = w->in.destination_port;
	w->fresh.flags = 0;
	/* Without it the next packet finds the port as the first one did. */
	if (!config.dry_run)
		bpf_map_update_elem(&nat, &w->out, &w->fresh, BPF_ANY);
	return nat_rewrite(skb, p, true, &w->to, w->in.destination_port);
}

/*
 * Going out: the source becomes `to` and a port that is free towards this destination. 0 or a negative drop
 * reason.
 */
static __noinline int snat_out(struct __sk_buff *skb, struct packet *p, const struct address *to)
{
	struct nat_work *w = nat_work();

	if (!w)
		return -DROP_NAT_NO_MAPPING;
	w->to = *to;
	if (!nat_out_key(&w->out, p))
		return -DROP_NAT_UNSUPPORTED_L4;
	if (nat_find(w, p)) {
		nat_step(w, true);
		return nat_rewrite(skb, p, true, &w->to, w->in.destination_port);
	}
	return nat_open(skb, p, w, false);
}

/* The same for flows that have a mapping; 1: it has none, and the packet is as it was. */
static __noinline int snat_known(struct __sk_buff *skb, struct packet *p, const struct address *to)
{
	struct nat_work *w = nat_work();

	if (!w)
		return 1;
	w->to = *to;
	if (!nat_out_key(&w->out, p) || !nat_find(w, p))
		return 1;
	nat_step(w, true);
	return nat_rewrite(skb, p, true, &w->to, w->in.destination_port);
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
	in = bpf_map_lookup_elem(&nat, &w->in);
	if (in && nat_names(in, &w->out)) {
		nat_touch(in, p, true, bpf_ktime_get_coarse_ns());
		return 0;
	}
	if (in) {
		if (!of_own_socket(skb))
			return 0;
		if (nat_find(w, p))
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
	in = bpf_map_lookup_elem(&nat, &w->in);
	if (!in || in->expires < now)
		return SNAT_NONE;
	nat_touch(in, p, false, now);
	own = in->flags & NAT_OWN;
	if (own && in->port == w->in.destination_port)
		return SNAT_OWN;
	w->to = in->address;
	err = nat_rewrite(skb, p, false, &w->to, in->port);
	if (err)
		return err;
	return own ? SNAT_OWN : SNAT_RESTORED;
}
