// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * kfree_skb: the kernel's own drops of pods' packets, on the tracepoint of the same name: no socket, a full
 * receive buffer, the reverse path filter, netfilter, a full queue. They join the programs' own drops in
 * `events`.
 *
 * Only packets from or to a pod of this node count, by the address of the packet and not by its interface:
 * the kernel drops packets of pods in the pods' namespaces, on their host ends and on the node's devices.
 * What our own programs drop appears here as well, with reasons of their hooks (tc, XDP); those were counted
 * where they were decided.
 *
 * The reason is the kernel's number, which differs from version to version; the agent has the names from the
 * kernel's BTF. It reads the kernel's structures by CO-RE, the only program that does.
 */
#define FILE_NUMBER 20
#include "lib/parse.h"
#include "lib/ipcache.h"
#include "lib/limit.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/* Of packets that are only tried; node-agent/internal/datapath/explain_walk.go has the same. */
#define DRY_RUN_PRIORITY 0x6472792d

/* The kernel's, as far as they are read. */
struct net {
	__u64 net_cookie;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
	unsigned int len;
	__u32 priority;
	__be16 protocol;
	__u16 transport_header;
	__u16 network_header;
	unsigned char *head;
	int skb_iif;
} __attribute__((preserve_access_index));

/* Whose reasons never count here; set by the agent from the kernel's BTF, since numbers differ between
 * kernels. */
const volatile __u32 own_reasons[8];
/* The tracepoint's third argument (5.17 and later). */
const volatile __u32 has_reason;

/* Drops by the kernel's reason, exact. Writer: kfree_skb. Reader: agent. */
#define KERNEL_REASONS 512
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KERNEL_REASONS);
	__type(key, __u32);
	__type(value, struct counter);
} kernel_drops SEC(".maps");

/* When the last event of a reason was sent and how many were not sent since. Writer and reader: kfree_skb. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KERNEL_REASONS);
	__type(key, __u32);
	__type(value, struct limit);
} kernel_limits SEC(".maps");

/* On this node: the tracepoint sees the whole machine, on which other nodes may be namespaces as well. */
static __always_inline bool is_here(struct sk_buff *skb)
{
	struct net_device *dev = skb->dev;
	__u64 cookie;

	if (!config.host_cookie || !dev)
		return true;
	/* In a socket's queue the field has something else, which no namespace is found by. */
	cookie = dev->nd_net.net->net_cookie;
	return !cookie || cookie == config.host_cookie || bpf_map_lookup_elem(&namespaces, &cookie);
}

/* Both families' headers up to the addresses. */
struct v4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__sum16 check;
	__be32 source;
	__be32 destination;
};

struct v6 {
	__u8 version_class;
	__u8 flow[3];
	__be16 length;
	__u8 next;
	__u8 hops;
	struct address source;
	struct address destination;
};

struct dropped {
	struct address source;
	struct address destination;
	__u8 protocol;
	__u8 header;
	bool first; /* has a layer 4 header */
};

/* False: no packet of IP whose header is where it should be. */
static __always_inline bool read_headers(struct sk_buff *skb, unsigned char *at, struct dropped *d)
{
	struct v4 v4;
	struct v6 v6;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_probe_read_kernel(&v4, sizeof(v4), at) || v4.version_ihl >> 4 != 4)
			return false;
		d->source = mapped(v4.source);
		d->destination = mapped(v4.destination);
		d->protocol = v4.protocol;
		d->header = (v4.version_ihl & 15) * 4;
		d->first = !(v4.fragment & bpf_htons(0x1fff));
		return true;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_probe_read_kernel(&v6, sizeof(v6), at) ||
	    v6.version_class >> 4 != 6)
		return false;
	d->source = v6.source;
	d->destination = v6.destination;
	d->protocol = v6.next;
	d->header = sizeof(v6);
	d->first = true;
	return true;
}

