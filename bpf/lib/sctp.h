/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * SCTP: its associations as far as connection tracking knows TCP's connections, and its ports.
 *
 * Its checksum is a CRC32c over the whole packet, addresses not among them, and no helper does it again. But
 * a CRC is linear: what a change of the ports does to it depends on the change and on how many bytes follow,
 * not on what they are. The change times x^(8 * length), modulo the polynomial, is what the checksum changes
 * by.
 */
#pragma once

#include "maps.h"

/* The first chunk of a packet. */
#define SCTP_INIT 1
#define SCTP_INIT_ACK 2
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN 7
#define SCTP_SHUTDOWN_ACK 8

struct sctp_header {
	__be16 source;
	__be16 destination;
	__be32 tag;
	__u32 checksum; /* little endian */
	__u8 chunk;
};
#define SCTP_HEADER 12

/* Castagnoli's polynomial; as in its checksums the highest bit is the term of degree 0. */
#define SCTP_POLYNOMIAL 0x82f63b78
#define SCTP_X8 0x00800000
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "ports and checksum are taken as they lie in memory");

/*
 * The lowest bit, to multiply by. The compiler must not know that it is one, or it makes a jump of it, and
 * the verifier goes each of the ways.
 */
static __always_inline __u32 sctp_bit(__u32 bits)
{
	__u32 bit = bits & 1;

	asm volatile("" : "+r"(bit));
	return bit;
}

static __always_inline __u32 sctp_product(__u32 a, __u32 b)
{
	__u32 product = 0;

#pragma clang loop unroll(disable)
	for (int i = 31; i >= 0; i--) {
		product ^= b * sctp_bit(a >> i);
		b = b >> 1 ^ SCTP_POLYNOMIAL * sctp_bit(b);
	}
	return product;
}

/* What the checksum of `length` bytes changes by where the first four change by `change`. */
__verified_once __u32 sctp_change(__u32 change, __u32 length)
{
	__u32 power = SCTP_X8, bit;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 16; i++) {
		bit = sctp_bit(length >> i);
		change = sctp_product(change, power) * bit + change * (1 - bit);
		power = sctp_product(power, power);
	}
	return change;
}
