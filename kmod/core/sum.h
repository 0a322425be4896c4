/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sum by which a preserved block is known: CRC-32C of its number, 8 bytes little
 * endian, and of its CB_BLOCK_BYTES as they lie in its slot. With the number, because a
 * block in a wrong slot is as wrong as one that is damaged.
 *
 * A header with CB_HEADER_SUMS says that the index of its epoch has sums.
 */
#ifndef COWBIRD_CORE_SUM_H
#define COWBIRD_CORE_SUM_H

#include "bytes.h"
#include "crc.h"

/* Of the number alone; what the content is added to, by cb_crc32c_more or the like. */
static inline u32 cb_sum_begin(u64 block)
{
	u8 number[8];

	cb_put(number, block, sizeof(number));
	return cb_crc32c(number, sizeof(number));
}

static inline u32 cb_sum(u64 block, const u8 *content)
{
	return cb_crc32c_more(cb_sum_begin(block), content, CB_BLOCK_BYTES);
}

#endif
