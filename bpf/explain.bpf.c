// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * explain_socket: what the socket programs (sockets.bpf.c) would make of a connection, for a dry run; never
 * attached. Socket programs cannot be run in test mode, so this one calls the same function: the packet's
 * destination is what the process gives to connect, cb[0] and cb[1] are the cookie of its network namespace.
 */
#define FILE_NUMBER 21
#include "lib/parse.h"
#include "lib/socket.h"
#include "lib/steps.h"

SEC("tc")
int explain_socket(struct __sk_buff *skb)
{
	struct packet p = {};
	struct pick q = {.view = INSIDE};
	__u64 namespace = (__u64)skb->cb[1] << 32 | skb->cb[0];
	int chosen;

	if (parse(skb, &p))
		return 0;
	chosen = choose_for_socket(&p.destination, p.destination_port, p.protocol, namespace, &q);
	if (chosen > 0)
		step(STEP_REWRITE, 0, s->address[0] = p.destination, s->port[0] = p.destination_port,
		     s->address[1] = q.backend.address, s->port[1] = q.backend.port);
	step(STEP_SOCKET, 0, s->result = chosen < 0 ? chosen : 0);
	return 0;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
