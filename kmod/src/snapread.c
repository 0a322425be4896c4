// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads of the snapshot device.
 *
 * Each block of a read comes from one of four places: zeros (the COW file's own
 * blocks), memory, the COW file, or the origin. The origin is read straight
 * into the reader's pages and *then* looked at again (invariant 2): a block
 * that has been preserved meanwhile may have been overwritten while it was
 * being read, and is fetched from its preserved copy instead. A preserved copy
 * never changes within an epoch, so that second fetch is final.
 *
 * Where a block is preserved is looked up under the device's lock; that it is
 * not preserved needs no lock, as it is looked at again.
 *
 * A read that needs nothing but the origin goes *straight*: the reader's own
 * context submits it and its completion takes the second look. A thread works
 * on the others, and on straight reads that were overtaken.
 */
#include "snapread.h"
#include "cowbird_trace.h"

/* Blocks looked up under the lock at once: others wait for it with interrupts off. */
#define CB_READ_LOOKUPS 32
/* Bios of reads that are there for each snapshot whatever memory there is. */
#define CB_READ_BIOS 16
/* Reads, likewise. */
#define CB_READS 4

/* The reader's hints are not for the devices below; nor is FUA for a read. */
#define CB_READ_OPF (REQ_OP_READ | REQ_SYNC)

/* ---- where a block is ---------------------------------------------------- */

static enum cb_phase cb_read_phase(struct cb_device *dev)
{
	return cb_mutant(failed_reads_live) ? CB_PHASE_ACTIVE : cb_phase_of(dev);
}

static void cb_read_trace(struct cb_read *read, u32 i)
{
	trace_cowbird_snapshot_read(read->dev, read->first + i, read->pieces[i].source,
				    read->pieces[i].overtaken);
}

/* Says of each piece where it is; of a preserved one not yet in which of two places. */
static void cb_read_look(struct cb_read *read)
{
	struct cb_device *dev = read->dev;
	u32 i;

	for (i = 0; i < read->count; i++) {
		struct cb_read_piece *piece = &read->pieces[i];
		u64 block = read->first + i;
		bool own = cb_block_is_own(dev, block) && !cb_mutant(own_blocks_live);

		piece->overtaken = false;
		piece->source = cb_read_decide(cb_read_phase(dev), own,
					       test_bit(block, dev->preserved), false);
		if (piece->source == CB_READ_COW)
			piece->source = CB_READ_UNKNOWN;
		else
			cb_read_trace(read, i);
	}
}

/* A read that went straight: all of it is in the reader's pages. */
static void cb_read_recall(struct cb_read *read)
{
	u32 i;

	for (i = 0; i < read->count; i++) {
		read->pieces[i].overtaken = false;
		read->pieces[i].source = CB_READ_ORIGIN;
	}
}

/* Finds a preserved block, in memory or in the COW file. */
static void cb_read_find(struct cb_read *read, u64 block, struct cb_read_piece *piece)
{
	struct cb_device *dev = read->dev;
	struct cb_entry *entry = cb_blocks_find(dev, block);
	bool early = cb_mutant(map_before_data) && entry && entry->state == CB_ENTRY_STORING;
	u64 run;
	u32 slot;

	lockdep_assert_held(&dev->lock);
	/* What is looked at here goes with the snapshot. */
	piece->source = cb_read_decide(cb_read_phase(dev), false, true, entry && !early);
	if (piece->source == CB_READ_MEMORY) {
		cb_blocks_get(entry);
		piece->entry = entry;
	} else if (piece->source == CB_READ_COW) {
		slot = early ? entry->slot : cb_slotmap_find(&dev->slotmap, block);
		if (WARN_ON_ONCE(slot == CB_SLOT_NONE ||
				 cb_data_slot(dev, slot, &piece->sector, &run)))
			piece->source = CB_READ_FAIL;
	}
}

/* Finds every preserved block of the window. */
static void cb_read_find_all(struct cb_read *read)
{
	unsigned long flags;
	u32 i = 0, found;

	while (i < read->count) {
		spin_lock_irqsave(&read->dev->lock, flags);
		for (found = 0; i < read->count && found < CB_READ_LOOKUPS; i++) {
			if (read->pieces[i].source != CB_READ_UNKNOWN)
				continue;
			cb_read_find(read, read->first + i, &read->pieces[i]);
			cb_read_trace(read, i);
			found++;
		}
		spin_unlock_irqrestore(&read->dev->lock, flags);
	}
}

static u32 cb_read_count_of(const struct cb_read *read, u8 source)
{
	u32 i, n = 0;

	for (i = 0; i < read->count; i++)
		n += read->pieces[i].source == source;
	return n;
}

