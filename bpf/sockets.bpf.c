// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Socket programs on the cgroup's root: a connection to a service is one to its backend from the start, so
 * that no packet of it is ever translated. May assume: the caller is a process below the configured cgroup,
 * in any network namespace.
 */
#include <linux/in.h>
#include "lib/services.h"

#define FORWARD 1 /* Hubble's SocketTranslationPoint: before, after */
#define FORWARDED 2
#define REJECT 0
#define PROCEED 1
#define ECONNREFUSED 111

/* Without the helper (a dead branch to the verifier then) the caller sees EPERM. */
static __always_inline void refuse(void)
{
	if (config.set_retval)
		bpf_set_retval(-ECONNREFUSED);
}

static __noinline int report(struct bpf_sock_addr *ctx, __u8 point, __be32 address, __be16 port)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	__u64 namespace = bpf_get_netns_cookie(ctx);
	struct socket_owner *owner;
	__u32 zero = 0;
	__u64 *n;

	if (!e) {
		n = bpf_map_lookup_elem(&lost, &zero);
		if (n)
			__sync_fetch_and_add(n, 1);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	e->type = EVENT_SOCKET;
	e->subtype = point;
	e->direction = EGRESS;
	e->reply = REPLY_UNKNOWN;
	e->protocol = ctx->protocol;
	owner = bpf_map_lookup_elem(&namespaces, &namespace);
	if (owner) {
		e->source = owner->address;
		e->source_identity = owner->identity;
		e->endpoint = owner->id;
	} else {
		/* Not a pod's: the node itself, or a pod of its network. */
		e->source = mapped(config.node_address.word[3]);
		e->source_identity = IDENTITY_HOST;
	}
	e->destination = mapped(address);
	e->dest_port = port;
	e->socket_cookie = bpf_get_socket_cookie(ctx);
	e->cgroup = bpf_get_current_cgroup_id();
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline int translate(struct bpf_sock_addr *ctx, bool connecting)
{
	__be32 address = ctx->user_ip4;
	__be16 port = ctx->user_port;
	struct address front;
	struct service *service;
	struct backend backend;
	struct socket_key key = {};
	struct socket_value was = {};

	if (!config.services || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return PROCEED;
	front = mapped(address);
	service = find_service(&front, port, ctx->protocol);
	if (!service)
		return PROCEED;
	if (pick_backend(service, bpf_get_netns_cookie(ctx), 0, &backend)) {
		refuse();
		return REJECT;
	}
	if (connecting)
		report(ctx, FORWARD, address, port);
	key.cookie = bpf_get_socket_cookie(ctx);
	key.address = backend.address.word[3];
	key.port = backend.port;
	was.address = address;
	was.port = port;
	/* getpeername and recvmsg show the service again; without room for it they show the backend. */
	bpf_map_update_elem(&sockets, &key, &was, BPF_ANY);
	ctx->user_ip4 = backend.address.word[3];
	ctx->user_port = backend.port;
	if (connecting)
		report(ctx, FORWARDED, backend.address.word[3], backend.port);
	return PROCEED;
}

static __always_inline int restore(struct bpf_sock_addr *ctx)
{
	struct socket_key key = {};
	struct socket_value *was;

	if (!config.services || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return PROCEED;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.address = ctx->user_ip4;
	key.port = ctx->user_port;
	was = bpf_map_lookup_elem(&sockets, &key);
	if (was) {
		ctx->user_ip4 = was->address;
		ctx->user_port = was->port;
	}
	return PROCEED;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return translate(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate(ctx, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore(ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return restore(ctx);
}

char program_license[] SEC("license") = "Dual BSD/GPL";
