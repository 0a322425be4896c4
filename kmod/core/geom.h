/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Geometry of an origin: which of its blocks a write on the disk touches.
 *
 * Everything is counted in 512-byte sectors of the whole disk. The origin is
 * the range [start, start + sectors) of it, be it a partition or the disk
 * itself; its blocks are counted from its own start, and the last one is
 * shorter where the size is no multiple of a block.
 */
#ifndef COWBIRD_CORE_GEOM_H
#define COWBIRD_CORE_GEOM_H

#include "platform.h"

struct cb_geom {
	u64 start; /* first sector of the origin on its disk */
	u64 sectors; /* length of the origin */
};

/* Blocks first..last, both included. */
struct cb_blocks {
	u64 first;
	u64 last;
};

/* 0, or -EINVAL when the origin is empty or runs past the end of 64 bits. */
int cb_geom_init(struct cb_geom *geom, u64 start, u64 sectors);

/* Number of blocks, a short last one included. */
u64 cb_geom_block_count(const struct cb_geom *geom);

/* Sectors in a block: CB_BLOCK_SECTORS, fewer in a short last one, 0 past the end. */
u32 cb_geom_block_sectors(const struct cb_geom *geom, u64 block);

/* First sector of a block, counted from the start of the disk. */
u64 cb_geom_block_start(const struct cb_geom *geom, u64 block);

/*
 * The blocks of the origin that disk sectors [sector, sector + sectors) touch,
 * wholly or in part. False when there are none.
 */
bool cb_geom_touched(const struct cb_geom *geom, u64 sector, u64 sectors,
		     struct cb_blocks *touched);

#endif
