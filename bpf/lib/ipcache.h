/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who is behind an address. */
#pragma once

#include "maps.h"
#include "steps.h"

/* The address of a node out of struct ipcache_value. False: its number is not known. */
static __always_inline bool tunnel_address(__be32 tunnel, struct address *out)
{
	__u32 number = tunnel;
	struct address *known;

	if (!config.underlay6) {
		*out = mapped(tunnel);
		return true;
	}
	known = bpf_map_lookup_elem(&tunnels, &number);
	if (!known)
		return false;
	*out = *known;
	return true;
}

struct peer {
	__u32 identity;
	__be32 tunnel;
};

static __always_inline struct endpoint *local_endpoint(const struct address *address)
{
	struct endpoint *ep = bpf_map_lookup_elem(&endpoints, address);

	step_lookup(MAP_ENDPOINTS, address, ep);
	return ep;
}

/* An address out of this node's pods' range, published or not. */
static __always_inline bool in_pod_range(const struct address *address)
{
	return in_range(address, &config.pod_net, &config.pod_mask, &config.pod_net6, &config.pod_mask6);
}

/* An address that goes over the wire as it is, unmasqueraded. */
static __always_inline bool in_native_range(const struct address *address)
{
	return in_range(address, &config.native_net, &config.native_mask, &config.native_net6,
			&config.native_mask6);
}

static __always_inline bool is_router(const struct address *address)
{
	return is_config(address, &config.router_address) || is_config(address, &config.router_address6);
}

/* One of this node's own addresses. */
static __always_inline bool is_host(const struct address *address)
{
	return is_config(address, &config.node_address) || is_config(address, &config.node_address6) ||
	       is_router(address);
}

/* Another node of the cluster, with an identity of its own or without. */
static __always_inline bool is_node_identity(__u32 identity)
{
	return identity == IDENTITY_REMOTE_NODE || identity == IDENTITY_APISERVER ||
	       identity >> 24 == IDENTITY_SCOPE_NODE;
}

/* PLAIN_* of a node that is not this one. */
static __always_inline __u32 plain(__be32 tunnel)
{
	__u32 *flags = bpf_map_lookup_elem(&plain_nodes, &tunnel);

	return flags ? *flags : 0;
}

/* `tunnel` is 0 where packets go over the wire as they are. */
__verified_once int find_peer(const struct address *address, struct peer *peer)
{
	struct ipcache_key key = {.prefixlen = 128};
	struct ipcache_value *value;

	if (!address || !peer)
		return 0;
	key.address = *address;

	peer->tunnel = 0;
	peer->identity = IDENTITY_HOST;
	if (is_host(address))
		return 0;
	peer->identity = is_v4(address) ? IDENTITY_WORLD : IDENTITY_WORLD_IPV6;
	value = bpf_map_lookup_elem(&ipcache, &key);
	step_lookup(MAP_IPCACHE, &key, value);
	if (value) {
		peer->identity = value->identity;
		peer->tunnel = value->tunnel;
		if (config.tunnel && value->tunnel && (plain(value->tunnel) & PLAIN_SEND))
			peer->tunnel = 0;
	}
	return 0;
}
