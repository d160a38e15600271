// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * to_proxy: tcx ingress of fairlead_host, where the other programs send what belongs to the agent's proxies.
 * May assume: the mark says so, since nobody else sends anything in there.
 */
#define FILE_NUMBER 7
#include "lib/events.h"
#include "lib/proxy.h"

/*
 * Whether an opening meets the end of an earlier connection with the same addresses, which the proxy was the
 * first to end: the pair stays in TIME_WAIT for a minute, and the stack makes no connection beside it.
 */
static __always_inline bool meets_time_wait(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 length = socket_tuple(&tuple, p);
	bool found;

	sk = bpf_skc_lookup_tcp(skb, &tuple, length, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	found = sk->state == BPF_TCP_TIME_WAIT;
	bpf_sk_release(sk);
	return found;
}

/*
 * Has the end that is in TIME_WAIT say where it is: it answers what is no opening with an acknowledgement, to
 * which the client, who knows of no connection, sends the reset that removes it, and then its opening once
 * more (RFC 9293, 3.10.7.3). Left as it is the opening would be given to whoever of the node listens on the
 * server's port, since the server's address is nobody's here.
 */
static __always_inline int challenge(struct __sk_buff *skb, struct packet *p)
{
	__u32 at = p->l4 + offsetof(struct tcp_start, offset);
	__be16 from, to;

	if (bpf_skb_load_bytes(skb, at, &from, sizeof(from)))
		return -DROP_INVALID;
	to = from | bpf_htons(TCP_ACK);
	if (bpf_l4_csum_replace(skb, p->l4 + 16, from, to, sizeof(to)) ||
	    bpf_skb_store_bytes(skb, at, &to, sizeof(to), 0))
		return -DROP_WRITE_ERROR;
	return 0;
}

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
	if (p.protocol == IPPROTO_TCP && meets_time_wait(skb, &p)) {
		err = challenge(skb, &p);
		return err ? drop(skb, &p, &r, err) : TC_ACT_OK;
	}
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
