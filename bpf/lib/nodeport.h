/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Clients outside of the cluster: node ports, load balancers' and external addresses, host ports.
 *
 * A backend here: destination translated; the pod's entry has the service's address for the answers.
 * The node is the backend: destination translated, to the stack; to_netdev puts the address back.
 * A backend elsewhere: destination and source are translated, so that the answers come back here;
 * from_netdev (from_overlay through a tunnel) undoes both.
 *
 * Two entries of the node: the choice under the client and the service, and under the client and the backend
 * what to put back. Both lie in `openings` until the client goes on after an answer. Answers that do not come
 * back here (direct server return) are not waited for.
 */
#pragma once

#include "deliver.h"
#include "dsr.h"
#include "encap.h"
#include "fib.h"
#include "front.h"
#include "pmtu.h"
#include "refuse.h"

/*
 * What the proxy of an ingress policy answers a client outside with, in place of a pod of this node: the
 * pod's entry has the address of the service that the client asked. 1: it is the source now; 0: the client
 * asked the pod itself; or a negative drop reason.
 */
static __noinline int restore_front_of_proxy(struct __sk_buff *skb, struct packet *p)
{
	struct connection_key *key = track_key();
	struct connection *c;
	struct endpoint *ep;
	__u64 now = bpf_ktime_get_coarse_ns();
	const __u8 wanted = CONNECTION_PROXY | CONNECTION_REVERSE;
	bool opening;
	int err;

	if (!key)
		return 0;
	ep = local_endpoint(&p->source);
	if (!ep)
		return 0;
	connection_key(key, p, ep->id, OUT);
	c = find_entry(key, now, &opening);
	if (!c || (c->flags & wanted) != wanted || c->initiator != INGRESS)
		return 0;
	if (!config.dry_run)
		refresh(c, p, OUT, now, opening);
	err = nat_rewrite(skb, p, true, &c->translated, c->translated_port);
	return err ? err : 1;
}

