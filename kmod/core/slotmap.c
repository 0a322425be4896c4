// SPDX-License-Identifier: GPL-2.0-only
#include "slotmap.h"

/* Fibonacci hashing: neighbours, the common case, spread over the table. */
static u32 cb_slotmap_home(const struct cb_slotmap *map, u64 block)
{
	return (u32)((block * 0x9E3779B97F4A7C15ull) >> 32) & map->bucket_mask;
}

u32 cb_slotmap_bucket_count(u32 capacity)
{
	u32 count = 2;

	while (count / 2 < capacity)
		count *= 2;
	return count;
}

int cb_slotmap_init(struct cb_slotmap *map, u32 capacity, u32 *buckets, u64 *block_of)
{
	if (!capacity || capacity > CB_SLOTMAP_MAX_SLOTS)
		return -EINVAL;
	map->buckets = buckets;
	map->block_of = block_of;
	map->bucket_mask = cb_slotmap_bucket_count(capacity) - 1;
	map->capacity = capacity;
	map->used = 0;
	return 0;
}

/* The bucket that holds the block, or the empty one where it belongs. */
static u32 cb_slotmap_probe(const struct cb_slotmap *map, u64 block)
{
	u32 at = cb_slotmap_home(map, block);

	while (map->buckets[at] && map->block_of[map->buckets[at] - 1] != block)
		at = (at + 1) & map->bucket_mask;
	return at;
}

int cb_slotmap_insert(struct cb_slotmap *map, u64 block, u32 slot)
{
	u32 at;

	if (slot >= map->capacity || map->used >= map->capacity)
		return -EINVAL;
	at = cb_slotmap_probe(map, block);
	if (map->buckets[at])
		return -EEXIST;
	map->block_of[slot] = block;
	map->buckets[at] = slot + 1;
	map->used++;
	return 0;
}

u32 cb_slotmap_find(const struct cb_slotmap *map, u64 block)
{
	u32 at = cb_slotmap_probe(map, block);

	return map->buckets[at] ? map->buckets[at] - 1 : CB_SLOT_NONE;
}

bool cb_slotmap_keeps(const struct cb_slotmap *map, u32 slot)
{
	/* The key of a slot without a block is 0, and block 0 is in another slot or in none. */
	return cb_slotmap_find(map, map->block_of[slot]) == slot;
}

int cb_slotmap_copy(struct cb_slotmap *to, const struct cb_slotmap *from, u64 *next, u64 end)
{
	int ret = 0;

	while (!ret && *next < end && cb_slotmap_keeps(from, (u32)*next)) {
		ret = cb_slotmap_insert(to, from->block_of[*next], (u32)*next);
		if (!ret)
			++*next;
	}
	return ret;
}
