/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What stands between the outer Ethernet header and the inner IP header. Geneve without options has the same
 * shape as VXLAN: 8 bytes, of which the first word is a constant and the second has the VNI in its upper 24
 * bits.
 */
#pragma once

#include "parse.h"

#define VXLAN_HAS_VNI 0x08000000
/* Version 0, no options, an Ethernet frame inside. */
#define GENEVE_ETHERNET 0x00006558
#define ECN_MASK 3
#define ECN_CE 3
#define ECN_ECT0 2

struct tunnel_headers {
	struct udp_header udp;
	__be32 first;
	__be32 vni; /* in the upper 24 bits */
	struct ethhdr inner;
} __attribute__((packed));

struct tunnel_headers4 {
	struct iphdr ip;
	struct tunnel_headers tunnel;
} __attribute__((packed));

struct tunnel_headers6 {
	struct ipv6hdr ip;
	struct tunnel_headers tunnel;
} __attribute__((packed));

_Static_assert(sizeof(struct tunnel_headers4) == 50 && sizeof(struct tunnel_headers6) == 70,
	       "the agent takes 50 or 70 bytes off the MTU");

/* What the tunnel puts before each frame. */
static __always_inline __u32 tunnel_overhead(void)
{
	return config.underlay6 ? sizeof(struct tunnel_headers6) : sizeof(struct tunnel_headers4);
}

static __always_inline __be32 tunnel_first_word(void)
{
	return bpf_htonl(config.untunnel == TUNNEL_GENEVE ? GENEVE_ETHERNET : VXLAN_HAS_VNI);
}

static __always_inline __sum16 ip_checksum(const struct iphdr *ip)
{
	const __u16 *word = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum += sum >> 16;
	return ~sum;
}
