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
 *   cb_reload_samples  CLEAN: what of the origin must still be as it was
 *   cb_reload_tracked  the blocks written since tracked_from
 *   cb_reload_before   those of the epoch before, as long as it is known
 *   cb_reload_index    CLEAN snapshots: which slot keeps which block
 *   cb_reload_settle   what the changes mean where the snapshot cannot go on
 *   cb_reload_confirm  the state once more, when no write can pass any more
 *
 * Nobody but a live series writes to these slots, and writes its state first. So
 * as long as the state is still the same at the end, everything that was read
 * before is, too, and no write has to be held while it is read.
 *
 * Every slot is checked for its identity before it is believed. A slot of the region
 * maps that is torn, by a power cut while it was rewritten, counts as all marked. A
 * slot of the fine maps that cannot be read, is damaged, or was not written for the
 * state that counts is stood in for by the regions that are marked in its place. An
 * identity that is wrong is something else: the COW file was moved or overwritten.
 *
 * A region that is marked names all of its blocks, those of the COW file among them. They
 * stay in the map: the extents may be another file's by now, and only cb_cow_file_verify knows.
 * They read as zeros from a snapshot (I9, own blocks), as they do in its image.
 */
#ifndef COWBIRD_CORE_RELOAD_H
#define COWBIRD_CORE_RELOAD_H

#include "extents.h"
#include "geom.h"
#include "header.h"
#include "marks.h"
#include "samples.h"
#include "scan.h"
#include "slotmap.h"
#include "state.h"

#define CB_UNREADABLE "the COW file's metadata cannot be read"
#define CB_NOT_IN_PLACE                                                                           \
	"the COW file was moved or overwritten: its metadata is not in its place"

struct cb_reload;

struct cb_reader {
	/* Reads the CB_BLOCK_BYTES at a sector of the COW file's disk; 0 or a negative errno. */
	int (*read)(void *context, u64 sector, u8 *slot);
	/* Does all of a scan, several reads at once; NULL to have it done by read. */
	int (*scan)(void *context, struct cb_reload *reload, struct cb_scan *scan);
	void *context;
};

struct cb_reload {
	/* Set by the caller. */
	struct cb_reader reader;
	u8 *slot; /* scratch, CB_BLOCK_BYTES */
	struct cb_groups *groups; /* room for those of the state */
	u64 disk_sectors; /* of the COW file's disk */
	const u8 *series; /* CB_SERIES_BYTES: the one that it must be; NULL for any */

	/* Found. */
	struct cb_header header;
	struct cb_geom geom;
	struct cb_layout layout;
	struct cb_extents extents;
	struct cb_state state;
	u64 state_sequence; /* of the latest state, whatever it says */
	bool clean;
	bool overtaken; /* the state would go on, and what happened in this boot forbids it */
	enum cb_mode mode;
	bool snapshot; /* the snapshot itself can go on, as far as is known */
	u64 unusable; /* slots of the fine maps that regions stand in for */
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

/* What the caller compares with the origin; none where the state is not clean. */
int cb_reload_samples(struct cb_reload *reload, struct cb_samples *samples);

/*
 * blocks: zeroed, cb_words(layout.block_count) words; gets a superset of the
 * blocks that were written since tracked_from. marked: zeroed,
 * cb_words(layout.region_count) words; gets the regions that are marked on disk
 * for the current epoch. older: likewise; gets what cb_reload_before needs.
 */
int cb_reload_tracked(struct cb_reload *reload, u64 *blocks, u64 *marked, u64 *older);

/* As above: the blocks written from changes_from to the current epoch. */
int cb_reload_before(struct cb_reload *reload, u64 *blocks, const u64 *older);

/* Whether each block preserved in this epoch has a sum; a snapshot does not go on without. */
static inline bool cb_reload_has_sums(const struct cb_reload *reload)
{
	return reload->header.flags & CB_HEADER_SUMS;
}

/* Fills an empty map, which is worth something only where snapshot stays true. */
int cb_reload_index(struct cb_reload *reload, struct cb_slotmap *map);

/*
 * Where a snapshot was saved and cannot go on, its backup may not be complete: then
 * blocks get what changed before, too. before may be NULL where changes_from is 0.
 */
void cb_reload_settle(struct cb_reload *reload, u64 *blocks, const u64 *before);

/* Whether everything is still as it was at cb_reload_state, and tracking can go on. */
int cb_reload_confirm(struct cb_reload *reload, const struct cb_now *now);

/* For scan.c. */
struct cb_meta cb_reload_meta(const struct cb_reload *reload, u32 kind, u64 index, u64 sector);
int cb_reload_lost(struct cb_reload *reload, const char *reason);

#endif
