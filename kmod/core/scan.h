/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reading many slots of one kind, several at once.
 *
 * Whoever reads asks for the next slots that follow each other on the disk, as
 * often as it has room for, and hands each slot back when it is there, in any
 * order; what the slots are worth is decided here.
 */
#ifndef COWBIRD_CORE_SCAN_H
#define COWBIRD_CORE_SCAN_H

#include "groups.h"
#include "meta.h"

/* Slots that are asked for at once, at most. */
#define CB_SCAN_RUN 64u

struct cb_reload;
struct cb_slotmap;

struct cb_scan {
	enum cb_meta_kind kind;
	u64 first; /* number of the first slot within the kind */
	u64 count;
	const u8 *groups; /* only slots of these groups; NULL for all */
	u32 group_shift;
	u64 next; /* slots before this one have been asked for; counts from first */

	u64 epoch; /* that the slots must name */
	u64 *words; /* regions, fine: where the bits go */
	const u64 *regions; /* fine: stand in for a slot that cannot be used; NULL for all */
	struct cb_slotmap *map; /* index */
	u64 unusable; /* out, fine and index: slots that could not be used */
};

/*
 * The next slots to be read: how many, which (counts from scan->first) and where.
 * 0 at the end.
 */
u32 cb_scan_next(struct cb_reload *reload, struct cb_scan *scan, u64 *at, u64 *sector);

/*
 * Takes a slot, or the error of its read, then slot is not looked at. An error ends
 * the scan.
 */
int cb_scan_take(struct cb_reload *reload, struct cb_scan *scan, u64 at, const u8 *slot,
		 int error);

/* All of it, by the reader's way of reading many or one after the other. */
int cb_scan_run(struct cb_reload *reload, struct cb_scan *scan);

#endif
