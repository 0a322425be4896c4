// SPDX-License-Identifier: GPL-2.0-only
/*
 * Preserved blocks: first in memory, then in the COW file.
 *
 * All memory is allocated when the snapshot is set up, or when its bound is
 * raised (I8, bounded memory). A block moves
 *
 *   (free) -> LOADING -> DIRTY -> STORING -> STORED -> (free)
 *
 * and is found by snapshot readers in the table from DIRTY until its memory is
 * wanted for another block, and in the slot map from STORED on: with no gap
 * between, as both change under the device's lock. The memory of the block that was
 * stored or read longest ago goes first.
 *
 * Blocks that a reader wants next come back: (free) -> FETCHING -> STORED (ahead.c).
 */
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "cowbird.h"

/* Longest time that a smaller bound waits for blocks to be stored, and how often it looks. */
#define CB_SHRINK_LIMIT (10 * HZ)
#define CB_SHRINK_POLL max(HZ / 100, 1)

/* Memory is asked for in pieces of so many blocks, as a power of two: 1 MiB. */
#define CB_PIECE_ORDER 8

/* Buckets that move to a larger table at once: others wait for the lock with interrupts off. */
#define CB_TABLE_MOVED 64

/* ---- the table of blocks in memory ------------------------------------- */

static struct hlist_head *cb_table_bucket(const struct cb_table *table, u64 block)
{
	return &table->buckets[hash_64(block, table->bits)];
}

static struct cb_entry *cb_table_find(const struct cb_table *table, u64 block)
{
	struct cb_entry *entry;

	if (table->buckets)
		hlist_for_each_entry(entry, cb_table_bucket(table, block), hash)
			if (entry->block == block)
				return entry;
	return NULL;
}

struct cb_entry *cb_blocks_find(struct cb_device *dev, u64 block)
{
	struct cb_entry *entry;

	lockdep_assert_held(&dev->lock);
	entry = cb_table_find(&dev->memory_table, block);
	return entry ?: cb_table_find(&dev->memory_table_before, block);
}

/* A bucket for each of so many blocks. */
static int cb_table_init(struct cb_table *table, u32 blocks)
{
	table->bits = ilog2(roundup_pow_of_two(max(blocks, 2u)));
	table->buckets = vzalloc(sizeof(*table->buckets) << table->bits);
	return table->buckets ? 0 : -ENOMEM;
}

/* Moves the blocks of a bucket of the table before to the table. */
static void cb_table_move(struct cb_device *dev, struct hlist_head *bucket)
{
	struct cb_entry *entry;
	struct hlist_node *next;

	lockdep_assert_held(&dev->lock);
	hlist_for_each_entry_safe(entry, next, bucket, hash) {
		hlist_del(&entry->hash);
		hlist_add_head(&entry->hash, cb_table_bucket(&dev->memory_table, entry->block));
	}
}

/* Makes the table large enough for so many blocks. */
static int cb_table_grow(struct cb_device *dev, u32 blocks)
{
	struct cb_table table, *before = &dev->memory_table_before;
	unsigned long flags;
	u32 i, end;

	lockdep_assert_held(&cb_control_mutex);
	if (blocks <= 1u << dev->memory_table.bits || !dev->memory_table.buckets)
		return 0;
	if (cb_table_init(&table, blocks))
		return -ENOMEM;
	spin_lock_irqsave(&dev->lock, flags);
	*before = dev->memory_table;
	dev->memory_table = table;
	spin_unlock_irqrestore(&dev->lock, flags);
	for (i = 0; i < 1u << before->bits; cond_resched()) {
		end = min(i + CB_TABLE_MOVED, 1u << before->bits);
		spin_lock_irqsave(&dev->lock, flags);
		for (; i < end; i++)
			cb_table_move(dev, &before->buckets[i]);
		spin_unlock_irqrestore(&dev->lock, flags);
	}
	spin_lock_irqsave(&dev->lock, flags);
	swap(table.buckets, before->buckets);
	before->buckets = NULL;
	spin_unlock_irqrestore(&dev->lock, flags);
	vfree(table.buckets);
	return 0;
}

/* ---- entries ------------------------------------------------------------ */

