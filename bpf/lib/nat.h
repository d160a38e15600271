/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rewriting one address and port, with its checksums. */
#pragma once

#include "parse.h"

static __always_inline int rewrite(struct __sk_buff *skb, struct packet *p, bool source, __be32 address,
				   __be16 port)
{
	__u32 address_at =
	    ETH_HLEN + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
	__be32 old_address = source ? p->source : p->destination;
	__be16 old_port = source ? p->source_port : p->destination_port;
	__u32 checksum_at = p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6);
	__u32 port_at = p->l4 + (source ? 0 : 2);
	__u64 flags = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return -DROP_NAT_UNSUPPORTED_L4;
	if (!p->later_fragment) {
		if (bpf_l4_csum_replace(skb, checksum_at, old_address, address,
					flags | BPF_F_PSEUDO_HDR | 4) ||
		    bpf_l4_csum_replace(skb, checksum_at, old_port, port, flags | 2) ||
		    bpf_skb_store_bytes(skb, port_at, &port, 2, 0))
			return -DROP_WRITE_ERROR;
	}
	if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), old_address, address, 4) ||
	    bpf_skb_store_bytes(skb, address_at, &address, 4, 0))
		return -DROP_WRITE_ERROR;
	if (source) {
		p->source = address;
		p->source_port = port;
	} else {
		p->destination = address;
		p->destination_port = port;
	}
	return 0;
}
