/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Refused networks: what comes from them is dropped before the kernel spends anything on it, counted by
 * network. */
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "maps.h"
#include "steps.h"

/* One packet in so many (of one network, on one processor) becomes an event, the first among them. */
#define PREFILTER_SAMPLE (1 << 16)
/* How many networks have counters of their own. */
#define PREFILTER_NETWORKS 65536

struct network4 {
	__u32 length;
	__be32 address;
};

struct network6 {
	__u32 length;
	__be32 address[4];
};

/* Refused networks → index of their counters. Version 4 apart: half the comparisons of mapped addresses.
 * Writer: agent. Reader: prefilter. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFILTER_NETWORKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network4);
	__type(value, __u32);
} refused4 SEC(".maps");

/* The same of version 6. Writer: agent. Reader: prefilter. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFILTER_NETWORKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network6);
	__type(value, __u32);
} refused6 SEC(".maps");

/*
 * Of version 4 by the first 16 bits, in the host's byte order: most packets need no search. FIRST_ASK, as
 * every line begins: refused4 knows; FIRST_NONE: no refused network has an address here; else the whole of it
 * belongs to one network and to none within it: FIRST_NETWORK plus the index of its counters. Writer: agent.
 * Reader: prefilter.
 */
#define FIRST_ASK 0
#define FIRST_NONE 1
#define FIRST_NETWORK 2
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u32);
} refused_first4 SEC(".maps");

/* What was dropped, by a network's index. Writer: prefilter. Reader: agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PREFILTER_NETWORKS);
	__type(key, __u32);
	__type(value, struct counter);
} refused SEC(".maps");

/* The sample as an event like that of any drop. Not inlined: it is one packet in many. */
static __noinline int report_refused(struct xdp_md *ctx, __u32 index)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct event *e;
	__u32 zero = 0;
	__u64 *n;

	if ((void *)(eth + 1) > end)
		return 0;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		n = bpf_map_lookup_elem(&lost, &zero);
		if (n)
			__sync_fetch_and_add(n, 1);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	e->type = EVENT_DROP;
	e->subtype = DROP_POLICY_DENY;
	e->direction = INGRESS;
	e->denied = 1;
	e->rule = index;
	e->ifindex = ctx->ingress_ifindex;
	e->length = end - data;
	e->file = FILE_NUMBER;
	__builtin_memcpy(e->source_mac, eth->h_source, 6);
	__builtin_memcpy(e->dest_mac, eth->h_dest, 6);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		if ((void *)(ip6 + 1) <= end) {
			__builtin_memcpy(&e->source, &ip6->saddr, 16);
			__builtin_memcpy(&e->destination, &ip6->daddr, 16);
			e->protocol = ip6->nexthdr;
		}
	} else {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) <= end) {
			e->source = mapped(ip->saddr);
			e->destination = mapped(ip->daddr);
			e->protocol = ip->protocol;
		}
	}
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Whether a packet comes from a refused network; counts it then. Other XDP programs ask this first. */
static __always_inline bool prefiltered(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct counter *counter;
	__u32 *index, at;

	if ((void *)(eth + 1) > end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);
		struct network4 key = {.length = 32};

		if ((void *)(ip + 1) > end)
			return false;
		key.address = ip->saddr;
		at = bpf_ntohl(key.address) >> 16;
		index = bpf_map_lookup_elem(&refused_first4, &at);
		if (!index)
			return false;
		at = *index;
		if (at == FIRST_NONE)
			return false;
		if (at != FIRST_ASK) {
			at -= FIRST_NETWORK;
			goto found;
		}
		index = bpf_map_lookup_elem(&refused4, &key);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = (void *)(eth + 1);
		struct network6 key = {.length = 128};

		if ((void *)(ip6 + 1) > end)
			return false;
		__builtin_memcpy(key.address, &ip6->saddr, 16);
		index = bpf_map_lookup_elem(&refused6, &key);
	} else {
		return false;
	}
	if (!index)
		return false;
	at = *index;
found:
	if (config.dry_run) {
		step(STEP_PREFILTER, 0, s->found = 1, s->number[0] = at);
		return true;
	}
	counter = bpf_map_lookup_elem(&refused, &at);
	if (!counter)
		return true;
	if (!(counter->packets & (PREFILTER_SAMPLE - 1)))
		report_refused(ctx, at);
	counter->packets++;
	counter->bytes += ctx->data_end - ctx->data;
	return true;
}
