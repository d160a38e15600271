/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From a packet to what the other parts need of it. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include "maps.h"

/* <linux/icmp.h> drags in the C library's headers. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 id; /* of echo */
	__be16 sequence;
};

struct udp_header {
	__be16 source;
	__be16 destination;
	__be16 length;
	__sum16 checksum;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct address source;
	struct address destination;
	/* An ICMP error: the connection that it speaks of, as that one's packet was sent. */
	struct address inner_source;
	struct address inner_destination;
	/* Of TCP, UDP, SCTP. Of ICMP echo see conntrack.h. */
	__be16 source_port;
	__be16 destination_port;
	__u16 l4;	/* offset of the layer 4 header */
	__u8 l4_length; /* of that header; 0 where nobody asks */
	__u8 tos;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__be16 icmp_id;
	__u32 length; /* as sk_buff counts it */
	bool v6;
	bool related;	     /* the inner fields are set */
	bool later_fragment; /* has no layer 4 header */
	__u8 inner_protocol;
	__be16 inner_source_port;
	__be16 inner_destination_port;
	__u8 source_mac[6];
	__u8 dest_mac[6];
};

#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

static __always_inline bool is_echo_request(const struct packet *p)
{
	return p->icmp_type == (p->v6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO);
}

static __always_inline bool is_echo(const struct packet *p)
{
	return is_echo_request(p) || p->icmp_type == (p->v6 ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY);
}

#define PARSED 0
#define PASS_TO_KERNEL 1

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) |
		 (a[5] ^ b[5]));
}

/* The packet inside of an ICMP error; what is cut off leaves ports of 0. */
static __always_inline void parse_inner(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;
	__be16 ports[2] = {};
	__u32 offset = p->l4 + sizeof(struct icmp_header);

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return;
	/* An error goes to who sent the packet that it quotes; any other quote was made up. */
	if (ip.saddr != p->destination.word[3])
		return;
	p->related = true;
	p->inner_protocol = ip.protocol;
	p->inner_source = mapped(ip.saddr);
	p->inner_destination = mapped(ip.daddr);
	offset += ip.ihl * 4;
	if (ip.protocol == IPPROTO_ICMP) {
		/* The identifier is at offset 4 of the header. */
		bpf_skb_load_bytes(skb, offset + 4, ports, 2);
		p->inner_source_port = ports[0];
		return;
	}
	bpf_skb_load_bytes(skb, offset, ports, sizeof(ports));
	p->inner_source_port = ports[0];
	p->inner_destination_port = ports[1];
}

/* Ports of a fragment: remembered from the first one. Returns 0 or a negative drop reason. */
static __noinline int parse_fragment(struct packet *p, __be32 id)
{
	struct fragment_key key = {
	    .source = p->source, .destination = p->destination, .id = id, .protocol = p->protocol};
	struct fragment_value *seen, ports = {p->source_port, p->destination_port};

	if (!p->later_fragment) {
		if (!config.dry_run)
			bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
		return PARSED;
	}
	seen = bpf_map_lookup_elem(&fragments, &key);
	if (!seen)
		return -DROP_FRAG_NOT_FOUND;
	p->source_port = seen->source_port;
	p->destination_port = seen->destination_port;
	return PARSED;
}

/*
 * PARSED, PASS_TO_KERNEL (ARP, and neighbour discovery of IPv6), or a negative drop reason.
 * IPv6 other than neighbour discovery is dropped (and counted), because no policy is applied to it in this
 * version.
 */
__verified_once int parse(struct __sk_buff *skb, struct packet *p)
{
	struct ethhdr eth;
	struct iphdr ip;
	__be16 fragment;

	if (!p)
		return -DROP_INVALID;
	p->length = skb->len;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return -DROP_INVALID;
	__builtin_memcpy(p->source_mac, eth.h_source, 6);
	__builtin_memcpy(p->dest_mac, eth.h_dest, 6);
	if (eth.h_proto == bpf_htons(ETH_P_ARP))
		return PASS_TO_KERNEL;
	if (eth.h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip6;
		__u8 type;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip6, sizeof(ip6)))
			return -DROP_INVALID;
		if (ip6.nexthdr == IPPROTO_ICMPV6 &&
		    !bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip6), &type, 1) && type >= 133 && type <= 136)
			return PASS_TO_KERNEL;
		return -DROP_UNSUPPORTED_L3;
	}
	if (eth.h_proto != bpf_htons(ETH_P_IP))
		return -DROP_UNSUPPORTED_L3;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -DROP_INVALID;
	p->source = mapped(ip.saddr);
	p->destination = mapped(ip.daddr);
	p->protocol = ip.protocol;
	p->tos = ip.tos;
	p->l4 = ETH_HLEN + ip.ihl * 4;
	fragment = ip.frag_off & bpf_htons(0x3fff); /* more-fragments and offset */
	p->later_fragment = (fragment & bpf_htons(0x1fff)) != 0;

	if (has_ports(ip.protocol)) {
		if (!p->later_fragment) {
			__be16 ports[2];

			if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
				return -DROP_INVALID;
			p->source_port = ports[0];
			p->destination_port = ports[1];
			p->l4_length = sizeof(struct udp_header);
			if (ip.protocol == IPPROTO_TCP) {
				__u8 offset_flags[2];

				if (bpf_skb_load_bytes(skb, p->l4 + 12, offset_flags, sizeof(offset_flags)))
					return -DROP_INVALID;
				p->l4_length = offset_flags[0] >> 4 << 2;
				p->tcp_flags = offset_flags[1];
			}
		}
	} else if (ip.protocol == IPPROTO_ICMP) {
		if (!p->later_fragment) {
			struct icmp_header icmp;

			if (bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)))
				return -DROP_INVALID;
			p->icmp_type = icmp.type;
			p->icmp_code = icmp.code;
			if (icmp.type == ICMP_ECHO || icmp.type == ICMP_ECHOREPLY)
				p->icmp_id = icmp.id;
			if (icmp.type == ICMP_DEST_UNREACH || icmp.type == ICMP_TIME_EXCEEDED ||
			    icmp.type == ICMP_PARAMETERPROB)
				parse_inner(skb, p);
			/* Later fragments find type and identifier in the place of ports. */
			p->source_port = p->icmp_id;
			p->destination_port = bpf_htons(icmp.type);
		}
	} else {
		return -DROP_UNKNOWN_L4;
	}
	if (fragment) {
		int err = parse_fragment(p, ip.id);

		if (err)
			return err;
	}
	if (ip.protocol == IPPROTO_ICMP) {
		p->icmp_id = p->source_port;
		p->icmp_type = bpf_ntohs(p->destination_port);
		p->source_port = 0;
		p->destination_port = 0;
	}
	return PARSED;
}
