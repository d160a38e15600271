/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * To another node by VXLAN or Geneve; the sender's identity is the VNI.
 *
 * The headers are put on right here where the way to the node is plain. The tunnel device would look up its
 * route, pass netfilter with connection tracking, and find the neighbour: half of what a round trip through
 * it costs. Where anything is out of the ordinary (no neighbour yet, larger than the way's MTU, a kind of
 * segmentation that the helper does not take) the device does it, and on the wire nobody sees the difference.
 */
#pragma once

#include "ipcache.h"
#include "outer.h"
#include "fib.h"
#include "steps.h"

static __noinline int encapsulate(struct __sk_buff *skb, __be32 node, __u32 identity)
{
	struct bpf_tunnel_key key = {};
	struct address remote;
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (!node || !tunnel_address(node, &remote))
		return -DROP_NO_TUNNEL_ENDPOINT;
	key.tunnel_id = identity_to_vni(identity);
	key.tunnel_ttl = 64;
	if (config.underlay6) {
		__builtin_memcpy(key.remote_ipv6, &remote, sizeof(remote));
		flags |= BPF_F_TUNINFO_IPV6;
	} else {
		key.remote_ipv4 = bpf_ntohl(remote.word[3]);
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags))
		return -DROP_WRITE_ERROR;
	step(STEP_ENCAP, ENCAP_DEVICE, s->address[0] = remote, s->number[0] = key.tunnel_id);
	step(STEP_REDIRECT, REDIRECT_DEVICE, s->number[0] = config.tunnel_ifindex);
	return bpf_redirect(config.tunnel_ifindex, 0);
}

/* As encapsulate(), for a packet that parse() has seen. A verdict or a negative drop reason. */
__verified_once int encapsulate_here(struct __sk_buff *skb, struct packet *p, __be32 node, __u32 identity)
{
	struct outer h = {};
	struct tunnel_headers *tunnel = config.underlay6 ? &h.v6.tunnel : &h.v4.tunnel;
	const __u32 size = config.underlay6 ? sizeof(h.v6) : sizeof(h.v4);
	const __be16 protocol = config.underlay6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	struct bpf_fib_lookup fib = {};
	struct bpf_redir_neigh next = {};
	struct address remote, own;
	__u32 hash, length = packet_length(skb) - ETH_HLEN, largest = length;
	__u8 ecn;

	if (!p)
		return -DROP_WRITE_ERROR;
	ecn = p->tos & ECN_MASK;
	if (!node || !tunnel_address(node, &remote))
		return -DROP_NO_TUNNEL_ENDPOINT;
	if (p->later_fragment)
		return encapsulate(skb, node, identity);
	/* The length of the segments that a large packet will be cut into. */
	if (segment_size(skb))
		largest = p->l4 - ETH_HLEN + p->l4_length + segment_size(skb);
	for (int i = 0; i < 4; i++)
		own.word[i] = config.underlay6 ? config.node_address6.word[i] : config.node_address.word[i];
	fib_addresses(&fib, &own, &remote, config.underlay6);
	fib.l4_protocol = IPPROTO_UDP;
	fib.dport = config.tunnel_port;
	fib.ifindex = at_interface(skb);
	fib.tot_len = largest + size;
	if (length > 0xffff - size || bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return encapsulate(skb, node, identity);

	hash = bpf_get_hash_recalc(skb);
	outer_ip(&h, &remote, length, ecn == ECN_CE ? ECN_ECT0 : ecn, hash);
	/* Ports of RFC 6335's dynamic range, so that the ways between the nodes share the flows. */
	tunnel->udp.source = bpf_htons(0xc000 | ((hash ^ hash >> 16) & 0x3fff));
	tunnel->udp.destination = config.tunnel_port;
	tunnel->udp.length = bpf_htons(length + sizeof(*tunnel));
	tunnel->first = tunnel_first_word();
	tunnel->vni = bpf_htonl(identity_to_vni(identity) << 8);
	__builtin_memcpy(tunnel->inner.h_dest, p->dest_mac, 6);
	__builtin_memcpy(tunnel->inner.h_source, p->source_mac, 6);
	tunnel->inner.h_proto = p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (bpf_skb_adjust_room(
		skb, size, BPF_ADJ_ROOM_MAC,
		BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		    (config.underlay6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) |
		    BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) |
		    BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return encapsulate(skb, node, identity);
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &h, size, 0))
		return -DROP_WRITE_ERROR;
	/* Not by the hardware address that was found: see forward_by_fib(). */
	next_hop(&next, &fib);
	step(STEP_ENCAP, ENCAP_HERE, s->address[0] = remote, s->number[0] = identity_to_vni(identity));
	step(STEP_REDIRECT, REDIRECT_NEIGHBOUR, s->number[0] = fib.ifindex);
	return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}
