// SPDX-License-Identifier: GPL-2.0-only
/* XXH64, as its specification has it, of the one length that a block has. */
#include "bytes.h"
#include "sum.h"

#define CB_SUM_PRIME_1 0x9e3779b185ebca87ull
#define CB_SUM_PRIME_2 0xc2b2ae3d27d4eb4full
#define CB_SUM_PRIME_3 0x165667b19e3779f9ull
#define CB_SUM_PRIME_4 0x85ebca77c2b2ae63ull

static inline u64 cb_sum_rotate(u64 value, u32 bits)
{
	return value << bits | value >> (64 - bits);
}

static inline u64 cb_sum_round(u64 lane, u64 word)
{
	return cb_sum_rotate(lane + word * CB_SUM_PRIME_2, 31) * CB_SUM_PRIME_1;
}

/* Adds whole stripes. The lanes are kept in registers. */
static void cb_sum_stripes(u64 *lanes, const u8 *bytes, size_t stripes)
{
	u64 one = lanes[0], two = lanes[1], three = lanes[2], four = lanes[3];

	for (; stripes; stripes--, bytes += CB_SUM_STRIPE) {
		one = cb_sum_round(one, cb_get64(bytes));
		two = cb_sum_round(two, cb_get64(bytes + 8));
		three = cb_sum_round(three, cb_get64(bytes + 16));
		four = cb_sum_round(four, cb_get64(bytes + 24));
	}
	lanes[0] = one;
	lanes[1] = two;
	lanes[2] = three;
	lanes[3] = four;
}

void cb_sum_begin(struct cb_sum *sum, u64 block)
{
	sum->lanes[0] = block + CB_SUM_PRIME_1 + CB_SUM_PRIME_2;
	sum->lanes[1] = block + CB_SUM_PRIME_2;
	sum->lanes[2] = block;
	sum->lanes[3] = block - CB_SUM_PRIME_1;
	sum->rest_bytes = 0;
}

void cb_sum_more(struct cb_sum *sum, const u8 *bytes, size_t length)
{
	size_t missing = CB_SUM_STRIPE - sum->rest_bytes;
	size_t stripes;

	if (sum->rest_bytes && length >= missing) {
		memcpy(sum->rest + sum->rest_bytes, bytes, missing);
		cb_sum_stripes(sum->lanes, sum->rest, 1);
		bytes += missing;
		length -= missing;
		sum->rest_bytes = 0;
	}
	if (!sum->rest_bytes) {
		stripes = length / CB_SUM_STRIPE;
		cb_sum_stripes(sum->lanes, bytes, stripes);
		bytes += stripes * CB_SUM_STRIPE;
		length -= stripes * CB_SUM_STRIPE;
	}
	memcpy(sum->rest + sum->rest_bytes, bytes, length);
	sum->rest_bytes += (u32)length;
}

u32 cb_sum_end(const struct cb_sum *sum)
{
	const u64 *lanes = sum->lanes;
	u64 hash = cb_sum_rotate(lanes[0], 1) + cb_sum_rotate(lanes[1], 7) +
		   cb_sum_rotate(lanes[2], 12) + cb_sum_rotate(lanes[3], 18);
	u32 n;

	for (n = 0; n < CB_SUM_LANES; n++)
		hash = (hash ^ cb_sum_round(0, lanes[n])) * CB_SUM_PRIME_1 + CB_SUM_PRIME_4;
	hash += CB_BLOCK_BYTES;
	hash = (hash ^ hash >> 33) * CB_SUM_PRIME_2;
	hash = (hash ^ hash >> 29) * CB_SUM_PRIME_3;
	return (u32)(hash ^ hash >> 32);
}

u32 cb_sum(u64 block, const u8 *content)
{
	struct cb_sum sum;

	cb_sum_begin(&sum, block);
	cb_sum_stripes(sum.lanes, content, CB_BLOCK_BYTES / CB_SUM_STRIPE);
	return cb_sum_end(&sum);
}
