/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The headers that are put before a frame for another node. */
#pragma once

#include "tunnel.h"

/* Identities that only this node knows are the world to others. */
static __always_inline __u32 identity_to_vni(__u32 identity)
{
	return identity >= IDENTITY_FIRST_LOCAL ? IDENTITY_WORLD : identity;
}

struct outer {
	union {
		struct tunnel_headers4 v4;
		struct tunnel_headers6 v6;
	};
};

/* The outer IP header; `length` is that of the inner packet with its IP header. */
static __always_inline void outer_ip(struct outer *h, const struct address *node, __u32 length, __u8 ecn,
				     __u32 hash)
{
	if (config.underlay6) {
		struct ipv6hdr ip = {};

		ip.version = 6;
		ip.flow_lbl[0] = ecn << 4 | (hash & 0xf);
		ip.flow_lbl[1] = hash >> 8;
		ip.flow_lbl[2] = hash >> 16;
		ip.payload_len = bpf_htons(length + sizeof(struct tunnel_headers));
		ip.nexthdr = IPPROTO_UDP;
		ip.hop_limit = 64;
		for (int i = 0; i < 4; i++)
			ip.saddr.in6_u.u6_addr32[i] = config.node_address6.word[i];
		__builtin_memcpy(&ip.daddr, node, sizeof(*node));
		h->v6.ip = ip;
	} else {
		struct iphdr ip = {};

		ip.version = 4;
		ip.ihl = 5;
		ip.tos = ecn;
		ip.ttl = 64;
		ip.protocol = IPPROTO_UDP;
		ip.saddr = config.node_address.word[3];
		ip.daddr = node->word[3];
		ip.id = bpf_get_prandom_u32();
		ip.tot_len = bpf_htons(length + sizeof(h->v4));
		ip.check = ip_checksum(&ip);
		h->v4.ip = ip;
	}
}
