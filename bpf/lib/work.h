/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What a program works out about its packet. Not on the stack, of which all functions of a program have 512
 * bytes together. Packet programs run with bottom halves off, one at a time on a CPU: one redirected to
 * another interface meets the next program when the first has ended.
 */
#pragma once

#include "events.h"

/* In: the packet's side and who the peer is, where the caller knows. Out: what to do. */
struct tracking {
	__u8 side; /* OUT of the endpoint or IN to it */
	bool peer_known;
	bool report; /* a trace event is due */
	bool reply;
	bool from_wire;
	bool reverse;	   /* replies: put the service's address back as the source */
	bool has_service;  /* the service's fields are set */
	bool to_proxy;	   /* the packet belongs to the agent's proxy */
	__be16 proxy_port; /* that accepts it, where it may open a connection */
	bool open;	   /* out: the connection is open, somebody is behind both ends */
	bool opening;	   /* its choice of a backend still lies in `openings`; see choice.h */
	__be16 service_port;
	struct address
	    service; /* a new connection was sent to this service address; on reply: what to put back */
	struct peer peer;
};

struct work {
	struct packet packet;
	struct report report;
	struct tracking in;
	struct tracking out;
	/* See shortcut.h. */
	__u64 short_packets;
	__u64 short_bytes;
	__u32 generation;
	bool may_shorten;
} __in_words;

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