/* Ports, flags or type of what was dropped, as far as the packet is one that carries them. */
static __always_inline void read_layer4(struct event *e, struct dropped *d, unsigned char *at)
{
	__u8 b[14] = {};

	if (!d->first)
		return;
	if (has_ports(d->protocol)) {
		if (bpf_probe_read_kernel(b, d->protocol == IPPROTO_TCP ? 14 : 8, at + d->header))
			return;
		__builtin_memcpy(&e->source_port, b, 2);
		__builtin_memcpy(&e->dest_port, b + 2, 2);
		if (d->protocol == IPPROTO_TCP)
			e->tcp_flags = b[13];
	} else if (is_icmp(d->protocol)) {
		if (bpf_probe_read_kernel(b, 2, at + d->header))
			return;
		e->icmp_type = b[0];
		e->icmp_code = b[1];
	}
}

/* What the kernel makes to answer a question about routes (ip route get ... iif ...): a datagram without
 * ports. */
static __always_inline bool asks_for_route(struct dropped *d, unsigned char *at)
{
	__u32 ports = 1;

	return d->protocol == IPPROTO_UDP && d->first && !bpf_probe_read_kernel(&ports, 4, at + d->header) &&
	       !ports;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb, struct sk_buff *skb, void *location)
{
	/* Beyond the arguments that every kernel has; a dead branch to the verifier where it is not there. */
	__u32 reason = has_reason ? (__u32)ctx[2] : 0, index = reason;
	__u32 source_identity = 0, dest_identity = 0;
	__u8 direction = INGRESS;
	struct endpoint *ep;
	__u16 endpoint = 0;
	struct dropped d = {};
	struct counter *counter;
	struct limit *limit;
	struct event *e;
	unsigned char *at;
	__u64 now, *lost_count;
	__u32 zero = 0;

	/* Reasons of other subsystems have theirs in the upper half: counted together. */
	if (reason >= KERNEL_REASONS - 1)
		index = KERNEL_REASONS - 1;
	/* Not dropped, but used up. */
	if (has_reason && reason < 2)
		return 0;
#pragma unroll
	for (int i = 0; i < 8; i++)
		if (own_reasons[i] && reason == own_reasons[i])
			return 0;
	/* The end of a connection that is read by nobody any more: nothing is lost with it. */
	if (!skb->len)
		return 0;
	/* What explain tries is freed in the end like everything else. */
	if (skb->priority == DRY_RUN_PRIORITY || !is_here(skb))
		return 0;
	at = skb->head + skb->network_header;
	if (!read_headers(skb, at, &d) || asks_for_route(&d, at))
		return 0;
	ep = local_endpoint(&d.destination);
	if (ep) {
		endpoint = ep->id;
		dest_identity = ep->identity;
	}
	/* The sender, where the kernel dropped what a pod of this node sent to another of them. */
	ep = local_endpoint(&d.source);
	if (ep) {
		endpoint = ep->id;
		source_identity = ep->identity;
		direction = EGRESS;
	}
	if (!endpoint)
		return 0;
	counter = bpf_map_lookup_elem(&kernel_drops, &index);
	if (counter) {
		counter->packets++;
		counter->bytes += skb->len;
	}
	now = bpf_ktime_get_ns();
	limit = bpf_map_lookup_elem(&kernel_limits, &index);
	if (!limit)
		return 0;
	if (!limit_pass(limit, now))
		return 0;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		lost_count = bpf_map_lookup_elem(&lost, &zero);
		if (lost_count)
			__sync_fetch_and_add(lost_count, 1);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	e->type = EVENT_DROP;
	e->subtype = DROP_KERNEL;
	e->file = FILE_NUMBER;
	e->reply = REPLY_UNKNOWN;
	e->rule = reason;
	e->suppressed = limit_take(limit);
	e->source = d.source;
	e->destination = d.destination;
	e->protocol = d.protocol;
	e->length = skb->len;
	if (skb->dev)
		e->ifindex = skb->dev->ifindex;
	e->direction = direction;
	e->source_identity = source_identity;
	e->dest_identity = dest_identity;
	e->endpoint = endpoint;
	read_layer4(e, &d, at);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
