// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * XDP of the node's devices, before the kernel has made anything of a packet; one of three programs:
 *
 *   prefilter	  drops what comes from refused networks
 *   xdp_netdev	  sends clients' packets on to backends of other nodes, and their answers back
 *   xdp_filtered	  both
 *
 * May assume nothing. Whatever is not plainly one of these packets is passed on to from_netdev, which does
 * the same with it by the same maps: nothing is written before it is certain that the packet can be sent from
 * here.
 */
#define PACKETS_OF_XDP
#define FILE_NUMBER 9
#include "lib/work.h"
#include "lib/dsr.h"
#include "lib/fib.h"
#include "lib/front.h"
#include "lib/ipcache.h"
#include "lib/outer.h"
#include "lib/prefilter.h"

/* How often a next hop is left to the kernel's neighbour output, which confirms it: else a node that got
 * another network card would never be found again, and an entry that nobody uses be forgotten. */
#define NEIGHBOUR_INTERVAL (5 * NSEC_PER_SEC)

/* A glance: TCP or UDP in one piece without options; to this device and for no pod, where one is given. */
static __always_inline bool is_plain(struct xdp_md *ctx, const struct xdp_device *device)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end || (device && !same_mac(eth->h_dest, device->mac)))
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		return (void *)(ip + 1) <= end && ip->version == 4 && ip->ihl == 5 &&
		       !(ip->frag_off & bpf_htons(0x3fff)) && ip->ttl > 1 &&
		       (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) &&
		       (!device || (ip->daddr & config.pod_mask.word[3]) != config.pod_net.word[3]);
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		return (void *)(ip + 1) <= end && ip->hop_limit > 1 &&
		       (ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP);
	}
	return false;
}

/* Whether only the sum of the addresses stands where the checksum should: it is left for a network card to
 * complete, and what is sent from here passes none that would. One in 65,536 others looks the same. */
static __always_inline bool is_unfinished(struct xdp_md *ctx, struct packet *p)
{
	__u64 sum = bpf_htons(p->protocol);
	__sum16 checksum;
	__be16 length;

	if (bpf_skb_load_bytes(ctx, p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6), &checksum, 2) ||
	    bpf_skb_load_bytes(ctx, ETH_HLEN + (p->v6 ? 4 : 2), &length, 2))
		return true;
	if (p->v6) {
		for (int i = 0; i < 3; i++)
			sum += (__u64)p->source.word[i] + p->destination.word[i];
	} else {
		length = bpf_htons(bpf_ntohs(length) - sizeof(struct iphdr));
	}
	sum += (__u64)p->source.word[3] + p->destination.word[3] + length;
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return checksum == sum;
}

static __always_inline bool neighbour_is_due(const struct bpf_fib_lookup *fib, bool v6)
{
	__u32 line = fib->ifindex ^ fib->ipv6_dst[0];
	__u64 now = bpf_ktime_get_coarse_ns(), *last;

	if (v6)
		line ^= fib->ipv6_dst[1] ^ fib->ipv6_dst[2] ^ fib->ipv6_dst[3];
	line ^= line >> 16;
	line = (line ^ line >> 8) & (XDP_NEIGHBOUR_LINES - 1);
	last = bpf_map_lookup_elem(&xdp_neighbours, &line);
	if (!last || now - *last < NEIGHBOUR_INTERVAL)
		return false;
	*last = now;
	return true;
}

/* How the kernel would send a packet of these addresses and fib->tot_len. 0: `fib` has it, and it can be done
 * from here. */
