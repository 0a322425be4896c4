/* SPDX-License-Identifier: GPL-2.0-only */
/* Runs of bits in the maps of blocks and regions. */
#ifndef COWBIRD_CORE_WORDS_H
#define COWBIRD_CORE_WORDS_H

#include "layout.h"

/* Bits past the end of a map are not believed: they would be blocks that do not exist. */
static inline void cb_words_trim(u64 *words, u64 bits)
{
	if (bits % 64)
		words[bits / 64] &= ((u64)1 << (bits % 64)) - 1;
}

static inline void cb_words_fill(u64 *words, u64 first, u64 end, bool value)
{
	while (first < end) {
		u64 bit = first % 64, count = 64 - bit;
		u64 mask;

		if (count > end - first)
			count = end - first;
		mask = (count == 64 ? ~(u64)0 : ((u64)1 << count) - 1) << bit;
		if (value)
			words[first / 64] |= mask;
		else
			words[first / 64] &= ~mask;
		first += count;
	}
}

/* Sets those of blocks [first, end) whose region is marked. */
static inline void cb_words_expand(const struct cb_layout *layout, const u64 *regions, u64 first,
				   u64 end, u64 *blocks)
{
	u64 next;

	for (; first < end; first = next) {
		u64 region = first >> layout->region_shift;

		next = (region + 1) << layout->region_shift;
		if (next > end)
			next = end;
		if (regions[region / 64] >> (region % 64) & 1)
			cb_words_fill(blocks, first, next, true);
	}
}

#endif
