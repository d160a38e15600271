/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The helpers for packets that XDP does not have, by direct access: kernels before 5.18 have none of its own.
 * Only the headers' part of a packet is in reach, which is all that is read or written here.
 */
#pragma once

#include "types.h"

#define __sk_buff xdp_md

/* How far into a frame headers are looked for; a mask. */
#define XDP_REACH 0x1ff

/* The verifier has to see the offset bounded, and the compiler must not take that away. */
#define xdp_bound(offset) asm volatile("%0 &= %1" : "+r"(offset) : "i"(XDP_REACH))

/* In assembly, or the compiler keeps the field's address in a register, which the verifier refuses. */
static __always_inline void *xdp_field(const struct xdp_md *ctx, const __u32 offset)
{
	void *value;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(value) : "r"(ctx), "i"(offset));
	return value;
}

#define xdp_data(ctx) xdp_field(ctx, offsetof(struct xdp_md, data))
#define xdp_data_end(ctx) xdp_field(ctx, offsetof(struct xdp_md, data_end))

static __always_inline long xdp_load(struct xdp_md *ctx, __u64 offset, void *to, const __u32 length)
{
	void *at;

	if (offset > XDP_REACH)
		return -1;
	xdp_bound(offset);
	at = xdp_data(ctx) + offset;
	if (at + length > xdp_data_end(ctx))
		return -1;
	/* Headers are not aligned; no kernel that has XDP minds. */
	__builtin_memcpy(to, __builtin_assume_aligned(at, 4), length);
	return 0;
}

static __always_inline long xdp_store(struct xdp_md *ctx, __u64 offset, const void *from, const __u32 length)
{
	void *at;

	if (offset > XDP_REACH)
		return -1;
	xdp_bound(offset);
	at = xdp_data(ctx) + offset;
	if (at + length > xdp_data_end(ctx))
		return -1;
	__builtin_memcpy(__builtin_assume_aligned(at, 4), from, length);
	return 0;
}

/* A checksum after a change of what it is over. */
static __always_inline __sum16 xdp_sum_changed(__sum16 checksum, __u64 change)
{
	__u64 sum = (__u16)~checksum + (change & 0xffffffff);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* As bpf_l4_csum_replace: sizes 2 and 4, or 0 with the difference in `to`. */
static __always_inline long xdp_replace_sum(struct xdp_md *ctx, __u32 offset, __u64 from, __u64 to,
					    __u64 flags)
{
	__sum16 sum;

	if (xdp_load(ctx, offset, &sum, sizeof(sum)))
		return -1;
	/* UDP without a checksum stays without one. */
	if ((flags & BPF_F_MARK_MANGLED_0) && !sum)
		return 0;
	switch (flags & BPF_F_HDR_FIELD_MASK) {
	case 0:
		sum = xdp_sum_changed(sum, to);
		break;
	case 2:
		sum = xdp_sum_changed(sum, (__u16)~from + (__u64)(__u16)to);
		break;
	default:
		sum = xdp_sum_changed(xdp_sum_changed(sum, (__u32)~from), (__u32)to);
	}
	if ((flags & BPF_F_MARK_MANGLED_0) && !sum)
		sum = 0xffff;
	return xdp_store(ctx, offset, &sum, sizeof(sum));
}

/* As bpf_csum_diff, which XDP has; for a few words of a known number the call costs more than the sum. */
static __always_inline __s64 xdp_sum_difference(const __be32 *from, const __u32 from_size, const __be32 *to,
						const __u32 to_size, __u32 seed)
{
	__u64 sum = seed;

#pragma unroll
	for (__u32 i = 0; i < from_size / 4; i++)
		sum += (__u32)~from[i];
#pragma unroll
	for (__u32 i = 0; i < to_size / 4; i++)
		sum += (__u32)to[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

#define bpf_csum_diff(from, from_size, to, to_size, seed)                                                    \
	xdp_sum_difference((const __be32 *)(from), from_size, (const __be32 *)(to), to_size, seed)
#define bpf_skb_load_bytes(ctx, offset, to, length) xdp_load(ctx, offset, to, length)
#define bpf_skb_store_bytes(ctx, offset, from, length, flags) xdp_store(ctx, offset, from, length)
#define bpf_l3_csum_replace(ctx, offset, from, to, flags) xdp_replace_sum(ctx, offset, from, to, flags)
#define bpf_l4_csum_replace(ctx, offset, from, to, flags) xdp_replace_sum(ctx, offset, from, to, flags)

static __always_inline __u32 packet_length(struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data;
}

static __always_inline __u32 segment_size(struct xdp_md *ctx)
{
	return 0;
}

static __always_inline __u32 at_interface(struct xdp_md *ctx)
{
	return ctx->ingress_ifindex;
}

static __always_inline bool of_own_socket(struct xdp_md *ctx)
{
	return false;
}

static __always_inline __u32 packet_mark(struct xdp_md *ctx)
{
	return 0;
}

static __always_inline void mark_packet(struct xdp_md *ctx, __u32 mark)
{
}

/* Room for `size` bytes before what begins at `offset`: what is before it moves to the front. */
static __always_inline int insert_room(struct xdp_md *ctx, __u32 offset, __u32 size)
{
	__u8 headers[14 + 40];

	if (offset == sizeof(headers)) {
		if (xdp_load(ctx, 0, headers, 14 + 40) || bpf_xdp_adjust_head(ctx, -(int)size) ||
		    xdp_store(ctx, 0, headers, 14 + 40))
			return -1;
		return 0;
	}
	if (offset != 14 + 20 || xdp_load(ctx, 0, headers, 14 + 20) || bpf_xdp_adjust_head(ctx, -(int)size))
		return -1;
	return xdp_store(ctx, 0, headers, 14 + 20);
}

#define XDP_SERVICES (1 << 0)
/* No network card: its other end may leave checksums to be completed, and a virtual cable whose other end has
 * no program itself does not wake that for what XDP_TX sends, but does for what is redirected. */
#define XDP_VIRTUAL (1 << 1)
/* Takes frames that are redirected to it, from other devices. */
#define XDP_TRANSMIT (1 << 2)

struct xdp_device {
	__u8 mac[6];
	__u16 flags;
};

/* Devices whose clients are served here, by index. Writer: agent. Reader: xdp_netdev. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct xdp_device);
} xdp_devices SEC(".maps");

/* When a next hop was last left to the kernel's neighbour output; ns. Writer and reader: xdp_netdev. */
#define XDP_NEIGHBOUR_LINES 256
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XDP_NEIGHBOUR_LINES);
	__type(key, __u32);
	__type(value, __u64);
} xdp_neighbours SEC(".maps");
