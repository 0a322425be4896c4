/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sum by which a preserved block is known: the lower half of XXH64 of its CB_BLOCK_BYTES as
 * they lie in its slot, with its number as the seed. With the number, because a block in a
 * wrong slot is as wrong as one that is damaged.
 *
 * XXH64 needs multiplications and nothing else, so that it costs little in any context and
 * also on an emulated CPU, where the instruction for CRC-32C is a call.
 *
 * A header with CB_HEADER_SUMS says that the index of its epoch has sums.
 */
#ifndef COWBIRD_CORE_SUM_H
#define COWBIRD_CORE_SUM_H

#include "platform.h"

#define CB_SUM_LANES 4
#define CB_SUM_STRIPE (CB_SUM_LANES * 8)

/* A sum of a block whose content comes in pieces of any lengths. */
struct cb_sum {
	u64 lanes[CB_SUM_LANES];
	/* The beginning of a stripe whose rest is in the next piece. */
	u8 rest[CB_SUM_STRIPE];
	u32 rest_bytes;
};

void cb_sum_begin(struct cb_sum *sum, u64 block);
void cb_sum_more(struct cb_sum *sum, const u8 *bytes, size_t length);
/* After CB_BLOCK_BYTES in all. */
u32 cb_sum_end(const struct cb_sum *sum);

/* That of a block whose content is in one piece. */
u32 cb_sum(u64 block, const u8 *content);

#endif
