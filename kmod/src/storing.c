// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stores: preserved blocks go from memory to the COW file, behind the writers' backs.
 *
 * A reader of the snapshot asks for blocks by their place on the origin, and each
 * place of the COW file that it needs costs it a request. So blocks wait in memory
 * until many of them go together, in the order of their places: then neighbours of
 * the origin have neighbouring slots. What waits is in no danger that it is not in
 * otherwise: no snapshot outlives its machine but by a save, and that stores all.
 *
 * A batch is cut from the blocks that wait when they fill half of the memory, when
 * the oldest has waited for CB_STORE_AGE, when memory runs short, or when somebody
 * wants all of it stored. It is written a few runs at a time, so that a disk that it
 * shares with others is theirs too; as fast as the disk can where memory is short.
 */
#include "cowbird.h"
#include "cowbird_trace.h"

/* Longest time that a preserved block waits for company. */
#define CB_STORE_AGE (5 * HZ)
/* Stores in flight while there is memory enough: 2 MiB. Loads always have some runs left. */
#define CB_STORES_CALM 8
#define CB_STORES_MAX (CB_RUNS - CB_RUNS / 4)
/* Blocks of one batch: as many are sorted while nothing else is done. */
#define CB_BATCH_MAX 16384
/* How often it is looked whether enough is stored. */
#define CB_DRAIN_POLL max(HZ / 100, 1)

/* Blocks that are in no batch yet. */
static u32 cb_storing_waiting(const struct cb_device *dev)
{
	return READ_ONCE(dev->dirty_count) - dev->batch_count;
}

/* Whether what is in memory should be stored as fast as can be. */
static bool cb_storing_presses(const struct cb_device *dev)
{
	u32 limit = READ_ONCE(dev->entry_limit);

	return READ_ONCE(dev->park) || READ_ONCE(dev->store_soon) ||
	       READ_ONCE(dev->entry_count) > limit ||
	       READ_ONCE(dev->entries_free_count) + READ_ONCE(dev->stored_count) < limit / 4;
}

static bool cb_storing_may(const struct cb_device *dev)
{
	return READ_ONCE(dev->dirty_count) && READ_ONCE(dev->verified) &&
	       !READ_ONCE(dev->store_none) && cb_phase_of(dev) == CB_PHASE_ACTIVE;
}

/* Whether blocks that wait are to become a batch. */
static bool cb_storing_is_ripe(const struct cb_device *dev)
{
	u32 waiting = cb_storing_waiting(dev);

	return waiting &&
	       (waiting >= READ_ONCE(dev->entry_limit) / 2 || cb_storing_presses(dev) ||
		time_after_eq(jiffies, dev->dirty_since + CB_STORE_AGE));
}

/* Whether another store can be begun before one of those in flight has ended. */
static bool cb_storing_has_room(const struct cb_device *dev)
{
	u32 most = cb_storing_presses(dev) ? CB_STORES_MAX : CB_STORES_CALM;

	return !list_empty(&dev->runs_free) && dev->stores_in_flight < most;
}

bool cb_storing_has_work(const struct cb_device *dev)
{
	if (!cb_storing_may(dev) || !cb_storing_has_room(dev))
		return false;
	return dev->batch_count || cb_storing_is_ripe(dev);
}

unsigned long cb_storing_wait(const struct cb_device *dev)
{
	unsigned long due = dev->dirty_since + CB_STORE_AGE;

	/* The end of a store, or of a load, wakes the engine. */
	if (!cb_storing_may(dev) || !cb_storing_waiting(dev) || !cb_storing_has_room(dev))
		return MAX_JIFFY_OFFSET;
	return time_before(jiffies, due) ? due - jiffies : 1;
}

static int cb_storing_compare(void *private, cb_list_sort_arg a, cb_list_sort_arg b)
{
	u64 first = list_entry(a, struct cb_entry, list)->block;
	u64 second = list_entry(b, struct cb_entry, list)->block;

	return first < second ? -1 : first > second;
}

