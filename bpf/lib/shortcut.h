/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The short way of a connection between two pods of this node. Each of its packets would find the same
 * sender, connection, receiver and once more connection: four lookups, which is most of what a packet costs
 * here. A shortcut is what was found. It holds until the agent changes anything at all
 * (`shortcut_generation`), and no longer than SHORTCUT_TIME: so often a packet is looked at closely, which
 * keeps the connection's entries and the events of the flow going. It says nothing that the close look would
 * not, and dry runs do without.
 *
 * Only for what is plain: TCP that is open, without service, proxy or limit of bandwidth, and long enough
 * that making it pays. Packets that open or end something are looked at closely.
 */
#pragma once

#include "work.h"

#define SHORTCUT_TIME NSEC_PER_SEC
/* Packets of a connection in one direction before it has one. */
#define SHORTCUT_AFTER 16
#define NO_SHORTCUT (-1)

struct shortcut_key {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 ifindex; /* of the sender: what it sends with another's address finds nothing */
} __in_words;

struct shortcut {
	__u64 until;   /* CLOCK_MONOTONIC, ns */
	__u64 packets; /* that went this way and are not in the connection's entries yet */
	__u64 bytes;
	__u32 generation;
	__u32 ifindex; /* of the receiver */
	__u8 macs[12]; /* the frame's, as the receiver gets it */
	__u8 sender_mac[6];
	__u8 pad[6];
};

/* Writer and reader: from_pod. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct shortcut_key);
	__type(value, struct shortcut);
} shortcuts SEC(".maps");

/* Rises with each change by the agent, after it. Writer: agent. Reader: from_pod. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} shortcut_generation SEC(".maps");

static __always_inline void shortcut_key(struct shortcut_key *key, struct __sk_buff *skb,
					 const struct packet *p)
{
	key->source = p->source;
	key->destination = p->destination;
	key->source_port = p->source_port;
	key->destination_port = p->destination_port;
	key->ifindex = skb->ifindex;
}

/*
 * A packet of a pod, parsed: a verdict, or NO_SHORTCUT. Then `w` has what went the short way until now, for
 * track() to count, and the generation that was there before anything was looked up: a shortcut that comes of
 * this packet holds under no later one.
 */
static __noinline int take_shortcut(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	__u32 zero = 0, *generation;
	struct shortcut_key key;
	struct shortcut *s;

	if (config.dry_run || p->protocol != IPPROTO_TCP || p->fragment)
		return NO_SHORTCUT;
	shortcut_key(&key, skb, p);
	s = bpf_map_lookup_elem(&shortcuts, &key);
	/* The ports are used again: what is left is that of another connection. */
	if (p->tcp_flags & TCP_SYN) {
		if (s)
			s->until = s->packets = s->bytes = 0;
		return NO_SHORTCUT;
	}
	/* Without aggregation each packet is an event. */
	generation = bpf_map_lookup_elem(&shortcut_generation, &zero);
	if (!config.aggregate || !generation)
		return NO_SHORTCUT;
	w->generation = *generation;
	w->may_shorten = true;
	if (!s)
		return NO_SHORTCUT;
	if (s->generation == w->generation && s->until >= bpf_ktime_get_coarse_ns() &&
	    !(p->tcp_flags & (TCP_FIN | TCP_RST)) && same_mac(p->source_mac, s->sender_mac) &&
	    !bpf_skb_store_bytes(skb, 0, s->macs, sizeof(s->macs), 0)) {
		s->packets++;
		s->bytes += p->length;
		/* As of any other: it left one pod and came to the other. */
		count(0, EGRESS, p->length);
		count(0, INGRESS, p->length);
		return bpf_redirect_peer(s->ifindex, 0);
	}
	w->short_packets = s->packets;
	w->short_bytes = s->bytes;
	s->until = 0;
	s->packets = 0;
	s->bytes = 0;
	return NO_SHORTCUT;
}

/* After a packet that was let from `ep` to `local`, pods of this node; `known` is its connection as `ep` has
 * it. */
static __noinline int shorten(struct __sk_buff *skb, struct work *w, struct endpoint *ep,
			      struct endpoint *local, struct connection *known)
{
	struct packet *p = &w->packet;
	struct shortcut_key key;
	struct shortcut s = {};

	if (!w->may_shorten || known->packets[OUT] < SHORTCUT_AFTER ||
	    (known->flags & (CONNECTION_SERVICE | CONNECTION_REVERSE | CONNECTION_PROXY | CONNECTION_FIN_OUT |
			     CONNECTION_FIN_IN | CONNECTION_RESET)) ||
	    !w->in.open || w->in.reverse || w->in.has_service || w->in.to_proxy ||
	    (p->tcp_flags & (TCP_FIN | TCP_RST)) ||
	    ((ep->flags | local->flags) & (ENDPOINT_LIMIT_EGRESS | ENDPOINT_LIMIT_INGRESS)))
		return 0;
	shortcut_key(&key, skb, p);
	s.until = bpf_ktime_get_coarse_ns() + SHORTCUT_TIME;
	s.generation = w->generation;
	s.ifindex = local->ifindex;
	__builtin_memcpy(s.macs, local->pod_mac, 6);
	__builtin_memcpy(s.macs + 6, local->host_mac, 6);
	__builtin_memcpy(s.sender_mac, ep->pod_mac, 6);
	bpf_map_update_elem(&shortcuts, &key, &s, BPF_ANY);
	return 0;
}
