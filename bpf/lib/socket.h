/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a socket gets that connects to an address; for the socket programs and for those that explain them. */
#pragma once

#include "services.h"

/* No address at all: for a socket that connects to it the kernel takes the loopback (ip_route_output_key,
 * tcp_v6_connect). */
static __always_inline bool is_unspecified(const struct address *a)
{
	return !a->word[0] && !a->word[1] && !a->word[3] && (!a->word[2] || is_v4(a));
}

static __always_inline bool is_loopback(const struct address *a)
{
	if (is_unspecified(a))
		return true;
	if (is_v4(a))
		return (a->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !(a->word[0] | a->word[1] | a->word[2]) && a->word[3] == bpf_htonl(1);
}

/* A node port by any node's address, as far as it is the same whichever node is asked. */
static __always_inline struct service *find_node_port(const struct address *address, __be16 port,
						      __u8 protocol, bool host)
{
	struct address any = {};
	struct service *service;
	struct peer peer;

	if (is_v4(address))
		any = mapped(0);
	service = find_service(&any, port, protocol);
	if (!service)
		return NULL;
	if (is_loopback(address))
		return host ? service : NULL;
	find_peer(address, &peer);
	if (peer.identity == IDENTITY_HOST)
		return service;
	/* The other node knows whom it has. */
	if ((service->flags & SERVICE_EXTERNAL_LOCAL) || service->kind != KIND_NODE_PORT)
		return NULL;
	return peer.identity == IDENTITY_REMOTE_NODE ? service : NULL;
}

/*
 * The backend of a socket that connects to `address` and `port`, in `q`. 1: it has one; 0: the address is no
 * service's or stays as it is; or a negative drop reason: nobody is there.
 */
static __always_inline int choose_for_socket(struct address *address, __be16 port, __u8 protocol,
					     __u64 namespace, struct pick *q)
{
	bool host = !config.host_cookie || namespace == config.host_cookie;
	struct service *service = NULL;

	if (!config.services || (config.host_sockets && !host) ||
	    (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
		return 0;
	/* Node ports have no address either, and whoever names none means itself. */
	if (!is_unspecified(address))
		service = find_service(address, port, protocol);
	if (!service)
		service = find_node_port(address, port, protocol, host);
	if (!service)
		return 0;
	if (leaves_alone(service, address))
		return 0;
	*(__u64 *)&q->client = namespace;
	return pick_backend(service, q) ? -DROP_NO_BACKEND : 1;
}
