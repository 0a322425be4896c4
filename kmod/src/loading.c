// SPDX-License-Identifier: GPL-2.0-only
/*
 * Blocks go from the origin to memory, for the writes that wait for them: begun while there
 * is memory and a slot for each, and preserved as soon as all of a bio is there
 * (I1, old before new).
 */
#include "cowbird.h"
#include "cowbird_trace.h"

/* The blocks of a load, which follow each other, can be had without the origin from here on. */
static void cb_engine_preserve(struct cb_device *dev, struct cb_run *run)
{
	struct cb_entry *entry;

	lockdep_assert_held(&dev->lock);
	list_for_each_entry(entry, &run->entries, list)
		entry->state = CB_ENTRY_DIRTY;
	/* Whoever sees the bit sees the content. */
	smp_mb__before_atomic();
	list_for_each_entry(entry, &run->entries, list) {
		set_bit(entry->block, dev->preserved);
		trace_cowbird_preserve_complete(dev, entry->block);
	}
	if (list_empty(&dev->dirty))
		dev->dirty_since = jiffies;
	list_splice_tail_init(&run->entries, &dev->dirty);
	dev->dirty_count += run->count;
}

void cb_engine_loaded(struct cb_device *dev, struct cb_run *run)
{
	struct cb_entry *entry, *next;
	bool good = run->status == BLK_STS_OK || cb_mutant(ignore_load_errors);
	unsigned long flags;

	if (!good)
		cb_device_invalidate(dev, blk_status_to_errno(run->status),
				     "cannot read block %llu of the origin",
				     (unsigned long long)list_first_entry(&run->entries, struct cb_entry,
									  list)->block);
	spin_lock_irqsave(&dev->lock, flags);
	if (good)
		cb_engine_preserve(dev, run);
	list_for_each_entry_safe(entry, next, &run->entries, list) {
		list_del_init(&entry->list);
		cb_blocks_forget(dev, entry);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if (good)
		atomic64_add(run->count, &dev->stats.preserved_blocks);
	dev->loads_in_flight--;
}

/*
 * Takes the next block for a load; false when the run must end before it:
 * preserved, already being loaded, or no memory or slot for it.
 */
static bool cb_engine_claim(struct cb_device *dev, struct cb_run *run, u64 block, bool *stuck,
			    bool *full)
{
	struct cb_entry *entry = NULL;

	lockdep_assert_held(&dev->lock);
	if (test_bit(block, dev->preserved) || cb_blocks_find(dev, block))
		return false;
	*full = dev->slots_reserved >= dev->slotmap.capacity;
	if (!*full)
		entry = cb_blocks_take(dev, block);
	if (!entry) {
		*stuck = true;
		/* Under the lock, so that whoever gives memory back sees it. */
		if (!*full)
			WRITE_ONCE(dev->stuck, true);
		return false;
	}
	dev->slots_reserved++;
	if (cb_mutant(preserved_before_read))
		set_bit(block, dev->preserved);
	list_add_tail(&entry->list, &run->entries);
	run->count++;
	return true;
}

/* Takes as many blocks from held->issued on as fit one run. */
static void cb_engine_fill_load(struct cb_device *dev, struct cb_run *run, struct cb_held *held,
				bool *stuck)
{
	unsigned long flags;
	bool full = false;

	spin_lock_irqsave(&dev->lock, flags);
	while (held->issued <= held->last && run->count < CB_RUN_BLOCKS &&
	       cb_next_unpreserved(dev, held->issued, held->issued) == held->issued &&
	       cb_engine_claim(dev, run, held->issued, stuck, &full))
		held->issued++;
	spin_unlock_irqrestore(&dev->lock, flags);
	if (full && !cb_mutant(full_skips_cow)) {
		trace_cowbird_overflow(dev, dev->slots_reserved, dev->slotmap.capacity);
		cb_device_invalidate(dev, -ENOSPC, "the COW file is full (%u blocks)",
				     dev->slotmap.capacity);
	}
}

/* Loads the next stretch that one write waits for. True when it may be asked again. */
static bool cb_engine_load_one(struct cb_device *dev, struct cb_held *held, bool *stuck)
{
	struct cb_run *run;

	held->issued = cb_next_unpreserved(dev, held->issued, held->last);
	if (held->issued > held->last || list_empty(&dev->runs_free))
		return false;
	run = cb_engine_new_run(dev, false);
	cb_engine_fill_load(dev, run, held, stuck);
	if (!run->count) {
		list_add(&run->free, &dev->runs_free);
		if (*stuck)
			return false;
		/* Somebody else's load brings this block. */
		held->issued++;
		return true;
	}
	trace_cowbird_preserve_begin(dev, list_first_entry(&run->entries, struct cb_entry,
							   list)->block, run->count);
	dev->loads_in_flight++;
	if (cb_mutant(read_after_write) && held->bio) {
		cb_hook_release(dev, held->bio);
		held->bio = NULL;
	}
	cb_run_submit_load(run);
	return true;
}

/* Whether all memory has what is not stored, so that nothing but a store frees any. */
static bool cb_engine_memory_is_full(struct cb_device *dev)
{
	unsigned long flags;
	bool full;

	spin_lock_irqsave(&dev->lock, flags);
	full = !cb_blocks_has_room(dev) && !dev->reading_count;
	spin_unlock_irqrestore(&dev->lock, flags);
	return full;
}

bool cb_engine_load(struct cb_device *dev)
{
	bool stuck = false, progress = false;
	struct cb_held *held;

	WRITE_ONCE(dev->stuck, false);
	list_for_each_entry(held, &dev->held, list) {
		while (!stuck && cb_phase_of(dev) == CB_PHASE_ACTIVE &&
		       cb_engine_load_one(dev, held, &stuck))
			progress = true;
		if (stuck || list_empty(&dev->runs_free))
			break;
	}
	/* What may not be stored frees no memory; what is being read does in a moment. */
	if (stuck && !progress && !READ_ONCE(dev->verified) && !dev->stores_in_flight &&
	    cb_engine_memory_is_full(dev) && cb_phase_of(dev) == CB_PHASE_ACTIVE)
		cb_device_invalidate(dev, -ENOSPC,
				     "the memory is full, and the COW file was not verified in time");
	return progress;
}
