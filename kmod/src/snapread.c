// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads of the snapshot device.
 *
 * Each block of a read comes from one of four places: zeros (the COW file's own
 * blocks), memory, the COW file, or the origin. The origin is read straight
 * into the reader's pages and *then* looked at again (I2, revalidate): a block
 * that has been preserved meanwhile may have been overwritten while it was
 * being read, and is fetched from its preserved copy instead. A preserved copy
 * never changes within an epoch, so that second fetch is final.
 *
 * Where a block is preserved is looked up under the device's lock; that it is
 * not preserved needs no lock, as it is looked at again.
 *
 * Reads that need nothing to wait for pass through (passthrough.c). A thread works on the
 * others, and on pass-through reads that were overtaken.
 */
#include "snapread.h"
#include "cowbird_trace.h"

/* Bios of reads that are there for each snapshot whatever memory there is. */
#define CB_READ_BIOS 16
/* Reads, likewise. */
#define CB_READS 4

/* ---- where a block is ---------------------------------------------------- */

enum cb_phase cb_read_phase(struct cb_device *dev)
{
	if (cb_mutant(failed_reads_live))
		return CB_PHASE_ACTIVE;
	/* It is about to be that. */
	return atomic_read(&dev->found.what) ? CB_PHASE_INVALIDATED : cb_phase_of(dev);
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

/* Of a read that has gone: all of it is in the reader's pages, and is looked at again. */
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
	bool there = entry && (entry->state != CB_ENTRY_FETCHING || cb_ahead_join(read, entry));
	u64 run;
	u32 slot;

	lockdep_assert_held(&dev->lock);
	/* What is looked at here goes with the snapshot. */
	piece->source = cb_read_decide(cb_read_phase(dev), false, true, there && !early);
	if (piece->source == CB_READ_MEMORY) {
		cb_blocks_get(dev, entry);
		piece->entry = entry;
	} else if (piece->source == CB_READ_COW) {
		slot = early ? entry->slot : cb_slotmap_find(&dev->slotmap, block);
		if (WARN_ON_ONCE(slot == CB_SLOT_NONE ||
				 cb_data_slot(dev, slot, &piece->sector, &run)))
			piece->source = CB_READ_FAIL;
		piece->slot = slot;
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

/* ---- the second look ------------------------------------------------------- */

/* Whether a block that came from the origin was preserved while it was read. */
static bool cb_read_overtaken(struct cb_device *dev, u64 block)
{
	if (cb_mutant(no_revalidate))
		return false;
	return !cb_read_confirm(CB_PHASE_ACTIVE, test_bit(block, dev->preserved));
}

/*
 * Looks a second time at what came from the origin: what was overtaken is to be fetched
 * from its preserved copy, with all that was preserved before. How many were.
 */
static u32 cb_read_revalidate(struct cb_read *read)
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
	return overtaken;
}

/* ---- direct reads ---------------------------------------------------------- */

bool cb_read_look_direct(struct cb_read *read)
{
	u64 last = cb_read_last_block(read), block, n;
	u32 i, found = 0;

	/* This fault counts from pieces that nothing is written down of. */
	if (cb_mutant(advanced_iterator))
		cb_read_recall(read);
	for (block = read->first;
	     (block = find_next_bit(read->dev->preserved, last + 1, block)) <= last; block++) {
		if (found == CB_READ_CROSSED)
			return false;
		i = block - read->first;
		read->pieces[i].source = CB_READ_UNKNOWN;
		read->pieces[i].overtaken = false;
		read->found[found++] = i;
	}
	read->found_count = found;
	if (!trace_cowbird_snapshot_read_enabled())
		return true;
	for (n = 0, i = 0; i < read->count; i++) {
		if (n < found && read->found[n] == i)
			n++;
		else
			trace_cowbird_snapshot_read(read->dev, read->first + i, CB_READ_ORIGIN,
						    false);
	}
	return true;
}

void cb_read_find_direct(struct cb_read *read)
{
	unsigned long flags;
	u32 n = 0, end;

	while (n < read->found_count) {
		end = min(n + CB_READ_LOOKUPS, read->found_count);
		spin_lock_irqsave(&read->dev->lock, flags);
		for (; n < end; n++) {
			struct cb_read_piece *piece = &read->pieces[read->found[n]];

			if (piece->source != CB_READ_UNKNOWN)
				continue;
			cb_read_find(read, read->first + read->found[n], piece);
			cb_read_trace(read, read->found[n]);
		}
		spin_unlock_irqrestore(&read->dev->lock, flags);
	}
}

u32 cb_read_count_found(const struct cb_read *read, u8 source)
{
	u32 n, count = 0;

	for (n = 0; n < read->found_count; n++)
		count += read->pieces[read->found[n]].source == source;
	return count;
}

/* Whether a block is preserved by now that was not at the first look. */
static bool cb_read_has_more(const struct cb_read *read)
{
	u64 last = cb_read_last_block(read), block;
	u32 n = 0;

	/* Orders the look at the bits after the completion of the reads. */
	smp_mb();
	for (block = read->first;
	     (block = find_next_bit(read->dev->preserved, last + 1, block)) <= last; block++, n++)
		/* No bit goes, so those of the first look come one by one. */
		if (n == read->found_count || read->found[n] != block - read->first)
			return true;
	return false;
}

bool cb_read_is_overtaken(struct cb_read *read)
{
	u32 n;

	if (!cb_read_has_more(read))
		return false;
	cb_read_recall(read);
	for (n = 0; n < read->found_count; n++)
		read->pieces[read->found[n]].source = CB_READ_THERE;
	return cb_read_revalidate(read);
}

/* ---- one window ---------------------------------------------------------- */

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
	if (read->passthrough)
		cb_read_recall(read);
	else
		ret = cb_read_unpreserved(read);
	if (ret)
		return ret;
	cb_read_revalidate(read);
	return cb_read_preserved(read);
}

