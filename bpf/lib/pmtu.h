/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A packet that gets longer here, does not fit then and must not be fragmented is answered with what fits
 * (fragmentation needed, packet too big), as a router would: a pod's into the tunnel, and that of a client
 * which has to tell the service's address (dsr.h). Left to the kernel the outer packet would be fragmented
 * and the pod never know; the client would be told by a quote of a packet that it never sent. In native
 * routing the kernel's routes have the MTU of what pods send and its stack answers.
 */
#pragma once

#include "parse.h"
#include "ipcache.h"

#define ICMP_FRAGMENTATION_NEEDED 4
/* As much of the packet as every header of IPv4 and its transport's first 8 bytes need; more of IPv6's. */
#define QUOTE4 68
#define QUOTE6 96

struct too_big4 {
	struct iphdr ip;
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 unused;
	__be16 mtu;
	__u8 quote[QUOTE4];
};

struct too_big6 {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 mtu;
	__u8 quote[QUOTE6];
};

static __always_inline __sum16 fold(__s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline bool is_too_large(struct __sk_buff *skb, const struct packet *p)
{
	__u32 length = packet_length(skb) - ETH_HLEN;

	/* The length of the segments that a large packet will be cut into. */
	if (segment_size(skb))
		length = p->l4 - ETH_HLEN + p->l4_length + segment_size(skb);
	/* No error is answered with an error. */
	return length > config.mtu && !p->may_fragment && !p->related && !p->later_fragment;
}

static __noinline int answer_too_big4(struct __sk_buff *skb, const struct packet *p, __u32 mtu,
				      const struct address *from)
{
	struct too_big4 m = {};
	struct iphdr ip = {};

	if (bpf_skb_load_bytes(skb, ETH_HLEN, m.quote, sizeof(m.quote)))
		return -DROP_INVALID;
	ip.version = 4;
	ip.ihl = 5;
	ip.tot_len = bpf_htons(sizeof(m));
	ip.ttl = 64;
	ip.protocol = IPPROTO_ICMP;
	ip.saddr = from->word[3];
	ip.daddr = p->source.word[3];
	ip.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	m.ip = ip;
	m.type = ICMP_DEST_UNREACH;
	m.code = ICMP_FRAGMENTATION_NEEDED;
	m.mtu = bpf_htons(mtu);
	m.checksum = fold(bpf_csum_diff(NULL, 0, (__be32 *)&m.type, sizeof(m) - sizeof(ip), 0));
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(m), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &m, sizeof(m), 0))
		return -DROP_WRITE_ERROR;
	return 0;
}

static __noinline int answer_too_big6(struct __sk_buff *skb, const struct packet *p, __u32 mtu,
				      const struct address *from)
{
	__be32 rest[2] = {bpf_htonl(sizeof(struct too_big6) - sizeof(struct ipv6hdr)),
			  bpf_htonl(IPPROTO_ICMPV6)};
	struct too_big6 m = {};
	__s64 sum;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, m.quote, sizeof(m.quote)))
		return -DROP_INVALID;
	m.ip.version = 6;
	m.ip.payload_len = bpf_htons(sizeof(m) - sizeof(m.ip));
	m.ip.nexthdr = IPPROTO_ICMPV6;
	m.ip.hop_limit = 64;
	for (int i = 0; i < 4; i++) {
		m.ip.saddr.in6_u.u6_addr32[i] = from->word[i];
		m.ip.daddr.in6_u.u6_addr32[i] = p->source.word[i];
	}
	m.type = ICMP6_TOO_BIG;
	m.mtu = bpf_htonl(mtu);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&m.ip.saddr, 32, 0);
	sum = bpf_csum_diff(NULL, 0, rest, sizeof(rest), sum);
	m.checksum = fold(bpf_csum_diff(NULL, 0, (__be32 *)&m.type, sizeof(m) - sizeof(m.ip), sum));
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(m), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &m, sizeof(m), 0))
		return -DROP_WRITE_ERROR;
	return 0;
}

/* The answer in place of the packet, on its way back. `from` says so, of `mtu`. 0 or a negative drop reason.
 */
__verified_once int answer_too_big(struct __sk_buff *skb, struct packet *p, __u32 mtu,
				   const struct address *from)
{
	__u8 macs[12];
	int err;

	if (!p || !from)
		return -DROP_INVALID;
	err = p->v6 ? answer_too_big6(skb, p, mtu, from) : answer_too_big4(skb, p, mtu, from);
	if (err)
		return err;
	__builtin_memcpy(macs, p->source_mac, 6);
	__builtin_memcpy(macs + 6, p->dest_mac, 6);
	return bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) ? -DROP_WRITE_ERROR : 0;
}

/* To a pod. A verdict or a negative drop reason. */
static __always_inline int pod_sent_too_big(struct __sk_buff *skb, struct packet *p)
{
	struct address router =
	    p->v6 ? config_address(&config.router_address6) : config_address(&config.router_address);
	int err = answer_too_big(skb, p, config.mtu, &router);

	if (err)
		return err;
	/* Straight into the pod: whatever its policy says of the node, this is the answer to its own packet.
	 */
	return bpf_redirect_peer(at_interface(skb), 0);
}
