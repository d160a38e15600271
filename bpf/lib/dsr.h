/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Direct server return: the backend's node answers the client itself, with the service's address, which an
 * option of the IP header tells it (Cilium's: type 0x9a, 8 bytes, port, address). TCP has it in its first
 * segment, everything else in each packet. Native routing and version 4 only; others are translated at the
 * source.
 */
#pragma once

#include "conntrack.h"
#include "services.h"

#define DSR_OPTION 0x9a
#define DSR_TCP (1 << 0)
#define DSR_UDP (1 << 1)

struct dsr_option {
	__u8 type;
	__u8 length;
	__be16 port;
	__be32 address;
};

static __always_inline bool by_dsr(const struct packet *p)
{
	return !p->v6 && !p->related && (config.dsr & (p->protocol == IPPROTO_TCP ? DSR_TCP : DSR_UDP));
}

/* Where the service's address has to be told. 0 or a negative drop reason. */
__verified_once int tell_front(struct __sk_buff *skb, struct packet *p, const struct address *front,
			       __be16 port)
{
	struct dsr_option option = {.type = DSR_OPTION, .length = sizeof(option)};
	struct iphdr ip;

	if (!p || !front)
		return -DROP_INVALID;
	if (p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 0;
	/* Other options would have to be kept, and a fragment's place changed. */
	if (p->l4 != ETH_HLEN + sizeof(ip) || p->later_fragment || skb->gso_size)
		return -DROP_NAT_UNSUPPORTED_L4;
	option.port = port;
	option.address = front->word[3];
	if (bpf_skb_adjust_room(skb, sizeof(option), BPF_ADJ_ROOM_NET, 0) ||
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

/*
 * A packet for a pod of this node, from another node: which service the client asked. Only what is a
 * service's address is believed, or anybody could have answers sent with any address.
 */
__verified_once int hear_front(struct __sk_buff *skb, struct packet *p, struct tracking *t)
{
	struct dsr_option option;
	struct address front;
	struct service *service;

	if (!p || !t || p->v6 || p->l4 != ETH_HLEN + sizeof(struct iphdr) + sizeof(option))
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &option, sizeof(option)) ||
	    option.type != DSR_OPTION || option.length != sizeof(option))
		return 0;
	front = mapped(option.address);
	service = find_service(&front, option.port, p->protocol);
	if (!service) {
		/* A node port of another node's address. */
		front = mapped(0);
		service = find_service(&front, option.port, p->protocol);
		front = mapped(option.address);
	}
	if (!service || service->kind == KIND_CLUSTER_IP || !may_come(service, &p->source))
		return 0;
	t->has_service = true;
	t->service = front;
	t->service_port = option.port;
	return 0;
}
