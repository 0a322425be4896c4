// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "reload.h"
#include "scan.h"
#include "words.h"

/* ---- what is asked for ------------------------------------------------- */

static bool cb_scan_wants(const struct cb_scan *scan, u64 at)
{
	return !scan->groups || cb_group_has(scan->groups, at >> scan->group_shift);
}

static u64 cb_scan_slot(const struct cb_reload *reload, const struct cb_scan *scan, u64 at)
{
	return cb_layout_first(&reload->layout, scan->kind) + scan->first + at;
}

u32 cb_scan_next(struct cb_reload *reload, struct cb_scan *scan, u64 *at, u64 *sector)
{
	u64 run;
	u32 count = 1;

	while (scan->next < scan->count && !cb_scan_wants(scan, scan->next))
		scan->next++;
	/* The layout was made for these extents: each slot of it has a place. */
	if (scan->next >= scan->count ||
	    cb_extents_slot(&reload->extents, cb_scan_slot(reload, scan, scan->next), sector,
			    &run))
		return 0;
	*at = scan->next++;
	while (count < run && count < CB_SCAN_RUN && scan->next < scan->count &&
	       cb_scan_wants(scan, scan->next)) {
		scan->next++;
		count++;
	}
	return count;
}

/* ---- what it is worth -------------------------------------------------- */

static u64 cb_words_in_slot(u64 words, u64 index)
{
	u64 left = words - index * CB_PAYLOAD_WORDS;

	return left < CB_PAYLOAD_WORDS ? left : CB_PAYLOAD_WORDS;
}

static void cb_scan_add(u64 *words, u64 count, const u8 *slot)
{
	u64 i;

	for (i = 0; i < count; i++)
		words[i] |= cb_get64(slot + CB_PAYLOAD_AT + i * 8);
}

static void cb_scan_take_regions(struct cb_reload *reload, struct cb_scan *scan, u64 at,
				 const struct cb_meta *found, bool torn, const u8 *slot)
{
	u64 count = cb_words_in_slot(cb_words(reload->layout.region_count), at);
	u64 *to = scan->words + at * CB_PAYLOAD_WORDS;

	/* A later epoch was begun there, and given up: what was there before is gone. */
	if (torn || found->epoch > scan->epoch)
		memset(to, 0xFF, (size_t)count * 8);
	else if (found->epoch == scan->epoch)
		cb_scan_add(to, count, slot);
}

/* In place of a slot that cannot be used: every block that may be in it. */
static void cb_scan_stand_in(struct cb_reload *reload, struct cb_scan *scan, u64 at)
{
	u64 first = at * CB_PAYLOAD_BITS, end = first + CB_PAYLOAD_BITS;

	if (end > reload->layout.block_count)
		end = reload->layout.block_count;
	if (scan->regions)
		cb_words_expand(&reload->layout, scan->regions, first, end, scan->words);
	else
		cb_words_fill(scan->words, first, end, true);
	scan->unusable++;
}

/* Whether a slot was written for the state that counts, or is still what that one means. */
static bool cb_scan_is_of_state(const struct cb_reload *reload, const struct cb_scan *scan,
				const struct cb_meta *found)
{
	u64 since = reload->state.fine_rule == CB_FINE_GROUPS ? reload->state.fine_since :
								reload->state_sequence;

	return found->epoch == scan->epoch && found->sequence >= since &&
	       found->sequence <= reload->state_sequence;
}

static int cb_scan_take_index(struct cb_reload *reload, struct cb_scan *scan, u64 at,
			      const u8 *bytes)
{
	u64 slot = (scan->first + at) * CB_PAYLOAD_WORDS;
	u32 i;

	for (i = 0; i < CB_PAYLOAD_WORDS && slot < reload->state.slots_used; i++, slot++) {
		u64 word = cb_get64(bytes + CB_PAYLOAD_AT + i * 8);
		u64 block = cb_slotmap_block_of(scan->map, word);

		if (slot < reload->layout.data_first)
			continue;
		if (block >= reload->layout.block_count ||
		    cb_slotmap_insert(scan->map, block, cb_slotmap_sum_of(scan->map, word),
				      (u32)slot))
			return cb_reload_lost(reload, "the saved index makes no sense");
	}
	return 0;
}

int cb_scan_take(struct cb_reload *reload, struct cb_scan *scan, u64 at, const u8 *slot, int error)
{
	struct cb_meta expected, found = { .kind = 0 };
	u64 sector, run;
	int ret = -EIO;

	if (!error) {
		if (cb_extents_slot(&reload->extents, cb_scan_slot(reload, scan, at), &sector,
				    &run))
			return cb_reload_lost(reload, CB_NOT_IN_PLACE);
		expected = cb_reload_meta(reload, scan->kind, scan->first + at, sector);
		ret = cb_meta_open(&found, slot);
		if (ret == -ENOENT || !cb_meta_same_place(&found, &expected))
			return cb_reload_lost(reload, CB_NOT_IN_PLACE);
	}
	if (scan->kind == CB_META_REGIONS) {
		/* Without the marks nobody knows anything. */
		if (error)
			reload->reason = CB_UNREADABLE;
		else
			cb_scan_take_regions(reload, scan, at, &found, ret, slot);
		return error;
	}
	if (!ret && !cb_scan_is_of_state(reload, scan, &found))
		ret = -ESTALE;
	if (scan->kind == CB_META_INDEX) {
		if (!ret)
			return cb_scan_take_index(reload, scan, at, slot);
		scan->unusable++;
	} else if (ret) {
		cb_scan_stand_in(reload, scan, at);
	} else {
		cb_scan_add(scan->words + at * CB_PAYLOAD_WORDS,
			    cb_words_in_slot(cb_words(reload->layout.block_count), at), slot);
	}
	return 0;
}

/* ---- one after the other ----------------------------------------------- */

int cb_scan_run(struct cb_reload *reload, struct cb_scan *scan)
{
	u64 at, sector;
	u32 count, i;
	int ret = 0;

	if (reload->reader.scan)
		return reload->reader.scan(reload->reader.context, reload, scan);
	while (!ret && (count = cb_scan_next(reload, scan, &at, &sector)))
		for (i = 0; !ret && i < count; i++) {
			int error = reload->reader.read(reload->reader.context,
							sector + i * CB_BLOCK_SECTORS,
							reload->slot);

			ret = cb_scan_take(reload, scan, at + i, reload->slot, error);
		}
	return ret;
}