bool cb_blocks_has_room(const struct cb_device *dev)
{
	return READ_ONCE(dev->entries_free_count) || READ_ONCE(dev->stored_count);
}

u32 cb_blocks_in_use(const struct cb_device *dev)
{
	return dev->entry_count - dev->entries_free_count - dev->stored_count;
}

/* An entry that is free, or that is not needed any more: in no list and no table. NULL while all are in use. */
static struct cb_entry *cb_blocks_vacate(struct cb_device *dev)
{
	struct cb_entry *entry;

	lockdep_assert_held(&dev->lock);
	if (!list_empty(&dev->entries_free)) {
		entry = list_first_entry(&dev->entries_free, struct cb_entry, list);
		dev->entries_free_count--;
	} else if (!list_empty(&dev->stored)) {
		entry = list_first_entry(&dev->stored, struct cb_entry, list);
		dev->stored_count--;
		hlist_del_init(&entry->hash);
	} else {
		return NULL;
	}
	list_del_init(&entry->list);
	return entry;
}

/* An entry for a block that is in no other, or NULL while all are in use. */
struct cb_entry *cb_blocks_take(struct cb_device *dev, u64 block)
{
	struct cb_entry *entry = cb_blocks_vacate(dev);
	int in_use;

	if (!entry)
		return NULL;
	entry->block = block;
	entry->state = CB_ENTRY_LOADING;
	entry->ahead = false;
	hlist_add_head(&entry->hash, cb_table_bucket(&dev->memory_table, block));
	in_use = cb_blocks_in_use(dev);
	if (in_use > atomic_read(&dev->stats.memory_peak_blocks))
		atomic_set(&dev->stats.memory_peak_blocks, in_use);
	return entry;
}

/* Whether memory has to go as soon as it is free. */
static bool cb_blocks_over_limit(const struct cb_device *dev)
{
	return dev->entry_count > dev->entry_limit && !cb_mutant(keep_memory);
}

static void cb_entry_free(struct cb_entry *entry)
{
	if (entry->page)
		__free_page(entry->page);
	kfree(entry);
}

static void cb_blocks_recycle(struct cb_device *dev, struct cb_entry *entry)
{
	if (cb_blocks_over_limit(dev)) {
		list_del(&entry->all);
		dev->entry_count--;
		cb_entry_free(entry);
		return;
	}
	entry->state = CB_ENTRY_FREE;
	/* Behind the others: blocks that go together come back together, in the order of their pages. */
	list_add_tail(&entry->list, &dev->entries_free);
	dev->entries_free_count++;
}

/* Drops a block that could not be loaded. */
void cb_blocks_forget(struct cb_device *dev, struct cb_entry *entry)
{
	lockdep_assert_held(&dev->lock);
	hlist_del_init(&entry->hash);
	cb_blocks_recycle(dev, entry);
}

/* Nobody reads it at the moment, and its slot has it: it is found until its memory is wanted. */
static void cb_blocks_keep(struct cb_device *dev, struct cb_entry *entry)
{
	if (cb_blocks_over_limit(dev)) {
		hlist_del_init(&entry->hash);
		cb_blocks_recycle(dev, entry);
		return;
	}
	if (entry->ahead && entry->wanted)
		list_add(&entry->list, &dev->stored);
	else
		list_add_tail(&entry->list, &dev->stored);
	dev->stored_count++;
}

static void cb_blocks_set_stored(struct cb_device *dev, struct cb_entry *entry)
{
	entry->state = CB_ENTRY_STORED;
	if (entry->readers)
		dev->reading_count++;
	else
		cb_blocks_keep(dev, entry);
}

/* The block is in its slot now: readers find it there once it is not in memory any more. */
int cb_blocks_stored(struct cb_device *dev, struct cb_entry *entry)
{
	int ret;

	lockdep_assert_held(&dev->lock);
	ret = cb_slotmap_insert(&dev->slotmap, entry->block, entry->sum, entry->slot);
	if (ret)
		return ret;
	cb_blocks_set_stored(dev, entry);
	return 0;
}

/* An entry for a block that a slot has and no entry, to be read from there; or NULL. */
struct cb_entry *cb_blocks_take_stored(struct cb_device *dev, u64 block, u32 slot)
{
	struct cb_entry *entry = cb_blocks_take(dev, block);

