// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * from_overlay: tcx ingress of the tunnel device: what from_netdev left to the tunnel device: packets for the
 * node itself, large ones that the kernel put together, and everything unusual. May assume: the kernel took
 * off the outer headers and kept them as tunnel metadata.
 */
#define FILE_NUMBER 4
#include "lib/work.h"
#include "lib/overlay.h"
#include "lib/host_firewall.h"
#include "lib/nodeport.h"

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	struct work *w = begin_work(INGRESS);
	struct packet *p;
	struct report *r;
	struct tracking *in;
	struct bpf_tunnel_key tunnel = {};
	struct address sender;
	struct endpoint *ep;
	int err;

	if (!w)
		return TC_ACT_SHOT;
	p = &w->packet;
	r = &w->report;
	in = &w->in;
	err = parse(skb, p);
	if (err)
		return drop(skb, p, r, err < 0 ? err : DROP_INVALID);
	if (config.dry_run) {
		/* A packet that is only tried has no metadata: see explain_walk.go. */
		tunnel.tunnel_id = skb->cb[0];
		tunnel.remote_ipv4 = bpf_ntohl(skb->cb[4]);
	} else if (bpf_skb_get_tunnel_key(skb, &tunnel, sizeof(tunnel),
					  config.underlay6 ? BPF_F_TUNINFO_IPV6 : 0))
		return drop(skb, p, r, DROP_NO_TUNNEL_KEY);
	if (config.underlay6)
		__builtin_memcpy(&sender, tunnel.remote_ipv6, sizeof(sender));
	else
		sender = mapped(bpf_htonl(tunnel.remote_ipv4));
	err = overlay_sender(p, r, &in->peer, tunnel.tunnel_id, &sender, false);
	if (err)
		return drop(skb, p, r, err);
	/* The inner frame is addressed to some other interface; without this no stack would look at it: not
	 * the node's, and not a pod's, since older kernels keep the mark on the way into another namespace.
	 */
	bpf_skb_change_type(skb, 0);
	/* Answers of backends elsewhere, to clients outside. To the node's address where the connection was
	 * opened without a tunnel. */
	if (config.services && is_host(&p->destination)) {
		int verdict = serve_reply(skb, p, r);

		if (verdict != NOT_SERVED)
			return verdict;
	}
	if (is_host(&p->destination)) {
		r->dest_identity = IDENTITY_HOST;
		err = host_ingress(skb, w, in);
		if (err)
			return drop(skb, p, r, err);
		trace(skb, p, r, TO_HOST,
		      !config.aggregate || (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
		return TC_ACT_OK;
	}
	ep = local_endpoint(&p->destination);
	if (!ep)
		return drop(skb, p, r, DROP_NO_LOCAL_ENDPOINT);
	err = admit(skb, w, ep, in);
	if (err)
		return drop(skb, p, r, err);
	if (in->to_proxy)
		return admitted_to_proxy(skb, p, in, r);
	err = to_peer_of(skb, ep);
	if (err < 0)
		return drop(skb, p, r, err);
	trace(skb, p, r, TO_ENDPOINT, in->report);
	return err;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
