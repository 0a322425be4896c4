// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "reload.h"

static int cb_reload_lost(struct cb_reload *reload, const char *reason)
{
	reload->reason = reason;
	return -ESTALE;
}

static int cb_reload_read(struct cb_reload *reload, u64 sector)
{
	int ret = reload->reader.read(reload->reader.context, sector, reload->slot);

	if (ret)
		reload->reason = "the COW file's metadata cannot be read";
	return ret;
}

/* ---- header ------------------------------------------------------------ */

int cb_reload_header(struct cb_reload *reload, u64 sector)
{
	struct cb_header *header = &reload->header;
	int ret;

	reload->reason = NULL;
	ret = cb_reload_read(reload, sector);
	if (ret)
		return ret;
	ret = cb_header_decode(header, reload->slot);
	if (ret == -ENOENT)
		return cb_reload_lost(reload, "there is no epoch header at this place");
	if (ret == -EPROTO)
		return cb_reload_lost(reload, "the epoch header has another version");
	if (ret)
		return cb_reload_lost(reload, "the epoch header is damaged");
	if (header->sector != sector)
		return cb_reload_lost(reload, "the COW file was moved");
	if (cb_geom_init(&reload->geom, header->origin_start, header->origin_sectors) ||
	    (header->before_epoch && header->before_epoch + 1 != header->epoch) ||
	    !header->extent_count || header->extent_count > header->cow_slots ||
	    header->cow_slots > reload->disk_sectors / CB_BLOCK_SECTORS)
		return cb_reload_lost(reload, "the epoch header makes no sense");
	if (cb_layout_init(&reload->layout, cb_geom_block_count(&reload->geom), header->cow_slots,
			   header->extent_count) ||
	    reload->layout.data_first != header->data_first ||
	    reload->layout.region_shift != header->region_shift)
		return cb_reload_lost(reload, "the epoch header has another layout");
	return 0;
}

/* ---- metadata slots ---------------------------------------------------- */

/* What a slot must say of itself; epoch and sequence are the caller's. */
static struct cb_meta cb_reload_meta(struct cb_reload *reload, u32 kind, u64 index, u64 sector)
{
	struct cb_meta meta = { .kind = kind, .index = index, .sector = sector };

	memcpy(meta.uuid, reload->header.uuid, CB_SERIES_BYTES);
	return meta;
}

/* *torn: the slot is ours, its content is not whole. */
static int cb_reload_open_at(struct cb_reload *reload, const struct cb_meta *expected,
			     struct cb_meta *found, bool *torn)
{
	int ret = cb_reload_read(reload, expected->sector);

	if (ret)
		return ret;
	ret = cb_meta_open(found, reload->slot);
	*torn = ret == -EBADMSG;
	if (ret == -ENOENT || !cb_meta_same_place(found, expected))
		return cb_reload_lost(reload,
				      "the COW file was moved or overwritten: its metadata is not in its place");
	return 0;
}

static int cb_reload_open_slot(struct cb_reload *reload, enum cb_meta_kind kind, u64 index,
			       struct cb_meta *found, bool *torn)
{
	struct cb_meta expected;
	u64 sector, run;

	if (cb_extents_slot(&reload->extents, cb_layout_first(&reload->layout, kind) + index,
			    &sector, &run))
		return cb_reload_lost(reload, "the COW file is shorter than its header says");
	expected = cb_reload_meta(reload, kind, index, sector);
	return cb_reload_open_at(reload, &expected, found, torn);
}

/* ---- extents ----------------------------------------------------------- */

static int cb_reload_take_extents(struct cb_reload *reload, struct cb_extent *list, u32 first)
{
	u32 count = reload->header.extent_count - first, i;
	u64 next = first ? list[first - 1].first_slot + list[first - 1].slots : 0;

	if (count > CB_PAYLOAD_EXTENTS)
		count = CB_PAYLOAD_EXTENTS;
	for (i = 0; i < count; i++) {
		struct cb_extent *piece = &list[first + i];
		const u8 *at = reload->slot + CB_PAYLOAD_AT + i * 16;

		piece->sector = cb_get(at, 8);
		piece->slots = cb_get(at + 8, 8);
		piece->first_slot = next;
		if (!piece->slots || piece->slots > reload->header.cow_slots - next ||
		    piece->sector > reload->disk_sectors ||
		    piece->slots > (reload->disk_sectors - piece->sector) / CB_BLOCK_SECTORS)
			return cb_reload_lost(reload, "the COW file's list of extents makes no sense");
		if (first + i && piece->sector < list[first + i - 1].sector +
							 list[first + i - 1].slots * CB_BLOCK_SECTORS)
			return cb_reload_lost(reload, "the COW file's extents are out of order");
		next += piece->slots;
		reload->extents.slots = next;
		reload->extents.count++;
	}
	return 0;
}

