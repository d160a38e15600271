/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What a program works out about its packet. Not on the stack, of which all functions of a program have 512
 * bytes together. Packet programs run with bottom halves off, one at a time on a CPU: one redirected to
 * another interface meets the next program when the first has ended.
 */
#pragma once

#include "conntrack.h"

struct work {
	struct packet packet;
	struct report report;
	struct tracking in;
	struct tracking out;
};

/* Writers and readers: packet programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} work SEC(".maps");

/* For a packet that was just seen; never NULL in practice. */
static __always_inline struct work *begin_work(__u8 direction)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&work, &zero);

	if (!w)
		return NULL;
	__builtin_memset(w, 0, sizeof(*w));
	w->report.direction = direction;
	w->report.reply = REPLY_UNKNOWN;
	w->in.side = IN;
	w->in.peer_known = true;
	w->out.side = OUT;
	return w;
}
