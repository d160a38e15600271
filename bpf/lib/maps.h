/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * All maps; pinned below <bpffs>/fairlead. Sizes are defaults, the agent's configuration overrides them.
 * An object carries only those that its program uses.
 */
#pragma once

#include "types.h"
#include "nat_types.h"
#include "limit.h"

/* Pods of this node by address. Writer: agent. Readers: all packet programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* The same by the interface's index: whom to blame for a packet with a wrong source. Writer: agent. Reader:
 * from_pod. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct endpoint);
} interfaces SEC(".maps");

/* The same by the network namespace's cookie, with an address: whose socket it is. Writer: agent. Reader:
 * sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct socket_owner);
} namespaces SEC(".maps");

/* Limits of pods' bandwidth. Writers: agent; packet programs, of what was used. Readers: packet programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct rate_key);
	__type(value, struct rate);
} rates SEC(".maps");

/* Who is behind an address. Writer: agent. Readers: packet programs, on the first packet of a connection. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 512000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache_key);
	__type(value, struct ipcache_value);
} ipcache SEC(".maps");

/* Policy of all endpoints. Writer: agent. Readers: packet programs, when a connection is judged. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1000000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_key);
	__type(value, struct policy_value);
} policy SEC(".maps");

/* Ranges that ipBlocks of Kubernetes network policies name, with the number under which `policy` has their
 * lines; 0 is none. Writer: agent. Readers: packet programs, where nothing else lets a connection pass. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache_key);
	__type(value, __u32);
} blocks SEC(".maps");

/* Connections. Writers: packet programs; the agent deletes what expired. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

/*
 * Connections that are being opened: until whoever opened one has sent something after the first reply. Kept
 * apart, so that a flood of half-open ones pushes none of `connections` out. Writers: packet programs; the
 * agent deletes what expired.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection_key);
	__type(value, struct connection);
} openings SEC(".maps");

/* Ports of fragmented datagrams. Writers and readers: packet programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_value);
} fragments SEC(".maps");

/* Services by frontend; the address 0.0.0.0 or :: stands for any node's. Writer: agent. Readers: from_pod,
 * from_netdev and the socket programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

/* Numbers of backends by list and slot (0 .. count-1). Writer: agent. Readers: as of services. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct slot_key);
	__type(value, __u32);
} slots SEC(".maps");

/* Backends by number; a number is never used again. Writer: agent. Readers: as of services. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* Numbers of backends by list and hash. Writer: agent. Reader: from_netdev. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__array(
	    values, struct {
		    __uint(type, BPF_MAP_TYPE_ARRAY);
		    __uint(max_entries, 16381);
		    __type(key, __u32);
		    __type(value, __u32);
	    });
} maglev SEC(".maps");

/* Who may come from outside, by service. Writer: agent. Reader: from_netdev. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct range_key);
	__type(value, __u8);
} source_ranges SEC(".maps");

/* Clients of services with affinity. Writers and readers: as of services. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity_value);
} affinity SEC(".maps");

/* What a socket believes to talk to. Writers: connect, sendmsg; sock_release deletes. Readers: recvmsg,
 * getpeername; the agent, which ends sockets to backends that are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct socket_key);
	__type(value, struct socket_value);
} sockets SEC(".maps");

/* Flow events, room for 29,000; the agent maps it, which counts as its memory. Writers: all programs.
 * Reader: agent. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

/* Events for which the ring had no room, exact. Writers: all programs. Reader: agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

/* Index reason * 2 + direction; reason 0 is forwarded. Writers: packet programs. Reader: agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, struct counter);
} metrics SEC(".maps");

/* How many events of a drop there were just now. Writers and readers: packet programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct drop_key);
	__type(value, struct limit);
} drop_limits SEC(".maps");

/* Events that were held back, by reason, exact. Writers: packet programs. Reader: agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} suppressed SEC(".maps");

/* The key of the connection that track() looks for: not on the stack, which is short of room. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct connection_key);
} track_scratch SEC(".maps");

/* The address that find_block() looks for, for the same reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ipcache_key);
} block_scratch SEC(".maps");

/* Room for a connection that is being made, too large for the stack. Packet programs run with bottom halves
 * off. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct connection);
} scratch SEC(".maps");

/* Nodes by their number, where they have no IPv4 address; see struct ipcache_value. Writer: agent. Readers:
 * packet programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct address);
} tunnels SEC(".maps");

/* PLAIN_* by the node, as struct ipcache_value has it; 0 is this one. Writer: agent. Readers: packet
 * programs, in tunnel routing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u32);
} plain_nodes SEC(".maps");

/* The same for what is being found out about a service. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct service_work);
} service_scratch SEC(".maps");

/* When a flow of the tunnel last had a packet for the tunnel device, by the flow's port; ns. Writer and
 * reader: from_netdev. */
#define BULK_LINES 1024
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BULK_LINES);
	__type(key, __u32);
	__type(value, __u64);
} bulk SEC(".maps");

/* Source translation, two entries per flow. Writers: from_netdev, to_netdev, xdp_netdev; the agent deletes
 * what ended. Readers: the same. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct nat_key);
	__type(value, struct nat_value);
} nat SEC(".maps");

/*
 * The same of flows that are being opened: until the sender has sent something after the first answer. Kept
 * apart, so that a flood of them pushes none of `nat` out. Writers and readers: as of `nat`.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct nat_key);
	__type(value, struct nat_value);
} nat_openings SEC(".maps");

/* Room for a translation that is being made, too large for the stack. Packet programs run with bottom halves
 * off. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nat_work);
} nat_scratch SEC(".maps");

/* Outward interfaces by index. Writer: agent. Readers: from_pod, to_netdev. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

/* Destinations that pods reach with their own address, and why (UNMASQUERADED_*). Writer: agent. Reader:
 * to_netdev. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache_key);
	__type(value, __u32);
} unmasqueraded SEC(".maps");
