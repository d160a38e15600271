/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What an endpoint's policy says: the longest line for the peer's identity and the longest for any identity.
 * Denied if either denies, else allowed if either allows, else as the endpoint's default. The agent sees to
 * it that no longer line for one identity allows what a shorter one denies.
 *
 * Where both allow, the line for any identity makes the proxy of the peer's own line unnecessary if it names
 * a protocol. A line for any port does not: it may say no more than that nobody asked for default deny. The
 * proxy knows better, and lets everything pass where that is so.
 *
 * An ipBlock of a Kubernetes network policy means addresses, whoever has them, and identities do not tell two
 * pods of the same labels apart. So what neither line lets pass, or not without a proxy, is asked once more
 * by the number of the longest ipBlock around the peer's address. Such lines allow, and nothing else: those
 * policies know neither denials nor proxies.
 */
#pragma once

#include "ipcache.h"

struct verdict {
	int reason; /* 0 or a drop reason */
	__u32 rule;
	__u8 match;
	bool audited; /* it would have been dropped */
	__be16 proxy_port;
};

struct question {
	__u32 endpoint;
	__u32 identity;
	__u16 flags;
	__u8 direction;
	__u8 protocol;
	__be16 port;
};

static __always_inline __u8 match_type(__u8 prefixlen, bool any_peer)
{
	if (any_peer)
		return prefixlen > POLICY_PREFIX_PROTOCOL ? 3 : prefixlen > POLICY_PREFIX_PEER ? 6 : 4;
	return prefixlen > POLICY_PREFIX_PROTOCOL ? 2 : prefixlen > POLICY_PREFIX_PEER ? 5 : 1;
}

static __always_inline struct policy_value *find_block(struct policy_key *key, const struct address *address)
{
	__u32 *number, zero = 0;
	struct ipcache_key *block = bpf_map_lookup_elem(&block_scratch, &zero);
	struct policy_value *line;

	if (!block)
		return NULL;
	block->prefixlen = 128;
	block->address = *address;
	number = bpf_map_lookup_elem(&blocks, block);
	step_lookup(MAP_BLOCKS, block, number);
	if (!number || !*number)
		return NULL;
	key->identity = *number;
	line = bpf_map_lookup_elem(&policy, key);
	step_lookup(MAP_POLICY, key, line);
	return line;
}

/* `remote` is the peer's address. */
__verified_once int judge(struct question *q, const struct address *remote, struct verdict *v)
{
	struct policy_key key = {.prefixlen = POLICY_PREFIX_FULL};
	struct policy_value *peer, *any, *line, *block;
	bool enforced;

	if (!q || !remote || !v)
		return DROP_POLICY;
	key.endpoint = q->endpoint;
	key.identity = q->identity;
	key.direction = q->direction;
	key.protocol = q->protocol;
	key.port = q->port;
	enforced = q->flags & (q->direction == INGRESS ? ENDPOINT_POLICY_INGRESS : ENDPOINT_POLICY_EGRESS);
	v->reason = 0;
	v->rule = 0;
	v->match = 0;
	v->proxy_port = 0;
	v->audited = false;
	peer = bpf_map_lookup_elem(&policy, &key);
	step_lookup(MAP_POLICY, &key, peer);
	key.identity = 0;
	any = bpf_map_lookup_elem(&policy, &key);
	step_lookup(MAP_POLICY, &key, any);
	if (peer && peer->deny)
		line = peer;
	else if (any && any->deny)
		line = any;
	else if (peer && peer->proxy_port && any && !any->proxy_port && any->prefixlen > POLICY_PREFIX_PEER)
		line = any;
	else
		line = peer ? peer : any;
	if (line ? !line->deny && line->proxy_port : enforced) {
		block = find_block(&key, remote);
		if (block)
			line = block;
	}
	if (line) {
		v->rule = line->rule;
		v->match = match_type(line->prefixlen, line == any);
		v->reason = line->deny ? DROP_POLICY_DENY : 0;
		v->proxy_port = line->deny ? 0 : line->proxy_port;
	} else {
		v->reason = enforced ? DROP_POLICY : 0;
	}
	if (v->reason && (q->flags & ENDPOINT_AUDIT)) {
		v->audited = true;
		v->reason = 0;
	}
	return v->reason;
}
