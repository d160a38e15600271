/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Direct server return: the backend's node answers the client itself, with the service's address, which the
 * packet tells it. Version 4: an option of the header (Cilium's: type 0x9a, 8 bytes, port, address). Version
 * 6: an option for the destination (Cilium's: type 0x1b, in a header of 24 bytes, address, port), which a
 * receiver that does not know it skips. TCP has it in its first segment, everything else in each packet.
 * Native routing only.
 */
#pragma once

#include "conntrack.h"
#include "nat.h"
#include "services.h"

#define DSR_OPTION 0x9a
#define DSR_OPTION6 0x1b
#define DSR_TCP (1 << 0)
#define DSR_UDP (1 << 1)

struct dsr_option {
	__u8 type;
	__u8 length;
	__be16 port;
	__be32 address;
};

/* A header of its own, behind the fixed one. */
struct dsr_option6 {
	__u8 next;
	__u8 length; /* in 8 bytes, without the first 8 */
	__u8 type;
	__u8 option_length;
	struct address address;
	__be16 port;
	__u16 pad;
};

_Static_assert(sizeof(struct dsr_option) == 8 && sizeof(struct dsr_option6) == 24,
	       "other agents expect these");

static __always_inline bool by_dsr(const struct packet *p)
{
	return !p->related && (config.dsr & (p->protocol == IPPROTO_TCP ? DSR_TCP : DSR_UDP));
}

/* How much longer a packet gets by what it has to tell. */
static __always_inline __u32 dsr_length(const struct packet *p)
{
	/* The first segment says it for the connection, the first fragment for the others. */
	if (p->later_fragment ||
	    (p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN))
		return 0;
	return p->v6 ? sizeof(struct dsr_option6) : sizeof(struct dsr_option);
}

__verified_once int tell_front4(struct __sk_buff *skb, struct packet *p, const struct address *front,
				__be16 port)
{
	struct dsr_option option = {.type = DSR_OPTION, .length = sizeof(option)};
	struct iphdr ip;

	if (!p || !front)
		return -DROP_INVALID;
	/* Other options would have to be kept. */
	if (p->l4 != ETH_HLEN + sizeof(ip) || segment_size(skb))
		return -DROP_NAT_UNSUPPORTED_L4;
	option.port = port;
	option.address = front->word[3];
	if (insert_room(skb, ETH_HLEN + sizeof(ip), sizeof(option)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -DROP_WRITE_ERROR;
	ip.ihl += sizeof(option) / 4;
	ip.tot_len = bpf_htons(bpf_ntohs(ip.tot_len) + sizeof(option));
	ip.check = 0;
	ip.check = csum_of(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip),
					 bpf_csum_diff(0, 0, (__be32 *)&option, sizeof(option), 0)));
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &option, sizeof(option), 0))
		return -DROP_WRITE_ERROR;
	p->l4 += sizeof(option);
	return 0;
}

__verified_once int tell_front6(struct __sk_buff *skb, struct packet *p, const struct address *front,
				__be16 port)
{
	struct dsr_option6 option = {
	    .length = sizeof(option) / 8 - 1, .type = DSR_OPTION6, .option_length = sizeof(option) - 4};
	struct ipv6hdr ip;

	if (!p || !front)
		return -DROP_INVALID;
	if (segment_size(skb) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -DROP_NAT_UNSUPPORTED_L4;
	/* What is for every hop has to come first. */
	if (ip.nexthdr == EXTENSION_HOP_BY_HOP)
		return -DROP_NAT_UNSUPPORTED_L4;
	option.next = ip.nexthdr;
	option.address = *front;
	option.port = port;
	ip.nexthdr = EXTENSION_DESTINATION;
	ip.payload_len = bpf_htons(bpf_ntohs(ip.payload_len) + sizeof(option));
	if (insert_room(skb, ETH_HLEN + sizeof(ip), sizeof(option)) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &option, sizeof(option), 0))
		return -DROP_WRITE_ERROR;
	p->l4 += sizeof(option);
	return 0;
}

/* Where the service's address has to be told. 0 or a negative drop reason. */
static __always_inline int tell_front(struct __sk_buff *skb, struct packet *p, const struct address *front,
				      __be16 port)
{
	if (!dsr_length(p))
		return 0;
	return p->v6 ? tell_front6(skb, p, front, port) : tell_front4(skb, p, front, port);
}

/* What a packet tells; false: nothing. */
static __always_inline bool told_front(struct __sk_buff *skb, struct packet *p, struct address *front,
				       __be16 *port)
{
	if (p->v6) {
		struct dsr_option6 option;
		__u8 next;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &next, 1) ||
		    next != EXTENSION_DESTINATION ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &option, sizeof(option)) ||
		    option.type != DSR_OPTION6 || option.option_length != sizeof(option) - 4)
			return false;
		*front = option.address;
		*port = option.port;
		return !is_v4(front);
	} else {
		struct dsr_option option;

		if (p->l4 != ETH_HLEN + sizeof(struct iphdr) + sizeof(option) ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &option, sizeof(option)) ||
		    option.type != DSR_OPTION || option.length != sizeof(option))
			return false;
		*front = mapped(option.address);
		*port = option.port;
		return true;
	}
}

/*
 * A packet for a pod of this node, from another node: which service the client asked. Only what is a
 * service's address is believed, or anybody could have answers sent with any address.
 */
__verified_once int hear_front(struct __sk_buff *skb, struct packet *p, struct tracking *t)
{
	struct address front, any = {};
	struct service *service;
	__be16 port;

	if (!p || !t || !told_front(skb, p, &front, &port))
		return 0;
	service = find_service(&front, port, p->protocol);
	if (!service) {
		/* A node port of another node's address. */
		if (!p->v6)
			any = mapped(0);
		service = find_service(&any, port, p->protocol);
	}
	if (!service || service->kind == KIND_CLUSTER_IP || !may_come(service, &p->source))
		return 0;
	t->has_service = true;
	t->service = front;
	t->service_port = port;
	return 0;
}
