/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * So many events and no more: a flood of drops must not push everything else out of the ring. What is held
 * back is counted, and the next event of the same kind says how many there were.
 */
#pragma once

#include "types.h"

/* One event in 10 ms and CPU in the long run, 200 at once. */
#define LIMIT_INTERVAL (10 * 1000 * 1000ULL)
#define LIMIT_BURST 200

struct limit {
	__u64 filled; /* when tokens were last added, ns */
	__u32 tokens;
	__u32 suppressed; /* since the last event that passed */
};

/* What a limit begins with: long ago, so that all tokens are there. Not on the stack, which is short of room.
 */
const volatile struct limit no_limit;

/* Whose drops are counted together: an endpoint's, by reason and direction. */
struct drop_key {
	__u16 endpoint;
	__u8 reason;
	__u8 kind; /* of the event, and the direction in the lowest bit */
};

/* Of a per-CPU map: nobody else changes it meanwhile. */
static __always_inline bool limit_pass(struct limit *l, __u64 now)
{
	__u64 earned = (now - l->filled) / LIMIT_INTERVAL;

	if (earned) {
		l->tokens = earned >= LIMIT_BURST - l->tokens ? LIMIT_BURST : l->tokens + earned;
		l->filled = l->tokens == LIMIT_BURST ? now : l->filled + earned * LIMIT_INTERVAL;
	}
	if (!l->tokens) {
		l->suppressed++;
		return false;
	}
	l->tokens--;
	return true;
}

/* How many were held back before the event that is about to be sent. */
static __always_inline __u32 limit_take(struct limit *l)
{
	__u32 n = l->suppressed;

	l->suppressed = 0;
	return n;
}
