// SPDX-License-Identifier: GPL-2.0-only
/*
 * The slots of the maps and of the index that a save writes.
 *
 * A slot of the map that is as it was when it was last written is not written again;
 * which slots count, the state says (core/groups.h).
 */
#include <linux/bitmap.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "cowbird.h"

/* Entries of the index that are looked at under one lock. */
#define CB_SAVE_LOCKED 64u

/* ---- what is on disk already ------------------------------------------- */

/* Nothing of it counts any more: all is written anew. */
void cb_save_forget(struct cb_device *dev)
{
	struct cb_saved *saved = &dev->on_disk;

	memset(saved->bits, 0xFF, dev->layout.fine_slots * sizeof(*saved->bits));
	memset(saved->groups, 0, sizeof(*saved->groups));
	saved->since = 0;
	saved->index_slots = 0;
	saved->all_seen = false;
	saved->changes = false;
}

int cb_saved_init(struct cb_device *dev)
{
	struct cb_saved *saved = &dev->on_disk;

	saved->bits = cb_map_alloc(dev->layout.fine_slots * sizeof(*saved->bits));
	saved->groups = kzalloc(sizeof(*saved->groups), GFP_KERNEL);
	if (!saved->bits || !saved->groups)
		return -ENOMEM;
	cb_save_forget(dev);
	return 0;
}

void cb_saved_free(struct cb_device *dev)
{
	vfree(dev->on_disk.bits);
	kfree(dev->on_disk.groups);
}

/* ---- maps -------------------------------------------------------------- */

/* A slot's part of a map. */
struct cb_save_part {
	const unsigned long *words;
	u32 count; /* of words */
};

static struct cb_save_part cb_save_part_of(struct cb_device *dev, const unsigned long *map,
					   u64 slot)
{
	u64 first = slot * CB_PAYLOAD_WORDS, words = cb_words(dev->block_count);

	/* Little-endian longs of 64 bits; see cb_changes_copy. */
	return (struct cb_save_part){
		.words = map + first,
		.count = min_t(u64, words - first, CB_PAYLOAD_WORDS),
	};
}

static u32 cb_save_bits(const void *words, u32 count)
{
	return bitmap_weight(words, count * 64);
}

/* Puts a slot of a map; how many bits it has is counted in what goes to disk. */
static int cb_save_slot(struct cb_device *dev, struct cb_meta_pool *pool,
			const unsigned long *map, u64 epoch, u64 slot, u16 *bits)
{
	struct cb_save_part part = cb_save_part_of(dev, map, slot);
	struct page *page;
	u8 *to;
	int ret = cb_meta_put(pool, CB_META_FINE, cb_layout_fine_of(&dev->layout, epoch) + slot,
			      epoch, dev->state_sequence + 1, &page);

	if (ret)
		return ret;
	to = cb_kmap(page);
	if (!cb_mutant(save_empty_map))
		memcpy(to + CB_PAYLOAD_AT, part.words, part.count * sizeof(u64));
	if (bits)
		*bits = cb_save_bits(to + CB_PAYLOAD_AT, part.count);
	cb_kunmap(to);
	return 0;
}

static u64 cb_save_group_end(struct cb_device *dev, u64 group)
{
	return min_t(u64, (group + 1) << cb_group_shift(&dev->layout), dev->layout.fine_slots);
}

/*
 * Whether blocks of a group may have been noted or preserved in this epoch: then their
 * region has been asked for, before.
 */
static bool cb_save_may_have(struct cb_device *dev, u64 group)
{
	u64 slot = group << cb_group_shift(&dev->layout);
	u64 end = min_t(u64, cb_save_group_end(dev, group) * CB_PAYLOAD_BITS, dev->block_count);
	u64 first = (slot * CB_PAYLOAD_BITS) >> dev->layout.region_shift;
	u64 last = (end - 1) >> dev->layout.region_shift;

	return find_next_bit((unsigned long *)dev->marks.issued, last + 1, first) <= last ||
	       find_next_bit((unsigned long *)dev->marks.wanted, last + 1, first) <= last;
}

static bool cb_save_is_empty(struct cb_device *dev, const unsigned long *map, u64 group)
{
	u64 first = (group << cb_group_shift(&dev->layout)) * CB_PAYLOAD_BITS;
	u64 end = min_t(u64, cb_save_group_end(dev, group) * CB_PAYLOAD_BITS, dev->block_count);

	return find_next_bit(map, end, first) >= end && !cb_mutant(neighbour_saves_all);
}

/* Faults: every slot is written again, or none that was written before. */
static bool cb_mutant_bend_saved(bool is_saved)
{
	return !cb_mutant(neighbour_saves_all) && (cb_mutant(save_skips_changed) || is_saved);
}