static void cb_read_count_elsewhere(struct cb_read *read)
{
	struct cb_stats *stats = &read->dev->stats;

	atomic64_add(cb_read_count_of(read, CB_READ_MEMORY), &stats->reads_memory_blocks);
	atomic64_add(cb_read_count_of(read, CB_READ_COW), &stats->reads_cow_blocks);
	atomic64_add(cb_read_count_of(read, CB_READ_ZERO), &stats->reads_zero_blocks);
}

/* ---- one window ---------------------------------------------------------- */

/* Whether a block that came from the origin was preserved while it was read. */
static bool cb_read_overtaken(struct cb_device *dev, u64 block)
{
	if (cb_mutant(no_revalidate))
		return false;
	return !cb_read_confirm(CB_PHASE_ACTIVE, test_bit(block, dev->preserved));
}

/*
 * Looks a second time at what came from the origin: what was overtaken is
 * fetched from its preserved copy, with all that was preserved before.
 */
static void cb_read_revalidate(struct cb_read *read)
{
	u32 i, overtaken = 0;

	/* Orders the look at the bits after the completion of the reads. */
	smp_mb();
	for (i = 0; i < read->count; i++) {
		struct cb_read_piece *piece = &read->pieces[i];

		if (piece->source != CB_READ_ORIGIN)
			continue;
		piece->overtaken = cb_read_overtaken(read->dev, read->first + i);
		piece->source = piece->overtaken ? CB_READ_UNKNOWN : CB_READ_THERE;
		overtaken += piece->overtaken;
	}
	if (overtaken)
		atomic64_add(overtaken, &read->dev->stats.reads_revalidated_blocks);
}

static int cb_read_preserved(struct cb_read *read)
{
	if (cb_read_count_of(read, CB_READ_THERE) == read->count)
		return 0;
	cb_read_find_all(read);
	cb_read_count_elsewhere(read);
	return cb_read_elsewhere(read);
}

/* Fault: what is preserved takes its place before the origin is read across it. */
static int cb_mutant_patch(struct cb_read *read)
{
	u32 i;
	int ret;

	cb_read_find_all(read);
	ret = cb_read_elsewhere(read);
	for (i = 0; i < read->count; i++)
		if (read->pieces[i].source != CB_READ_ORIGIN)
			read->pieces[i].source = CB_READ_THERE;
	return ret;
}

static int cb_read_unpreserved(struct cb_read *read)
{
	u32 origin;
	int ret;

	cb_read_look(read);
	origin = cb_read_count_of(read, CB_READ_ORIGIN);
	if (!origin)
		return 0;
	atomic64_add(origin, &read->dev->stats.reads_origin_blocks);
	if (cb_mutant(patch_too_early)) {
		ret = cb_mutant_patch(read);
		if (ret)
			return ret;
	}
	return cb_read_origin(read);
}

static int cb_read_window(struct cb_read *read)
{
	int ret = 0;

	cb_read_map(read);
	if (read->straight)
		cb_read_recall(read);
	else
		ret = cb_read_unpreserved(read);
	if (!ret) {
		cb_read_revalidate(read);
		ret = cb_read_preserved(read);
	}
	/* Last of all: once a snapshot has failed, writes pass unpreserved. */
	smp_mb();
	if (!ret && cb_phase_of(read->dev) != CB_PHASE_ACTIVE && !cb_mutant(failed_reads_live))
		ret = -EIO;
	return ret;
}

/* ---- the whole bio ----------------------------------------------------- */

static u64 cb_read_first_block(const struct cb_read *read)
{
	return read->sector >> CB_BLOCK_SECTOR_SHIFT;
}

static u64 cb_read_last_block(const struct cb_read *read)
{
	return (read->sector + read->sectors - 1) >> CB_BLOCK_SECTOR_SHIFT;
}

static int cb_read_serve(struct cb_read *read)
{
	u64 block = cb_read_first_block(read);
	u64 last = cb_read_last_block(read);
	int ret = 0;

	read->next = read->bio->bi_iter;
	while (block <= last && !ret) {
		read->first = block;
		read->count = min_t(u64, last - block + 1, CB_READ_BLOCKS);
		block += read->count;
		ret = cb_read_window(read);
	}
	return ret;
}

