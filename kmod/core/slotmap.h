/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which slot of the COW file keeps which block, and by what sum its content is known.
 *
 * An open-addressing hash table with as many keys as the COW file has slots.
 * Its memory therefore follows the COW file, not the origin, and is complete
 * before the epoch begins: an insertion never allocates and so never fails for
 * want of memory while a write waits. Entries are never removed within an
 * epoch.
 *
 *   buckets[hash(block) ...] -> slot + 1, or 0 for an empty bucket
 *   words[slot]              -> block, the key, and above it the sum
 *
 * A block's number takes 32 bits of its word, or as many as the origin needs: up to 16 TiB
 * a sum has 32 bits, at 64 TiB its lower 30. A clean save writes the words as they are.
 *
 * Half of the buckets stay empty at least, which bounds a probe in practice
 * and ends it in theory.
 */
#ifndef COWBIRD_CORE_SLOTMAP_H
#define COWBIRD_CORE_SLOTMAP_H

#include "platform.h"

#define CB_SLOT_NONE (~(u32)0)
#define CB_SLOTMAP_MAX_SLOTS (1u << 30)

struct cb_slotmap {
	u32 *buckets;
	u64 *words;
	u32 bucket_mask;
	u32 capacity; /* slots */
	u32 used;
	u32 block_bits; /* of a word */
};

/* Number of buckets for a capacity: a power of two, at least twice as many. */
u32 cb_slotmap_bucket_count(u32 capacity);

/*
 * Starts with caller-owned, zeroed memory: cb_slotmap_bucket_count(capacity)
 * buckets and capacity words. -EINVAL for a capacity of 0 or above the maximum. The origin
 * has block_count blocks.
 */
int cb_slotmap_init(struct cb_slotmap *map, u32 capacity, u64 block_count, u32 *buckets,
		    u64 *words);

/* So much of a sum (sum.h) is kept. */
static inline u32 cb_slotmap_cut(const struct cb_slotmap *map, u32 sum)
{
	return (u32)((u64)sum << map->block_bits >> map->block_bits);
}

/* The block of a word, and what is kept of its sum. */
static inline u64 cb_slotmap_block_of(const struct cb_slotmap *map, u64 word)
{
	return word & (((u64)1 << map->block_bits) - 1);
}

static inline u32 cb_slotmap_sum_of(const struct cb_slotmap *map, u64 word)
{
	return (u32)(word >> map->block_bits);
}

/*
 * Records that slot keeps block. -EINVAL for a slot out of range or a block that no origin
 * of this size has, -EEXIST when the block is there already (its preserved copy must never
 * be replaced).
 */
int cb_slotmap_insert(struct cb_slotmap *map, u64 block, u32 sum, u32 slot);

/* Whether a block is recorded for a slot. */
bool cb_slotmap_keeps(const struct cb_slotmap *map, u32 slot);

/*
 * Takes over what another map records for slots from *next on, before end, up to the
 * first slot without a block; *next is that one then. -EINVAL where there is no room.
 */
int cb_slotmap_copy(struct cb_slotmap *to, const struct cb_slotmap *from, u64 *next, u64 end);

/* The slot of a block, or CB_SLOT_NONE. */
u32 cb_slotmap_find(const struct cb_slotmap *map, u64 block);

#endif
