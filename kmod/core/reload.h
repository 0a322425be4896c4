/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Taking up a series again from what lies in its COW file.
 *
 * The caller reads slots and owns the memory; here is decided what they are
 * worth. Steps in this order, each of which may find that tracking is lost
 * (then reason says why):
 *
 *   cb_reload_header   epoch header and layout, from the sector of slot 0 alone
 *   cb_reload_extents  where the other slots are
 *   cb_reload_state    whether what lies there is still true
 *   cb_reload_tracked  the blocks written since tracked_from
 *   cb_reload_before   those of the epoch before, as long as it is known
 *   cb_reload_index    CLEAN snapshots: which slot keeps which block
 *
 * Every slot is checked for its identity before it is believed. Only a slot of
 * the region maps may have been torn by a power cut while it was rewritten; all
 * of its regions count as marked then.
 */
#ifndef COWBIRD_CORE_RELOAD_H
#define COWBIRD_CORE_RELOAD_H

#include "extents.h"
#include "geom.h"
#include "header.h"
#include "marks.h"
#include "slotmap.h"
#include "state.h"

struct cb_reader {
	/* Reads the CB_BLOCK_BYTES at a sector of the COW file's disk; 0 or a negative errno. */
	int (*read)(void *context, u64 sector, u8 *slot);
	void *context;
};

struct cb_reload {
	/* Set by the caller. */
	struct cb_reader reader;
	u8 *slot; /* scratch, CB_BLOCK_BYTES */
	u64 disk_sectors; /* of the COW file's disk */

	/* Found. */
	struct cb_header header;
	struct cb_geom geom;
	struct cb_layout layout;
	struct cb_extents extents;
	struct cb_state state;
	u64 state_sequence; /* of the latest state, whatever it says */
	bool clean;
	enum cb_mode mode;
	u64 tracked_from; /* the epoch since which cb_reload_tracked names every change */
	u64 changes_from; /* likewise for cb_reload_before; 0 where nothing is known */
	const char *reason;
};

/* sector: of slot 0 on the COW file's disk. */
int cb_reload_header(struct cb_reload *reload, u64 sector);

/* list: room for header.extent_count pieces, in use for as long as the extents are. */
int cb_reload_extents(struct cb_reload *reload, struct cb_extent *list);

/* Whether tracking can go on. */
int cb_reload_state(struct cb_reload *reload, const struct cb_now *now);

/*
 * blocks: zeroed, cb_words(layout.block_count) words; gets a superset of the
 * blocks that were written since tracked_from. marked: zeroed,
 * cb_words(layout.region_count) words; gets the regions that are marked on disk
 * for the current epoch.
 */
int cb_reload_tracked(struct cb_reload *reload, u64 *blocks, u64 *marked);

/* As above: the blocks written from changes_from to the current epoch. */
int cb_reload_before(struct cb_reload *reload, u64 *blocks);

/* Fills an empty map. CLEAN snapshots only. */
int cb_reload_index(struct cb_reload *reload, struct cb_slotmap *map);

#endif
