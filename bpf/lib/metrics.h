/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Counters of forwarded and dropped packets. */
#pragma once

#include "maps.h"

static __always_inline void count(__u32 reason, __u32 direction, __u32 length)
{
	__u32 index = (reason & 0xff) * 2 + (direction & 1);
	struct counter *counter;

	if (config.dry_run)
		return;
	counter = bpf_map_lookup_elem(&metrics, &index);
	if (counter) {
		counter->packets++;
		counter->bytes += length;
	}
}
