/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Comparing addresses of 16 bytes, with each other and with the configuration. Included by types.h. */
#pragma once

static __always_inline struct address mapped(__be32 v4)
{
	struct address a = {};

	a.word[2] = bpf_htonl(0xffff);
	a.word[3] = v4;
	return a;
}

static __always_inline bool is_v4(const struct address *a)
{
	return !(a->word[0] | a->word[1] | (a->word[2] ^ bpf_htonl(0xffff)));
}

static __always_inline bool is_nothing(const struct address *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
		 (a->word[3] ^ b->word[3]));
}

/* A constant of the configuration as a value. */
static __always_inline struct address config_address(const volatile struct address *a)
{
	struct address out;

	out.word[0] = a->word[0];
	out.word[1] = a->word[1];
	out.word[2] = a->word[2];
	out.word[3] = a->word[3];
	return out;
}

/* A packet's address can be compared with a constant of the configuration. */
static __always_inline bool is_config(const struct address *a, const volatile struct address *b)
{
	return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
		 (a->word[3] ^ b->word[3]));
}

static __always_inline bool in_net(const struct address *a, const volatile struct address *net,
				   const volatile struct address *mask)
{
	return !(
	    ((a->word[0] & mask->word[0]) ^ net->word[0]) | ((a->word[1] & mask->word[1]) ^ net->word[1]) |
	    ((a->word[2] & mask->word[2]) ^ net->word[2]) | ((a->word[3] & mask->word[3]) ^ net->word[3]));
}

/* In the range of its family; mapped addresses share their first 96 bits. */
static __always_inline bool in_range(const struct address *a, const volatile struct address *net,
				     const volatile struct address *mask, const volatile struct address *net6,
				     const volatile struct address *mask6)
{
	if (is_v4(a))
		return (a->word[3] & mask->word[3]) == net->word[3];
	return in_net(a, net6, mask6);
}
