/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who is behind an address. */
#pragma once

#include "maps.h"

struct peer {
	__u32 identity;
	__be32 tunnel;
};

static __always_inline struct endpoint *local_endpoint(__be32 address)
{
	struct address key = mapped(address);

	return bpf_map_lookup_elem(&endpoints, &key);
}

/* An address out of this node's pods' range, published or not. */
static __always_inline bool in_pod_range(__be32 address)
{
	return (address & config.pod_mask) == config.pod_net;
}

static __noinline int find_peer(__be32 address, struct peer *peer)
{
	struct ipcache_key key = {.prefixlen = 128, .address = mapped(address)};
	struct ipcache_value *value;

	peer->tunnel = 0;
	peer->identity = IDENTITY_HOST;
	if (address == config.node_address || address == config.router_address)
		return 0;
	peer->identity = IDENTITY_WORLD;
	value = bpf_map_lookup_elem(&ipcache, &key);
	if (value) {
		peer->identity = value->identity;
		peer->tunnel = value->tunnel;
	}
	return 0;
}
