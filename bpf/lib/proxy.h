/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * To the agent's proxies and back.
 *
 * A packet for a proxy gets a mark and comes in once more on fairlead_host, where the program to_proxy hands
 * new connections to the proxy's listener, and a rule for the mark has the stack deliver it locally, whatever
 * its address. What a proxy sends carries a mark as well, by which it is told from what its pods send: the
 * addresses are the same.
 */
#pragma once

#include "ipcache.h"
#include "parse.h"

/* node-agent/internal/datapath/proxy.go has the same. Above the mark is the listener's port. */
#define MARK_MASK 0xf00
#define MARK_TO_PROXY 0x200
#define MARK_FROM_INGRESS_PROXY 0xa00
#define MARK_FROM_EGRESS_PROXY 0xb00

static __always_inline bool is_from_proxy(struct __sk_buff *skb, __u8 direction)
{
	return (packet_mark(skb) & MARK_MASK) ==
	       (direction == INGRESS ? MARK_FROM_INGRESS_PROXY : MARK_FROM_EGRESS_PROXY);
}

/* Packets that answer something: a proxy's connection begins with a packet of its own. */
static __always_inline bool may_be_proxys(struct packet *p)
{
	if (p->related || p->later_fragment)
		return false;
	return p->protocol == IPPROTO_UDP ||
	       (p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN);
}

static __always_inline __u32 socket_tuple(struct bpf_sock_tuple *tuple, struct packet *p)
{
	if (p->v6) {
		__builtin_memcpy(tuple->ipv6.saddr, p->source.word, 16);
		__builtin_memcpy(tuple->ipv6.daddr, p->destination.word, 16);
		tuple->ipv6.sport = p->source_port;
		tuple->ipv6.dport = p->destination_port;
		return sizeof(tuple->ipv6);
	}
	tuple->ipv4.saddr = p->source.word[3];
	tuple->ipv4.daddr = p->destination.word[3];
	tuple->ipv4.sport = p->source_port;
	tuple->ipv4.dport = p->destination_port;
	return sizeof(tuple->ipv4);
}

/* Whether this node has a connected socket with the packet's addresses. A pod's address is bound by nobody
 * but a proxy. */
__verified_once int proxy_has(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 length;
	int found;

	if (!p)
		return 0;
	length = socket_tuple(&tuple, p);
	if (p->protocol == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(skb, &tuple, length, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_udp(skb, &tuple, length, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	if (p->protocol == IPPROTO_TCP)
		found = sk->state != BPF_TCP_LISTEN;
	else
		/* Only a connected one: others take what comes for any address. */
		found = sk->dst_port == p->source_port;
	bpf_sk_release(sk);
	return found;
}

/* The listener of a proxy, on this node's loopback address. */
static __always_inline struct bpf_sock *proxy_listener(struct __sk_buff *skb, struct packet *p, __be16 port)
{
	struct bpf_sock_tuple tuple = {};
	__u32 length;

	length = socket_tuple(&tuple, p);
	if (p->v6) {
		__builtin_memset(tuple.ipv6.daddr, 0, 16);
		tuple.ipv6.daddr[3] = bpf_htonl(1);
		tuple.ipv6.dport = port;
	} else {
		tuple.ipv4.daddr = bpf_htonl(0x7f000001);
		tuple.ipv4.dport = port;
	}
	if (p->protocol == IPPROTO_TCP)
		return bpf_sk_lookup_tcp(skb, &tuple, length, BPF_F_CURRENT_NETNS, 0);
	return bpf_sk_lookup_udp(skb, &tuple, length, BPF_F_CURRENT_NETNS, 0);
}

/*
 * Whether a proxy takes the packet. Without it connections wait (their opening is dropped and sent again) and
 * names resolve as if no rule asked about them: an agent that restarts would else take every pod's DNS with
 * it, and what a name resolved to is still judged by its address.
 */
__verified_once int proxy_takes(struct __sk_buff *skb, struct packet *p, __be16 port)
{
	struct bpf_sock *sk;

	if (!p || p->protocol != IPPROTO_UDP || !port)
		return 1;
	sk = proxy_listener(skb, p, port);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

static __always_inline int redirect_to_proxy(struct __sk_buff *skb, __be16 port)
{
	step(STEP_PROXY, 0, s->port[0] = port);
	mark_packet(skb, MARK_TO_PROXY | (__u32)bpf_ntohs(port) << 16);
	return bpf_redirect(config.proxy_ifindex, BPF_F_INGRESS);
}
