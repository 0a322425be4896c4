// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "marks.h"

void cb_marks_init(struct cb_marks *marks, const struct cb_layout *layout, u64 *wanted,
		   u64 *issued, u64 *stable)
{
	marks->wanted = wanted;
	marks->issued = issued;
	marks->stable = stable;
	marks->regions = layout->region_count;
	marks->wanted_slots = 0;
	marks->region_shift = layout->region_shift;
}

static bool cb_bit(const u64 *words, u64 bit)
{
	return CB_READ_ONCE(words[bit / 64]) >> (bit % 64) & 1;
}

u64 cb_marks_next_unstable(const struct cb_marks *marks, u64 first, u64 last)
{
	u64 region = first >> marks->region_shift;
	u64 end = last >> marks->region_shift;

	while (region <= end && cb_bit(marks->stable, region))
		region++;
	if (region > end)
		return last + 1;
	return region == first >> marks->region_shift ? first : region << marks->region_shift;
}

void cb_marks_want(struct cb_marks *marks, u64 first, u64 last)
{
	u64 region;

	for (region = first >> marks->region_shift; region <= last >> marks->region_shift;
	     region++) {
		if (cb_bit(marks->issued, region))
			continue;
		marks->wanted[region / 64] |= (u64)1 << (region % 64);
		marks->wanted_slots |= (u64)1 << (region / CB_PAYLOAD_BITS);
	}
}

static u64 cb_marks_words_of(const struct cb_marks *marks, u32 slot)
{
	u64 left = cb_words(marks->regions) - (u64)slot * CB_PAYLOAD_WORDS;

	return left < CB_PAYLOAD_WORDS ? left : CB_PAYLOAD_WORDS;
}

void cb_marks_issue(struct cb_marks *marks, u32 slot, u8 *payload)
{
	u64 first = (u64)slot * CB_PAYLOAD_WORDS, words = cb_marks_words_of(marks, slot), i;

	memset(payload, 0, CB_PAYLOAD_BYTES);
	for (i = 0; i < words; i++) {
		marks->issued[first + i] |= marks->wanted[first + i];
		marks->wanted[first + i] = 0;
		cb_put(payload + i * 8, marks->issued[first + i], 8);
	}
	marks->wanted_slots &= ~((u64)1 << slot);
}

void cb_marks_done(struct cb_marks *marks, u32 slot)
{
	u64 first = (u64)slot * CB_PAYLOAD_WORDS, words = cb_marks_words_of(marks, slot), i;

	for (i = 0; i < words; i++)
		CB_WRITE_ONCE(marks->stable[first + i], marks->issued[first + i]);
}
