/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* To another node by VXLAN; the sender's identity is the VNI. */
#pragma once

#include "types.h"

/* Identities that only this node knows are the world to others. */
static __always_inline __u32 identity_to_vni(__u32 identity)
{
	return identity >= IDENTITY_FIRST_LOCAL ? IDENTITY_WORLD : identity;
}

static __always_inline int encapsulate(struct __sk_buff *skb, __be32 node, __u32 identity)
{
	struct bpf_tunnel_key key = {};

	if (!node)
		return -DROP_NO_TUNNEL_ENDPOINT;
	key.tunnel_id = identity_to_vni(identity);
	key.remote_ipv4 = bpf_ntohl(node);
	key.tunnel_ttl = 64;
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX))
		return -DROP_WRITE_ERROR;
	return bpf_redirect(config.tunnel_ifindex, 0);
}