/*
 * The first slot of the table is found by the header. It names more pieces than
 * the table could have slots before the next one is needed, so each further slot
 * of the table lies in a piece that is known by then.
 */
int cb_reload_extents(struct cb_reload *reload, struct cb_extent *list)
{
	struct cb_meta found, expected;
	u64 index, sector = reload->header.extents_sector, run;
	bool torn;
	int ret;

	memset(&reload->extents, 0, sizeof(reload->extents));
	reload->extents.list = list;
	for (index = 0; index < reload->layout.extent_slots; index++) {
		if (index && cb_extents_slot(&reload->extents, reload->layout.extents_first + index,
					     &sector, &run))
			return cb_reload_lost(reload, "the COW file's list of extents is cut off");
		expected = cb_reload_meta(reload, CB_META_EXTENTS, index, sector);
		ret = cb_reload_open_at(reload, &expected, &found, &torn);
		if (ret)
			return ret;
		if (torn)
			return cb_reload_lost(reload, "the COW file's list of extents is damaged");
		ret = cb_reload_take_extents(reload, list, (u32)(index * CB_PAYLOAD_EXTENTS));
		if (ret)
			return ret;
	}
	if (reload->extents.slots != reload->header.cow_slots ||
	    cb_extents_slot(&reload->extents, 0, &sector, &run) ||
	    sector != reload->header.sector ||
	    cb_extents_slot(&reload->extents, reload->layout.extents_first, &sector, &run) ||
	    sector != reload->header.extents_sector)
		return cb_reload_lost(reload, "the COW file's list of extents does not fit its header");
	return 0;
}

/* ---- state ------------------------------------------------------------- */

int cb_reload_state(struct cb_reload *reload, const struct cb_now *now)
{
	u64 state_epoch = 0, copy;
	bool any = false, torn;
	struct cb_meta found;
	int ret;

	for (copy = 0; copy < CB_STATE_COPIES; copy++) {
		ret = cb_reload_open_slot(reload, CB_META_STATE, copy, &found, &torn);
		if (ret)
			return ret;
		if (torn || (any && found.sequence < reload->state_sequence))
			continue;
		any = true;
		reload->state_sequence = found.sequence;
		state_epoch = found.epoch;
		cb_state_decode(&reload->state, reload->slot + CB_PAYLOAD_AT);
	}
	if (!any)
		return cb_reload_lost(reload, "both copies of the state are damaged");
	ret = cb_state_judge(&reload->state, state_epoch, reload->header.epoch, now,
			     &reload->clean, &reload->reason);
	if (ret)
		return ret;
	reload->mode = CB_MODE_SNAPSHOT;
	if (state_epoch == reload->header.epoch && reload->state.mode == CB_MODE_INCREMENTAL)
		reload->mode = CB_MODE_INCREMENTAL;
	/*
	 * Of a snapshot that ended without being saved nobody knows whether its
	 * backup was complete: what changed since the one before counts, too.
	 */
	reload->tracked_from = reload->header.epoch;
	reload->changes_from = 0;
	if (reload->clean) {
		reload->tracked_from = reload->state.tracked_from;
		reload->changes_from = reload->state.changes_from;
	} else if (reload->mode == CB_MODE_SNAPSHOT && reload->header.before_epoch) {
		reload->tracked_from = reload->header.before_epoch;
	}
	return 0;
}

/* ---- maps -------------------------------------------------------------- */

static u64 cb_words_in_slot(u64 words, u64 index)
{
	u64 left = words - index * CB_PAYLOAD_WORDS;

	return left < CB_PAYLOAD_WORDS ? left : CB_PAYLOAD_WORDS;
}

/* Bits past the end of a map are not believed: they would be blocks that do not exist. */
static void cb_words_trim(u64 *words, u64 bits)
{
	if (bits % 64)
		words[bits / 64] &= ((u64)1 << (bits % 64)) - 1;
}

static void cb_reload_add_payload(struct cb_reload *reload, u64 *words, u64 count)
{
	u64 i;

	for (i = 0; i < count; i++)
		words[i] |= cb_get(reload->slot + CB_PAYLOAD_AT + i * 8, 8);
}

/* Adds the regions that are marked in the area of an epoch. */
static int cb_reload_regions(struct cb_reload *reload, u64 epoch, u64 *regions)
{
	const struct cb_layout *layout = &reload->layout;
	u64 words = cb_words(layout->region_count), index;

	for (index = 0; index < layout->region_slots; index++) {
		u64 count = cb_words_in_slot(words, index);
		u64 *to = regions + index * CB_PAYLOAD_WORDS;
		struct cb_meta found;
		bool torn;
		int ret = cb_reload_open_slot(reload, CB_META_REGIONS,
					      cb_layout_regions_of(layout, epoch) + index, &found,
					      &torn);

		if (ret)
			return ret;
		/* A later epoch was begun there, and given up: what was there before is gone. */
		if (torn || found.epoch > epoch)
			memset(to, 0xFF, (size_t)count * 8);
		else if (found.epoch == epoch)
			cb_reload_add_payload(reload, to, count);
	}
	cb_words_trim(regions, layout->region_count);
	return 0;
}

