// SPDX-License-Identifier: GPL-2.0-only
#include "geom.h"

int cb_geom_init(struct cb_geom *geom, u64 start, u64 sectors)
{
	if (!sectors || start + sectors < start)
		return -EINVAL;
	geom->start = start;
	geom->sectors = sectors;
	return 0;
}

u64 cb_geom_block_count(const struct cb_geom *geom)
{
	/* Written so that a size close to 2^64 does not wrap. */
	return ((geom->sectors - 1) >> CB_BLOCK_SECTOR_SHIFT) + 1;
}

u32 cb_geom_block_sectors(const struct cb_geom *geom, u64 block)
{
	u64 before;

	if (block >= cb_geom_block_count(geom))
		return 0;
	before = block << CB_BLOCK_SECTOR_SHIFT;
	if (geom->sectors - before < CB_BLOCK_SECTORS)
		return (u32)(geom->sectors - before);
	return CB_BLOCK_SECTORS;
}

u64 cb_geom_block_start(const struct cb_geom *geom, u64 block)
{
	return geom->start + (block << CB_BLOCK_SECTOR_SHIFT);
}

bool cb_geom_touched(const struct cb_geom *geom, u64 sector, u64 sectors,
		     struct cb_blocks *touched)
{
	u64 end = sector + sectors;
	u64 origin_end = geom->start + geom->sectors;

	if (!sectors)
		return false;
	if (end < sector)
		end = ~(u64)0;
	if (end <= geom->start || sector >= origin_end)
		return false;
	if (sector < geom->start)
		sector = geom->start;
	if (end > origin_end)
		end = origin_end;
	touched->first = (sector - geom->start) >> CB_BLOCK_SECTOR_SHIFT;
	touched->last = (end - 1 - geom->start) >> CB_BLOCK_SECTOR_SHIFT;
	return true;
}
