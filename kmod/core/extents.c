// SPDX-License-Identifier: GPL-2.0-only
#include "extents.h"

static void cb_extents_sift(struct cb_extent *list, u32 root, u32 count)
{
	for (;;) {
		u64 child = (u64)root * 2 + 1;
		struct cb_extent tmp;

		if (child >= count)
			return;
		if (child + 1 < count && list[child + 1].sector > list[child].sector)
			child++;
		if (list[root].sector >= list[child].sector)
			return;
		tmp = list[root];
		list[root] = list[child];
		list[child] = tmp;
		root = (u32)child;
	}
}

/* Heap sort: in place, without recursion, n log n whatever the order. */
static void cb_extents_sort(struct cb_extent *list, u32 count)
{
	u32 i;

	for (i = count / 2; i-- > 0;)
		cb_extents_sift(list, i, count);
	for (i = count; i-- > 1;) {
		struct cb_extent tmp = list[0];

		list[0] = list[i];
		list[i] = tmp;
		cb_extents_sift(list, 0, i);
	}
}

/* Trims one piece to the grid; false when no whole slot remains. */
static bool cb_extents_trim(struct cb_extent *piece, u64 grid)
{
	u64 end = piece->sector + piece->slots;
	u64 head = (grid - piece->sector) & (CB_BLOCK_SECTORS - 1);

	if (piece->slots < head + CB_BLOCK_SECTORS)
		return false;
	piece->sector += head;
	piece->slots = (end - piece->sector) >> CB_BLOCK_SECTOR_SHIFT;
	return true;
}

int cb_extents_init(struct cb_extents *extents, struct cb_extent *list, u32 count, u64 grid,
		    u64 disk_sectors)
{
	u64 last_end = 0, slots = 0;
	u32 i, kept = 0;

	cb_extents_sort(list, count);
	for (i = 0; i < count; i++) {
		struct cb_extent piece = list[i];

		if (!piece.slots || piece.sector < last_end || piece.sector > disk_sectors ||
		    piece.slots > disk_sectors - piece.sector)
			return -EINVAL;
		last_end = piece.sector + piece.slots;
		if (!cb_extents_trim(&piece, grid))
			continue;
		piece.first_slot = slots;
		slots += piece.slots;
		list[kept++] = piece;
	}
	extents->list = list;
	extents->count = kept;
	extents->slots = slots;
	return slots ? 0 : -ENOSPC;
}

int cb_extents_slot(const struct cb_extents *extents, u64 slot, u64 *sector, u64 *run)
{
	u32 low = 0, high = extents->count;
	const struct cb_extent *piece;

	if (slot >= extents->slots)
		return -ERANGE;
	/* The last piece whose first slot is not after this one. */
	while (high - low > 1) {
		u32 middle = low + (high - low) / 2;

		if (extents->list[middle].first_slot <= slot)
			low = middle;
		else
			high = middle;
	}
	piece = &extents->list[low];
	*sector = piece->sector + ((slot - piece->first_slot) << CB_BLOCK_SECTOR_SHIFT);
	*run = piece->slots - (slot - piece->first_slot);
	return 0;
}

bool cb_extents_touch(const struct cb_extents *extents, u64 sector, u64 sectors)
{
	u32 low = 0, high = extents->count;

	/* The first piece that ends after the sector. */
	while (low < high) {
		u32 middle = low + (high - low) / 2;
		const struct cb_extent *piece = &extents->list[middle];

		if (piece->sector + (piece->slots << CB_BLOCK_SECTOR_SHIFT) <= sector)
			low = middle + 1;
		else
			high = middle;
	}
	return sectors && low < extents->count && extents->list[low].sector < sector + sectors;
}

bool cb_extents_lie_on(const struct cb_extents *extents, const struct cb_geom *geom)
{
	return cb_extents_touch(extents, geom->start, geom->sectors);
}
