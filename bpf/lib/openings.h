/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where a connection's entry lies: in `openings` until whoever opened it has sent something after the first
 * reply, in `connections` from then on. A flood of what is never opened pushes nothing out that is open.
 *
 * One that is opened between the ports of an earlier one, which is over, is written over that one's entry in
 * `connections`: it takes no place there that it had not, and most of what an opening costs otherwise is
 * memory that no cache has. Clients with many short connections to one server come back to the same ports
 * within seconds.
 */
#pragma once

#include "work.h"

#define LIFETIME_TCP (8000 * NSEC_PER_SEC)
#define LIFETIME_TCP_SYN (60 * NSEC_PER_SEC)
#define LIFETIME_TCP_CLOSING (10 * NSEC_PER_SEC)
#define LIFETIME_OTHER (60 * NSEC_PER_SEC)

/*
 * Whether one that is being opened may be written over `stale`, which is over: then it has its place in
 * `connections` already, and takes nobody else's. Not what is over for so long that the agent may just be
 * deleting it (reopenGrace in node-agent/internal/datapath/tables.go, which is more).
 */
static __always_inline bool may_reopen(struct connection *stale, __u64 now)
{
	return stale->expires + 4 * NSEC_PER_SEC >= now;
}

/*
 * Keeps one that is being opened; `stale` is what `connections` has under its key, or NULL. 0, or not where
 * the table takes none.
 */
static __always_inline int keep_opening(struct connection_key *key, struct connection *c,
					struct connection *stale, __u64 now)
{
	if (config.dry_run)
		return 0;
	if (stale && may_reopen(stale, now)) {
		/* Over, until all of it is there: another CPU may just be looking. */
		*(volatile __u64 *)&stale->expires = now - NSEC_PER_SEC / 8;
		barrier();
		__builtin_memcpy((void *)stale + sizeof(c->expires), (void *)c + sizeof(c->expires),
				 sizeof(*c) - sizeof(c->expires));
		barrier();
		*(volatile __u64 *)&stale->expires = c->expires;
		return 0;
	}
	if (stale)
		bpf_map_delete_elem(&connections, key);
	/* Under contention an LRU insert may fail once. */
	return bpf_map_update_elem(&openings, key, c, BPF_ANY) &&
	       bpf_map_update_elem(&openings, key, c, BPF_ANY);
}

static __always_inline bool usable(struct connection *c, struct packet *p, __u64 now)
{
	if (c->expires < now)
		return false;
	/* The ports are used again. */
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && !p->related &&
	    (c->flags & (CONNECTION_RESET | CONNECTION_FIN_IN | CONNECTION_FIN_OUT)))
		return false;
	return true;
}

/* Nobody has gone on with it yet, though it lies in `connections`. */
static __always_inline bool is_reopened(struct connection *c)
{
	return c->seen[IN] & SEEN_REOPENED;
}

/*
 * The packet's entry, and whether it is `opening`, in whichever table. `stale`: what `connections` has under
 * the key where that is over. One that would be written over has no other in `openings`.
 */
static __always_inline struct connection *find_connection(struct connection_key *key, struct packet *p,
							  __u64 now, bool *opening, struct connection **stale)
{
	struct connection *c = bpf_map_lookup_elem(&connections, key);

	*stale = c;
	if (c && usable(c, p, now)) {
		*opening = is_reopened(c);
		step_lookup(MAP_CONNECTIONS, key, c);
		return c;
	}
	*opening = false;
	if (c && may_reopen(c, now)) {
		step_lookup(MAP_CONNECTIONS, key, NULL);
		return NULL;
	}
	c = bpf_map_lookup_elem(&openings, key);
	*opening = true;
	if (c && !usable(c, p, now))
		c = NULL;
	step_lookup(MAP_OPENINGS, key, c);
	return c;
}

/* Whoever opened the connection `c` sends something after the first reply. */
static __always_inline bool goes_on(struct packet *p, struct connection *c)
{
	return !p->related && (c->flags & CONNECTION_REPLIED) && (p->tcp_flags & (TCP_SYN | TCP_RST)) == 0;
}

/* Somebody is behind both ends: the connection is open. Called last, since the entry goes where it is one of
 * `openings`. */
static __always_inline void confirm(struct connection_key *key, struct connection *c, __u64 now)
{
	if (config.dry_run)
		return;
	if (is_stream(key->protocol) && c->expires < now + LIFETIME_TCP &&
	    !(c->flags & (CONNECTION_RESET | CONNECTION_FIN_IN | CONNECTION_FIN_OUT)))
		c->expires = now + LIFETIME_TCP;
	if (is_reopened(c)) {
		c->seen[IN] &= ~SEEN_REOPENED;
		return;
	}
	if (!bpf_map_update_elem(&connections, key, c, BPF_ANY))
		bpf_map_delete_elem(&openings, key);
}
