/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What stands between the outer Ethernet header and the inner IP header. */
#pragma once

#include "parse.h"

#define VXLAN_PORT 8472
#define VXLAN_HAS_VNI 0x08000000
#define ECN_MASK 3
#define ECN_CE 3
#define ECN_ECT0 2

struct vxlan_headers {
	struct iphdr ip;
	struct udp_header udp;
	__be32 flags;
	__be32 vni; /* in the upper 24 bits */
	struct ethhdr inner;
} __attribute__((packed));

_Static_assert(sizeof(struct vxlan_headers) == 50, "the agent takes 50 bytes off the MTU");

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
