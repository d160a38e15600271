// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * from_netdev: tcx ingress of the node's devices: packets for this node's pods, as they are or in the tunnel.
 * May assume: Ethernet frames. What is not for a pod is left alone, unless it claims to come from one.
 */
#define FILE_NUMBER 3
#include "lib/work.h"
#include "lib/decap.h"
#include "lib/nodeport.h"
#include "lib/host_firewall.h"

/* Whether a packet for the node may be one that snat_in() knows: a glance before it is parsed. */
static __always_inline bool answers(struct __sk_buff *skb, __u8 protocol, __u32 l4, bool later_fragment)
{
	__be16 port;
	__u8 type;

	if (later_fragment)
		return has_ports(protocol) || is_icmp(protocol);
	switch (protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return !bpf_skb_load_bytes(skb, l4 + 2, &port, sizeof(port)) &&
		       bpf_ntohs(port) >= config.nat_lowest;
	case IPPROTO_ICMP:
		return !bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) && type != ICMP_ECHO;
	case IPPROTO_ICMPV6:
		return !bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) &&
		       (type < ICMP6_ECHO_REQUEST || type == ICMP6_ECHO_REPLY);
	}
	/* Behind an extension header anything may be. */
	return protocol == IPPROTO_SCTP || protocol == EXTENSION_FRAGMENT;
}

