/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Neighbour discovery of pods. A pod's only neighbour is its gateway, the node, whose address is on another
 * interface of the host than the pod's; so its solicitations are answered here. Pods are set up with the
 * answer, and ask all the same (reachability, other tools).
 */
#pragma once

#include "parse.h"
#include "ipcache.h"

#define OPTION_TARGET_ADDRESS 2
/* From a router, because it was asked, in place of what was known. */
#define ADVERTISEMENT_FLAGS 0xe0000000

struct neighbour_message {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	struct address target;
};

struct advertisement {
	struct neighbour_message message;
	__u8 option;
	__u8 option_length; /* in units of 8 bytes */
	__u8 mac[6];
};

_Static_assert(sizeof(struct advertisement) == 32, "a message and one option");

/* With the pseudo header. */
static __always_inline __sum16 icmp6_checksum(const struct address *source, const struct address *destination,
					      const struct advertisement *a)
{
	__be32 rest[2] = {bpf_htonl(sizeof(*a)), bpf_htonl(IPPROTO_ICMPV6)};
	__s64 sum;

	sum = bpf_csum_diff(NULL, 0, (__be32 *)source, sizeof(*source), 0);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)destination, sizeof(*destination), sum);
	sum = bpf_csum_diff(NULL, 0, rest, sizeof(rest), sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)a, sizeof(*a), sum);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * A verdict for what parse() passed to the kernel, or a negative drop reason. `host_mac` is the address of
 * the interface that the pod sees.
 */
__verified_once int pod_neighbour(struct __sk_buff *skb, struct packet *p, struct endpoint *owner)
{
	struct neighbour_message asked;
	struct advertisement answer = {};
	struct ipv6hdr ip;
	__u8 macs[12];

	if (!p || !owner)
		return -DROP_INVALID;
	/* ARP */
	if (!p->v6)
		return TC_ACT_OK;
	/* A pod is no router, and tells nobody of one. */
	if (p->icmp_type == ICMP6_ROUTER_ADVERTISEMENT || p->icmp_type == ICMP6_REDIRECT)
		return -DROP_UNKNOWN_ICMP6_TYPE;
	if (p->icmp_type != ICMP6_NEIGHBOUR_SOLICITATION)
		return TC_ACT_OK;
	if (p->l4 != ETH_HLEN + sizeof(ip) || bpf_skb_load_bytes(skb, p->l4, &asked, sizeof(asked)))
		return -DROP_INVALID;
	/* Asking for its own address, to see that nobody has it, and for what else only the kernel may know.
	 */
	if (!is_config(&asked.target, &config.router_address6))
		return TC_ACT_OK;
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(ip) + sizeof(answer), 0) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -DROP_WRITE_ERROR;
	ip.payload_len = bpf_htons(sizeof(answer));
	ip.hop_limit = 255;
	__builtin_memcpy(&ip.saddr, &asked.target, sizeof(asked.target));
	__builtin_memcpy(&ip.daddr, &p->source, sizeof(p->source));
	answer.message.type = ICMP6_NEIGHBOUR_ADVERTISEMENT;
	answer.message.flags = bpf_htonl(ADVERTISEMENT_FLAGS);
	answer.message.target = asked.target;
	answer.option = OPTION_TARGET_ADDRESS;
	answer.option_length = 1;
	__builtin_memcpy(answer.mac, owner->host_mac, 6);
	answer.message.checksum = icmp6_checksum(&asked.target, &p->source, &answer);
	__builtin_memcpy(macs, p->source_mac, 6);
	__builtin_memcpy(macs + 6, owner->host_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &answer, sizeof(answer), 0))
		return -DROP_WRITE_ERROR;
	return bpf_redirect(skb->ifindex, 0);
}