	if (!entry)
		return NULL;
	dev->fetching_count++;
	dev->reading_count++;
	entry->state = CB_ENTRY_FETCHING;
	entry->slot = slot;
	entry->sum = cb_slotmap_sum_of(&dev->slotmap, dev->slotmap.words[slot]);
	entry->ahead = true;
	entry->wanted = false;
	return entry;
}

/* What was read from its slot is there, or cannot be had: then it is found in the slot only. */
void cb_blocks_fetched(struct cb_device *dev, struct cb_entry *entry, bool good)
{
	lockdep_assert_held(&dev->lock);
	dev->fetching_count--;
	if (good) {
		dev->reading_count--;
		cb_blocks_set_stored(dev, entry);
		return;
	}
	hlist_del_init(&entry->hash);
	entry->state = CB_ENTRY_LOST;
	if (entry->readers)
		return;
	dev->reading_count--;
	cb_blocks_recycle(dev, entry);
}

void cb_blocks_get(struct cb_device *dev, struct cb_entry *entry)
{
	lockdep_assert_held(&dev->lock);
	entry->wanted = true;
	if (!entry->readers++ && entry->state == CB_ENTRY_STORED) {
		list_del_init(&entry->list);
		dev->stored_count--;
		dev->reading_count++;
	}
}

void cb_blocks_put(struct cb_device *dev, struct cb_entry *entry)
{
	lockdep_assert_held(&dev->lock);
	if (--entry->readers)
		return;
	if (entry->state != CB_ENTRY_STORED && entry->state != CB_ENTRY_LOST)
		return;
	dev->reading_count--;
	if (entry->state == CB_ENTRY_LOST)
		cb_blocks_recycle(dev, entry);
	else
		cb_blocks_keep(dev, entry);
	if (READ_ONCE(dev->stuck))
		cb_engine_wake(dev);
}

bool cb_block_is_own(struct cb_device *dev, u64 block)
{
	return dev->cow_on_origin &&
	       cb_extents_touch(&dev->extents, cb_geom_block_start(&dev->geom, block),
				cb_geom_block_sectors(&dev->geom, block));
}

/* Blocks of the origin that are slots of the COW file. */
static u64 cb_blocks_count_own(struct cb_device *dev)
{
	u64 own = 0;
	u32 i;

	if (!dev->cow_on_origin)
		return 0;
	for (i = 0; i < dev->extents.count; i++) {
		const struct cb_extent *piece = &dev->extents.list[i];
		struct cb_blocks touched;

		if (cb_geom_touched(&dev->geom, piece->sector,
				    piece->slots << CB_BLOCK_SECTOR_SHIFT, &touched))
			own += touched.last - touched.first + 1;
	}
	return own;
}

/*
 * The origin's machine comes first: a snapshot for which there is no memory is
 * refused. A single page is never refused by plain GFP_KERNEL; the kernel would
 * rather kill processes until there is one, and panic when none is left. Nor
 * would it help to take the last page without that: somebody else is the next to
 * ask. So as much must be available as stays afterwards.
 */
static bool cb_blocks_leave_memory(u32 count)
{
	return count <= max(si_mem_available(), 0L) / 2 || cb_mutant(memory_at_any_cost);
}

