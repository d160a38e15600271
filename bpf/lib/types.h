/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The layouts that programs and agent share. A change here needs a new layoutVersion in
 * node-agent/internal/datapath/layout.go, so that an upgrade never reads the old map with the new layout.
 */
#pragma once

#include <stddef.h>
#include <stdbool.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
/*
 * A function that the verifier looks at once, by itself, and not once for each way that leads to it. It may
 * be told pointers to structures, which it has to compare with NULL, and forgets what was known about their
 * contents.
 */
#define __verified_once __noinline
/*
 * Copied and cleared 8 bytes at a time; the compiler takes no more than what it knows a structure to be
 * aligned to. Sizes and offsets of what programs and agent share are the same without it.
 */
#define __in_words __attribute__((aligned(8)))
#define NSEC_PER_SEC 1000000000ULL

/* Identities that mean the same in every cluster (Cilium's numbers). */
#define IDENTITY_HOST 1
#define IDENTITY_WORLD 2 /* of IPv4; also where a family is not asked for */
#define IDENTITY_WORLD_IPV6 10
#define IDENTITY_REMOTE_NODE 6
#define IDENTITY_APISERVER 7
#define IDENTITY_FIRST_POD 256
/* From here on identities are local to a node (address ranges) and mean "world" to others. */
#define IDENTITY_FIRST_LOCAL (1 << 24)
/* Of the local ones, other nodes of the cluster; the upper 8 bits. */
#define IDENTITY_SCOPE_NODE 2

/* Hubble's flow.DropReason. */
#define DROP_INVALID_SMAC 130
#define DROP_INVALID_SIP 132
#define DROP_POLICY 133
#define DROP_INVALID 134
#define DROP_UNKNOWN_L4 142
#define DROP_UNSUPPORTED_L3 139
#define DROP_WRITE_ERROR 141
#define DROP_UNKNOWN_ICMP6_TYPE 146
#define DROP_NO_TUNNEL_KEY 147
#define DROP_NO_LOCAL_ENDPOINT 152
#define DROP_CT_INSERT 155
#define DROP_INVALID_EXTENSION 156
#define DROP_FRAGMENTATION 157
#define DROP_NO_BACKEND 158
#define DROP_NO_TUNNEL_ENDPOINT 160
#define DROP_EDT_HORIZON 162
#define DROP_NAT_NO_MAPPING 167
#define DROP_NAT_UNSUPPORTED_L4 168
#define DROP_ENCAP_PROHIBITED 170
#define DROP_INVALID_IDENTITY 171
#define DROP_UNKNOWN_SENDER 172
#define DROP_FRAG_NOT_FOUND 175
#define DROP_NOT_IN_SOURCE_RANGE 177
#define DROP_PROXY_LOOKUP 178
#define DROP_PROXY_ASSIGN 179
#define DROP_POLICY_DENY 181
#define DROP_INVALID_VNI 183
#define DROP_RATE_LIMITED 198
/* Ours: the kernel dropped it, for the reason that the event has as its rule; see kfree_skb.bpf.c. */
#define DROP_KERNEL 208

/* Hubble's monitor message types and trace observation points. */
#define EVENT_DROP 1
#define EVENT_TRACE 4
#define EVENT_VERDICT 5
#define EVENT_SOCKET 7
#define TO_ENDPOINT 0
#define TO_PROXY 1
#define TO_HOST 2
#define TO_STACK 3
#define TO_OVERLAY 4
#define TO_NETWORK 11
#define TRACE_NEW 1
#define TRACE_ESTABLISHED 2
#define TRACE_REPLY 3
#define TRACE_RELATED 4
#define REPLY_UNKNOWN 2

#define INGRESS 0
#define EGRESS 1

/* An address of 16 bytes; version 4 is mapped (::ffff:a.b.c.d). */
struct address {
	__be32 word[4];
};

#define MASQUERADE_V4 1
#define MASQUERADE_V6 2
#define TUNNEL_VXLAN 1
#define TUNNEL_GENEVE 2
#define BANDWIDTH_PACE 1
#define BANDWIDTH_POLICE 2

/*
 * What the programs are specialised with at load time; written by the agent before loading. Of a family that
 * the node does not have, addresses are zero and ranges match nothing.
 */
