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

/* True: the outer headers are gone and `vni` is set. False: nothing was changed. */
static __noinline bool decapsulate(struct __sk_buff *skb, struct iphdr *outer, __u32 *vni)
{
	struct {
		struct vxlan_headers outer;
		struct iphdr inner;
	} __attribute__((packed)) h;
	struct address inner, node;

	if (outer->ihl != 5 || (outer->frag_off & bpf_htons(0x3fff)) || (outer->tos & ECN_MASK) == ECN_CE ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &h, sizeof(h)))
		return false;
	if (h.outer.udp.destination != config.tunnel_port || h.outer.udp.checksum ||
	    h.outer.flags != bpf_htonl(VXLAN_HAS_VNI) || h.outer.inner.h_proto != bpf_htons(ETH_P_IP))
		return false;
	inner = mapped(h.inner.daddr);
	if (!in_pod_range(&inner) || is_router(&inner))
		return false;
	node = mapped(outer->saddr);
	if (follows_bulk(skb, h.outer.udp.source) || !is_node(&node))
		return false;
	*vni = bpf_ntohl(h.outer.vni) >> 8;
	step(STEP_DECAP, 0, s->address[0] = mapped(outer->saddr), s->number[0] = *vni);
	/* The outer Ethernet header stays, as the packet's only one. */
	return !bpf_skb_adjust_room(skb, -(__s32)sizeof(h.outer), BPF_ADJ_ROOM_MAC, 0);
}
