// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * prefilter: XDP of outward devices. Drops what comes from refused networks; everything else goes on as if it
 * were not there. May assume nothing.
 */
#define FILE_NUMBER 9
#include "lib/prefilter.h"

SEC("xdp")
int prefilter(struct xdp_md *ctx)
{
	return prefiltered(ctx) ? XDP_DROP : XDP_PASS;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
