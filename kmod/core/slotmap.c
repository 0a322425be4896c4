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

int cb_slotmap_init(struct cb_slotmap *map, u32 capacity, u64 block_count, u32 *buckets,
		    u64 *words)
{
	if (!capacity || capacity > CB_SLOTMAP_MAX_SLOTS)
		return -EINVAL;
	map->buckets = buckets;
	map->words = words;
	map->bucket_mask = cb_slotmap_bucket_count(capacity) - 1;
	map->capacity = capacity;
	map->used = 0;
	map->block_bits = 32;
	/* Blocks have 8 sectors, whose numbers have 64 bits. */
	while (map->block_bits < 61 && (block_count - 1) >> map->block_bits)
		map->block_bits++;
	return 0;
}

/* The bucket that holds the block, or the empty one where it belongs. */
static u32 cb_slotmap_probe(const struct cb_slotmap *map, u64 block)
{
	u32 at = cb_slotmap_home(map, block);

	while (map->buckets[at] &&
	       cb_slotmap_block_of(map, map->words[map->buckets[at] - 1]) != block)
		at = (at + 1) & map->bucket_mask;
	return at;
}

int cb_slotmap_insert(struct cb_slotmap *map, u64 block, u32 sum, u32 slot)
{
	u32 at;

	if (slot >= map->capacity || map->used >= map->capacity || block >> map->block_bits)
		return -EINVAL;
	at = cb_slotmap_probe(map, block);
	if (map->buckets[at])
		return -EEXIST;
	map->words[slot] = block | (u64)sum << map->block_bits;
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
	u64 block = cb_slotmap_block_of(map, map->words[slot]);

	/* The word of a slot without a block is 0, and block 0 is in another slot or in none. */
	return block || cb_slotmap_find(map, block) == slot;
}

int cb_slotmap_copy(struct cb_slotmap *to, const struct cb_slotmap *from, u64 *next, u64 end)
{
	int ret = 0;

	while (!ret && *next < end && cb_slotmap_keeps(from, (u32)*next)) {
		u64 word = from->words[*next];

		ret = cb_slotmap_insert(to, cb_slotmap_block_of(from, word),
					cb_slotmap_sum_of(from, word), (u32)*next);
		if (!ret)
			++*next;
	}
	return ret;
}
