/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rewriting one address and port, with its checksums; of ICMP errors also in the packet that they quote. */
#pragma once

#include "parse.h"
#include "steps.h"

/* A sum as it stands in a header. */
static __always_inline __u16 csum_of(__s64 sum)
{
	__u32 s = sum;

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return ~s;
}

/*
 * One port of an SCTP packet, with its checksum. That is over all of the packet, so in a fragment, which has
 * only a part of it, no port can be changed. 0 or a negative drop reason.
 */
static __always_inline int rewrite_sctp_port(struct __sk_buff *skb, struct packet *p, bool source,
					     __be16 port)
{
	__u32 at, before, change, length;
	__be16 bytes;

	before = source ? p->source_port : p->destination_port;
	if (before == port)
		return 0;
	if (p->fragment)
		return -DROP_NAT_UNSUPPORTED_L4;
	at = ETH_HLEN + (p->v6 ? offsetof(struct ipv6hdr, payload_len) : offsetof(struct iphdr, tot_len));
	if (bpf_skb_load_bytes(skb, at, &bytes, sizeof(bytes)))
		return -DROP_INVALID;
	/* A frame may be longer than its packet. */
	length = bpf_ntohs(bytes) + (p->v6 ? sizeof(struct ipv6hdr) : 0) - (p->l4 - ETH_HLEN);
	change = (before ^ port) << (source ? 0 : 16);
	at = p->l4 + offsetof(struct sctp_header, checksum);
	/* One that is still to be cut up, or summed up by the device, gets its checksum then. */
	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)))
		return -DROP_INVALID;
	before ^= sctp_change(change, length);
	if (bpf_skb_store_bytes(skb, at, &before, sizeof(before), 0) ||
	    bpf_skb_store_bytes(skb, p->l4 + (source ? 0 : 2), &port, sizeof(port), 0))
		return -DROP_WRITE_ERROR;
	return 0;
}

/* TCP, UDP and SCTP of both families. 0 or a negative drop reason. */
__verified_once int rewrite(struct __sk_buff *skb, struct packet *p, bool source, const struct address *to,
			    __be16 port)
{
	struct address *field;
	__be16 *port_field;
	__u32 checksum_at;
	__u64 flags;
	__s64 change;

	if (!p || !to)
		return -DROP_WRITE_ERROR;
	field = source ? &p->source : &p->destination;
	port_field = source ? &p->source_port : &p->destination_port;
	checksum_at = p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6);
	flags = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	if (!has_ports(p->protocol))
		return -DROP_NAT_UNSUPPORTED_L4;
	/* Mapped addresses differ in their last word only. */
	change = bpf_csum_diff(field->word, sizeof(*field), (__be32 *)to->word, sizeof(*to), 0);
	if (change < 0)
		return -DROP_WRITE_ERROR;
	if (p->protocol == IPPROTO_SCTP) {
		int err = rewrite_sctp_port(skb, p, source, port);

		if (err)
			return err;
	} else if (!p->later_fragment) {
		if (bpf_l4_csum_replace(skb, checksum_at, 0, change, flags | BPF_F_PSEUDO_HDR) ||
		    bpf_l4_csum_replace(skb, checksum_at, *port_field, port, flags | 2) ||
		    bpf_skb_store_bytes(skb, p->l4 + (source ? 0 : 2), &port, 2, 0))
			return -DROP_WRITE_ERROR;
	}
	if (p->v6) {
		if (bpf_skb_store_bytes(skb,
					ETH_HLEN + (source ? offsetof(struct ipv6hdr, saddr)
							   : offsetof(struct ipv6hdr, daddr)),
					to, sizeof(*to), 0))
			return -DROP_WRITE_ERROR;
	} else if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, change, 0) ||
		   bpf_skb_store_bytes(
		       skb,
		       ETH_HLEN + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr)),
		       &to->word[3], 4, 0)) {
		return -DROP_WRITE_ERROR;
	}
	step(STEP_REWRITE, source, s->address[0] = *field, s->port[0] = *port_field, s->address[1] = *to,
	     s->port[1] = port);
	*field = *to;
	*port_field = port;
	return 0;
}

/* Address only; `change` is the difference of the checksums. */
static __always_inline int rewrite_address(struct __sk_buff *skb, struct packet *p, bool source,
					   const struct address *to, __s64 change)
{
	if (p->v6)
		return bpf_skb_store_bytes(
		    skb,
		    ETH_HLEN + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr)),
		    to, sizeof(*to), 0);
	return bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, change, 0) ||
	       bpf_skb_store_bytes(
		   skb, ETH_HLEN + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr)),
		   &to->word[3], 4, 0);
}

