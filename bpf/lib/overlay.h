/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Packets of other nodes' pods, whoever took the outer headers off; the VNI is the sender's identity. */
#pragma once

#include "deliver.h"
#include "vxlan.h"

static __always_inline bool is_node(const struct address *address)
{
	struct peer node;

	find_peer(address, &node);
	return is_node_identity(node.identity);
}

/* Who sent it: fills the peer and the report. 0 or a negative drop reason. */
static __always_inline int overlay_sender(struct packet *p, struct report *r, struct peer *peer, __u32 vni,
					  __be32 node, bool known_node)
{
	struct address sender = mapped(node);

	r->tunnel = node;
	r->vni = vni;
	peer->identity = vni;
	peer->tunnel = node;
	/* The other node's host is a remote node here; no other reserved identity has business in a tunnel.
	 */
	if (vni == IDENTITY_HOST) {
		find_peer(&sender, peer);
		if (!is_node_identity(peer->identity))
			peer->identity = IDENTITY_REMOTE_NODE;
		peer->tunnel = node;
	} else if (!vni)
		return -DROP_INVALID_VNI;
	else if (vni < IDENTITY_FIRST_POD && vni != IDENTITY_WORLD && vni != IDENTITY_REMOTE_NODE &&
		 vni != IDENTITY_APISERVER)
		return -DROP_INVALID_IDENTITY;
	r->source_identity = peer->identity;
	/* Only nodes may say who a packet is from. */
	if (!known_node && !is_node(&sender))
		return -DROP_UNKNOWN_SENDER;
	if (in_pod_range(&p->source))
		return -DROP_INVALID_SIP;
	return 0;
}
