/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Onto the wire by the kernel's routing table, without its stack. */
#pragma once

#include "parse.h"
#include "steps.h"

#ifndef AF_INET
#define AF_INET 2
#endif
#ifndef AF_INET6
#define AF_INET6 10
#endif
#ifndef EINVAL
#define EINVAL 22
#endif
/* Linux 6.3; the headers may be older. */
#define FIB_LOOKUP_SKIP_NEIGH (1U << 2)

/* What is written together when a packet is forwarded: time to live, protocol and checksum of IPv4. */
struct ttl_word {
	__u8 ttl;
	__u8 protocol;
	__sum16 check;
};

static __always_inline int decrement_ttl(struct __sk_buff *skb, bool v6)
{
	__u32 at = ETH_HLEN + (v6 ? offsetof(struct ipv6hdr, hop_limit) : offsetof(struct iphdr, ttl));
	struct ttl_word word = {};
	__u32 sum;

	if (v6) {
		if (bpf_skb_load_bytes(skb, at, &word.ttl, 1) || word.ttl <= 1)
			return -1;
		word.ttl--;
		return bpf_skb_store_bytes(skb, at, &word.ttl, 1, 0);
	}
	if (bpf_skb_load_bytes(skb, at, &word, sizeof(word)) || word.ttl <= 1)
		return -1;
	word.ttl--;
	/* RFC 1624: the sum is of ones' complements, so one less of what it is over is one more of it
	 * (as the kernel's ip_decrease_ttl). */
	sum = word.check + bpf_htons(1 << 8);
	word.check = sum + (sum >= 0xffff);
	return bpf_skb_store_bytes(skb, at, &word, sizeof(word), 0);
}

static __always_inline void fib_addresses(struct bpf_fib_lookup *fib, const struct address *source,
					  const struct address *destination, bool v6)
{
	if (v6) {
		fib->family = AF_INET6;
		__builtin_memcpy(fib->ipv6_src, source, sizeof(*source));
		__builtin_memcpy(fib->ipv6_dst, destination, sizeof(*destination));
	} else {
		fib->family = AF_INET;
		fib->ipv4_src = source->word[3];
		fib->ipv4_dst = destination->word[3];
	}
}

/* The next hop that a lookup left in `fib`. */
static __always_inline void next_hop(struct bpf_redir_neigh *next, const struct bpf_fib_lookup *fib)
{
	next->nh_family = fib->family;
	__builtin_memcpy(next->ipv6_nh, fib->ipv6_dst, sizeof(next->ipv6_nh));
}

/* Whether the programs put the node's address into what leaves the cluster. */
static __always_inline bool masquerades(const struct address *source)
{
	return config.masquerade & (is_v4(source) ? MASQUERADE_V4 : MASQUERADE_V6);
}

/*
 * A redirect verdict; TC_ACT_OK where the stack has to see to it (fragmentation, TTL, unreachable). Always by
 * the kernel's neighbour output and not with the hardware address that was found: so the neighbour's entry is
 * used, and by that confirmed, and a node that got another network card is found again. `outward`: only by
 * the devices where to_netdev is; elsewhere the host's own rules have a say.
 */
__verified_once int forward_by_route(struct __sk_buff *skb, struct packet *p, bool outward)
{
	struct bpf_fib_lookup fib = {};
	struct bpf_redir_neigh next = {};
	__u32 ifindex;
	long result;

	if (!p)
		return TC_ACT_OK;
	fib_addresses(&fib, &p->source, &p->destination, p->v6);
	fib.l4_protocol = p->protocol;
	fib.sport = p->source_port;
	fib.dport = p->destination_port;
	fib.ifindex = at_interface(skb);
	if (!segment_size(skb))
		fib.tot_len = packet_length(skb) - ETH_HLEN;
	/* The neighbour is found when the packet is put out. A kernel that does not know the flag says so. */
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), FIB_LOOKUP_SKIP_NEIGH);
	if (result == -EINVAL)
		result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (p->v6)
		step(STEP_ROUTE, 0, s->address[0] = p->destination,
		     __builtin_memcpy(&s->address[1], fib.ipv6_dst, sizeof(s->address[1])),
		     s->result = result, s->number[0] = fib.ifindex);
	else
		step(STEP_ROUTE, 0, s->address[0] = p->destination, s->address[1] = mapped(fib.ipv4_dst),
		     s->result = result, s->number[0] = fib.ifindex);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_OK;
	ifindex = fib.ifindex;
	if (outward && !bpf_map_lookup_elem(&devices, &ifindex))
		return TC_ACT_OK;
	if (decrement_ttl(skb, p->v6))
		return TC_ACT_OK;
	next_hop(&next, &fib);
	step(STEP_REDIRECT, REDIRECT_NEIGHBOUR, s->number[0] = fib.ifindex);
	return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}

static __always_inline int forward_by_fib(struct __sk_buff *skb, struct packet *p)
{
	return forward_by_route(skb, p, false);
}
