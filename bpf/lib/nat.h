/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rewriting one address and port, with its checksums. */
#pragma once

#include "parse.h"
#include "steps.h"

/* A sum as it stands in a header. */
static __always_inline __u16 csum_of(__s64 sum)
{
	__u32 s = sum;

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return ~s;
}

/* TCP and UDP of both families. 0 or a negative drop reason. */
__verified_once int rewrite(struct __sk_buff *skb, struct packet *p, bool source, const struct address *to,
			    __be16 port)
{
	struct address *field;
	__be16 *port_field;
	__u32 checksum_at;
	__u64 flags;
	__s64 change;

	if (!p || !to)
		return -DROP_WRITE_ERROR;
	field = source ? &p->source : &p->destination;
	port_field = source ? &p->source_port : &p->destination_port;
	checksum_at = p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6);
	flags = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return -DROP_NAT_UNSUPPORTED_L4;
	/* Mapped addresses differ in their last word only. */
	change = bpf_csum_diff(field->word, sizeof(*field), (__be32 *)to->word, sizeof(*to), 0);
	if (change < 0)
		return -DROP_WRITE_ERROR;
	if (!p->later_fragment) {
		if (bpf_l4_csum_replace(skb, checksum_at, 0, change, flags | BPF_F_PSEUDO_HDR) ||
		    bpf_l4_csum_replace(skb, checksum_at, *port_field, port, flags | 2) ||
		    bpf_skb_store_bytes(skb, p->l4 + (source ? 0 : 2), &port, 2, 0))
			return -DROP_WRITE_ERROR;
	}
	if (p->v6) {
		if (bpf_skb_store_bytes(skb,
					ETH_HLEN + (source ? offsetof(struct ipv6hdr, saddr)
							   : offsetof(struct ipv6hdr, daddr)),
					to, sizeof(*to), 0))
			return -DROP_WRITE_ERROR;
	} else if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, change, 0) ||
		   bpf_skb_store_bytes(
		       skb,
		       ETH_HLEN + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr)),
		       &to->word[3], 4, 0)) {
		return -DROP_WRITE_ERROR;
	}
	step(STEP_REWRITE, source, s->address[0] = *field, s->port[0] = *port_field, s->address[1] = *to,
	     s->port[1] = port);
	*field = *to;
	*port_field = port;
	return 0;
}
