/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Which backend a connection to a service has. The choice is kept in an entry of its own, under the service's
 * address: for a pod's packets the pod's, for those of clients outside the node's (endpoint 0). `revision` is
 * the backend's number.
 *
 * A choice lies in `openings`, like the connection that it is for, and moves to `connections` with it: no
 * flood at a service's address pushes out what is open. There it is looked for only where the address is a
 * service's.
 */
#pragma once

#include "conntrack.h"
#include "nat.h"
#include "services.h"

/* The node's own entries in `connections`. */
#define NODE_ENDPOINT 0

/* Not a service, or one that leaves the packet alone. */
#define NO_SERVICE 1
/* Nobody there: to be refused. */
#define REFUSED 2

static __always_inline __u64 choice_lifetime(struct connection *c, struct packet *p, __u64 now, bool opening)
{
	if (!is_stream(p->protocol))
		return now + LIFETIME_OTHER;
	if (p->tcp_flags & (TCP_FIN | TCP_RST)) {
		c->flags |= CONNECTION_FIN_OUT;
		return now + LIFETIME_TCP_SYN;
	}
	if (p->tcp_flags & TCP_SYN) {
		c->flags &= ~CONNECTION_FIN_OUT;
		return now + LIFETIME_TCP_SYN;
	}
	return now + (opening || (c->flags & CONNECTION_FIN_OUT) ? LIFETIME_TCP_SYN : LIFETIME_TCP);
}

/*
 * Whether the earlier choice stands: of a connection (TCP, SCTP) always, until it is opened again; of
 * everything else as long as the backend is one.
 */
static __always_inline bool still_chosen(struct connection *c, struct packet *p, __u32 view)
{
	bool opens = !is_stream(p->protocol) || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	struct backend *backend;

	if (!opens)
		return true;
	backend = find_backend(c->revision);
	if (!backend)
		return false;
	/* A datagram goes on to a backend that is about to go; what opens a connection does not. */
	return !is_stream(p->protocol) || (backend->flags & (1 << view));
}

/* Hash of a client's connection that all nodes agree on; with affinity the port does not count. */
static __always_inline __u32 client_hash(struct packet *p, bool with_port)
{
	__u32 h = 0x9e3779b9;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		h ^= p->source.word[i];
		h *= 0x85ebca6b;
		h ^= h >> 13;
		h ^= p->destination.word[i];
		h *= 0xc2b2ae35;
		h ^= h >> 16;
	}
	h ^= (with_port ? (__u32)p->source_port << 16 : 0) | p->destination_port;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h ^= p->protocol;
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

/* What the functions about services work on; too large for the stack. */
static __always_inline struct service_work *service_work(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&service_scratch, &zero);
}

/* The entry that keeps a choice, with what has not to do with the packet in it. */
static __always_inline struct connection *new_entry(__u8 flags, const struct address *translated, __be16 port)
{
	__u32 zero = 0;
	struct connection *c = bpf_map_lookup_elem(&scratch, &zero);

	if (!c)
		return NULL;
	__builtin_memset(c, 0, sizeof(*c));
	c->flags = flags;
	c->initiator = EGRESS;
	c->translated = *translated;
	c->translated_port = port;
	return c;
}

/* `stale`: what `connections` has under this key, or NULL; see keep_opening(). */
static __always_inline int keep_entry(struct connection_key *key, struct connection *c, struct packet *p,
				      __u64 now, struct connection *stale)
{
	c->expires = choice_lifetime(c, p, now, true);
	c->packets[OUT] = 1;
	c->bytes[OUT] = p->length;
	return keep_opening(key, c, stale, now) ? -DROP_CT_INSERT : 0;
}

/* The same in the place of whatever either table has. */
static __always_inline int keep_instead(struct connection_key *key, struct connection *c, struct packet *p,
					__u64 now)
{
	if (!config.dry_run)
		bpf_map_delete_elem(&connections, key);
	return keep_entry(key, c, p, now, NULL);
}