static void cb_read_end(struct cb_read *read, int ret)
{
	struct cb_device *dev = read->dev;
	struct bio *bio = read->bio;

	mempool_free(read, &dev->read_pool);
	bio->bi_status = errno_to_blk_status(ret);
	bio_endio(bio);
	/* The destroyer frees the snapshot after a grace period from zero on. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->reads_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

static void cb_read_work(struct work_struct *work)
{
	struct cb_read *read = container_of(work, struct cb_read, work);

	cb_read_end(read, cb_read_serve(read));
}

/* ---- straight from the origin ------------------------------------------- */

/* Whether no block of the read is preserved. */
static bool cb_read_is_untouched(const struct cb_read *read)
{
	u64 last = cb_read_last_block(read);

	return find_next_bit(read->dev->preserved, last + 1, cb_read_first_block(read)) > last;
}

/* Whether all of the read comes from the origin, by a first look. */
static bool cb_read_wants_origin(const struct cb_read *read)
{
	struct cb_device *dev = read->dev;
	bool own = dev->cow_on_origin &&
		   cb_extents_touch(&dev->extents, dev->geom.start + read->sector, read->sectors);

	return cb_read_decide(cb_phase_of(dev), own && !cb_mutant(own_blocks_live),
			      !cb_read_is_untouched(read), false) == CB_READ_ORIGIN;
}

static void cb_read_straight_end_io(struct bio *clone)
{
	struct cb_read *read = clone->bi_private;
	bool failed = clone->bi_status && !cb_mutant(hide_read_errors);
	int error = failed ? blk_status_to_errno(clone->bi_status) : 0;
	bool preserved;

	bio_put(clone);
	/* Orders the look at the bits after the completion of the read. */
	smp_mb();
	preserved = !cb_read_is_untouched(read) && !cb_mutant(no_revalidate);
	if (!error && preserved) {
		queue_work(read->dev->read_queue, &read->work);
		return;
	}
	/* Last of all: once a snapshot has failed, writes pass unpreserved. */
	smp_mb();
	if (!error && !cb_mutant(failed_reads_live) &&
	    !cb_read_confirm(cb_phase_of(read->dev), preserved))
		error = -EIO;
	cb_read_end(read, error);
}

static void cb_read_trace_origin(const struct cb_read *read)
{
	u64 last = cb_read_last_block(read), block;

	if (trace_cowbird_snapshot_read_enabled())
		for (block = cb_read_first_block(read); block <= last; block++)
			trace_cowbird_snapshot_read(read->dev, block, CB_READ_ORIGIN, false);
}

/* False when a thread has to do it. Nothing waits here: the reader may be another driver. */
static bool cb_read_go_straight(struct cb_read *read)
{
	struct cb_device *dev = read->dev;
	struct bio *clone;

	if (!cb_read_wants_origin(read))
		return false;
	clone = cb_bio_clone(dev->origin.bdev, read->bio, GFP_NOWAIT, &dev->read_bios);
	if (!clone)
		return false;
	clone->bi_opf = CB_READ_OPF;
	clone->bi_private = read;
	clone->bi_end_io = cb_read_straight_end_io;
	read->straight = true;
	cb_read_trace_origin(read);
	atomic64_add(cb_read_last_block(read) - cb_read_first_block(read) + 1,
		     &dev->stats.reads_origin_blocks);
	cb_submit_past_hook(clone);
	return true;
}

void cb_snapread_submit(struct cb_device *dev, struct bio *bio)
{
	struct cb_read *read = mempool_alloc(&dev->read_pool, GFP_NOIO);

	read->dev = dev;
	read->bio = bio;
	read->sector = bio->bi_iter.bi_sector;
	read->sectors = bio->bi_iter.bi_size >> SECTOR_SHIFT;
	read->error = 0;
	read->bridge_error = false;
	read->whole = NULL;
	read->whole_count = 0;
	read->straight = false;
	init_completion(&read->done);
	INIT_WORK(&read->work, cb_read_work);
	atomic_inc(&dev->reads_in_flight);
	if (!cb_read_go_straight(read))
		queue_work(read->dev->read_queue, &read->work);
}

/* ---- what reads need ------------------------------------------------------ */

int cb_snapread_init(struct cb_device *dev)
{
	int ret = bioset_init(&dev->read_bios, CB_READ_BIOS, 0, BIOSET_NEED_BVECS);

	if (!ret)
		ret = mempool_init_kmalloc_pool(&dev->read_pool, CB_READS, sizeof(struct cb_read));
	/* Two pages that follow each other. */
	if (!ret)
		ret = mempool_init_page_pool(&dev->read_pages, 1, 1);
	if (ret)
		return ret;
	/* Of its own: reads that wait for the disk of one COW file take no thread from the others. */
	dev->read_queue = alloc_workqueue("cowbird_read%u", WQ_UNBOUND | WQ_MEM_RECLAIM, 0,
					  dev->minor);
	return dev->read_queue ? 0 : -ENOMEM;
}

/* When no read is under way. */
void cb_snapread_free(struct cb_device *dev)
{
	if (dev->read_queue)
		destroy_workqueue(dev->read_queue);
	mempool_exit(&dev->read_pages);
	mempool_exit(&dev->read_pool);
	bioset_exit(&dev->read_bios);
}
