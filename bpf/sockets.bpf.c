// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Socket programs on the cgroup's root: a connection to a service is one to its backend from the start, so
 * that no packet of it is ever translated. May assume: the caller is a process below the configured cgroup,
 * in any network namespace. A socket of version 6 that talks to an address of version 4 has it mapped, as
 * everything here has.
 */
#include <linux/in.h>
#include "lib/socket.h"

#define FORWARD 1 /* Hubble's SocketTranslationPoint: before, after */
#define FORWARDED 2
#define REJECT 0
#define PROCEED 1
#define AF_INET 2
#define EADDRINUSE 98
#define ECONNREFUSED 111

/* Without the helper (a dead branch to the verifier then) the caller sees EPERM. */
static __always_inline void refuse_with(int error)
{
	if (config.set_retval)
		bpf_set_retval(-error);
}

static __noinline int report(struct bpf_sock_addr *ctx, __u8 point, const struct address *address,
			     __be16 port)
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
		e->source = is_v4(address) ? config_address(&config.node_address)
					   : config_address(&config.node_address6);
		e->source_identity = IDENTITY_HOST;
	}
	e->destination = *address;
	e->dest_port = port;
	e->socket_cookie = bpf_get_socket_cookie(ctx);
	e->cgroup = bpf_get_current_cgroup_id();
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __noinline int translate(struct bpf_sock_addr *ctx, struct address *to, bool connecting)
{
	__be16 port = ctx->user_port;
	struct address address = *to;
	struct pick q = {.view = INSIDE};
	struct socket_key key = {};
	struct socket_value was = {};
	int chosen;

	chosen = choose_for_socket(&address, port, ctx->protocol, bpf_get_netns_cookie(ctx), &q);
	if (!chosen)
		return PROCEED;
	if (chosen < 0) {
		refuse_with(ECONNREFUSED);
		return REJECT;
	}
	if (connecting)
		report(ctx, FORWARD, &address, port);
	key.cookie = bpf_get_socket_cookie(ctx);
	key.address = q.backend.address;
	key.port = q.backend.port;
	was.address = address;
	was.port = port;
	/* getpeername and recvmsg show the service again; without room for it they show the backend. */
	bpf_map_update_elem(&sockets, &key, &was, BPF_ANY);
	*to = q.backend.address;
	ctx->user_port = q.backend.port;
	if (connecting)
		report(ctx, FORWARDED, &q.backend.address, q.backend.port);
	return PROCEED;
}