__verified_once int find_way(struct xdp_md *ctx, struct packet *p, const struct address *source,
			     const struct address *destination, struct bpf_fib_lookup *fib)
{
	bool v6;

	struct xdp_device *device;
	__u32 ifindex;

	if (!p || !source || !destination || !fib)
		return -1;
	v6 = !is_v4(destination);
	fib_addresses(fib, source, destination, v6);
	fib->l4_protocol = p->protocol;
	fib->sport = p->source_port;
	fib->dport = p->destination_port;
	fib->ifindex = ctx->ingress_ifindex;
	if (bpf_fib_lookup(ctx, fib, sizeof(*fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return -1;
	ifindex = fib->ifindex;
	device = bpf_map_lookup_elem(&xdp_devices, &ifindex);
	if (!device || (ifindex != ctx->ingress_ifindex && !(device->flags & XDP_TRANSMIT)))
		return -1;
	return neighbour_is_due(fib, v6) ? -1 : 0;
}

/* Puts the tunnel's headers before the frame, as encapsulate_here() does. 0 or a negative drop reason. */
__verified_once int wrap(struct xdp_md *ctx, struct packet *p, __be32 node)
{
	struct outer h = {};
	struct tunnel_headers *tunnel = config.underlay6 ? &h.v6.tunnel : &h.v4.tunnel;
	const __u32 size = config.underlay6 ? sizeof(h.v6) : sizeof(h.v4);
	const __be16 protocol = config.underlay6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	__u32 hash, length = packet_length(ctx) - ETH_HLEN;
	struct address remote;
	__u8 ecn;

	if (!p || !tunnel_address(node, &remote))
		return -DROP_NO_TUNNEL_ENDPOINT;
	ecn = p->tos & ECN_MASK;
	hash = client_hash(p, true);
	outer_ip(&h, &remote, length, ecn == ECN_CE ? ECN_ECT0 : ecn, hash);
	tunnel->udp.source = bpf_htons(0xc000 | ((hash ^ hash >> 16) & 0x3fff));
	tunnel->udp.destination = config.tunnel_port;
	tunnel->udp.length = bpf_htons(length + sizeof(*tunnel));
	tunnel->first = tunnel_first_word();
	tunnel->vni = bpf_htonl(IDENTITY_WORLD << 8);
	__builtin_memcpy(tunnel->inner.h_dest, p->dest_mac, 6);
	__builtin_memcpy(tunnel->inner.h_source, p->source_mac, 6);
	tunnel->inner.h_proto = p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (bpf_xdp_adjust_head(ctx, -(int)size) ||
	    bpf_skb_store_bytes(ctx, offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol), 0))
		return -DROP_WRITE_ERROR;
	if (config.underlay6)
		return bpf_skb_store_bytes(ctx, ETH_HLEN, &h.v6, sizeof(h.v6), 0) ? -DROP_WRITE_ERROR : 0;
	return bpf_skb_store_bytes(ctx, ETH_HLEN, &h.v4, sizeof(h.v4), 0) ? -DROP_WRITE_ERROR : 0;
}

/* A verdict. What goes into the tunnel was wrapped before. */
static __always_inline int send(struct xdp_md *ctx, struct packet *p, struct report *r,
				const struct bpf_fib_lookup *fib)
{
	__u8 macs[12];

	__builtin_memcpy(macs, fib->dmac, 6);
	__builtin_memcpy(macs + 6, fib->smac, 6);
	if ((!r->tunnel && decrement_ttl(ctx, p->v6)) || bpf_skb_store_bytes(ctx, 0, macs, sizeof(macs), 0)) {
		drop(ctx, p, r, DROP_WRITE_ERROR);
		return XDP_DROP;
	}
	trace(ctx, p, r, r->tunnel ? TO_OVERLAY : TO_NETWORK,
	      !config.aggregate || (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
	if (fib->ifindex == ctx->ingress_ifindex) {
		__u32 ifindex = fib->ifindex;
		struct xdp_device *device = bpf_map_lookup_elem(&xdp_devices, &ifindex);

		if (!device || !(device->flags & XDP_VIRTUAL))
			return XDP_TX;
	}
	return bpf_redirect(fib->ifindex, 0);
}

/* What choose_backend() wrote for a packet that is not sent from here; from_netdev chooses anew. */
static __always_inline int leave_choice(struct service_work *w)
{
	if (w->fresh)
		bpf_map_delete_elem(&openings, &w->key);
	return XDP_PASS;
}

static __always_inline void router_address(struct address *out, bool v6)
{
	if (v6) {
		*out = config_address(&config.router_address6);
		asm volatile("" ::: "memory");
	} else {
		*out = config_address(&config.router_address);
	}
}

static __always_inline void own_address(struct address *out, bool v6)
{
	if (v6) {
		*out = config_address(&config.node_address6);
		/* Or the compiler reckons where in `config` to read, beyond what the verifier can follow. */
		asm volatile("" ::: "memory");
	} else {
		*out = config_address(&config.node_address);
	}
}

/* A packet of a client outside to a service with a backend elsewhere. A verdict. */
__verified_once int serve_client_here(struct xdp_md *ctx, struct packet *p, struct report *r)
{
	struct service_work *w = service_work();
	struct bpf_fib_lookup fib = {};
	struct connection *c;
	struct peer peer = {};
	struct address outer, remote;
	__u64 now = bpf_ktime_get_coarse_ns();
	bool direct;
	int err;

	if (!p || !r || !w)
		return XDP_PASS;
	w->fresh = false;
	w->opening = false;
	connection_key(&w->key, p, NODE_ENDPOINT, OUT);
	c = bpf_map_lookup_elem(&connections, &w->key);
	if (!c || c->expires < now) {
		if (!find_service(&p->destination, p->destination_port, p->protocol))
			return XDP_PASS;
		c = bpf_map_lookup_elem(&openings, &w->key);
		w->opening = true;
	}
	if (c && c->expires >= now && (c->flags & CONNECTION_SERVICE) && still_chosen(c, p, OUTSIDE)) {
		w->front = p->destination;
		w->front_port = p->destination_port;
		w->backend = c->translated;
		w->port = c->translated_port;
	} else {
		c = NULL;
		/* Refusals are from_netdev's. */
		if (choose_backend(p, OUTSIDE, NODE_ENDPOINT))
			return XDP_PASS;
	}
	if (in_pod_range(&w->backend) || is_host(&w->backend))
		return leave_choice(w);
	if (config.tunnel)
		find_peer(&w->backend, &peer);
	direct = by_dsr(p);
	fib.tot_len = packet_length(ctx) - ETH_HLEN;
	if (direct) {
		fib.tot_len += dsr_length(p);
		w->from = p->source;
	} else if (config.tunnel && peer.tunnel) {
		router_address(&w->from, p->v6);
	} else {
		own_address(&w->from, p->v6);
	}
	if (is_nothing(&w->from))
		return leave_choice(w);
	if (config.tunnel && peer.tunnel) {
		fib.tot_len += tunnel_overhead();
		own_address(&outer, config.underlay6);
		if (!tunnel_address(peer.tunnel, &remote) || find_way(ctx, p, &outer, &remote, &fib))
			return leave_choice(w);
	} else if (find_way(ctx, p, &w->from, &w->backend, &fib)) {
		return leave_choice(w);
	}

	/* From here on the packet is ours. */
	if (c)
		touch_entry(c, p, OUT, now, w->opening);
	r->source_identity = IDENTITY_WORLD;
	if (!config.tunnel && (!config.aggregate || (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)))) {
		find_peer(&w->backend, &peer);
	}
	r->dest_identity = peer.identity;
	err = rewrite(ctx, p, false, &w->backend, w->port);
	if (!err && direct) {
		if (!(p->tcp_flags & (TCP_SYN | TCP_RST)))
			open_choice(p, NODE_ENDPOINT);
		err = tell_front(ctx, p, &w->front, w->front_port);
	} else if (!err) {
		err = remember_front(p, w);
		if (!err)
			err = snat_client(ctx, p, &w->from);
		if (!err && config.tunnel && peer.tunnel) {
			r->tunnel = peer.tunnel;
			r->vni = IDENTITY_WORLD;
			err = wrap(ctx, p, peer.tunnel);
		}
	}
	if (err) {
		drop(ctx, p, r, err);
		return XDP_DROP;
	}
	return send(ctx, p, r, &fib);
}

/* Not a verdict: the packet answers nothing that left with the node's address. */
#define NO_ANSWER (-1)

/* A packet to an address of the node: the answer of a backend elsewhere, or not. A verdict or NO_ANSWER. */
__verified_once int serve_answer_here(struct xdp_md *ctx, struct packet *p, struct report *r)
{
	struct service_work *w = service_work();
	struct nat_work *n = nat_work();
	struct bpf_fib_lookup fib = {};
	struct nat_value *in;
	struct connection *c;
	__u64 now = bpf_ktime_get_coarse_ns();
	bool opening;
	int err;

	if (!p || !r || !w || !n || !nat_in_key(&n->in, p))
		return NO_ANSWER;
	in = nat_owner(n);
	if (!in || in->expires < now)
		return NO_ANSWER;
	/* Of the node's sockets and of pods. */
	if ((in->flags & NAT_OWN) || in_pod_range(&in->address))
		return XDP_PASS;
	n->to = in->address;
	/* See restore_front(). */
	__builtin_memset(&w->key, 0, sizeof(w->key));
	w->key.endpoint = NODE_ENDPOINT;
	w->key.protocol = p->protocol;
	w->key.local = n->to;
	w->key.local_port = in->port;
	w->key.remote = p->source;
	w->key.remote_port = p->source_port;
	c = find_entry(&w->key, now, &opening);
	if (!c || !(c->flags & CONNECTION_REVERSE))
		return XDP_PASS;
	w->front = c->translated;
	w->front_port = c->translated_port;
	fib.tot_len = packet_length(ctx) - ETH_HLEN;
	if (find_way(ctx, p, &w->front, &n->to, &fib))
		return XDP_PASS;

	nat_touch(in, p, false, now, n->opening);
	touch_entry(c, p, IN, now, opening);
	r->reply = 1;
	err = rewrite(ctx, p, false, &n->to, w->key.local_port);
	if (!err)
		err = rewrite(ctx, p, true, &w->front, w->front_port);
	if (err) {
		drop(ctx, p, r, err);
		return XDP_DROP;
	}
	return send(ctx, p, r, &fib);
}

/* Whether a packet of the tunnel is the answer of another node's pod to the router's address, and nothing
 * unusual. */
static __always_inline bool is_wrapped_answer(struct xdp_md *ctx, struct packet *p)
{
	const __u32 l3 = config.underlay6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct tunnel_headers h;
	struct address inner = {};
	struct peer node;

	if (p->v6 != !!config.underlay6 || (p->tos & ECN_MASK) == ECN_CE ||
	    bpf_skb_load_bytes(ctx, ETH_HLEN + l3, &h, sizeof(h)) || h.udp.checksum ||
	    h.first != tunnel_first_word() || bpf_ntohl(h.vni) >> 8 < IDENTITY_FIRST_POD)
		return false;
	if (h.inner.h_proto == bpf_htons(ETH_P_IP)) {
		inner.word[2] = bpf_htonl(0xffff);
		if (bpf_skb_load_bytes(ctx, ETH_HLEN + l3 + sizeof(h) + offsetof(struct iphdr, daddr),
				       &inner.word[3], 4))
			return false;
	} else if (h.inner.h_proto != bpf_htons(ETH_P_IPV6) ||
		   bpf_skb_load_bytes(ctx, ETH_HLEN + l3 + sizeof(h) + offsetof(struct ipv6hdr, daddr),
				      &inner, sizeof(inner))) {
		return false;
	}
	if (!is_router(&inner))
		return false;
	/* Only nodes may say who a packet is from. */
	find_peer(&p->source, &node);
	return is_node_identity(node.identity);
}

/* Out of the tunnel and on to the client, or left as it came. A verdict. */
__verified_once int serve_wrapped(struct xdp_md *ctx, struct packet *p, struct report *r, __u32 virtual)
{
	const __u32 size = tunnel_overhead();
	int verdict = NO_ANSWER;

	if (!p || !r)
		return XDP_PASS;
	if (bpf_xdp_adjust_head(ctx, size))
		return XDP_PASS;
	__builtin_memset(p, 0, sizeof(*p));
	if (is_plain(ctx, NULL) && parse(ctx, p) == PARSED && !in_pod_range(&p->source) &&
	    !(virtual && is_unfinished(ctx, p)))
		verdict = serve_answer_here(ctx, p, r);
	if (verdict != NO_ANSWER && verdict != XDP_PASS)
		return verdict;
	/* The headers are still where they were. */
	if (bpf_xdp_adjust_head(ctx, -(int)size)) {
		drop(ctx, p, r, DROP_WRITE_ERROR);
		return XDP_DROP;
	}
	return XDP_PASS;
}

__verified_once int serve_here(struct xdp_md *ctx)
{
	__u32 zero = 0, ifindex = ctx->ingress_ifindex;
	struct xdp_device *device = bpf_map_lookup_elem(&xdp_devices, &ifindex);
	struct work *w = bpf_map_lookup_elem(&work, &zero);
	struct packet *p;
	struct report *r;
	int verdict;

	if (!device || !w || !(device->flags & XDP_SERVICES) || !is_plain(ctx, device))
		return XDP_PASS;
	p = &w->packet;
	r = &w->report;
	__builtin_memset(p, 0, sizeof(*p));
	__builtin_memset(r, 0, sizeof(*r));
	r->direction = INGRESS;
	r->reply = REPLY_UNKNOWN;
	if (parse(ctx, p) != PARSED || in_pod_range(&p->source) || in_pod_range(&p->destination))
		return XDP_PASS;
	if ((device->flags & XDP_VIRTUAL) && is_unfinished(ctx, p))
		return XDP_PASS;
	/* Almost all of the tunnel's packets are for pods. */
	if (config.tunnel && p->protocol == IPPROTO_UDP && p->destination_port == config.tunnel_port &&
	    is_host(&p->destination))
		return is_wrapped_answer(ctx, p) ? serve_wrapped(ctx, p, r, device->flags & XDP_VIRTUAL)
						 : XDP_PASS;
	if (is_host(&p->destination)) {
		verdict = serve_answer_here(ctx, p, r);
		if (verdict != NO_ANSWER)
			return verdict;
	}
	return serve_client_here(ctx, p, r);
}

SEC("xdp")
int prefilter(struct xdp_md *ctx)
{
	return prefiltered(ctx) ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int xdp_netdev(struct xdp_md *ctx)
{
	return serve_here(ctx);
}

SEC("xdp")
int xdp_filtered(struct xdp_md *ctx)
{
	return prefiltered(ctx) ? XDP_DROP : serve_here(ctx);
}

char program_license[] SEC("license") = "Dual BSD/GPL";
