/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What a packet program is given: `struct __sk_buff` at tc. At XDP (PACKETS_OF_XDP) xdp.h puts `struct
 * xdp_md` in its place and stands in for the helpers, so that the headers about packets serve both hooks.
 * What the two do not have in common is asked here.
 */
#pragma once

#ifdef PACKETS_OF_XDP
#include "xdp.h"
#else
static __always_inline __u32 packet_length(struct __sk_buff *skb)
{
	return skb->len;
}

/* Of a packet that the kernel put together; else 0. */
static __always_inline __u32 segment_size(struct __sk_buff *skb)
{
	return skb->gso_size;
}

/* The interface that the packet is at. */
static __always_inline __u32 at_interface(struct __sk_buff *skb)
{
	return skb->ifindex;
}

/* Sent by a socket of this namespace. What came in by an interface may still have its sender's, in another.
 */
static __always_inline bool of_own_socket(struct __sk_buff *skb)
{
	return skb->sk && !skb->ingress_ifindex;
}

static __always_inline __u32 packet_mark(struct __sk_buff *skb)
{
	return skb->mark;
}

static __always_inline void mark_packet(struct __sk_buff *skb, __u32 mark)
{
	skb->mark = mark;
}

/* Room for `size` bytes before what begins at `offset`, behind the IP header. */
static __always_inline int insert_room(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	return bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_NET, 0);
}
#endif