#define CB_GFP_BLOCKS                                                                             \
	(cb_mutant(memory_at_any_cost) ? GFP_KERNEL :                                             \
					 GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/*
 * Pages that follow each other in memory, 1 << order of them, each to be freed
 * by itself; NULL where there are none. A bio of such pages has few segments,
 * which is what its cost to the drivers and disks below depends on. More than
 * one page is a wish, for which nobody is made to give up memory.
 */
static struct page *cb_blocks_pages(unsigned int order)
{
	struct page *pages;

	if (!order)
		return alloc_page(CB_GFP_BLOCKS);
	pages = alloc_pages((GFP_KERNEL & ~__GFP_DIRECT_RECLAIM) | __GFP_NOWARN, order);
	if (pages)
		split_page(pages, order);
	return pages;
}

/* The largest piece of so many blocks that there is; its order is adjusted downwards. */
static struct page *cb_blocks_piece(u32 count, unsigned int *order)
{
	struct page *pages = NULL;

	*order = min_t(unsigned int, *order, ilog2(count));
	while (!(pages = cb_blocks_pages(*order)) && *order)
		--*order;
	return pages;
}

static void cb_blocks_append(struct cb_device *dev, struct cb_entry *entry)
{
	unsigned long flags;

	INIT_HLIST_NODE(&entry->hash);
	spin_lock_irqsave(&dev->lock, flags);
	list_add_tail(&entry->all, &dev->entries_all);
	list_add_tail(&entry->list, &dev->entries_free);
	dev->entry_count++;
	dev->entries_free_count++;
	spin_unlock_irqrestore(&dev->lock, flags);
}

/* Entries for count pages; -ENOMEM frees those that got none. */
static int cb_blocks_add_pages(struct cb_device *dev, struct page *pages, u32 count)
{
	struct cb_entry *entry;
	u32 i;

	for (i = 0; i < count; i++) {
		entry = kzalloc(sizeof(*entry), CB_GFP_BLOCKS);
		if (!entry)
			break;
		entry->page = pages + i;
		cb_blocks_append(dev, entry);
	}
	if (i == count)
		return 0;
	for (; i < count; i++)
		__free_page(pages + i);
	return -ENOMEM;
}

/*
 * Memory for a map, zeroed; NULL where there is none. Whether it fits has been decided
 * before (cb_device_check_memory), of all maps together; should others have taken it
 * meanwhile, nobody is killed for it. __GFP_NORETRY, because vmalloc knows it on
 * all kernels: that of 6.19 warns of __GFP_RETRY_MAYFAIL.
 */
void *cb_map_alloc(u64 bytes)
{
	if (cb_mutant(maps_at_any_cost))
		return vzalloc(bytes);
	return __vmalloc(bytes, GFP_KERNEL | __GFP_ZERO | __GFP_NORETRY | __GFP_NOWARN);
}

u64 cb_map_bytes(const struct cb_device *dev)
{
	return cb_words(dev->block_count) * sizeof(u64);
}

u64 cb_slotmap_bytes(u64 slots)
{
	u32 capacity = min_t(u64, slots, CB_SLOTMAP_MAX_SLOTS);

	return (u64)cb_slotmap_bucket_count(capacity) * sizeof(u32) + (u64)capacity * sizeof(u64);
}

/* A map of so many slots, with memory of its own; nothing is left of it after an error. */
int cb_blocks_alloc_slotmap(const struct cb_device *dev, struct cb_slotmap *map, u32 capacity)
{
	u32 *buckets = cb_map_alloc((u64)cb_slotmap_bucket_count(capacity) * sizeof(*buckets));
	u64 *words = cb_map_alloc((u64)capacity * sizeof(*words));

	if (buckets && words &&
	    !cb_slotmap_init(map, capacity, dev->block_count, buckets, words))
		return 0;
	vfree(buckets);
	vfree(words);
	return -ENOMEM;
}

/* Makes memory for so many more blocks. What was made before it ran out is kept. */
static int cb_blocks_add(struct cb_device *dev, u32 count)
{
	unsigned int order = CB_PIECE_ORDER;
	int ret = 0;

	if (!cb_blocks_leave_memory(count))
		return -ENOMEM;
	while (count && !ret) {
		struct page *pages = cb_blocks_piece(count, &order);

		if (!pages)
			return -ENOMEM;
		ret = cb_blocks_add_pages(dev, pages, 1 << order);
		count -= 1 << order;
		cond_resched();
	}
	return ret;
}

/* One block's memory that is free and too much, taken out; or NULL. */
static struct cb_entry *cb_blocks_take_surplus(struct cb_device *dev)
{
	struct cb_entry *entry = NULL;
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	if (cb_blocks_over_limit(dev))
		entry = cb_blocks_vacate(dev);
	if (entry) {
		list_del(&entry->all);
		dev->entry_count--;
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	return entry;
}

static void cb_blocks_bound(struct cb_device *dev, u32 limit)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	WRITE_ONCE(dev->entry_limit, limit);
	spin_unlock_irqrestore(&dev->lock, flags);
}

/* What was in memory before the bound held says nothing about it. */
static void cb_blocks_forget_peak(struct cb_device *dev)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	atomic_set(&dev->stats.memory_peak_blocks, cb_blocks_in_use(dev));
	spin_unlock_irqrestore(&dev->lock, flags);
}

