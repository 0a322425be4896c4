/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Regions that are marked as changed, in memory and on stable storage.
 *
 *   wanted  a held write waits for the mark
 *   issued  in the latest write of the map's slot, perhaps under way
 *   stable  that write has completed: the region's writes may pass
 *
 * Bits are never taken back within an epoch, and stable is a part of issued. All
 * three are the engine's, but stable is read by every writer, without a lock.
 */
#ifndef COWBIRD_CORE_MARKS_H
#define COWBIRD_CORE_MARKS_H

#include "layout.h"

struct cb_marks {
	u64 *wanted;
	u64 *issued;
	u64 *stable;
	u64 regions;
	u64 wanted_slots; /* bit n: slot n of the map has to be written */
	u32 region_shift;
};

/* Each array has cb_words(layout->region_count) words, zeroed or as they were loaded. */
void cb_marks_init(struct cb_marks *marks, const struct cb_layout *layout, u64 *wanted,
		   u64 *issued, u64 *stable);

/*
 * First block in [first, last] whose region is not marked on stable storage, or
 * last + 1.
 */
u64 cb_marks_next_unstable(const struct cb_marks *marks, u64 first, u64 last);

/* Asks for the regions of blocks [first, last], where they are not issued. */
void cb_marks_want(struct cb_marks *marks, u64 first, u64 last);

/* Fills the payload of a slot with everything wanted and issued; it is under way now. */
void cb_marks_issue(struct cb_marks *marks, u32 slot, u8 *payload);

/* The write of a slot has completed, with success. Nothing was issued for it since. */
void cb_marks_done(struct cb_marks *marks, u32 slot);

#endif
