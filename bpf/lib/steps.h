/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What a dry run tells of itself. The programs are loaded a second time with config.dry_run set, with the
 * node's own maps but for a few that a run may write (see node-agent/internal/datapath/explain_load.go):
 * `events` among them, which then takes steps beside the usual events. In the programs that serve traffic
 * config.dry_run is 0 from before they are verified, so nothing of this is left in them.
 */
#pragma once

#include "maps.h"

#ifndef FILE_NUMBER
#define FILE_NUMBER 0
#endif

/* A map was asked: key, value and whether there was one. `what` is the map. */
#define STEP_LOOKUP 1
/* An address and port were replaced: address[0] and port[0] by address[1] and port[1]. `what`: 1 the source.
 */
#define STEP_REWRITE 2
/* Into the tunnel, to node address[0] with number[0] as its VNI. `what`: ENCAP_*. */
#define STEP_ENCAP 3
/* The kernel's routing table was asked for address[0]: `result` as bpf_fib_lookup gives it, interface
 * number[0], next hop address[1]. */
#define STEP_ROUTE 4
/* Away from here, to interface number[0]. `what`: REDIRECT_*. */
#define STEP_REDIRECT 5
/* To the agent's proxy at port[0]; number[0] is the rule. */
#define STEP_PROXY 6
/* Out of the tunnel, from node address[0] with number[0] as its VNI. */
#define STEP_DECAP 7
/* Source translation of address[0]:port[0] to address[1]:port[1]; found: the mapping existed. `what`:
 * NAT_OUT, or NAT_IN where it is undone in an answer; number[0]: it lies in `nat_openings`. */
#define STEP_NAT 8
/* The socket half is over; `result` is 0 or a negative drop reason. */
#define STEP_SOCKET 9
/* The sender is in a refused network, whose counters have the index number[0]. */
#define STEP_PREFILTER 10

#define ENCAP_HERE 0   /* the program put the headers on */
#define ENCAP_DEVICE 1 /* the tunnel device will */

#define REDIRECT_DEVICE 0
#define REDIRECT_PEER 1
#define REDIRECT_NEIGHBOUR 2

/* Maps, by number; node-agent/internal/datapath/explain_steps.go has the names. */
#define MAP_ENDPOINTS 1
#define MAP_IPCACHE 2
#define MAP_POLICY 3
#define MAP_CONNECTIONS 4
#define MAP_SERVICES 5
#define MAP_BACKENDS 6
#define MAP_AFFINITY 7
#define MAP_NAT 8
#define MAP_TUNNELS 9
#define MAP_OPENINGS 10
#define MAP_BLOCKS 11
#define MAP_RATES 12

struct step {
	__u8 kind;
	__u8 what;
	__u8 found;
	__u8 file;
	__u16 line;
	__u16 pad;
	__s32 result;
	__u32 number[2];
	__be16 port[2];
	struct address address[2];
	__u8 key[48];
	__u8 value[112];
};

/* The reader tells it from an event by its size, and reads it by offsets. */
_Static_assert(sizeof(struct step) == 216 && offsetof(struct step, address) == 24 &&
		   offsetof(struct step, key) == 56 && offsetof(struct step, value) == 104,
	       "the agent expects another layout of steps");

static __always_inline struct step *step_reserve(__u8 kind, __u8 what, __u16 line)
{
	struct step *s = bpf_ringbuf_reserve(&events, sizeof(*s), 0);

	if (!s)
		return NULL;
	__builtin_memset(s, 0, sizeof(*s));
	s->kind = kind;
	s->what = what;
	s->file = FILE_NUMBER;
	s->line = line;
	return s;
}

/* step_lookup(MAP_POLICY, &key, value): value may be NULL. */
#define step_lookup(map, key_, value_)                                                                       \
	do {                                                                                                 \
		if (config.dry_run) {                                                                        \
			struct step *step_ = step_reserve(STEP_LOOKUP, map, __LINE__);                       \
			_Static_assert(sizeof(*(key_)) <= 48 && sizeof(*(value_)) <= 112,                    \
				       "no room in a step");                                                 \
			if (step_) {                                                                         \
				__builtin_memcpy(step_->key, (key_), sizeof(*(key_)));                       \
				if (value_) {                                                                \
					step_->found = 1;                                                    \
					__builtin_memcpy(step_->value, (value_), sizeof(*(value_)));         \
				}                                                                            \
				bpf_ringbuf_submit(step_, 0);                                                \
			}                                                                                    \
		}                                                                                            \
	} while (0)

/* step(STEP_REDIRECT, REDIRECT_PEER, s->number[0] = ep->ifindex): the last argument fills the step `s`. */
#define step(kind_, what_, ...)                                                                              \
	do {                                                                                                 \
		if (config.dry_run) {                                                                        \
			struct step *s = step_reserve(kind_, what_, __LINE__);                               \
			if (s) {                                                                             \
				__VA_ARGS__;                                                                 \
				bpf_ringbuf_submit(s, 0);                                                    \
			}                                                                                    \
		}                                                                                            \
	} while (0)
