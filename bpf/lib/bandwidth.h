/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Limits of a pod's bandwidth. Each direction with a limit has an entry in `rates`, with the moment from
 * which on the next packet is within the limit. A packet moves it by the time that its bytes take at that
 * rate.
 *
 * Pacing: the packet gets that moment as its departure time, and the fq scheduler of the device that it
 * leaves by keeps it until then. The time is of the kind that the kernel keeps over a redirect, past its
 * stack and through the tunnel device (Linux 5.18). Only what would wait for longer than the horizon is
 * dropped.
 *
 * Policing: for what comes in, and out where there is no such scheduler. What is ahead of its time by more
 * than the tolerance is dropped, which is a token bucket whose tokens are time.
 */
#pragma once

#include "parse.h"
#include "steps.h"

/* What goes over the wire: each segment has the headers, and those of the tunnel. */
static __always_inline __u64 bytes_on_wire(struct __sk_buff *skb, struct packet *p, __u32 tunnel)
{
	__u64 headers = p->l4 + p->l4_length, payload, segments;

	if (!skb->gso_size || skb->len <= headers)
		return skb->len + tunnel;
	payload = skb->len - headers;
	segments = (payload + skb->gso_size - 1) / skb->gso_size;
	return payload + segments * (headers + tunnel);
}

/*
 * The packet's turn; several processors ask at once, so the moment only ever moves by atomic steps. Gives
 * 0, or a negative drop reason for a packet that would have to wait for longer than `rate->tolerance`.
 */
static __always_inline int take_turn(struct rate *rate, __u64 bytes, __u64 now, __u64 *turn, int reason)
{
	__u64 per_second = rate->bytes_per_second, cost, next = *(volatile __u64 *)&rate->next;

	if (!per_second)
		return 0;
	cost = bytes * NSEC_PER_SEC / per_second;
	/* Nothing was sent for a while: what was not used then is lost. Who comes second finds it done. */
	if (next < now)
		__sync_val_compare_and_swap(&rate->next, next, now);
	next = __sync_fetch_and_add(&rate->next, cost);
	if (next > now + rate->tolerance) {
		__sync_fetch_and_add(&rate->next, -cost);
		__sync_fetch_and_add(&rate->dropped, 1);
		return -reason;
	}
	__sync_fetch_and_add(&rate->bytes, bytes);
	*turn = next;
	return 0;
}

static __always_inline struct rate *find_rate(struct endpoint *ep, __u8 direction)
{
	struct rate_key key = {.endpoint = ep->id, .direction = direction};
	struct rate *rate = bpf_map_lookup_elem(&rates, &key);

	step_lookup(MAP_RATES, &key, rate);
	return rate;
}

/* A pod's packet that is about to leave the node, with `tunnel` bytes still to be put before it. */
__verified_once int limit_egress(struct __sk_buff *skb, struct packet *p, struct endpoint *ep, __u32 tunnel)
{
	__u64 now, turn = 0;
	struct rate *rate;
	int err;

	if (!p || !ep || !(ep->flags & ENDPOINT_LIMIT_EGRESS))
		return 0;
	rate = find_rate(ep, EGRESS);
	if (!rate || config.dry_run)
		return 0;
	now = bpf_ktime_get_ns();
	if (config.bandwidth != BANDWIDTH_PACE)
		return take_turn(rate, bytes_on_wire(skb, p, tunnel), now, &turn, DROP_RATE_LIMITED);
	err = take_turn(rate, bytes_on_wire(skb, p, tunnel), now, &turn, DROP_EDT_HORIZON);
	/* What may leave at once keeps what the pod's own stack has to say about it. */
	if (!err && turn > now)
		bpf_skb_set_tstamp(skb, turn, BPF_SKB_TSTAMP_DELIVERY_MONO);
	return err;
}

/* A packet that is about to be delivered to a pod. */
__verified_once int limit_ingress(struct __sk_buff *skb, struct packet *p, struct endpoint *ep)
{
	__u64 turn = 0;
	struct rate *rate;

	if (!p || !ep)
		return 0;
	rate = find_rate(ep, INGRESS);
	if (!rate || config.dry_run)
		return 0;
	return take_turn(rate, bytes_on_wire(skb, p, 0), bpf_ktime_get_ns(), &turn, DROP_RATE_LIMITED);
}
