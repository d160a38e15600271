// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * to_proxy: tcx ingress of fairlead_host, where the other programs send what belongs to the agent's proxies.
 * May assume: the mark says so, since nobody else sends anything in there.
 */
#define FILE_NUMBER 7
#include "lib/events.h"
#include "lib/proxy.h"

SEC("tc")
int to_proxy(struct __sk_buff *skb)
{
	struct packet p = {};
	struct report r = {.direction = INGRESS, .reply = REPLY_UNKNOWN};
	struct bpf_sock *sk;
	__be16 port;
	int err;

	if ((skb->mark & MARK_MASK) != MARK_TO_PROXY)
		return TC_ACT_UNSPEC;
	/* The frame is addressed to another interface. */
	bpf_skb_change_type(skb, 0);
	port = bpf_htons(skb->mark >> 16);
	if (!port)
		return TC_ACT_OK;
	err = parse(skb, &p);
	if (err)
		return drop(skb, &p, &r, err < 0 ? err : DROP_INVALID);
	/* The stack finds the sockets of connections that exist. */
	if (p.protocol == IPPROTO_TCP && (p.tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return TC_ACT_OK;
	if (p.later_fragment)
		return TC_ACT_OK;
	sk = proxy_listener(skb, &p, port);
	if (!sk)
		return drop(skb, &p, &r, DROP_PROXY_LOOKUP);
	err = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	if (err)
		return drop(skb, &p, &r, DROP_PROXY_ASSIGN);
	return TC_ACT_OK;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
