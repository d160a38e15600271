/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A packet turned into its own refusal: a segment of TCP that opens a connection into a reset, everything
 * else into an ICMP error "port unreachable". The addresses of the frame are the sender's business.
 */
#pragma once

#include "nat.h"

#define TCP_DOFF_MAX 60

/* Changes a 16-bit word of the TCP header, with the checksum. */
static __always_inline int tcp_word(struct __sk_buff *skb, struct packet *p, __u32 at, __be16 to)
{
	__be16 from;

	if (bpf_skb_load_bytes(skb, p->l4 + at, &from, 2))
		return -1;
	if (bpf_l4_csum_replace(skb, p->l4 + 16, from, to, 2))
		return -1;
	return bpf_skb_store_bytes(skb, p->l4 + at, &to, 2, 0);
}

/* Swaps the addresses, which no checksum notices. */
static __always_inline int swap_addresses(struct __sk_buff *skb, struct packet *p)
{
	if (p->v6)
		return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &p->destination,
					   16, 0) ||
		       bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &p->source, 16,
					   0);
	return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &p->destination.word[3], 4,
				   0) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &p->source.word[3], 4, 0);
}

/* Only the first segment: others of a connection that nobody knows are not worth an answer. Its options
 * become ones without a meaning, so that nothing has to be cut off. */
__verified_once int refuse_tcp(struct __sk_buff *skb, struct packet *p)
{
	__be32 sequence;
	__be16 word;
	__u8 offset_flags[2];
	__u32 answer, length;

	if (!p)
		return -1;
	length = p->l4_length;
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN || length < 20 || length > TCP_DOFF_MAX)
		return -1;
	if (bpf_skb_load_bytes(skb, p->l4 + 4, &sequence, 4) ||
	    bpf_skb_load_bytes(skb, p->l4 + 12, offset_flags, 2))
		return -1;
	answer = bpf_htonl(bpf_ntohl(sequence) + 1);
#pragma unroll
	for (int at = 20; at < TCP_DOFF_MAX; at += 2) {
		if (at + 2 <= (int)length && tcp_word(skb, p, at, bpf_htons(0x0101)))
			return -1;
	}
	offset_flags[1] = TCP_RST | TCP_ACK;
	__builtin_memcpy(&word, offset_flags, 2);
	if (tcp_word(skb, p, 0, p->destination_port) || tcp_word(skb, p, 2, p->source_port) ||
	    tcp_word(skb, p, 4, 0) || tcp_word(skb, p, 6, 0) || tcp_word(skb, p, 8, answer & 0xffff) ||
	    tcp_word(skb, p, 10, answer >> 16) || tcp_word(skb, p, 12, word) || tcp_word(skb, p, 14, 0) ||
	    tcp_word(skb, p, 18, 0))
		return -1;
	return swap_addresses(skb, p);
}

struct unreachable4 {
	struct iphdr ip;
	struct icmp_header icmp;
	struct iphdr quoted;
	__be32 ports[2];
};

__verified_once int refuse_icmp4(struct __sk_buff *skb, struct packet *p)
{
	struct unreachable4 h = {};

	/* A header with options would not fit the quote's. */
	if (!p || p->l4 != ETH_HLEN + sizeof(struct iphdr) || segment_size(skb))
		return -1;
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(struct iphdr) + 8, 0) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &h.quoted, sizeof(h.quoted) + sizeof(h.ports)) ||
	    bpf_skb_adjust_room(skb, sizeof(h.ip) + sizeof(h.icmp), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	h.ip.version = 4;
	h.ip.ihl = 5;
	h.ip.ttl = 64;
	h.ip.protocol = IPPROTO_ICMP;
	h.ip.saddr = p->destination.word[3];
	h.ip.daddr = p->source.word[3];
	h.ip.tot_len = bpf_htons(sizeof(h));
	h.ip.check = csum_of(bpf_csum_diff(0, 0, (__be32 *)&h.ip, sizeof(h.ip), 0));
	h.icmp.type = ICMP_DEST_UNREACH;
	h.icmp.code = 3;
	h.icmp.checksum = csum_of(bpf_csum_diff(0, 0, (__be32 *)&h.icmp, sizeof(h) - sizeof(h.ip), 0));
	return bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), BPF_F_INVALIDATE_HASH);
}

struct unreachable6 {
	struct ipv6hdr ip;
	struct icmp_header icmp;
	struct ipv6hdr quoted;
	__be32 ports[2];
};

__verified_once int refuse_icmp6(struct __sk_buff *skb, struct packet *p)
{
	struct unreachable6 h = {};
	struct {
		struct address source, destination;
		__be32 length, next;
	} pseudo = {};
	__s64 sum;

	if (!p || p->l4 != ETH_HLEN + sizeof(struct ipv6hdr) || segment_size(skb))
		return -1;
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(struct ipv6hdr) + 8, 0) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &h.quoted, sizeof(h.quoted) + sizeof(h.ports)) ||
	    bpf_skb_adjust_room(skb, sizeof(h.ip) + sizeof(h.icmp), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	h.ip.version = 6;
	h.ip.hop_limit = 64;
	h.ip.nexthdr = IPPROTO_ICMPV6;
	h.ip.payload_len = bpf_htons(sizeof(h) - sizeof(h.ip));
	pseudo.source = p->destination;
	pseudo.destination = p->source;
	pseudo.length = bpf_htonl(sizeof(h) - sizeof(h.ip));
	pseudo.next = bpf_htonl(IPPROTO_ICMPV6);
	__builtin_memcpy(&h.ip.saddr, &p->destination, 16);
	__builtin_memcpy(&h.ip.daddr, &p->source, 16);
	h.icmp.type = 1;
	h.icmp.code = 4;
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	h.icmp.checksum = csum_of(bpf_csum_diff(0, 0, (__be32 *)&h.icmp, sizeof(h) - sizeof(h.ip), sum));
	return bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), BPF_F_INVALIDATE_HASH);
}

/* 0: the packet is its answer now. Otherwise it has to be dropped. */
static __always_inline int refuse(struct __sk_buff *skb, struct packet *p)
{
	if (p->later_fragment)
		return -1;
	if (p->protocol == IPPROTO_TCP)
		return refuse_tcp(skb, p);
	return p->v6 ? refuse_icmp6(skb, p) : refuse_icmp4(skb, p);
}