static __always_inline int swap_macs(struct __sk_buff *skb, struct packet *p)
{
	__u8 macs[12];

	__builtin_memcpy(macs, p->source_mac, 6);
	__builtin_memcpy(macs + 6, p->dest_mac, 6);
	return bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

/* Not verdicts: the packet is for no service; it has to go through the tunnel to r->tunnel, which needs more
 * of the stack than there is left here. */
#define NOT_SERVED (-1000)
#define ENCAPSULATE (-1001)
#define ELSEWHERE (-1002)

/* Of from_client(): with what it has to tell the backend's node the packet is larger than the way takes. */
#define TOO_LARGE 3

static __always_inline bool too_large_to_tell(struct __sk_buff *skb, const struct packet *p)
{
	return by_dsr(p) && dsr_length(p) && (p->v6 || !p->may_fragment) && !segment_size(skb) &&
	       packet_length(skb) - ETH_HLEN + dsr_length(p) > config.mtu;
}

/* To a backend on another node. A verdict, ENCAPSULATE or a negative drop reason. */
__verified_once int to_backend(struct __sk_buff *skb, struct packet *p, struct report *r)
{
	struct service_work *w = service_work();
	struct peer peer;
	int err;

	if (!p || !r || !w)
		return -DROP_INVALID;
	find_peer(&p->destination, &peer);
	r->source_identity = IDENTITY_WORLD;
	r->dest_identity = peer.identity;
	if (by_dsr(p)) {
		err = tell_front(skb, p, &w->front, w->front_port);
		return err ? err : forward_by_fib(skb, p);
	}
	/* Through a tunnel only the router's address comes back by itself; see snat_client() for what is
	 * open. */
	if (config.tunnel && peer.tunnel)
		w->from =
		    p->v6 ? config_address(&config.router_address6) : config_address(&config.router_address);
	else
		w->from =
		    p->v6 ? config_address(&config.node_address6) : config_address(&config.node_address);
	err = snat_client(skb, p, &w->from);
	if (err)
		return err;
	if (config.tunnel && peer.tunnel) {
		r->vni = IDENTITY_WORLD;
		r->tunnel = peer.tunnel;
		return ENCAPSULATE;
	}
	return forward_by_fib(skb, p);
}

/* A packet of a client outside becomes one to a backend. 0, NO_SERVICE, REFUSED, TOO_LARGE or a negative drop
 * reason. */
__verified_once int from_client(struct __sk_buff *skb, struct packet *p, struct tracking *in)
{
	struct service_work *w = service_work();
	int err;

	if (!p || !in || !w)
		return -DROP_INVALID;
	if (!has_ports(p->protocol) && !p->related)
		return NO_SERVICE;
	err = choose_backend(p, OUTSIDE, NODE_ENDPOINT);
	if (err)
		return err;
	if (too_large_to_tell(skb, p) && !local_endpoint(&w->backend) && !is_host(&w->backend))
		return TOO_LARGE;
	/* Of an error what it quotes as well: the answer that it is about was the backend's. */
	err = nat_rewrite(skb, p, false, &w->backend, w->port);
	if (err || p->related)
		return err;
	in->has_service = true;
	in->service = w->front;
	in->service_port = w->front_port;
	in->opening = w->opening;
	if (local_endpoint(&p->destination))
		return 0;
	if (by_dsr(p) && !is_host(&p->destination))
		return p->tcp_flags & (TCP_SYN | TCP_RST) ? 0 : open_choice(p, NODE_ENDPOINT);
	return remember_front(p, w);
}

/*
 * A packet of a client outside. A verdict; ELSEWHERE: to_backend() has to send it on; NOT_SERVED: it is for
 * no service, or has one of this node's pods as its destination now. `in`: its ingress side.
 */
__verified_once int serve_client(struct __sk_buff *skb, struct packet *p, struct report *r,
				 struct tracking *in)
{
	int err, verdict;

	if (!p || !r || !in)
		return TC_ACT_SHOT;
	err = from_client(skb, p, in);
	if (err == NO_SERVICE)
		return NOT_SERVED;
	if (err == REFUSED) {
		verdict = drop(skb, p, r, DROP_NO_BACKEND);
		if (refuse(skb, p) || swap_macs(skb, p))
			return verdict;
		return bpf_redirect(at_interface(skb), 0);
	}
	if (err == TOO_LARGE) {
		/* As if the service had said so: what the client sent is quoted as it was. */
		verdict = drop(skb, p, r, DROP_FRAGMENTATION);
		if (answer_too_big(skb, p, config.mtu - dsr_length(p), &p->destination))
			return verdict;
		return bpf_redirect(at_interface(skb), 0);
	}
	if (err)
		return drop(skb, p, r, err);
	if (local_endpoint(&p->destination))
		return NOT_SERVED;
	if (!is_host(&p->destination))
		return ELSEWHERE;
	trace(skb, p, r, TO_HOST, !config.aggregate || (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
	return TC_ACT_OK;
}

/* The answer of a backend elsewhere, after snat_in(): on to the client. A verdict or NOT_SERVED. */
__verified_once int serve_answer(struct __sk_buff *skb, struct packet *p, struct report *r)
{
	int err;

	if (!p || !r)
		return TC_ACT_SHOT;
	err = restore_front(skb, p);
	if (!err)
		return NOT_SERVED;
	if (err < 0)
		return drop(skb, p, r, err);
	err = forward_by_fib(skb, p);
	r->reply = 1;
	trace(skb, p, r, TO_NETWORK, !config.aggregate || (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
	return err;
}

/*
 * A packet for an address of the node, which may be an answer to what left with that address. A verdict or
 * NOT_SERVED; then it may have got a pod's address as its destination back.
 */
__verified_once int serve_reply(struct __sk_buff *skb, struct packet *p, struct report *r)
{
	int err;

	if (!p || !r)
		return TC_ACT_SHOT;
	err = snat_in(skb, p);
	if (err < 0)
		return drop(skb, p, r, err);
	return err == SNAT_RESTORED ? serve_answer(skb, p, r) : NOT_SERVED;
}
