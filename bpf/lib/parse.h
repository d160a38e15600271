/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From a packet to what the other parts need of it. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include "maps.h"
#include "context.h"
#include "sctp.h"

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

/* Of a TCP header as far as it is looked at. */
struct tcp_start {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledged;
	__u8 offset; /* in 4 bytes, in the upper half */
	__u8 flags;
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
	__u8 tcp_flags; /* of SCTP what its first chunk comes to */
	__u8 icmp_type;
	__u8 icmp_code;
	__be16 icmp_id;
	__u32 length; /* as sk_buff counts it */
	bool v6;
	bool related;	     /* the inner fields are set */
	bool fragment;	     /* one of several, the first or a later one */
	bool later_fragment; /* has no layer 4 header */
	bool may_fragment;   /* of version 4, without the flag that forbids it */
	__u8 inner_protocol;
	__be16 inner_source_port;
	__be16 inner_destination_port;
	__u8 source_mac[6];
	__u8 dest_mac[6];
} __in_words;

#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_PARAMETER 4
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_ROUTER_SOLICITATION 133
#define ICMP6_ROUTER_ADVERTISEMENT 134
#define ICMP6_NEIGHBOUR_SOLICITATION 135
#define ICMP6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMP6_REDIRECT 137
/* More extension headers than any sane packet has are refused. */
#define EXTENSION_HEADERS 6
#define EXTENSION_HOP_BY_HOP 0
#define EXTENSION_ROUTING 43
#define EXTENSION_FRAGMENT 44
#define EXTENSION_AUTHENTICATION 51
#define EXTENSION_DESTINATION 60

struct fragment_header {
	__u8 next;
	__u8 length;   /* of other extension headers */
	__be16 offset; /* in the upper 13 bits; the lowest says that more follow */
	__be32 id;
};

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

/* What stands behind the extension headers of IPv6. */
struct upper_layer {
	__u32 offset;
	__be32 fragment_id;
	__u8 protocol;
	bool fragment;
	bool later_fragment;
};

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Has connections that are opened and closed. */
static __always_inline bool is_stream(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP;
}

static __always_inline __u8 flags_of_chunk(__u8 chunk)
{
	switch (chunk) {
	case SCTP_INIT:
		return TCP_SYN;
	case SCTP_INIT_ACK:
		return TCP_SYN | TCP_ACK;
	case SCTP_ABORT:
		return TCP_RST;
	case SCTP_SHUTDOWN:
	case SCTP_SHUTDOWN_ACK:
		return TCP_FIN | TCP_ACK;
	}
	return TCP_ACK;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) |
		 (a[5] ^ b[5]));
}

/* Past the extension headers. `out` comes with the first one's offset and number. 0 or a negative drop
 * reason. */
__verified_once int skip_extensions(struct __sk_buff *skb, struct upper_layer *out)
{
	struct fragment_header h;

	if (!out)
		return -DROP_INVALID_EXTENSION;
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		switch (out->protocol) {
		case EXTENSION_HOP_BY_HOP:
		case EXTENSION_ROUTING:
		case EXTENSION_DESTINATION:
		case EXTENSION_AUTHENTICATION:
		case EXTENSION_FRAGMENT:
			break;
		default:
			return 0;
		}
		if (bpf_skb_load_bytes(skb, out->offset, &h, sizeof(h)))
			return -DROP_INVALID_EXTENSION;
		if (out->protocol == EXTENSION_FRAGMENT) {
			out->fragment = h.offset & bpf_htons(0xfff9);
			out->later_fragment = h.offset & bpf_htons(0xfff8);
			out->fragment_id = h.id;
			out->offset += sizeof(h);
		} else if (out->protocol == EXTENSION_AUTHENTICATION) {
			out->offset += (h.length + 2) * 4;
		} else {
			out->offset += (h.length + 1) * 8;
		}
		out->protocol = h.next;
		/* What follows is in the first fragment. */
		if (out->later_fragment)
			return 0;
	}
	return -DROP_INVALID_EXTENSION;
}

