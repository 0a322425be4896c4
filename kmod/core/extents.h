/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The COW file as a list of 4096-byte slots on its disk.
 *
 * The pieces that the filesystem reported are sorted by place and trimmed to
 * the origin's block grid, so that a slot never shares a block of the origin
 * with anything else. A slot keeps its number for the life of the COW file.
 */
#ifndef COWBIRD_CORE_EXTENTS_H
#define COWBIRD_CORE_EXTENTS_H

#include "geom.h"
#include "platform.h"

struct cb_extent {
	u64 sector; /* on the whole disk, first of the piece's first slot */
	u64 slots;
	u64 first_slot;
};

struct cb_extents {
	struct cb_extent *list; /* sorted by sector, therefore by first_slot too */
	u32 count;
	u64 slots;
};

/*
 * Takes list[0..count), in which sector is a place on the whole disk and slots
 * the piece's length in *sectors* (as reported); sorts and rewrites it in
 * place. grid is any sector at which a block of the origin begins; disk_sectors
 * is the size of the disk.
 *
 * -EINVAL for an empty piece, pieces that overlap or one that ends past the
 * disk; -ENOSPC when no whole slot remains.
 */
int cb_extents_init(struct cb_extents *extents, struct cb_extent *list, u32 count, u64 grid,
		    u64 disk_sectors);

/*
 * First sector of a slot on the whole disk; in *run how many slots, this one
 * included, follow each other physically. -ERANGE past the last slot.
 */
int cb_extents_slot(const struct cb_extents *extents, u64 slot, u64 *sector, u64 *run);

/* Whether [sector, sector + sectors) touches any slot. */
bool cb_extents_touch(const struct cb_extents *extents, u64 sector, u64 sectors);

/* Whether some of it lies on an origin of the same disk. */
bool cb_extents_lie_on(const struct cb_extents *extents, const struct cb_geom *geom);

#endif