/* Packets of the tunnel that can be taken out of it here; TC_ACT_UNSPEC for all others. */
static __noinline int from_tunnel(struct __sk_buff *skb, struct outer_packet *outer)
{
	struct work *w = begin_work(INGRESS);
	struct packet *p;
	struct report *r;
	struct tracking *in;
	struct endpoint *ep;
	int err;

	if (!w)
		return TC_ACT_UNSPEC;
	p = &w->packet;
	r = &w->report;
	in = &w->in;
	if (!decapsulate(skb, outer))
		return TC_ACT_UNSPEC;
	err = parse(skb, p);
	if (err)
		return drop(skb, p, r, err < 0 ? err : DROP_INVALID);
	err = overlay_sender(p, r, &in->peer, outer->vni, &outer->source, true);
	if (err)
		return drop(skb, p, r, err);
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

/* Packets for pods' addresses: their own, or what masquerading replaced. */
static __noinline int from_wire(struct __sk_buff *skb)
{
	struct work *w = begin_work(INGRESS);
	struct packet *p;
	struct report *r;
	struct tracking *in;
	struct endpoint *ep;
	int err;

	if (!w)
		return TC_ACT_UNSPEC;
	p = &w->packet;
	r = &w->report;
	in = &w->in;
	in->from_wire = true;
	err = parse(skb, p);
	if (err == PASS_TO_KERNEL)
		return TC_ACT_UNSPEC;
	/* Also of packets that could not be parsed to the end; their addresses are known then. */
	if (in_pod_range(&p->source) && local_endpoint(&p->source))
		return drop(skb, p, r, DROP_INVALID_SIP);
	ep = local_endpoint(&p->destination);
	if (!ep) {
		int verdict = NOT_SERVED;

		if (!err)
			verdict = serve_reply(skb, p, r);
		if (config.services && !err && verdict == NOT_SERVED && !local_endpoint(&p->destination))
			verdict = serve_client(skb, p, r, in);
		if (verdict == ELSEWHERE) {
			verdict = to_backend(skb, p, r);
			if (verdict == ENCAPSULATE)
				verdict = encapsulate_here(skb, p, r->tunnel, IDENTITY_WORLD);
			if (verdict < 0)
				return drop(skb, p, r, verdict);
			trace(skb, p, r, r->tunnel ? TO_OVERLAY : TO_NETWORK,
			      !config.aggregate || (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
		}
		if (verdict != NOT_SERVED)
			return verdict;
		ep = local_endpoint(&p->destination);
		if (!ep)
			return TC_ACT_UNSPEC;
	}
	if (err < 0)
		return drop(skb, p, r, err);
	/* The node itself does not come by the wire. */
	if (is_host(&p->source))
		return drop(skb, p, r, DROP_INVALID_SIP);
	/* Pods of other nodes come by the tunnel where there is one, unless their node has none. Without a
	 * tunnel only the first packet of a connection asks who it is from. */
	in->peer_known = config.tunnel;
	if (config.tunnel) {
		find_peer(&p->source, &in->peer);
		if (in->peer.tunnel && !(plain(in->peer.tunnel) & PLAIN_ACCEPT))
			return drop(skb, p, r, DROP_INVALID_SIP);
	}
	if (config.dsr)
		hear_front(skb, p, in);
	err = admit(skb, w, ep, in);
	if (err)
		return drop(skb, p, r, err);
	if (in->opening && in->open)
		open_choice(p, NODE_ENDPOINT);
	if (in->to_proxy)
		return admitted_to_proxy(skb, p, in, r);
	err = to_peer_of(skb, ep);
	if (err < 0)
		return drop(skb, p, r, err);
	trace(skb, p, r, TO_ENDPOINT, in->report);
	return err;
}

/*
 * To the node's end of the tunnel; `l4` is where the port is looked for. Later fragments say none: those of
 * the tunnel are put together by the stack.
 */
static __always_inline bool is_tunneled(struct __sk_buff *skb, __u32 l4, bool later_fragment)
{
	__be16 port;

	if (later_fragment)
		return false;
	return !bpf_skb_load_bytes(skb, l4 + offsetof(struct udp_header, destination), &port, 2) &&
	       port == config.tunnel_port;
}

static __always_inline int from_netdev4(struct __sk_buff *skb)
{
	struct iphdr ip;

	if (config.services && !config.untunnel)
		return from_wire(skb);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_UNSPEC;
	if (config.untunnel && !config.underlay6 && ip.daddr == config.node_address.word[3] &&
	    ip.protocol == IPPROTO_UDP &&
	    is_tunneled(skb, ETH_HLEN + ip.ihl * 4, ip.frag_off & bpf_htons(0x1fff))) {
		struct outer_packet outer = {.source = mapped(ip.saddr), .l3_length = sizeof(ip)};

		/* Whatever is unusual is the tunnel device's. */
		if (ip.ihl != 5 || (ip.frag_off & bpf_htons(0x3fff)) || (ip.tos & ECN_MASK) == ECN_CE)
			return TC_ACT_UNSPEC;
		return from_tunnel(skb, &outer);
	}
	/* Almost everything else ends here where no service is looked for: packets of the node itself. */
	if (!config.services && (ip.saddr & config.pod_mask.word[3]) != config.pod_net.word[3] &&
	    (ip.daddr & config.pod_mask.word[3]) != config.pod_net.word[3] &&
	    !answers(skb, ip.protocol, ETH_HLEN + ip.ihl * 4, ip.frag_off & bpf_htons(0x1fff)))
		return TC_ACT_UNSPEC;
	return from_wire(skb);
}

static __always_inline int from_netdev6(struct __sk_buff *skb)
{
	struct ipv6hdr ip;
	struct address source, destination;

	if (config.services && !config.untunnel)
		return from_wire(skb);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_UNSPEC;
	__builtin_memcpy(&source, &ip.saddr, sizeof(source));
	__builtin_memcpy(&destination, &ip.daddr, sizeof(destination));
	if (config.untunnel && config.underlay6 && is_config(&destination, &config.node_address6) &&
	    ip.nexthdr == IPPROTO_UDP && is_tunneled(skb, ETH_HLEN + sizeof(ip), false)) {
		struct outer_packet outer = {.source = source, .l3_length = sizeof(ip)};

		if ((ip.flow_lbl[0] >> 4 & ECN_MASK) == ECN_CE)
			return TC_ACT_UNSPEC;
		return from_tunnel(skb, &outer);
	}
	if (!config.services && !in_net(&source, &config.pod_net6, &config.pod_mask6) &&
	    !in_net(&destination, &config.pod_net6, &config.pod_mask6) &&
	    !answers(skb, ip.nexthdr, ETH_HLEN + sizeof(ip), false))
		return TC_ACT_UNSPEC;
	return from_wire(skb);
}

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	int verdict = TC_ACT_UNSPEC;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		verdict = from_netdev4(skb);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		verdict = from_netdev6(skb);
	if (config.host_firewall && (verdict == TC_ACT_UNSPEC || verdict == TC_ACT_OK))
		return to_node(skb, verdict);
	return verdict;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
