// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * from_pod: tcx ingress of the host side of a pod's veth.
 * May assume: Ethernet frames; nothing about what the pod wrote into them.
 */
#define FILE_NUMBER 1
#include "lib/work.h"
#include "lib/deliver.h"
#include "lib/translate.h"
#include "lib/encap.h"
#include "lib/fib.h"
#include "lib/host_firewall.h"
#include "lib/neighbour.h"
#include "lib/pmtu.h"
#include "lib/shortcut.h"
#include "lib/snat.h"

#define CONTINUE (-1)

/* Services: a verdict, or CONTINUE with the packet as it should go on. */
__verified_once int serve(struct __sk_buff *skb, struct packet *p, struct report *r, struct endpoint *ep,
			  struct tracking *out)
{
	int err, verdict;

	if (!p || !r || !ep || !out)
		return TC_ACT_SHOT;
	if (is_hairpin(p)) {
		err = hairpin_back(skb, p, ep);
	} else {
		err = translate(skb, p, ep, out);
		if (err == REFUSED) {
			verdict = drop(skb, p, r, DROP_NO_BACKEND);
			/* The refusal goes back to the pod as if the service had sent it. */
			return refuse(skb, p) ? verdict : to_peer_of(skb, ep);
		}
		if (err)
			return drop(skb, p, r, err);
		if (!out->has_service || !same_address(&p->source, &p->destination))
			return CONTINUE;
		err = hairpin(skb, p, ep, out);
	}
	if (err)
		return drop(skb, p, r, err);
	/* A pod may always talk to itself. */
	err = to_peer_of(skb, ep);
	if (err < 0)
		return drop(skb, p, r, err);
	trace(skb, p, r, TO_ENDPOINT, !config.aggregate);
	return err;
}

/*
 * What meets_another() told of. The client hears of it at once, as if from where it sent to, and will take
 * another port; else it would wait until the other connection has ended.
 */
static __always_inline int refuse_another(struct __sk_buff *skb, struct packet *p, struct report *r,
					  struct endpoint *ep, struct tracking *out)
{
	int verdict = drop(skb, p, r, DROP_CT_INSERT);

	if (out->has_service && nat_rewrite(skb, p, false, &out->service, out->service_port))
		return verdict;
	return refuse(skb, p) ? verdict : to_peer_of(skb, ep);
}

/* Before a packet leaves the node; 0 or a negative drop reason. What stays on the node has no limit. */
static __always_inline int leave(struct __sk_buff *skb, struct packet *p, struct endpoint *ep, __u32 tunnel)
{
	return config.bandwidth && (ep->flags & ENDPOINT_LIMIT_EGRESS) ? limit_egress(skb, p, ep, tunnel) : 0;
}