static __always_inline __sum16 checksum_changed(__sum16 checksum, __s64 change)
{
	__u64 sum = (__u16)~checksum + (__u64)(__u32)change;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * The packet that an ICMP error quotes: its source or destination becomes `to` and `port`. Its checksums are
 * made right as far as they are quoted, and so is the error's own. 0 or a negative drop reason.
 */
__verified_once int rewrite_quoted(struct __sk_buff *skb, struct packet *p, bool source, struct address *to,
				   __be16 port)
{
	__u32 ip_at, l4_at, at, error_check, check_at = 0;
	struct address *field;
	__be16 *port_field, ports[2];
	__sum16 before, after;
	__s64 change;

	if (!p || !to)
		return -DROP_WRITE_ERROR;
	ip_at = p->l4 + sizeof(struct icmp_header);
	error_check = p->l4 + offsetof(struct icmp_header, checksum);
	field = source ? &p->inner_source : &p->inner_destination;
	port_field =
	    source || is_icmp(p->inner_protocol) ? &p->inner_source_port : &p->inner_destination_port;
	change = bpf_csum_diff(field->word, sizeof(*field), to->word, sizeof(*to), 0);
	if (change < 0)
		return -DROP_WRITE_ERROR;
	if (p->v6) {
		at = ip_at + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
		l4_at = ip_at + sizeof(struct ipv6hdr);
		if (bpf_skb_store_bytes(skb, at, to, sizeof(*to), 0) ||
		    bpf_l4_csum_replace(skb, error_check, 0, change, 0))
			return -DROP_WRITE_ERROR;
	} else {
		__u8 version_ihl;

		at = ip_at + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		if (bpf_skb_load_bytes(skb, ip_at, &version_ihl, 1))
			return -DROP_INVALID;
		l4_at = ip_at + (version_ihl & 15) * 4;
		/* The header's checksum undoes what the address does to the error's. */
		if (bpf_l3_csum_replace(skb, ip_at + offsetof(struct iphdr, check), 0, change, 0) ||
		    bpf_skb_store_bytes(skb, at, &to->word[3], 4, 0))
			return -DROP_WRITE_ERROR;
	}
	/* An echo's identifier, or the port. */
	at = l4_at + (is_icmp(p->inner_protocol) ? 4 : source ? 0 : 2);
	if (p->inner_protocol == IPPROTO_TCP)
		check_at = l4_at + 16;
	else if (p->inner_protocol == IPPROTO_UDP)
		check_at = l4_at + 6;
	else if (is_icmp(p->inner_protocol))
		check_at = l4_at + 2;
	if (check_at && !bpf_skb_load_bytes(skb, check_at, &before, 2) &&
	    (before || p->inner_protocol != IPPROTO_UDP)) {
		/* Version 4's ICMP has no pseudo header. */
		after = checksum_changed(before, p->inner_protocol == IPPROTO_ICMP ? 0 : change);
		ports[0] = *port_field;
		ports[1] = port;
		after = checksum_changed(after, (__u16)~ports[0]);
		after = checksum_changed(after, ports[1]);
		if (bpf_skb_store_bytes(skb, check_at, &after, 2, 0) ||
		    bpf_l4_csum_replace(skb, error_check, before, after, 2))
			return -DROP_WRITE_ERROR;
	}
	if (bpf_skb_store_bytes(skb, at, &port, 2, 0) ||
	    bpf_l4_csum_replace(skb, error_check, *port_field, port, 2))
		return -DROP_WRITE_ERROR;
	*field = *to;
	*port_field = port;
	return 0;
}

/*
 * One side of a packet becomes `to` and `port`; of an ICMP error, the outer address and the opposite side of
 * what it quotes.
 */
__verified_once int nat_rewrite(struct __sk_buff *skb, struct packet *p, bool source, struct address *to,
				__be16 port)
{
	struct address *field;
	__s64 change;
	int err;

	if (!p || !to)
		return -DROP_WRITE_ERROR;
	if (!p->related && has_ports(p->protocol))
		return rewrite(skb, p, source, to, port);
	if (p->related) {
		err = rewrite_quoted(skb, p, !source, to, port);
		if (err)
			return err;
	}
	field = source ? &p->source : &p->destination;
	change = bpf_csum_diff(field->word, sizeof(*field), to->word, sizeof(*to), 0);
	if (change < 0 || rewrite_address(skb, p, source, to, change))
		return -DROP_WRITE_ERROR;
	*field = *to;
	if (p->later_fragment || !is_icmp(p->protocol))
		return 0;
	/* Version 6 has a pseudo header in it. */
	if (p->v6 && bpf_l4_csum_replace(skb, p->l4 + 2, 0, change, BPF_F_PSEUDO_HDR))
		return -DROP_WRITE_ERROR;
	if (!p->related) {
		if (bpf_l4_csum_replace(skb, p->l4 + 2, p->icmp_id, port, 2) ||
		    bpf_skb_store_bytes(skb, p->l4 + offsetof(struct icmp_header, id), &port, 2, 0))
			return -DROP_WRITE_ERROR;
		p->icmp_id = port;
	}
	return 0;
}