/* The packet inside of an ICMP error; what is cut off leaves ports of 0. */
static __noinline int parse_inner(struct __sk_buff *skb, struct packet *p)
{
	struct upper_layer upper = {.offset = p->l4 + sizeof(struct icmp_header)};
	__be16 ports[2] = {};

	if (p->v6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, upper.offset, &ip, sizeof(ip)) || ip.version != 6)
			return 0;
		__builtin_memcpy(&p->inner_source, &ip.saddr, sizeof(p->inner_source));
		__builtin_memcpy(&p->inner_destination, &ip.daddr, sizeof(p->inner_destination));
		upper.offset += sizeof(ip);
		upper.protocol = ip.nexthdr;
		if (skip_extensions(skb, &upper) || upper.later_fragment)
			return 0;
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, upper.offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return 0;
		p->inner_source = mapped(ip.saddr);
		p->inner_destination = mapped(ip.daddr);
		upper.offset += ip.ihl * 4;
		upper.protocol = ip.protocol;
	}
	/* An error goes to who sent the packet that it quotes; any other quote was made up. */
	if (!same_address(&p->inner_source, &p->destination))
		return 0;
	p->related = true;
	p->inner_protocol = upper.protocol;
	if (is_icmp(upper.protocol)) {
		/* The identifier is at offset 4 of the header. */
		bpf_skb_load_bytes(skb, upper.offset + 4, ports, 2);
	} else {
		bpf_skb_load_bytes(skb, upper.offset, ports, sizeof(ports));
		p->inner_destination_port = ports[1];
	}
	p->inner_source_port = ports[0];
	return 0;
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

/* Ports, flags, types. `p` has the protocol and where it begins. */
static __noinline int parse_l4(struct __sk_buff *skb, struct packet *p)
{
	struct icmp_header icmp;

	if (p->later_fragment)
		return PARSED;
	if (has_ports(p->protocol)) {
		__be16 ports[2];
		__u8 offset_flags[2];

		if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
			return -DROP_INVALID;
		p->source_port = ports[0];
		p->destination_port = ports[1];
		p->l4_length = sizeof(struct udp_header);
		if (p->protocol == IPPROTO_SCTP) {
			__u8 chunk;

			if (bpf_skb_load_bytes(skb, p->l4 + offsetof(struct sctp_header, chunk), &chunk, 1))
				return -DROP_INVALID;
			p->tcp_flags = flags_of_chunk(chunk);
		}
		if (p->protocol != IPPROTO_TCP)
			return PARSED;
		if (bpf_skb_load_bytes(skb, p->l4 + 12, offset_flags, sizeof(offset_flags)))
			return -DROP_INVALID;
		p->l4_length = offset_flags[0] >> 4 << 2;
		p->tcp_flags = offset_flags[1];
		return PARSED;
	}
	if (bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)))
		return -DROP_INVALID;
	p->icmp_type = icmp.type;
	p->icmp_code = icmp.code;
	if (is_echo(p))
		p->icmp_id = icmp.id;
	else if (p->v6 ? icmp.type >= ICMP6_UNREACHABLE && icmp.type <= ICMP6_PARAMETER
		       : icmp.type == ICMP_DEST_UNREACH || icmp.type == ICMP_TIME_EXCEEDED ||
			     icmp.type == ICMP_PARAMETERPROB)
		parse_inner(skb, p);
	/* Later fragments find type and identifier in the place of ports. */
	p->source_port = p->icmp_id;
	p->destination_port = bpf_htons(icmp.type);
	return PARSED;
}

/*
 * Almost every packet: TCP or UDP by IPv4 without options and in one piece, its headers where they can be
 * read in place, which takes a third of the time of copying them. False: nothing is written, parse() looks
 * closer.
 */
