/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Packets of other nodes' pods, whoever took the outer headers off; the VNI is the sender's identity. */
#pragma once

#include "deliver.h"
#include "tunnel.h"

static __always_inline bool is_node(const struct address *address)
{
	struct peer node;

	find_peer(address, &node);
	return is_node_identity(node.identity);
}

/*
 * The node that an outer source belongs to, as in struct ipcache_value. Where nodes are numbered, the number
 * is found by the inner source, which that node hosts.
 */
static __always_inline __be32 sending_node(const struct packet *p, const struct address *outer)
{
	struct peer sender;

	if (!config.underlay6)
		return outer->word[3];
	find_peer(&p->source, &sender);
	return sender.tunnel;
}

/* Who sent it: fills the peer and the report. 0 or a negative drop reason. */
static __always_inline int overlay_sender(struct packet *p, struct report *r, struct peer *peer, __u32 vni,
					  const struct address *outer, bool known_node)
{
	r->tunnel = sending_node(p, outer);
	r->vni = vni;
	peer->identity = vni;
	peer->tunnel = r->tunnel;
	/* The other node's host is a remote node here; no other reserved identity has business in a tunnel.
	 */
	if (vni == IDENTITY_HOST) {
		find_peer(outer, peer);
		if (!is_node_identity(peer->identity))
			peer->identity = IDENTITY_REMOTE_NODE;
		peer->tunnel = r->tunnel;
	} else if (vni == IDENTITY_WORLD && p->v6) {
		peer->identity = IDENTITY_WORLD_IPV6;
	} else if (!vni)
		return -DROP_INVALID_VNI;
	else if (vni < IDENTITY_FIRST_POD && vni != IDENTITY_WORLD && vni != IDENTITY_REMOTE_NODE &&
		 vni != IDENTITY_APISERVER)
		return -DROP_INVALID_IDENTITY;
	r->source_identity = peer->identity;
	/* Only nodes may say who a packet is from. */
	if (!known_node && !is_node(outer))
		return -DROP_UNKNOWN_SENDER;
	if (in_pod_range(&p->source))
		return -DROP_INVALID_SIP;
	return 0;
}
