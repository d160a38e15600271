/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The layouts of source translation and masquerading; see lib/snat.h. What types.h says of a change goes
 * here, too. */
#pragma once

#include "types.h"

struct nat_key {
	struct address source;
	struct address destination;
	__be16 source_port; /* of ICMP echo: the identifier, on the side that asked */
	__be16 destination_port;
	__u8 protocol;
	__u8 direction;
	__u16 pad;
};
#define NAT_OUT 0
#define NAT_IN 1

#define NAT_OWN (1 << 0) /* of the node's own sockets */
#define NAT_REPLIED (1 << 1)
#define NAT_FIN_OUT (1 << 2)
#define NAT_FIN_IN (1 << 3)
#define NAT_RESET (1 << 4)

struct nat_value {
	__u64 expires;		/* CLOCK_MONOTONIC, ns; of NAT_OUT: when it was made */
	struct address address; /* NAT_OUT: the new source; NAT_IN: the destination to put back */
	__be16 port;
	__u8 flags; /* of NAT_IN */
	__u8 pad[5];
};

struct nat_work {
	struct nat_key out;
	struct nat_key in;
	struct nat_value fresh;
	struct address to;
	bool opening; /* the flow's entries lie in `nat_openings` */
	bool stale;   /* `nat` has a hint of this flow that leads nowhere */
};

/* An outward interface of the node and the addresses that packets leaving there can have. */
struct device {
	struct address address;
	struct address address6;
};

/* Why destinations are reached without masquerading. */
#define UNMASQUERADED_NODE 1
#define UNMASQUERADED_RULE 2
