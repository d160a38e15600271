// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * to_pod: tcx egress of the host side of a pod's veth: what the host's stack sends into a pod.
 * May assume: the packet was routed by this node. Packets redirected into the pod never come here.
 */
#define FILE_NUMBER 2
#include "lib/work.h"
#include "lib/host_firewall.h"

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	struct work *w = begin_work(INGRESS);
	struct packet *p;
	struct report *r;
	struct tracking *in;
	struct endpoint *ep, *sender;
	int err;

	if (!w)
		return TC_ACT_SHOT;
	p = &w->packet;
	r = &w->report;
	in = &w->in;
	in->peer_known = false;
	err = parse(skb, p);
	if (err == PASS_TO_KERNEL)
		return TC_ACT_OK;
	if (err < 0)
		return drop(skb, p, r, err);
	ep = local_endpoint(&p->destination);
	if (!ep || ep->ifindex != skb->ifindex)
		return drop(skb, p, r, DROP_NO_LOCAL_ENDPOINT);
	if (is_host(&p->source)) {
		in->peer_known = true;
		in->peer.identity = ep->identity;
		err = host_egress(skb, w, in);
		if (err)
			return drop(skb, p, r, err);
		__builtin_memset(in, 0, sizeof(*in));
		in->side = IN;
	}
	if (in_pod_range(&p->source)) {
		sender = local_endpoint(&p->source);
		if (sender) {
			in->peer_known = true;
			in->peer.identity = sender->identity;
		}
	}
	err = admit(skb, w, ep, in);
	if (err)
		return drop(skb, p, r, err);
	if (in->to_proxy)
		return admitted_to_proxy(skb, p, in, r);
	trace(skb, p, r, TO_ENDPOINT, in->report);
	return TC_ACT_OK;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
