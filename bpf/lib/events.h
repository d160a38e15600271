/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flow events into the ring buffer, with an exact count of those that did not fit. */
#pragma once

#include "parse.h"
#include "ipcache.h"
#include "metrics.h"

/* report.denied of a verdict that was not enforced; 1 is a denial. */
#define VERDICT_AUDIT 2

/* What an event says beside the packet itself. */
struct report {
	__u8 type;
	__u8 subtype;
	__u8 trace_reason;
	__u8 direction;
	__u8 reply;
	__u8 denied;
	__u8 match;
	__u8 file;
	__u16 line;
	__u16 endpoint;
	__u32 rule;
	__u32 source_identity;
	__u32 dest_identity;
	__u32 vni;
	__be32 tunnel;
	__u32 suppressed;
};

static __always_inline struct event *reserve(void)
{
	struct event *e;
	__u32 zero = 0;
	__u64 *n;

	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (e)
		return e;
	n = bpf_map_lookup_elem(&lost, &zero);
	if (n)
		__sync_fetch_and_add(n, 1);
	return NULL;
}

/* Denials and drops are many at once where somebody is wrong about something: the same again and again is
 * held back. */
static __always_inline bool held_back(struct report *r)
{
	struct drop_key key = {.endpoint = r->endpoint,
			       .reason = r->type == EVENT_DROP ? r->subtype : DROP_POLICY,
			       .kind = r->type << 1 | (r->direction & 1)};
	struct limit *l;
	__u32 index = key.reason;
	__u64 now, *n;

	if (config.dry_run || !(r->type == EVENT_DROP || (r->type == EVENT_VERDICT && r->denied)))
		return false;
	now = bpf_ktime_get_coarse_ns();
	l = bpf_map_lookup_elem(&drop_limits, &key);
	if (!l) {
		bpf_map_update_elem(&drop_limits, &key, (const void *)&no_limit, BPF_NOEXIST);
		l = bpf_map_lookup_elem(&drop_limits, &key);
		if (!l)
			return false;
	}
	if (limit_pass(l, now)) {
		r->suppressed = limit_take(l);
		return false;
	}
	n = bpf_map_lookup_elem(&suppressed, &index);
	if (n)
		(*n)++;
	return true;
}

__verified_once int emit(struct __sk_buff *skb, struct packet *p, struct report *r)
{
	struct event *e;

	if (!p || !r)
		return 0;
	r->suppressed = 0;
	if (held_back(r))
		return 0;
	e = reserve();
	if (!e)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	e->source = p->source;
	e->destination = p->destination;
	if (r->tunnel)
		tunnel_address(r->tunnel, &e->tunnel_remote);
	e->source_identity = r->source_identity;
	e->dest_identity = r->dest_identity;
	e->rule = r->rule;
	e->ifindex = at_interface(skb);
	e->length = p->length;
	e->vni = r->vni;
	e->source_port = p->source_port;
	e->dest_port = p->destination_port;
	e->endpoint = r->endpoint;
	e->line = r->line;
	e->type = r->type;
	e->subtype = r->subtype;
	e->trace_reason = r->trace_reason;
	e->direction = r->direction;
	e->reply = r->reply;
	e->denied = r->denied;
	e->match = r->match;
	e->protocol = p->protocol;
	e->tcp_flags = p->tcp_flags;
	e->icmp_type = p->icmp_type;
	e->icmp_code = p->icmp_code;
	e->file = r->file;
	e->suppressed = r->suppressed;
	__builtin_memcpy(e->source_mac, p->source_mac, 6);
	__builtin_memcpy(e->dest_mac, p->dest_mac, 6);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Counts and reports a drop; `reason` may be negative. Use the macro, which records the line. */
static __always_inline int drop_at(struct __sk_buff *skb, struct packet *p, struct report *r, int reason,
				   __u8 file, __u16 line)
{
	if (reason < 0)
		reason = -reason;
	count(reason, r->direction, p->length);
	/* IPv6 is only counted: hosts chatter, and nothing was decided about a flow. */
	if (reason == DROP_UNSUPPORTED_L3 && !config.dry_run)
		return TC_ACT_SHOT;
	r->type = EVENT_DROP;
	r->subtype = reason;
	r->trace_reason = 0;
	r->file = file;
	r->line = line;
	emit(skb, p, r);
	return TC_ACT_SHOT;
}
/* Where the line is: in the program, or in a header that drops by itself. The compiler works it out. */
#define DROPPING_FILE                                                                                        \
	(!__builtin_strcmp(__FILE_NAME__, "nodeport.h")	       ? 30                                          \
	 : !__builtin_strcmp(__FILE_NAME__, "host_firewall.h") ? 31                                          \
							       : FILE_NUMBER)
#define drop(skb, p, r, reason) drop_at(skb, p, r, reason, DROPPING_FILE, __LINE__)

static __always_inline void trace(struct __sk_buff *skb, struct packet *p, struct report *r, __u8 point,
				  bool wanted)
{
	count(0, r->direction, p->length);
	if (!wanted && !config.dry_run)
		return;
	r->type = EVENT_TRACE;
	r->subtype = point;
	emit(skb, p, r);
}
