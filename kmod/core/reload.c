// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "reload.h"
#include "words.h"

int cb_reload_lost(struct cb_reload *reload, const char *reason)
{
	reload->reason = reason;
	return -ESTALE;
}

static int cb_reload_read(struct cb_reload *reload, u64 sector)
{
	int ret = reload->reader.read(reload->reader.context, sector, reload->slot);

	if (ret)
		reload->reason = CB_UNREADABLE;
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
	if (reload->series && memcmp(header->uuid, reload->series, CB_SERIES_BYTES))
		return cb_reload_lost(reload, "it holds another series than the one that is recorded");
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
struct cb_meta cb_reload_meta(const struct cb_reload *reload, u32 kind, u64 index, u64 sector)
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
		return cb_reload_lost(reload, CB_NOT_IN_PLACE);
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

/* The latest state that is whole. */
static int cb_reload_latest(struct cb_reload *reload, u64 *epoch)
{
	bool any = false, torn;
	struct cb_meta found;
	u64 copy;
	int ret;

	for (copy = 0; copy < CB_STATE_COPIES; copy++) {
		ret = cb_reload_open_slot(reload, CB_META_STATE, copy, &found, &torn);
		if (ret)
			return ret;
		if (torn || (any && found.sequence < reload->state_sequence))
			continue;
		any = true;
		reload->state_sequence = found.sequence;
		*epoch = found.epoch;
		cb_state_decode(&reload->state, reload->slot + CB_PAYLOAD_AT);
		memcpy(reload->groups, reload->slot + CB_PAYLOAD_AT + CB_GROUPS_AT,
		       sizeof(*reload->groups));
	}
	if (!any)
		return cb_reload_lost(reload, "both copies of the state are damaged");
	return 0;
}

/*
 * Whether this boot alone can tell why tracking must not go on. Another head of the origin
 * shows in the next boot, too, and may be that of a disk that is there by mistake.
 */
static bool cb_reload_is_overtaken(const struct cb_reload *reload, u64 state_epoch,
				   const struct cb_now *now)
{
	struct cb_now same_head = *now;
	const char *reason;
	bool clean;

	same_head.head_crc = reload->state.head_crc;
	return cb_state_is_live(&reload->state) &&
	       cb_state_judge(&reload->state, state_epoch, reload->header.epoch, &same_head,
			      &clean, &reason);
}

static int cb_reload_judge(struct cb_reload *reload, const struct cb_now *now)
{
	u64 state_epoch = 0;
	int ret = cb_reload_latest(reload, &state_epoch);

	if (ret)
		return ret;
	ret = cb_state_judge(&reload->state, state_epoch, reload->header.epoch, now,
			     &reload->clean, &reload->reason);
	reload->overtaken = ret && cb_reload_is_overtaken(reload, state_epoch, now);
	reload->mode = CB_MODE_SNAPSHOT;
	if (state_epoch == reload->header.epoch && reload->state.mode == CB_MODE_INCREMENTAL)
		reload->mode = CB_MODE_INCREMENTAL;
	return ret;
}

int cb_reload_state(struct cb_reload *reload, const struct cb_now *now)
{
	int ret = cb_reload_judge(reload, now);

	if (ret)
		return ret;
	if (reload->clean && reload->state.fine_rule > CB_FINE_GROUPS)
		return cb_reload_lost(reload, "its maps were saved by a later version");
	/* Changes are known from epochs that have begun. */
	if (reload->clean && (!reload->state.tracked_from ||
			      reload->state.tracked_from > reload->header.epoch ||
			      reload->state.changes_from >= reload->header.epoch))
		return cb_reload_lost(reload, "the saved state makes no sense");
	/*
	 * Of a snapshot that ended without being saved nobody knows whether its
	 * backup was complete: what changed since the one before counts, too.
	 */
	reload->tracked_from = reload->header.epoch;
	reload->changes_from = 0;
	if (reload->clean) {
		reload->tracked_from = reload->state.tracked_from;
		reload->changes_from = reload->state.changes_from;
	} else if (reload->header.before_epoch &&
		   (reload->mode == CB_MODE_SNAPSHOT ||
		    reload->state.tracked_from == reload->header.before_epoch)) {
		/* Or it has ended so before, and a save since said since when changes are known. */
		reload->tracked_from = reload->header.before_epoch;
	}
	reload->snapshot = reload->clean && reload->mode == CB_MODE_SNAPSHOT;
	return 0;
}

int cb_reload_confirm(struct cb_reload *reload, const struct cb_now *now)
{
	u64 sequence = reload->state_sequence;
	bool clean = reload->clean;
	int ret = cb_reload_judge(reload, now);

	if (!ret && (reload->state_sequence != sequence || reload->clean != clean))
		ret = cb_reload_lost(reload, "somebody else wrote to the COW file meanwhile");
	return ret;
}

/*
 * The slot was written for this state, whose flush came between the two: it is whole, or its
 * disk has lost it.
 */
int cb_reload_samples(struct cb_reload *reload, struct cb_samples *samples)
{
	struct cb_meta found;
	bool torn;
	int ret;

	samples->count = 0;
	if (!reload->clean)
		return 0;
	ret = cb_reload_open_slot(reload, CB_META_SAMPLES,
				  reload->state_sequence % CB_STATE_COPIES, &found, &torn);
	if (ret)
		return ret;
	if (torn || found.sequence != reload->state_sequence ||
	    found.epoch != reload->header.epoch)
		return cb_reload_lost(reload, "the samples of the origin are not those of the saved state");
	if (!cb_samples_decode(samples, reload->slot + CB_PAYLOAD_AT,
			       reload->header.origin_sectors))
		return cb_reload_lost(reload, "the samples of the origin make no sense");
	return 0;
}

/* ---- maps -------------------------------------------------------------- */

/* Adds the regions that are marked in the area of an epoch. */
static int cb_reload_regions(struct cb_reload *reload, u64 epoch, u64 *regions)
{
	const struct cb_layout *layout = &reload->layout;
	struct cb_scan scan = {
		.kind = CB_META_REGIONS,
		.first = cb_layout_regions_of(layout, epoch),
		.count = layout->region_slots,
		.epoch = epoch,
		.words = regions,
	};
	int ret = cb_scan_run(reload, &scan);

	cb_words_trim(regions, layout->region_count);
	return ret;
}

/*
 * The bitmap of blocks that a clean save wrote for the area of an epoch. regions
 * name at least the same blocks, or are NULL where nobody knows.
 */
static int cb_reload_fine(struct cb_reload *reload, enum cb_fine_map which, u64 *blocks,
			  const u64 *regions)
{
	const struct cb_layout *layout = &reload->layout;
	u64 epoch = reload->header.epoch - (which == CB_FINE_CHANGES ? 1 : 0);
	struct cb_scan scan = {
		.kind = CB_META_FINE,
		.first = cb_layout_fine_of(layout, epoch),
		.count = layout->fine_slots,
		.epoch = epoch,
		.words = blocks,
		.regions = regions,
	};
	int ret;

	if (reload->state.fine_rule == CB_FINE_GROUPS) {
		scan.groups = reload->groups->of[which];
		scan.group_shift = cb_group_shift(layout);
	}
	ret = cb_scan_run(reload, &scan);
	cb_words_trim(blocks, layout->block_count);
	reload->unusable += scan.unusable;
	/* A block that is preserved has its place in the COW file: more is not enough. */
	if (which == CB_FINE_TRACKED && scan.unusable)
		reload->snapshot = false;
	return ret;
}

int cb_reload_tracked(struct cb_reload *reload, u64 *blocks, u64 *marked, u64 *older)
{
	const struct cb_layout *layout = &reload->layout;
	u64 epoch = reload->header.epoch, words = cb_words(layout->region_count), i;
	int ret;

	ret = cb_reload_regions(reload, epoch, marked);
	if (!ret && reload->header.before_epoch &&
	    (reload->tracked_from != epoch || reload->changes_from))
		ret = cb_reload_regions(reload, reload->header.before_epoch, older);
	if (ret)
		return ret;
	if (!reload->clean) {
		cb_words_expand(layout, marked, 0, layout->block_count, blocks);
		if (reload->tracked_from != epoch)
			cb_words_expand(layout, older, 0, layout->block_count, blocks);
		return 0;
	}
	if (reload->tracked_from == epoch)
		return cb_reload_fine(reload, CB_FINE_TRACKED, blocks, marked);
	if (reload->tracked_from != reload->header.before_epoch)
		return cb_reload_fine(reload, CB_FINE_TRACKED, blocks, NULL);
	for (i = 0; i < words; i++)
		older[i] |= marked[i];
	return cb_reload_fine(reload, CB_FINE_TRACKED, blocks, older);
}

int cb_reload_before(struct cb_reload *reload, u64 *blocks, const u64 *older)
{
	bool known;

	if (!reload->clean || !reload->changes_from)
		return -ENODATA;
	known = reload->changes_from == reload->header.before_epoch;
	return cb_reload_fine(reload, CB_FINE_CHANGES, blocks, known ? older : NULL);
}

/* ---- index ------------------------------------------------------------- */

int cb_reload_index(struct cb_reload *reload, struct cb_slotmap *map)
{
	const struct cb_layout *layout = &reload->layout;
	u64 first = layout->data_first / CB_PAYLOAD_WORDS, used = reload->state.slots_used;
	struct cb_scan scan = { .kind = CB_META_INDEX, .map = map };
	int ret;

	/* By an earlier version: nobody could tell what has become of the blocks since. */
	if (!cb_reload_has_sums(reload)) {
		reload->snapshot = false;
		return 0;
	}
	/* Slots that were given out lie behind the metadata, and in the file. */
	if (used < layout->data_first || used > reload->header.cow_slots)
		return cb_reload_lost(reload, "the saved state makes no sense");
	if (reload->state.fine_rule == CB_FINE_ALL)
		first = 0;
	scan.first = first;
	scan.count = (used + CB_PAYLOAD_WORDS - 1) / CB_PAYLOAD_WORDS - first;
	scan.epoch = reload->header.epoch;
	ret = cb_scan_run(reload, &scan);
	if (scan.unusable)
		reload->snapshot = false;
	return ret;
}

void cb_reload_settle(struct cb_reload *reload, u64 *blocks, const u64 *before)
{
	u64 words = cb_words(reload->layout.block_count), i;

	if (reload->snapshot || !reload->clean || reload->mode != CB_MODE_SNAPSHOT ||
	    !reload->changes_from)
		return;
	for (i = 0; i < words; i++)
		blocks[i] |= before[i];
	reload->tracked_from = reload->changes_from;
}