/* ---- the whole bio ----------------------------------------------------- */

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

void cb_read_end(struct cb_read *read, int ret)
{
	struct cb_device *dev = read->dev;
	struct bio *bio = read->bio;

	mempool_free(read, &dev->read_pool);
	/* A piece of it may have failed before. */
	if (ret)
		bio->bi_status = errno_to_blk_status(ret);
	bio_endio(bio);
	/* The destroyer frees the snapshot after a grace period from zero on. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->reads_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

void cb_read_finish(struct cb_read *read, int ret)
{
	/* Last of all: once a snapshot has failed, writes pass unpreserved. */
	smp_mb();
	if (!ret && cb_read_phase(read->dev) != CB_PHASE_ACTIVE)
		ret = -EIO;
	cb_read_end(read, ret);
}

static void cb_read_work(struct work_struct *work)
{
	struct cb_read *read = container_of(work, struct cb_read, work);

	if (read->direct)
		cb_read_beside(read);
	else
		cb_read_finish(read, read->rest ? cb_read_preserved(read) : cb_read_serve(read));
}

/* ---- begin and end ------------------------------------------------------- */

/* Whether it went its way without a thread. */
static bool cb_snapread_begin(struct cb_device *dev, struct bio *bio, struct cb_read *read)
{
	read->dev = dev;
	read->bio = bio;
	read->sector = bio->bi_iter.bi_sector;
	read->sectors = bio->bi_iter.bi_size >> SECTOR_SHIFT;
	read->error = 0;
	read->bridge_error = false;
	read->whole = NULL;
	read->whole_count = 0;
	read->passthrough = false;
	read->direct = false;
	read->rest = false;
	read->crosses = 0;
	read->fetched = 0;
	read->ahead = cb_ahead_expects(read);
	init_completion(&read->done);
	INIT_WORK(&read->work, cb_read_work);
	atomic_inc(&dev->reads_in_flight);
	if (cb_read_pass_through(read))
		return true;
	queue_work(dev->read_queue, &read->work);
	return false;
}

/*
 * The first piece of a large read, which shrinks to the rest; false where there is no memory
 * at once, or where it did not pass through.
 */
static bool cb_snapread_begin_piece(struct cb_device *dev, struct bio *bio)
{
	u32 lead = bio->bi_iter.bi_sector & (CB_BLOCK_SECTORS - 1);
	struct cb_read *read = mempool_alloc(&dev->read_pool, GFP_NOWAIT | __GFP_NOWARN);
	struct bio *piece;

	if (!read)
		return false;
	piece = cb_bio_split(bio, CB_READ_MAX_SECTORS - lead, &dev->read_pieces);
	if (!piece) {
		mempool_free(read, &dev->read_pool);
		return false;
	}
	bio_chain(piece, bio);
	return cb_snapread_begin(dev, piece, read);
}

/*
 * A large read is as many reads as it takes: each goes its own way. Where there is no memory
 * for another piece at once, or one needs a thread, the rest is one read, and a thread works
 * on it window by window: a reader whose disk is slow for it has two of the threads, not all.
 *
 * Bios of the pieces may be sent off only when this returns. So the rest's memory is waited
 * for before there are any, and nothing after that.
 */
void cb_snapread_submit(struct cb_device *dev, struct bio *bio)
{
	struct cb_read *rest = mempool_alloc(&dev->read_pool, GFP_NOIO);

	while (bio->bi_iter.bi_size >> SECTOR_SHIFT > CB_READ_MAX_SECTORS &&
	       cb_snapread_begin_piece(dev, bio))
		;
	cb_snapread_begin(dev, bio, rest);
}

/* ---- what reads need ------------------------------------------------------ */

int cb_snapread_init(struct cb_device *dev)
{
	int ret;

	cb_ahead_init(dev);
	ret = bioset_init(&dev->read_bios, CB_READ_BIOS, 0, BIOSET_NEED_BVECS);
	if (!ret)
		ret = bioset_init(&dev->read_pieces, CB_READ_BIOS, 0, 0);
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
	cb_snapread_free_spares(dev);
	mempool_exit(&dev->read_pages);
	mempool_exit(&dev->read_pool);
	bioset_exit(&dev->read_pieces);
	bioset_exit(&dev->read_bios);
}
