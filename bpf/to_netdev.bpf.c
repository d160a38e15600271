// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * to_netdev: tcx egress of the node's devices: pods' packets that leave the cluster get the node's address,
 * and what a proxy answers in a pod's place that of the service which the client asked. May assume: Ethernet
 * frames that this node sends or forwards; a pod's packet was judged by from_pod.
 */
#define FILE_NUMBER 6
#include "lib/work.h"
#include "lib/masquerade.h"
#include "lib/nodeport.h"
#include "lib/host_firewall.h"

/* Addresses of an IP packet; false for anything else. */
static __always_inline bool addresses(struct __sk_buff *skb, struct address *source,
				      struct address *destination)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
		__be32 pair[2];

		/* In place where it can be: everything that leaves the node comes by here. */
		if ((void *)(ip + 1) <= (void *)(long)skb->data_end) {
			*source = mapped(ip->saddr);
			*destination = mapped(ip->daddr);
			return true;
		}
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), pair, sizeof(pair)))
			return false;
		*source = mapped(pair[0]);
		*destination = mapped(pair[1]);
		return true;
	}
	return skb->protocol == bpf_htons(ETH_P_IPV6) &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), source,
				   sizeof(*source)) &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), destination,
				   sizeof(*destination));
}

/* What the node itself sends, or what was given its address on the way. */
static __noinline int of_node(struct __sk_buff *skb, const struct address *to)
{
	struct work *w = begin_work(EGRESS);
	struct packet *p;
	struct report *r;
	int err;

	if (!w)
		return TC_ACT_UNSPEC;
	p = &w->packet;
	r = &w->report;
	/* The tunnel's own packets are nobody's connection. */
	if (parse(skb, p) ||
	    (config.untunnel && p->protocol == IPPROTO_UDP && p->destination_port == config.tunnel_port))
		return TC_ACT_UNSPEC;
	err = host_egress(skb, w, &w->out);
	if (err)
		return drop(skb, p, r, err);
	/* Of a service whose backend is the node itself. */
	err = config.services ? restore_front(skb, p) : 0;
	if (!err)
		err = snat_own(skb, p, to);
	return err < 0 ? drop(skb, p, r, err) : TC_ACT_UNSPEC;
}

static __noinline int of_pod(struct __sk_buff *skb, const struct address *to)
{
	struct work *w = begin_work(EGRESS);
	struct packet *p;
	struct report *r;
	struct endpoint *ep;
	int err;

	if (!w)
		return TC_ACT_SHOT;
	p = &w->packet;
	r = &w->report;
	err = parse(skb, p);
	if (err == PASS_TO_KERNEL)
		return TC_ACT_UNSPEC;
	if (!err && is_from_proxy(skb, INGRESS)) {
		err = restore_front_of_proxy(skb, p);
		/* A client of the cluster's own gets its answer as it is. */
		if (err > 0 || (!err && in_native_range(&p->destination)))
			return TC_ACT_UNSPEC;
		if (err)
			return drop(skb, p, r, err);
	}
	/* Without an address of this family on the device nothing can come back. */
	if (!err && (to->word[0] | to->word[1] | to->word[2] | to->word[3]))
		err = masquerade(skb, p, to);
	if (err >= 0 || !masquerades(&p->source) || is_exempt(&p->destination))
		return TC_ACT_UNSPEC;
	ep = local_endpoint(&p->source);
	if (ep) {
		r->endpoint = ep->id;
		r->source_identity = ep->identity;
	}
	r->dest_identity = IDENTITY_WORLD;
	return drop(skb, p, r, err);
}

SEC("tc")
int to_netdev(struct __sk_buff *skb)
{
	struct address source, destination, to;
	__u32 ifindex = skb->ifindex;
	struct device *device;

	if (!addresses(skb, &source, &destination))
		return TC_ACT_UNSPEC;
	/* A pod of another node may have asked a service by an address of this node. */
	if (in_pod_range(&source) && in_native_range(&destination) && !is_from_proxy(skb, INGRESS))
		return TC_ACT_UNSPEC;
	device = bpf_map_lookup_elem(&devices, &ifindex);
	if (!device)
		return TC_ACT_UNSPEC;
	to = is_v4(&source) ? device->address : device->address6;
	if (in_pod_range(&source))
		return of_pod(skb, &to);
	/* By whatever device: a service's answer has the address that its backend has. */
	return same_address(&source, &to) || is_host(&source) ? of_node(skb, &source) : TC_ACT_UNSPEC;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