/* The slots of a group that differ from what is on disk; how many, or an error. */
static int cb_save_group(struct cb_device *dev, struct cb_meta_pool *pool, u64 group)
{
	u64 slot = group << cb_group_shift(&dev->layout), end = cb_save_group_end(dev, group);
	int written = 0;

	for (; slot < end; slot++) {
		struct cb_save_part part = cb_save_part_of(dev, dev->preserved, slot);
		u16 *bits = &dev->on_disk.bits[slot];
		int ret;

		if (*bits != CB_SAVED_NOTHING &&
		    cb_mutant_bend_saved(*bits == cb_save_bits(part.words, part.count)))
			continue;
		ret = cb_save_slot(dev, pool, dev->preserved, dev->epoch, slot, bits);
		if (ret)
			return ret;
		written++;
	}
	return written;
}

/* The slots of the epoch's map that differ from what is on disk; how many, or an error. */
int cb_save_tracked(struct cb_device *dev, struct cb_meta_pool *pool, unsigned long deadline)
{
	u8 *groups = dev->on_disk.groups->of[CB_FINE_TRACKED];
	u64 count = ((dev->layout.fine_slots - 1) >> cb_group_shift(&dev->layout)) + 1, group;
	int written = 0;

	for (group = 0; group < count; group++) {
		int ret;

		if (dev->on_disk.all_seen && !cb_save_may_have(dev, group))
			continue;
		if (!cb_group_has(groups, group) && cb_save_is_empty(dev, dev->preserved, group))
			continue;
		cb_group_add(groups, group);
		ret = cb_save_group(dev, pool, group);
		if (ret < 0)
			return ret;
		written += ret;
		if (time_after(jiffies, deadline))
			return -ETIMEDOUT;
		cond_resched();
	}
	return written;
}

/* The map of the epoch before, which does not change any more. */
int cb_save_changes(struct cb_device *dev, struct cb_meta_pool *pool, unsigned long deadline)
{
	u8 *groups = dev->on_disk.groups->of[CB_FINE_CHANGES];
	u64 count = ((dev->layout.fine_slots - 1) >> cb_group_shift(&dev->layout)) + 1, group, slot;

	for (group = 0; group < count; group++) {
		if (cb_save_is_empty(dev, dev->changes, group))
			continue;
		cb_group_add(groups, group);
		slot = group << cb_group_shift(&dev->layout);
		for (; slot < cb_save_group_end(dev, group); slot++) {
			int ret = cb_save_slot(dev, pool, dev->changes, dev->epoch - 1, slot, NULL);

			if (ret)
				return ret;
		}
		if (time_after(jiffies, deadline))
			return -ETIMEDOUT;
		cond_resched();
	}
	dev->on_disk.changes = true;
	return 0;
}

/* ---- index ------------------------------------------------------------- */

void cb_save_fill_index(struct cb_device *dev, u64 index, u8 *payload)
{
	u64 slot = index * CB_PAYLOAD_WORDS;
	u32 i;

	for (i = 0; i < CB_PAYLOAD_WORDS && slot + i < dev->slots_used; i++) {
		__le64 word = cpu_to_le64(dev->slotmap.words[slot + i]);

		memcpy(payload + i * sizeof(word), &word, sizeof(word));
	}
}

/* Whether each of the slots has been stored, and therefore never changes any more. */
static bool cb_save_all_stored(struct cb_device *dev, u64 first, u64 end)
{
	bool all = true;

	for (first = max(first, dev->layout.data_first); all && first < end;) {
		u64 stop = min_t(u64, first + CB_SAVE_LOCKED, end);
		unsigned long flags;

		spin_lock_irqsave(&dev->lock, flags);
		for (; all && first < stop; first++)
			all = cb_slotmap_keeps(&dev->slotmap, (u32)first);
		spin_unlock_irqrestore(&dev->lock, flags);
	}
	return all;
}

u64 cb_save_index_first(struct cb_device *dev)
{
	return max(dev->on_disk.index_slots, dev->layout.data_first / CB_PAYLOAD_WORDS);
}

/* Slots of the index that are complete. */
int cb_save_index_ahead(struct cb_device *dev, struct cb_meta_pool *pool, unsigned long deadline)
{
	u64 index = cb_save_index_first(dev);
	int ret = 0;

	/* What lies in an annex is in no index. */
	for (; !ret && (index + 1) * CB_PAYLOAD_WORDS <=
			       min(READ_ONCE(dev->slots_used), dev->extents.slots);
	     index++) {
		if (!cb_save_all_stored(dev, index * CB_PAYLOAD_WORDS,
					(index + 1) * CB_PAYLOAD_WORDS))
			break;
		ret = cb_meta_write(pool, CB_META_INDEX, index, 1, dev->epoch,
				    dev->state_sequence + 1, cb_save_fill_index);
		if (time_after(jiffies, deadline))
			ret = -ETIMEDOUT;
		cond_resched();
	}
	dev->on_disk.index_slots = index;
	return ret;
}