static __always_inline int from_neighbour(struct __sk_buff *skb, struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	struct endpoint *owner = bpf_map_lookup_elem(&interfaces, &ifindex);

	return owner ? pod_neighbour(skb, p, owner) : TC_ACT_OK;
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct work *w = begin_work(EGRESS);
	struct packet *p;
	struct report *r;
	struct tracking *out, *in;
	struct endpoint *ep, *local;
	struct connection *known;
	bool native;
	int err;

	if (!w)
		return TC_ACT_SHOT;
	p = &w->packet;
	r = &w->report;
	out = &w->out;
	in = &w->in;
	/* The tag is not in the frame that is parsed. */
	if (skb->vlan_present)
		return drop(skb, p, r, DROP_UNSUPPORTED_L3);
	err = parse(skb, p);
	if (err == PASS_TO_KERNEL) {
		err = from_neighbour(skb, p);
		return err < 0 ? drop(skb, p, r, err) : err;
	}
	if (err == -DROP_UNSUPPORTED_L3 || (err < 0 && is_nothing(&p->source)))
		return drop(skb, p, r, err);
	if (err == PARSED && in_pod_range(&p->destination)) {
		int verdict = take_shortcut(skb, w);

		if (verdict != NO_SHORTCUT)
			return verdict;
	}
	ep = local_endpoint(&p->source);
	if (!ep || ep->ifindex != skb->ifindex) {
		__u32 ifindex = skb->ifindex;
		struct endpoint *owner = bpf_map_lookup_elem(&interfaces, &ifindex);

		if (owner) {
			r->endpoint = owner->id;
			r->source_identity = owner->identity;
		}
		return drop(skb, p, r, DROP_INVALID_SIP);
	}
	r->endpoint = ep->id;
	r->source_identity = ep->identity;
	if (err < 0)
		return drop(skb, p, r, err);
	if (!same_mac(p->source_mac, ep->pod_mac))
		return drop(skb, p, r, DROP_INVALID_SMAC);
	if (config.tunnel && is_too_large(skb, p) && !local_endpoint(&p->destination) &&
	    !is_host(&p->destination)) {
		drop(skb, p, r, DROP_FRAGMENTATION);
		err = pod_sent_too_big(skb, p);
		return err < 0 ? TC_ACT_SHOT : err;
	}

	known = is_hairpin(p) ? NULL : open_without_service(p, ep);
	if (!known && config.services && (has_ports(p->protocol) || p->related)) {
		err = serve(skb, p, r, ep, out);
		if (err != CONTINUE)
			return err;
	}
	local = in_pod_range(&p->destination) ? local_endpoint(&p->destination) : NULL;
	if (local) {
		out->peer_known = true;
		out->peer.identity = local->identity;
	}
	/* A new connection to the world leaves past the host's netfilter, and its replies come back past it.
	 */
	out->from_wire = masquerades(&p->source);
	err = track(skb, w, ep, out, known);
	if (err == -DROP_CT_INSERT)
		return refuse_another(skb, p, r, ep, out);
	if (err)
		return drop(skb, p, r, err);
	if (out->opening && out->open)
		open_choice(p, ep->id);
	if (out->to_proxy && proxy_takes(skb, p, out->proxy_port)) {
		trace(skb, p, r, TO_PROXY, out->report);
		return redirect_to_proxy(skb, out->proxy_port);
	}
	/* The answer to a client outside, who asked a service. */
	if (out->reverse) {
		err = nat_rewrite(skb, p, true, &out->service, out->service_port);
		if (err)
			return drop(skb, p, r, err);
	}

	if (local) {
		count(0, EGRESS, p->length);
		in->peer.identity = ep->identity;
		err = admit(skb, w, local, in);
		if (err)
			return drop(skb, p, r, err);
		if (in->to_proxy)
			return admitted_to_proxy(skb, p, in, r);
		err = to_peer_of(skb, local);
		if (err < 0)
			return drop(skb, p, r, err);
		if (known)
			shorten(skb, w, ep, local, known);
		trace(skb, p, r, TO_ENDPOINT, in->report);
		return err;
	}
	if (config.tunnel && out->peer.tunnel) {
		r->vni = identity_to_vni(ep->identity);
		r->tunnel = out->peer.tunnel;
		err = leave(skb, p, ep, tunnel_overhead());
		if (!err)
			err = encapsulate_here(skb, p, out->peer.tunnel, ep->identity);
		if (err < 0)
			return drop(skb, p, r, err);
		trace(skb, p, r, TO_OVERLAY, out->report);
		return err;
	}
	/* Masqueraded to the node's address it would pass for a packet of the node's own tunnel. */
	if (config.untunnel && p->protocol == IPPROTO_UDP && p->destination_port == config.tunnel_port)
		return drop(skb, p, r, DROP_ENCAP_PROHIBITED);
	/* Past the host's netfilter: what is routed as it is, and replies to what came in past it. */
	native = out->peer.identity != IDENTITY_HOST && in_native_range(&p->destination) &&
		 (!config.tunnel || !in_pod_range(&p->destination));
	if (native || (out->reply && out->from_wire)) {
		err = leave(skb, p, ep, 0);
		if (err)
			return drop(skb, p, r, err);
		err = forward_by_fib(skb, p);
		trace(skb, p, r, err == TC_ACT_OK ? TO_STACK : TO_NETWORK, out->report);
		return err;
	}
	/* A pod that nobody knows of: its packets would wander between the node and its default route. */
	if (in_pod_range(&p->destination) && !is_router(&p->destination))
		return drop(skb, p, r, DROP_NO_LOCAL_ENDPOINT);
	err = out->peer.identity == IDENTITY_HOST ? 0 : leave(skb, p, ep, 0);
	if (err)
		return drop(skb, p, r, err);
	/* To the world: to_netdev sees to the address. What was opened by way of netfilter stays there. */
	if (out->from_wire && out->peer.identity != IDENTITY_HOST) {
		err = forward_by_route(skb, p, true);
		trace(skb, p, r, err == TC_ACT_OK ? TO_STACK : TO_NETWORK, out->report);
		return err;
	}
	if (out->peer.identity == IDENTITY_HOST) {
		in->peer.identity = ep->identity;
		err = host_ingress(skb, w, in);
		if (err)
			return drop(skb, p, r, err);
	}
	trace(skb, p, r, out->peer.identity == IDENTITY_HOST ? TO_HOST : TO_STACK, out->report);
	return TC_ACT_OK;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
