/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Onto the wire by the kernel's routing table, without its stack. */
#pragma once

#include "parse.h"
#include "steps.h"

#ifndef AF_INET
#define AF_INET 2
#endif

static __always_inline int decrement_ttl(struct __sk_buff *skb)
{
	__u8 ttl, less;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &ttl, 1) || ttl <= 1)
		return -1;
	less = ttl - 1;
	if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), bpf_htons(ttl << 8),
				bpf_htons(less << 8), 2))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &less, 1, 0);
}

/* A redirect verdict; TC_ACT_OK where the stack has to see to it (fragmentation, TTL, unreachable). */
__verified_once int forward_by_fib(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_fib_lookup fib = {};
	struct bpf_redir_neigh next = {};
	__u8 macs[12];
	long result;

	if (!p)
		return TC_ACT_OK;
	fib.family = AF_INET;
	fib.ipv4_src = p->source.word[3];
	fib.ipv4_dst = p->destination.word[3];
	fib.l4_protocol = p->protocol;
	fib.sport = p->source_port;
	fib.dport = p->destination_port;
	fib.ifindex = skb->ifindex;
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	step(STEP_ROUTE, 0, s->address[0] = p->destination, s->address[1] = mapped(fib.ipv4_dst),
	     s->result = result, s->number[0] = fib.ifindex);
	if (result == BPF_FIB_LKUP_RET_SUCCESS) {
		if (decrement_ttl(skb))
			return TC_ACT_OK;
		__builtin_memcpy(macs, fib.dmac, 6);
		__builtin_memcpy(macs + 6, fib.smac, 6);
		if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
			return TC_ACT_OK;
		step(STEP_REDIRECT, REDIRECT_DEVICE, s->number[0] = fib.ifindex);
		return bpf_redirect(fib.ifindex, 0);
	}
	if (result == BPF_FIB_LKUP_RET_NO_NEIGH) {
		if (decrement_ttl(skb))
			return TC_ACT_OK;
		next.nh_family = AF_INET;
		next.ipv4_nh = fib.ipv4_dst;
		step(STEP_REDIRECT, REDIRECT_NEIGHBOUR, s->number[0] = fib.ifindex);
		return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
	}
	return TC_ACT_OK;
}