/* The bitmap of blocks that a clean save wrote for the area of an epoch. */
static int cb_reload_fine(struct cb_reload *reload, u64 epoch, u64 *blocks)
{
	const struct cb_layout *layout = &reload->layout;
	u64 words = cb_words(layout->block_count), index;

	for (index = 0; index < layout->fine_slots; index++) {
		struct cb_meta found;
		bool torn;
		int ret = cb_reload_open_slot(reload, CB_META_FINE,
					      cb_layout_fine_of(layout, epoch) + index, &found,
					      &torn);

		if (ret)
			return ret;
		if (torn || found.epoch != epoch || found.sequence != reload->state_sequence)
			return cb_reload_lost(reload, "the saved map of changes is damaged");
		cb_reload_add_payload(reload, blocks + index * CB_PAYLOAD_WORDS,
				      cb_words_in_slot(words, index));
	}
	cb_words_trim(blocks, layout->block_count);
	return 0;
}

static void cb_words_fill(u64 *words, u64 first, u64 end, bool value)
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

static void cb_reload_expand(const struct cb_layout *layout, const u64 *regions, u64 *blocks)
{
	u64 region;

	for (region = 0; region < layout->region_count; region++) {
		u64 first = region << layout->region_shift;
		u64 end = (region + 1) << layout->region_shift;

		if (!(regions[region / 64] >> (region % 64) & 1))
			continue;
		cb_words_fill(blocks, first, end < layout->block_count ? end : layout->block_count,
			      true);
	}
}

/* The COW file's own blocks are in no change map, whatever region they share. */
static void cb_reload_clear_own(struct cb_reload *reload, u64 *blocks)
{
	u32 i;

	if (!(reload->header.flags & CB_HEADER_COW_ON_ORIGIN))
		return;
	for (i = 0; i < reload->extents.count; i++) {
		const struct cb_extent *piece = &reload->extents.list[i];
		struct cb_blocks touched;

		if (cb_geom_touched(&reload->geom, piece->sector, piece->slots * CB_BLOCK_SECTORS,
				    &touched))
			cb_words_fill(blocks, touched.first, touched.last + 1, false);
	}
}

/*
 * The marks of the current epoch are read last and stay alone in marked: only
 * they are on disk for the current one.
 */
int cb_reload_tracked(struct cb_reload *reload, u64 *blocks, u64 *marked)
{
	const struct cb_layout *layout = &reload->layout;
	u64 epoch = reload->header.epoch;
	int ret;

	if (!reload->clean && reload->tracked_from != epoch) {
		ret = cb_reload_regions(reload, reload->tracked_from, marked);
		if (ret)
			return ret;
		cb_reload_expand(layout, marked, blocks);
		memset(marked, 0, (size_t)cb_words(layout->region_count) * 8);
	}
	ret = cb_reload_regions(reload, epoch, marked);
	if (ret)
		return ret;
	if (reload->clean)
		return cb_reload_fine(reload, epoch, blocks);
	cb_reload_expand(layout, marked, blocks);
	cb_reload_clear_own(reload, blocks);
	return 0;
}

int cb_reload_before(struct cb_reload *reload, u64 *blocks)
{
	if (!reload->clean || !reload->changes_from)
		return -ENODATA;
	return cb_reload_fine(reload, reload->header.epoch - 1, blocks);
}

/* ---- index ------------------------------------------------------------- */

int cb_reload_index(struct cb_reload *reload, struct cb_slotmap *map)
{
	const struct cb_layout *layout = &reload->layout;
	u64 slot = 0, index;

	for (index = 0; slot < reload->state.slots_used; index++) {
		struct cb_meta found;
		bool torn;
		u32 i;
		int ret = cb_reload_open_slot(reload, CB_META_INDEX, index, &found, &torn);

		if (ret)
			return ret;
		if (torn || found.epoch != reload->header.epoch ||
		    found.sequence != reload->state_sequence)
			return cb_reload_lost(reload, "the saved index is damaged");
		for (i = 0; i < CB_PAYLOAD_WORDS && slot < reload->state.slots_used; i++, slot++) {
			u64 block = cb_get(reload->slot + CB_PAYLOAD_AT + i * 8, 8);

			if (slot < layout->data_first)
				continue;
			if (block >= layout->block_count ||
			    cb_slotmap_insert(map, block, (u32)slot))
				return cb_reload_lost(reload, "the saved index makes no sense");
		}
	}
	return 0;
}