/* Nobody but the engine changes these lists while it runs; others look at them under the lock. */
static void cb_storing_cut(struct cb_device *dev)
{
	struct list_head *last = &dev->dirty;
	unsigned long flags;
	u32 count = 0;
	LIST_HEAD(entries);

	while (count < CB_BATCH_MAX && !list_is_last(last, &dev->dirty)) {
		last = last->next;
		count++;
	}
	spin_lock_irqsave(&dev->lock, flags);
	list_cut_position(&entries, &dev->dirty, last);
	spin_unlock_irqrestore(&dev->lock, flags);
	list_sort(NULL, &entries, cb_storing_compare);
	spin_lock_irqsave(&dev->lock, flags);
	list_splice_tail(&entries, &dev->batch);
	dev->batch_count += count;
	spin_unlock_irqrestore(&dev->lock, flags);
}

/* Gives out slots for one run: as many as follow each other in the COW file. */
static void cb_storing_fill(struct cb_device *dev, struct cb_run *run)
{
	u64 sector, contiguous;
	unsigned long flags;

	/* A block in memory has a slot reserved, so there is one to give. */
	if (WARN_ON_ONCE(cb_data_slot(dev, dev->slots_used, &sector, &contiguous)))
		return;
	spin_lock_irqsave(&dev->lock, flags);
	while (dev->batch_count && run->count < CB_RUN_BLOCKS && run->count < contiguous) {
		struct cb_entry *entry = list_first_entry(&dev->batch, struct cb_entry, list);

		list_move_tail(&entry->list, &run->entries);
		dev->batch_count--;
		dev->dirty_count--;
		entry->state = CB_ENTRY_STORING;
		entry->slot = dev->slots_used++;
		run->count++;
		trace_cowbird_preserve_store(dev, entry->block, entry->slot);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
}

/* By this they are known when they come back from there. */
static void cb_storing_sum(struct cb_run *run)
{
	struct cb_entry *entry;

	list_for_each_entry(entry, &run->entries, list)
		entry->sum = cb_sum_of_page(entry->block, entry->page);
}

bool cb_storing_start(struct cb_device *dev)
{
	bool progress = false;

	while (cb_storing_has_work(dev)) {
		struct cb_run *run;

		if (!dev->batch_count)
			cb_storing_cut(dev);
		run = cb_engine_new_run(dev, true);
		cb_storing_fill(dev, run);
		if (!run->count) {
			list_add(&run->free, &dev->runs_free);
			cb_device_invalidate(dev, -EIO,
					     "internal error: a preserved block has no place in the COW file");
			break;
		}
		dev->stores_in_flight++;
		cb_storing_sum(run);
		cb_run_submit_store(run);
		progress = true;
	}
	return progress;
}

void cb_storing_drain(struct cb_device *dev, unsigned long limit)
{
	unsigned long deadline = jiffies + limit;

	lockdep_assert_held(&cb_life_mutex);
	WRITE_ONCE(dev->store_soon, true);
	while (READ_ONCE(dev->dirty_count) > CB_STORE_BATCH && cb_storing_may(dev) &&
	       time_before(jiffies, deadline)) {
		cb_engine_wake(dev);
		schedule_timeout_uninterruptible(CB_DRAIN_POLL);
	}
}

void cb_storing_relax(struct cb_device *dev)
{
	WRITE_ONCE(dev->store_soon, false);
}

void cb_storing_stored(struct cb_device *dev, struct cb_run *run)
{
	struct cb_entry *entry, *next;
	u32 stored = 0;
	unsigned long flags;
	int ret = cb_mutant(ignore_store_errors) ? 0 : blk_status_to_errno(run->status);

	if (ret)
		cb_device_invalidate(dev, ret, "cannot write to the COW file");
	spin_lock_irqsave(&dev->lock, flags);
	list_for_each_entry_safe(entry, next, &run->entries, list) {
		list_del_init(&entry->list);
		/* A block that was not stored stays in memory; its snapshot has failed. */
		if (ret || WARN_ON_ONCE(cb_blocks_stored(dev, entry)))
			continue;
		stored++;
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	atomic64_add(stored, &dev->stats.stored_blocks);
	dev->stores_in_flight--;
	WRITE_ONCE(dev->cow_slow, false);
}