static __always_inline void touch_entry(struct connection *c, struct packet *p, __u8 side, __u64 now,
					bool opening)
{
	if (config.dry_run || p->related)
		return;
	if ((c->initiator == EGRESS) != (side == OUT))
		c->flags |= CONNECTION_REPLIED;
	c->expires = choice_lifetime(c, p, now, opening);
	c->packets[side & 1]++;
	c->bytes[side & 1] += p->length;
}

/* The entry of an open connection, or then `opening` of one that is being opened; NULL where it is over. */
static __always_inline struct connection *find_entry(struct connection_key *key, __u64 now, bool *opening)
{
	struct connection *c = bpf_map_lookup_elem(&connections, key);

	*opening = false;
	if (c && c->expires >= now)
		return c;
	c = bpf_map_lookup_elem(&openings, key);
	*opening = true;
	return c && c->expires >= now ? c : NULL;
}

/*
 * What choose_backend() found a choice for is open: so is the choice. The packet has the backend as its
 * destination now.
 */
__verified_once int open_choice(struct packet *p, __u16 endpoint)
{
	struct service_work *w = service_work();
	struct connection *c;

	if (!p || !w || !w->opening)
		return 0;
	connection_key(&w->key, p, endpoint, OUT);
	w->key.remote = w->front;
	w->key.remote_port = w->front_port;
	c = bpf_map_lookup_elem(&openings, &w->key);
	if (c)
		confirm(&w->key, c, bpf_ktime_get_coarse_ns());
	return 0;
}

/*
 * Sets w->backend, w->port and w->fresh, and w->front and w->front_port from the packet. 0, NO_SERVICE,
 * REFUSED or a negative drop reason.
 */
__verified_once int choose_backend(struct packet *p, __u32 view, __u16 endpoint)
{
	struct service_work *w = service_work();
	struct connection *c, *stale;
	struct service *service = NULL;
	__u64 now = bpf_ktime_get_coarse_ns();

	if (!p || !w)
		return -DROP_CT_INSERT;
	w->fresh = false;
	w->opening = false;
	w->front = p->destination;
	w->front_port = p->destination_port;
	connection_key(&w->key, p, endpoint, OUT);
	c = bpf_map_lookup_elem(&connections, &w->key);
	stale = c;
	if (c && c->expires < now)
		c = NULL;
	if (!c) {
		/* An error chooses nobody. */
		if (!p->related) {
			service = find_service(&p->destination, p->destination_port, p->protocol);
			if (!service)
				return NO_SERVICE;
		}
		c = bpf_map_lookup_elem(&openings, &w->key);
		if (c && c->expires < now)
			c = NULL;
		w->opening = c;
	}
	/* The address is a service's now, and was somebody's before. */
	if (c && !(c->flags & CONNECTION_SERVICE))
		return NO_SERVICE;
	if (c && still_chosen(c, p, view)) {
		touch_entry(c, p, OUT, now, w->opening);
		w->backend = c->translated;
		w->port = c->translated_port;
		return 0;
	}
	w->opening = false;
	if (!service && !p->related)
		service = find_service(&p->destination, p->destination_port, p->protocol);
	if (!service)
		return NO_SERVICE;
	if (view == OUTSIDE) {
		/* Cluster addresses are the cluster's. */
		if (service->kind == KIND_CLUSTER_IP)
			return NO_SERVICE;
		if (!may_come(service, &p->source))
			return -DROP_NOT_IN_SOURCE_RANGE;
		w->pick.hash = client_hash(p, !service->affinity);
	} else if (leaves_alone(service, &p->destination)) {
		return NO_SERVICE;
	}
	w->pick.client = p->source;
	w->pick.by_address = 1;
	w->pick.view = view;
	if (pick_backend(service, &w->pick))
		return service->flags & (view == OUTSIDE ? SERVICE_DROP_OUTSIDE : SERVICE_DROP_INSIDE)
			   ? -DROP_NO_BACKEND
			   : REFUSED;
	w->fresh = true;
	w->backend = w->pick.backend.address;
	w->port = w->pick.backend.port;
	c = new_entry(CONNECTION_SERVICE, &w->backend, w->port);
	if (!c)
		return -DROP_CT_INSERT;
	c->revision = w->pick.id;
	return keep_entry(&w->key, c, p, now, stale);
}