struct config {
	struct address node_address;
	struct address node_address6;
	struct address router_address;
	struct address router_address6;
	struct address pod_net;
	struct address pod_mask;
	struct address pod_net6;
	struct address pod_mask6;
	/* Ranges that are routed as they are and not masqueraded. */
	struct address native_net;
	struct address native_mask;
	struct address native_net6;
	struct address native_mask6;
	__u32 tunnel_ifindex;
	__u32 tunnel;	 /* TUNNEL_*: how pods of other nodes are reached; 0: by their own addresses */
	__u32 underlay6; /* 1: nodes reach each other by IPv6; see struct ipcache_value */
	__be16 tunnel_port;
	__u16 mtu;	  /* of the pods' interfaces */
	__u32 services;	  /* 1: translate service addresses */
	__u32 aggregate;  /* 1: trace events are throttled */
	__u32 set_retval; /* 1: the kernel has the helper (5.18) */
	/* 1: the program is asked what it would do: it writes no map, sends no event and leaves no trace. */
	__u32 dry_run;
	__u32 masquerade;   /* MASQUERADE_*: the programs masquerade, not the kernel's netfilter */
	__u32 host_sockets; /* 1: only the node's own sockets are translated, pods' packets are */
	__u32 maglev_size;
	__u32 dsr;	     /* DSR_*: what backends elsewhere answer themselves */
	__u32 proxy_ifindex; /* of fairlead_host, where packets for the agent's proxies come in; 0: none */
	__u32 host_firewall; /* 1: policies may govern the node itself */
	__u32 nat_seed;	     /* of the order in which ports are tried */
	__u16 nat_first;     /* ports from here on are given to translated flows */
	/* BANDWIDTH_*: what is done about pods' limits; see bandwidth.h. */
	__u16 bandwidth;
	__u64 host_cookie;     /* of the node's own network namespace; 0 where the kernel does not tell */
	__u64 report_interval; /* ns between trace events of one connection and direction */
	__u32 untunnel;	       /* TUNNEL_*: what is taken out of a tunnel, also where none is used to send */
	/* Byte and bit of the kernel's socket that say whether it takes IPv6 alone; no bit: that cannot be
	 * read. */
	__u16 ipv6only_at;
	__u8 ipv6only_bit;
	__u8 pad;
	/* The lowest port that a translated flow may have: nat_first, or below, where flows go on that had
	 * theirs before the range of node ports became larger. */
	__u16 nat_lowest;
	__u16 pad2[3];
};

#define ENDPOINT_POLICY_INGRESS 1
#define ENDPOINT_POLICY_EGRESS 2
/* What policy would drop passes, and the verdict's event says so. */
#define ENDPOINT_AUDIT 4
/* There is a limit in `rates`. */
#define ENDPOINT_LIMIT_INGRESS 8
#define ENDPOINT_LIMIT_EGRESS 16
/* The endpoint that is the node itself. */
#define HOST_ENDPOINT 65535

/* A pod of this node. */
struct endpoint {
	__u32 ifindex;
	__u32 identity;
	/* Rises with each change of policy or identities; connections of an older one are judged again. */
	__u32 revision;
	__u16 id;
	__u16 flags;
	__u8 pod_mac[6];
	__u8 host_mac[6];
	__u32 pad;
	__u64 netns_cookie;
};

/* A pod's limit in one direction; see bandwidth.h. */
struct rate_key {
	__u16 endpoint;
	__u8 direction;
	__u8 pad;
};

struct rate {
	__u64 bytes_per_second;
	__u64 tolerance; /* ns that a packet may be ahead of its time */
	__u64 next;	 /* when the next packet is within the limit; CLOCK_MONOTONIC, ns */
	__u64 bytes;	 /* that passed */
	__u64 dropped;	 /* packets */
};

struct socket_owner {
	struct address address;
	__u32 identity;
	__u16 id;
	__u16 pad;
};

struct ipcache_key {
	__u32 prefixlen;
	struct address address;
};

struct ipcache_value {
	__u32 identity;
	/* The node that hosts the prefix: its IPv4 address, or where nodes have none, its number in
	 * `tunnels`. 0 where there is none. */
	__be32 tunnel;
};

/*
 * How a node of tunnel routing treats another one, where the cluster changes its routing mode node by node:
 * PLAIN_SEND: packets to its pods go over the wire as they are; PLAIN_ACCEPT: so may those of its pods.
 */
#define PLAIN_SEND (1 << 0)
#define PLAIN_ACCEPT (1 << 1)

struct policy_key {
	__u32 prefixlen;
	__u32 endpoint;
	__u32 identity;
	__u8 direction;
	__u8 protocol;
	__be16 port;
};
/* Bits of the key that are always compared, and then with the protocol. */
#define POLICY_PREFIX_PEER 72
#define POLICY_PREFIX_PROTOCOL 80
#define POLICY_PREFIX_FULL 96

struct policy_value {
	__u32 rule;
	__u8 deny;
	__u8 prefixlen;	   /* of the line's own key, to know what matched */
	__be16 proxy_port; /* of the agent's proxy that looks into the connection; 0 where none does */
};

/* A connection as one endpoint sees it: local is always the endpoint. */
struct connection_key {
	struct address local;
	struct address remote;
	__be16 local_port;
	__be16 remote_port;
	__u16 endpoint;
	__u8 protocol;
	__u8 pad;
} __in_words;

#define CONNECTION_SERVICE (1 << 0) /* remote is a service; translated is the backend chosen */
#define CONNECTION_REVERSE (1 << 1) /* translated is the service address to put back into replies */
#define CONNECTION_REPLIED (1 << 2)
#define CONNECTION_FIN_OUT (1 << 3)
#define CONNECTION_FIN_IN (1 << 4)
#define CONNECTION_RESET (1 << 5)
#define CONNECTION_WIRE (1 << 6)  /* came past the host's netfilter, so replies must do so too */
#define CONNECTION_PROXY (1 << 7) /* one side is the agent's proxy; see proxy.h */
/* In seen[IN]: being opened, in the place of an earlier connection between the same ports. */
#define SEEN_REOPENED 0x80

