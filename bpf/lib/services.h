/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From a service's address to one of its backends: two hash lookups, however many services there are. */
#pragma once

#include "maps.h"
#include "ipcache.h"

static __always_inline struct service *find_service(const struct address *address, __be16 port, __u8 protocol)
{
	struct service_key key = {.address = *address, .port = port, .protocol = protocol};

	return bpf_map_lookup_elem(&services, &key);
}

/* client: the network namespace's cookie (sockets) or the address (packets). */
__verified_once int pick_backend(struct service *service, __u64 client, __u32 by_address, struct backend *out)
{
	struct affinity_key who = {.client = client, .by_address = by_address};
	struct backend_key key = {};
	struct backend *backend;
	__u64 now = 0;

	if (!service || !out || !service->count)
		return -DROP_NO_BACKEND;
	who.service = service->id;
	key.service = service->id;
	if (service->affinity) {
		struct affinity_value *last = bpf_map_lookup_elem(&affinity, &who);

		now = bpf_ktime_get_coarse_ns();
		if (last && last->until > now && last->generation == service->generation) {
			if (!config.dry_run)
				last->until = now + service->affinity * NSEC_PER_SEC;
			*out = last->backend;
			return 0;
		}
	}
	key.slot = bpf_get_prandom_u32() % service->count;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (!backend) {
		/* The list was just shortened. */
		key.slot = 0;
		backend = bpf_map_lookup_elem(&backends, &key);
		if (!backend)
			return -DROP_NO_BACKEND;
	}
	*out = *backend;
	if (service->affinity && !config.dry_run) {
		struct affinity_value value = {.until = now + service->affinity * NSEC_PER_SEC,
					       .backend = *backend,
					       .generation = service->generation};

		bpf_map_update_elem(&affinity, &who, &value, BPF_ANY);
	}
	return 0;
}