static __always_inline bool parse_plain(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;
	struct tcp_start *tcp = data + ETH_HLEN + sizeof(*ip);

	if ((void *)(tcp + 1) > (void *)(long)skb->data_end)
		return false;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)ip != 0x45 ||
	    (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP) ||
	    (ip->frag_off & bpf_htons(0x3fff)))
		return false;
	__builtin_memcpy(p->source_mac, eth->h_source, 6);
	__builtin_memcpy(p->dest_mac, eth->h_dest, 6);
	p->source = mapped(ip->saddr);
	p->destination = mapped(ip->daddr);
	p->tos = ip->tos;
	p->may_fragment = !(ip->frag_off & bpf_htons(0x4000));
	p->protocol = ip->protocol;
	p->l4 = ETH_HLEN + sizeof(*ip);
	p->source_port = tcp->source;
	p->destination_port = tcp->destination;
	if (ip->protocol == IPPROTO_TCP) {
		p->l4_length = tcp->offset >> 4 << 2;
		p->tcp_flags = tcp->flags;
	} else {
		p->l4_length = sizeof(struct udp_header);
	}
	return true;
}

/*
 * PARSED, PASS_TO_KERNEL (ARP, neighbour discovery of IPv6), or a negative drop reason. Where it is negative
 * the addresses are known, or zero.
 */
__verified_once int parse(struct __sk_buff *skb, struct packet *p)
{
	struct upper_layer upper = {};
	struct ethhdr eth;
	int err;

	if (!p)
		return -DROP_INVALID;
	p->length = packet_length(skb);
	if (parse_plain(skb, p))
		return PARSED;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return -DROP_INVALID;
	__builtin_memcpy(p->source_mac, eth.h_source, 6);
	__builtin_memcpy(p->dest_mac, eth.h_dest, 6);
	if (eth.h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;
		__be16 fragment;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return -DROP_INVALID;
		p->source = mapped(ip.saddr);
		p->destination = mapped(ip.daddr);
		p->tos = ip.tos;
		upper.protocol = ip.protocol;
		upper.offset = ETH_HLEN + ip.ihl * 4;
		fragment = ip.frag_off & bpf_htons(0x3fff); /* more-fragments and offset */
		upper.fragment = fragment;
		upper.later_fragment = fragment & bpf_htons(0x1fff);
		upper.fragment_id = ip.id;
		p->may_fragment = !(ip.frag_off & bpf_htons(0x4000));
	} else if (eth.h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 6)
			return -DROP_INVALID;
		p->v6 = true;
		__builtin_memcpy(&p->source, &ip.saddr, sizeof(p->source));
		__builtin_memcpy(&p->destination, &ip.daddr, sizeof(p->destination));
		/* A mapped address is none on a wire; it would pass for one of version 4. */
		if (is_v4(&p->source) || is_v4(&p->destination))
			return -DROP_INVALID_SIP;
		p->tos = ip.priority << 4 | ip.flow_lbl[0] >> 4;
		upper.protocol = ip.nexthdr;
		upper.offset = ETH_HLEN + sizeof(ip);
		err = skip_extensions(skb, &upper);
		if (err)
			return err;
	} else {
		return eth.h_proto == bpf_htons(ETH_P_ARP) ? PASS_TO_KERNEL : -DROP_UNSUPPORTED_L3;
	}
	p->protocol = upper.protocol;
	p->l4 = upper.offset;
	p->fragment = upper.fragment;
	p->later_fragment = upper.later_fragment;
	if (!has_ports(p->protocol) && p->protocol != (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return -DROP_UNKNOWN_L4;
	err = parse_l4(skb, p);
	if (err)
		return err;
	if (p->v6 && is_icmp(p->protocol) && p->icmp_type >= ICMP6_ROUTER_SOLICITATION &&
	    p->icmp_type <= ICMP6_REDIRECT && !upper.fragment)
		return PASS_TO_KERNEL;
	/* To everybody on the link (group membership, mDNS): hosts chatter, and no flow is meant. */
	if (p->v6 && (p->destination.word[0] & bpf_htonl(0xff0f0000)) == bpf_htonl(0xff020000))
		return -DROP_UNSUPPORTED_L3;
	if (upper.fragment) {
		err = parse_fragment(p, upper.fragment_id);
		if (err)
			return err;
	}
	if (is_icmp(p->protocol)) {
		p->icmp_id = p->source_port;
		p->icmp_type = bpf_ntohs(p->destination_port);
		p->source_port = 0;
		p->destination_port = 0;
	}
	return PARSED;
}