/* True: the socket believes to talk to what is in `a` now. */
static __noinline bool restore(struct bpf_sock_addr *ctx, struct address *a)
{
	struct socket_key key = {};
	struct socket_value *was;

	if (!config.services || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return false;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.address = *a;
	key.port = ctx->user_port;
	was = bpf_map_lookup_elem(&sockets, &key);
	if (!was)
		return false;
	*a = was->address;
	ctx->user_port = was->port;
	return true;
}

static __always_inline int translate4(struct bpf_sock_addr *ctx, bool connecting)
{
	struct address a = mapped(ctx->user_ip4);
	int verdict = translate(ctx, &a, connecting);

	ctx->user_ip4 = a.word[3];
	return verdict;
}

static __always_inline struct address address6(struct bpf_sock_addr *ctx)
{
	struct address a;

	a.word[0] = ctx->user_ip6[0];
	a.word[1] = ctx->user_ip6[1];
	a.word[2] = ctx->user_ip6[2];
	a.word[3] = ctx->user_ip6[3];
	return a;
}

static __always_inline void set_address6(struct bpf_sock_addr *ctx, const struct address *a)
{
	ctx->user_ip6[0] = a->word[0];
	ctx->user_ip6[1] = a->word[1];
	ctx->user_ip6[2] = a->word[2];
	ctx->user_ip6[3] = a->word[3];
}

static __always_inline int translate6(struct bpf_sock_addr *ctx, bool connecting)
{
	struct address a = address6(ctx);
	int verdict = translate(ctx, &a, connecting);

	set_address6(ctx, &a);
	return verdict;
}

static __always_inline int restore4(struct bpf_sock_addr *ctx)
{
	struct address a = mapped(ctx->user_ip4);

	if (restore(ctx, &a))
		ctx->user_ip4 = a.word[3];
	return PROCEED;
}

static __always_inline int restore6(struct bpf_sock_addr *ctx)
{
	struct address a = address6(ctx);

	if (restore(ctx, &a))
		set_address6(ctx, &a);
	return PROCEED;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return translate4(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate4(ctx, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return translate6(ctx, true);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return translate6(ctx, false);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

static __always_inline bool is_node_port(struct bpf_sock *ctx, const struct address *any)
{
	struct service *service = find_service(any, bpf_htons(ctx->src_port), ctx->protocol);

	return service && service->kind == KIND_NODE_PORT;
}

/*
 * A process of the node that binds to a node port would never see a client: it hears of it now. `v6` and `v4`
 * are the families that its socket may take clients of.
 */
static __always_inline int protect(struct bpf_sock *ctx, bool v6, bool v4)
{
	struct address any6 = {}, any4 = mapped(0);

	if (!config.services || !config.host_cookie || bpf_get_netns_cookie(ctx) != config.host_cookie ||
	    (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return PROCEED;
	if (!(v6 && is_node_port(ctx, &any6)) && !(v4 && is_node_port(ctx, &any4)))
		return PROCEED;
	refuse_with(EADDRINUSE);
	return REJECT;
}

SEC("cgroup/post_bind4")
int post_bind4(struct bpf_sock *ctx)
{
	return protect(ctx, false, true);
}

/*
 * What the context does not have, whether the socket was told to take clients of IPv6 alone: the context is
 * the kernel's socket, and after it is bound it cannot be told any more. Where that cannot be read (a dead
 * branch to the verifier then) it takes both: an error where none was due says more than clients that never
 * come.
 */
static __always_inline bool takes_both(struct bpf_sock *ctx)
{
	__u8 bits;

	if (!config.ipv6only_bit)
		return true;
	if (bpf_probe_read_kernel(&bits, sizeof(bits), (void *)ctx + config.ipv6only_at))
		return true;
	return !(bits & config.ipv6only_bit);
}

/* A socket bound to :: takes clients of both families, unless it was told not to. */
SEC("cgroup/post_bind6")
int post_bind6(struct bpf_sock *ctx)
{
	struct address a;

	a.word[0] = ctx->src_ip6[0];
	a.word[1] = ctx->src_ip6[1];
	a.word[2] = ctx->src_ip6[2];
	a.word[3] = ctx->src_ip6[3];
	if (a.word[0] | a.word[1] | a.word[2] | a.word[3])
		return protect(ctx, !is_v4(&a), is_v4(&a));
	return protect(ctx, true, takes_both(ctx));
}

/*
 * A socket that is closed needs nothing restored any more. Were its entry left to the table to evict, a pod
 * with many short connections would evict those of the node's long ones: getpeername() would show these a
 * backend, and the agent would not end them when their backend goes (socket_termination.go). What a socket
 * sent datagrams to without being connected is not known here, and is evicted.
 */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	struct socket_key key = {};

	if (!config.services || !ctx->dst_port ||
	    (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return PROCEED;
	if (ctx->family == AF_INET) {
		key.address = mapped(ctx->dst_ip4);
	} else {
		key.address.word[0] = ctx->dst_ip6[0];
		key.address.word[1] = ctx->dst_ip6[1];
		key.address.word[2] = ctx->dst_ip6[2];
		key.address.word[3] = ctx->dst_ip6[3];
	}
	key.cookie = bpf_get_socket_cookie(ctx);
	key.port = ctx->dst_port;
	bpf_map_delete_elem(&sockets, &key);
	return PROCEED;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
