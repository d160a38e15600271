/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * To another node by VXLAN; the sender's identity is the VNI.
 *
 * The headers are put on right here where the way to the node is plain. The tunnel device would look up its
 * route, pass netfilter with connection tracking, and find the neighbour: half of what a round trip through
 * it costs. Where anything is out of the ordinary (no neighbour yet, larger than the way's MTU, a kind of
 * segmentation that the helper does not take) the device does it, and on the wire nobody sees the difference.
 */
#pragma once

#include "vxlan.h"
#include "steps.h"

#ifndef AF_INET
#define AF_INET 2
#endif

/* Identities that only this node knows are the world to others. */
static __always_inline __u32 identity_to_vni(__u32 identity)
{
	return identity >= IDENTITY_FIRST_LOCAL ? IDENTITY_WORLD : identity;
}

static __always_inline int encapsulate(struct __sk_buff *skb, __be32 node, __u32 identity)
{
	struct bpf_tunnel_key key = {};

	if (!node)
		return -DROP_NO_TUNNEL_ENDPOINT;
	key.tunnel_id = identity_to_vni(identity);
	key.remote_ipv4 = bpf_ntohl(node);
	key.tunnel_ttl = 64;
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX))
		return -DROP_WRITE_ERROR;
	step(STEP_ENCAP, ENCAP_DEVICE, s->address[0] = mapped(node), s->number[0] = key.tunnel_id);
	step(STEP_REDIRECT, REDIRECT_DEVICE, s->number[0] = config.tunnel_ifindex);
	return bpf_redirect(config.tunnel_ifindex, 0);
}

/*
 * As encapsulate(), for a packet that parse() has seen. A verdict or a negative drop reason.
 * Not static: the verifier then looks at it once and not once for each way that leads here.
 */
__noinline int encapsulate_here(struct __sk_buff *skb, struct packet *p, __be32 node, __u32 identity)
{
	struct vxlan_headers h = {};
	struct iphdr ip = {};
	struct bpf_fib_lookup fib = {};
	struct bpf_redir_neigh next = {};
	__u32 hash, length = skb->len - ETH_HLEN, largest = length;
	__u8 ecn;

	if (!p)
		return -DROP_WRITE_ERROR;
	ecn = p->tos & ECN_MASK;
	if (!node || p->later_fragment)
		return encapsulate(skb, node, identity);
	/* The length of the segments that a large packet will be cut into. */
	if (skb->gso_size)
		largest = p->l4 - ETH_HLEN + p->l4_length + skb->gso_size;
	fib.family = AF_INET;
	fib.ipv4_src = config.node_address.word[3];
	fib.ipv4_dst = node;
	fib.l4_protocol = IPPROTO_UDP;
	fib.dport = config.tunnel_port;
	fib.ifindex = skb->ifindex;
	fib.tot_len = largest + sizeof(h);
	if (length > 0xffff - sizeof(h) ||
	    bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS || fib.family != AF_INET)
		return encapsulate(skb, node, identity);

	hash = bpf_get_hash_recalc(skb);
	ip.version = 4;
	ip.ihl = 5;
	ip.tos = ecn == ECN_CE ? ECN_ECT0 : ecn;
	ip.ttl = 64;
	ip.protocol = IPPROTO_UDP;
	ip.saddr = config.node_address.word[3];
	ip.daddr = node;
	ip.id = bpf_get_prandom_u32();
	ip.tot_len = bpf_htons(length + sizeof(h));
	ip.check = ip_checksum(&ip);
	h.ip = ip;
	/* Ports of RFC 6335's dynamic range, so that the ways between the nodes share the flows. */
	h.udp.source = bpf_htons(0xc000 | ((hash ^ hash >> 16) & 0x3fff));
	h.udp.destination = config.tunnel_port;
	h.udp.length = bpf_htons(length + sizeof(h) - sizeof(ip));
	h.flags = bpf_htonl(VXLAN_HAS_VNI);
	h.vni = bpf_htonl(identity_to_vni(identity) << 8);
	__builtin_memcpy(h.inner.h_dest, p->dest_mac, 6);
	__builtin_memcpy(h.inner.h_source, p->source_mac, 6);
	h.inner.h_proto = bpf_htons(ETH_P_IP);
	if (bpf_skb_adjust_room(skb, sizeof(h), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
				    BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
				    BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return encapsulate(skb, node, identity);
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), 0))
		return -DROP_WRITE_ERROR;
	/* Not by the hardware address that was found: the kernel's own output keeps the neighbour's entry
	 * fresh. */
	next.nh_family = AF_INET;
	next.ipv4_nh = fib.ipv4_dst;
	step(STEP_ENCAP, ENCAP_HERE, s->address[0] = mapped(node), s->number[0] = identity_to_vni(identity));
	step(STEP_REDIRECT, REDIRECT_NEIGHBOUR, s->number[0] = fib.ifindex);
	return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}
