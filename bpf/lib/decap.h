/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Out of the tunnel, before the host's stack sees the packet: no netfilter, no UDP socket, no second queue.
 *
 * Left to the tunnel device: what the kernel put together out of several packets (the helper cannot take the
 * mark of a tunnel off such a packet, and who forwards it later would cut it up wrongly), what has a checksum
 * of its own or was marked as congested on the way, what no node of the cluster sent (the host's firewall has
 * a say there), and what is for the node itself.
 */
#pragma once

#include "overlay.h"

/* Longer than a packet stays in the tunnel device's queue. */
#define BULK_INTERVAL (8 * 1000 * 1000ULL)

/*
 * Whether the flow just had a packet that went to the tunnel device: the queue there would let this one
 * overtake it. Flows may share a line; then one takes the longer way without need.
 */
static __always_inline bool follows_bulk(struct __sk_buff *skb, __be16 flow)
{
	__u32 line = bpf_ntohs(flow) & (BULK_LINES - 1);
	__u64 *last = bpf_map_lookup_elem(&bulk, &line);
	__u64 now;

	if (!last)
		return true;
	now = bpf_ktime_get_coarse_ns();
	if (skb->gso_size) {
		if (!config.dry_run)
			*last = now;
		return true;
	}
	return now - *last < BULK_INTERVAL;
}

/* The outer packet, of either family. */
struct outer_packet {
	struct address source;
	__u32 l3_length;
	__u32 vni;
};

#ifndef BPF_F_ADJ_ROOM_DECAP_L3_IPV4
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#endif

/*
 * True: the outer headers are gone and `vni` is set. False: nothing was changed. Where the families differ,
 * kernels before 6.3 cannot say so and refuse.
 */
static __noinline bool decapsulate(struct __sk_buff *skb, struct outer_packet *outer)
{
	struct tunnel_headers h;
	struct address inner = {};
	__u32 l3 = ETH_HLEN + outer->l3_length;
	__u64 flags = 0;

	if (bpf_skb_load_bytes(skb, l3, &h, sizeof(h)))
		return false;
	if (h.udp.destination != config.tunnel_port || h.udp.checksum || h.first != tunnel_first_word())
		return false;
	l3 += sizeof(h);
	if (h.inner.h_proto == bpf_htons(ETH_P_IP)) {
		inner.word[2] = bpf_htonl(0xffff);
		if (bpf_skb_load_bytes(skb, l3 + offsetof(struct iphdr, daddr), &inner.word[3], 4))
			return false;
		if (config.underlay6)
			flags = BPF_F_ADJ_ROOM_DECAP_L3_IPV4;
	} else if (h.inner.h_proto == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6hdr, daddr), &inner, sizeof(inner)))
			return false;
		if (!config.underlay6)
			flags = BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	} else {
		return false;
	}
	if (!in_pod_range(&inner) || is_router(&inner))
		return false;
	if (follows_bulk(skb, h.udp.source) || !is_node(&outer->source))
		return false;
	outer->vni = bpf_ntohl(h.vni) >> 8;
	step(STEP_DECAP, 0, s->address[0] = outer->source, s->number[0] = outer->vni);
	/* The outer Ethernet header stays, as the packet's only one. */
	if (bpf_skb_adjust_room(skb, -(__s32)(outer->l3_length + sizeof(h)), BPF_ADJ_ROOM_MAC, flags))
		return false;
	return !flags || !bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &h.inner.h_proto, 2, 0);
}
