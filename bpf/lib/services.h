/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From a service's address to one of its backends: three hash lookups, however many services there are. */
#pragma once

#include "maps.h"
#include "ipcache.h"

static __always_inline struct service *find_service(const struct address *address, __be16 port, __u8 protocol)
{
	struct service_key key = {.address = *address, .port = port, .protocol = protocol};
	struct service *service = bpf_map_lookup_elem(&services, &key);

	step_lookup(MAP_SERVICES, &key, service);
	return service;
}

/* A backend by its number, as long as it is one. */
static __always_inline struct backend *find_backend(__u32 id)
{
	struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	step_lookup(MAP_BACKENDS, &id, backend);
	return backend;
}

/*
 * Whether a client inside of the cluster asks the address itself and not the service: whoever may make a
 * service could take any address of the world from the pods (CVE-2020-8554), where nobody allowed that.
 */
static __always_inline bool leaves_alone(const struct service *service, const struct address *address)
{
	return service->kind == KIND_EXTERNAL_IP && !(service->flags & SERVICE_EXTERNAL_INSIDE) &&
	       !is_host(address);
}

static __always_inline bool may_come(const struct service *service, const struct address *client)
{
	struct range_key key = {.prefixlen = 32 + 128, .service = service->id, .address = *client};

	return !(service->flags & SERVICE_RANGES) || bpf_map_lookup_elem(&source_ranges, &key);
}

/* The number that stands where the client's connection leads to in the service's Maglev table; 0: none. */
static __always_inline __u32 in_table(const struct service *service, __u32 hash)
{
	__u32 list = service->view[OUTSIDE].list, place;
	void *table = bpf_map_lookup_elem(&maglev, &list);
	__u32 *id;

	if (!table || !config.maglev_size)
		return 0;
	place = hash % config.maglev_size;
	id = bpf_map_lookup_elem(table, &place);
	return id ? *id : 0;
}

/* 0 with the backend in `q`, or -DROP_NO_BACKEND. */
__verified_once int pick_backend(struct service *service, struct pick *q)
{
	struct affinity_key who = {};
	struct slot_key key = {};
	struct backend *backend = NULL;
	__u32 *slot, view, count;
	__u64 now = 0;

	if (!service || !q)
		return -DROP_NO_BACKEND;
	view = q->view & 1;
	count = service->view[view].count;
	key.list = service->view[view].list;
	if (!count)
		return -DROP_NO_BACKEND;
	who.client = q->client;
	who.service = service->id;
	who.by_address = q->by_address;
	if (service->affinity) {
		struct affinity_value *last = bpf_map_lookup_elem(&affinity, &who);

		step_lookup(MAP_AFFINITY, &who, last);
		now = bpf_ktime_get_coarse_ns();
		if (last && last->until > now) {
			backend = find_backend(last->backend);
			if (backend && (backend->flags & (1 << view))) {
				if (!config.dry_run)
					last->until = now + service->affinity * NSEC_PER_SEC;
				q->id = last->backend;
				q->backend = *backend;
				return 0;
			}
		}
	}
	backend = NULL;
	if (view == OUTSIDE && (service->flags & SERVICE_MAGLEV)) {
		q->id = in_table(service, q->hash);
		backend = find_backend(q->id);
	}
	/* The list may just have been changed: then what a slot had is looked for again. */
#pragma unroll
	for (int i = 0; i < 3; i++) {
		if (backend)
			break;
		key.slot = i == 2 ? 0 : bpf_get_prandom_u32() % count;
		slot = bpf_map_lookup_elem(&slots, &key);
		if (!slot)
			continue;
		q->id = *slot;
		backend = find_backend(q->id);
	}
	if (!backend)
		return -DROP_NO_BACKEND;
	q->backend = *backend;
	if (service->affinity && !config.dry_run) {
		struct affinity_value value = {.until = now + service->affinity * NSEC_PER_SEC,
					       .backend = q->id};

		bpf_map_update_elem(&affinity, &who, &value, BPF_ANY);
	}
	return 0;
}