struct connection {
	__u64 expires;	  /* CLOCK_MONOTONIC, ns */
	__u64 packets[2]; /* by OUT and IN below */
	__u64 bytes[2];
	__u64 reported[2];
	__u32 revision; /* the endpoint's, or the service's for CONNECTION_SERVICE */
	__u32 rule;
	__u32 peer;
	__be32 tunnel;
	struct address translated;
	__be16 translated_port;
	__u8 initiator; /* INGRESS or EGRESS, of the endpoint */
	__u8 flags;
	__u8 seen[2];	   /* TCP flags */
	__be16 proxy_port; /* where new connections of CONNECTION_PROXY are accepted */
};
#define IN 0
#define OUT 1

struct service_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

#define KIND_CLUSTER_IP 0
#define KIND_NODE_PORT 1
#define KIND_LOAD_BALANCER 2
#define KIND_EXTERNAL_IP 3
#define KIND_HOST_PORT 4

#define SERVICE_RANGES (1 << 0)	      /* clients outside have to be in source_ranges */
#define SERVICE_DROP_INSIDE (1 << 1)  /* without backend: clients inside wait in vain, nobody refuses them */
#define SERVICE_DROP_OUTSIDE (1 << 2) /* the same for clients outside */
#define SERVICE_EXTERNAL_LOCAL (1 << 3)	 /* externalTrafficPolicy Local */
#define SERVICE_INTERNAL_LOCAL (1 << 4)	 /* internalTrafficPolicy Local */
#define SERVICE_MAGLEV (1 << 5)		 /* the list of clients outside has a table */
#define SERVICE_EXTERNAL_INSIDE (1 << 6) /* pods reach it by an external address as well */

/* Which backends a client gets: one inside of the cluster, or one outside. */
#define INSIDE 0
#define OUTSIDE 1

struct service {
	__u32 id;
	__u32 affinity; /* seconds; 0 is off */
	__u16 flags;
	__u8 kind;
	__u8 pad;
	struct {
		__u32 list;
		__u32 count;
	} view[2];
};

struct slot_key {
	__u32 list;
	__u32 slot;
};

/* Bits 0 and 1: in the list of clients INSIDE, OUTSIDE. */
#define BACKEND_TERMINATING (1 << 2)

struct backend {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 flags;
	__u32 service;
};

struct range_key {
	__u32 prefixlen;
	__u32 service;
	struct address address;
};

struct affinity_key {
	struct address client; /* or the cookie of its network namespace in the first two words */
	__u32 service;
	__u32 by_address;
};

struct affinity_value {
	__u64 until;
	__u32 backend;
	__u32 pad;
};

/* Who asks, and what was chosen. */
struct pick {
	struct address client; /* or the cookie of its network namespace in the first two words */
	__u32 by_address;
	__u32 view; /* INSIDE or OUTSIDE */
	__u32 hash; /* of the connection, the same on every node */
	__u32 id;   /* out: the backend's number */
	struct backend backend;
};

struct service_work {
	struct connection_key key;
	struct pick pick;
	struct address backend;
	struct address front;
	struct address from;
	__be16 port;
	__be16 front_port;
	bool fresh;   /* this packet opened the connection */
	bool opening; /* the choice lies in `openings` */
};

struct socket_key {
	__u64 cookie;
	struct address address;
	__be16 port;
	__u16 pad[3];
};

struct socket_value {
	struct address address;
	__be16 port;
	__u16 pad;
};

struct fragment_key {
	struct address source;
	struct address destination;
	__be32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct fragment_value {
	__be16 source_port;
	__be16 destination_port;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u64 socket_cookie;
	__u64 cgroup;
	struct address source;
	struct address destination;
	struct address source_translated;
	struct address tunnel_remote;
	__u32 source_identity;
	__u32 dest_identity;
	__u32 rule;
	__u32 ifindex;
	__u32 length;
	__u32 vni;
	__be16 source_port;
	__be16 dest_port;
	__u16 endpoint;
	__u16 line;
	__u8 type;
	__u8 subtype;
	__u8 trace_reason;
	__u8 direction;
	__u8 reply;
	__u8 denied;
	__u8 match;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 file;
	__u8 source_mac[6];
	__u8 dest_mac[6];
	__u32 suppressed; /* events of the same endpoint and reason that were held back before this one */
	__u32 pad;
};

/* node-agent/internal/datapath/events.go reads it by offsets. */
_Static_assert(sizeof(struct event) == 152 && offsetof(struct event, source_port) == 112 &&
		   offsetof(struct event, type) == 120,
	       "the agent expects another layout of events");

const volatile struct config config;

#include "address.h"