static int cb_blocks_shrink(struct cb_device *dev)
{
	unsigned long deadline = jiffies + CB_SHRINK_LIMIT;
	struct cb_entry *entry;

	for (;;) {
		while ((entry = cb_blocks_take_surplus(dev)))
			cb_entry_free(entry);
		if (READ_ONCE(dev->entry_count) <= dev->entry_limit || cb_mutant(keep_memory))
			return 0;
		if (time_after(jiffies, deadline))
			return -EBUSY;
		/* The engine stores what there is. */
		cb_engine_wake(dev);
		schedule_timeout_uninterruptible(CB_SHRINK_POLL);
	}
}

int cb_blocks_set_limit(struct cb_device *dev, u32 limit)
{
	u32 before = dev->entry_limit;
	int ret = 0;

	lockdep_assert_held(&cb_control_mutex);
	ret = cb_table_grow(dev, limit);
	/* What is added from here on is not too much. */
	if (!ret && limit > before)
		cb_blocks_bound(dev, limit);
	if (!ret && limit > READ_ONCE(dev->entry_count))
		ret = cb_blocks_add(dev, limit - READ_ONCE(dev->entry_count));
	cb_engine_wake(dev);
	cb_blocks_bound(dev, ret ? before : limit);
	if (cb_blocks_shrink(dev)) {
		ret = -EBUSY;
		cb_blocks_bound(dev, READ_ONCE(dev->entry_count));
	}
	cb_blocks_forget_peak(dev);
	return ret;
}

int cb_blocks_init(struct cb_device *dev)
{
	u32 capacity = min_t(u64, dev->extents.slots, CB_SLOTMAP_MAX_SLOTS);
	int ret;

	dev->preserved = cb_map_alloc(cb_map_bytes(dev));
	ret = cb_blocks_alloc_slotmap(dev, &dev->slotmap, capacity);
	if (!ret)
		ret = cb_saved_init(dev);
	if (ret || !dev->preserved)
		return -ENOMEM;
	dev->own_blocks = cb_blocks_count_own(dev);
	dev->slots_reserved = dev->layout.data_first;
	dev->slots_used = dev->layout.data_first;
	dev->entry_limit = dev->cache_bytes / CB_BLOCK_BYTES;
	if (cb_table_init(&dev->memory_table, dev->entry_limit))
		return -ENOMEM;
	return cb_blocks_add(dev, dev->entry_limit);
}

void cb_blocks_free_preserved(struct cb_device *dev)
{
	struct cb_entry *entry, *next;
	LIST_HEAD(entries);
	struct hlist_head *table;
	u32 *buckets;
	u64 *words;
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	list_splice_init(&dev->entries_all, &entries);
	buckets = dev->slotmap.buckets;
	words = dev->slotmap.words;
	dev->entry_count = 0;
	dev->slotmap.buckets = NULL;
	dev->slotmap.words = NULL;
	table = dev->memory_table.buckets;
	dev->memory_table.buckets = NULL;
	INIT_LIST_HEAD(&dev->entries_free);
	INIT_LIST_HEAD(&dev->stored);
	INIT_LIST_HEAD(&dev->dirty);
	INIT_LIST_HEAD(&dev->batch);
	dev->entries_free_count = 0;
	dev->stored_count = 0;
	dev->reading_count = 0;
	dev->fetching_count = 0;
	dev->dirty_count = 0;
	dev->batch_count = 0;
	spin_unlock_irqrestore(&dev->lock, flags);
	list_for_each_entry_safe(entry, next, &entries, all)
		cb_entry_free(entry);
	vfree(table);
	vfree(buckets);
	vfree(words);
}

void cb_blocks_free(struct cb_device *dev)
{
	cb_blocks_free_preserved(dev);
	cb_saved_free(dev);
	vfree(dev->preserved);
	vfree(dev->changes);
}
