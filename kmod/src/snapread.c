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
 * A read that needs nothing but the origin goes *straight*: the reader's own
 * context submits it and its completion takes the second look. A thread works
 * on the others, and on straight reads that were overtaken.
 */
#include <linux/slab.h>

#include "cowbird.h"
#include "cowbird_trace.h"

/* Blocks handled at once; one more for a read that is not aligned. */
#define CB_READ_BLOCKS (CB_READ_MAX_SECTORS / CB_BLOCK_SECTORS + 1)
/* Blocks looked up under the lock at once: others wait for it with interrupts off. */
#define CB_READ_LOOKUPS 32

/* The reader's hints are not for the devices below; nor is FUA for a read. */
#define CB_READ_OPF (REQ_OP_READ | REQ_SYNC)

/* One block's share of a read. */
struct cb_read_piece {
	struct cb_entry *entry; /* CB_READ_MEMORY: referenced */
	u64 sector; /* CB_READ_COW: of the slot, on the COW file's disk */
	u8 source; /* enum cb_read_source */
};

struct cb_read {
	struct work_struct work;
	struct cb_device *dev;
	struct bio *bio;
	u64 sector; /* of the bio, which stays untouched */
	u32 sectors;
	bool straight; /* the origin has been read already, and has to be looked at again */

	/* The window in hand: blocks first .. first + count - 1. */
	u64 first;
	u32 count;
	atomic_t pending;
	struct completion done;
	int error; /* any negative errno of a clone; written by completions */
	struct cb_read_piece pieces[CB_READ_BLOCKS];
};

size_t cb_snapread_bytes(void)
{
	return sizeof(struct cb_read);
}

/* ---- which part of the bio a block is ---------------------------------- */

/* Sectors [*from, *to) of the origin that both the block and the read cover. */
static void cb_read_span(const struct cb_read *read, u64 block, u64 *from, u64 *to)
{
	u64 block_start = block << CB_BLOCK_SECTOR_SHIFT;

	*from = max(block_start, read->sector);
	*to = min(block_start + CB_BLOCK_SECTORS, read->sector + read->sectors);
}

/* Bytes of the reader's bio before a sector of the origin. */
static u32 cb_read_offset(const struct cb_read *read, u64 from)
{
	u64 start = read->sector, end;

	if (cb_mutant(advanced_iterator))
		cb_read_span(read, read->first, &start, &end);
	return (from - start) << SECTOR_SHIFT;
}

/* Copies to the reader's pages; from NULL fills with zeros. */
static void cb_read_fill(struct cb_read *read, u64 block, const void *content)
{
	struct bvec_iter iter = read->bio->bi_iter;
	struct bio_vec bvec;
	u64 from, to;
	u32 offset;

	cb_read_span(read, block, &from, &to);
	offset = (from - (block << CB_BLOCK_SECTOR_SHIFT)) << SECTOR_SHIFT;
	bio_advance_iter(read->bio, &iter, cb_read_offset(read, from));
	iter.bi_size = (to - from) << SECTOR_SHIFT;
	__bio_for_each_segment(bvec, read->bio, iter, iter) {
		char *page = cb_kmap(bvec.bv_page);

		if (content)
			memcpy(page + bvec.bv_offset, content + offset, bvec.bv_len);
		else
			memset(page + bvec.bv_offset, 0, bvec.bv_len);
		flush_dcache_page(bvec.bv_page);
		cb_kunmap(page);
		offset += bvec.bv_len;
	}
}

/* ---- clones ------------------------------------------------------------ */

static void cb_read_done_one(struct cb_read *read)
{
	if (atomic_dec_and_test(&read->pending))
		complete(&read->done);
}

static void cb_read_clone_end_io(struct bio *clone)
{
	struct cb_read *read = clone->bi_private;

	if (clone->bi_status && !cb_mutant(hide_read_errors))
		WRITE_ONCE(read->error, blk_status_to_errno(clone->bi_status));
	bio_put(clone);
	cb_read_done_one(read);
}

/* Reads origin sectors [from, to) of this read from somewhere, asynchronously. */
static void cb_read_submit_clone(struct cb_read *read, struct block_device *bdev, u64 sector,
				 u64 from, u64 to)
{
	struct bio *clone = cb_bio_clone(bdev, read->bio, GFP_NOIO, &read->dev->read_bios);

	bio_advance(clone, cb_read_offset(read, from));
	clone->bi_iter.bi_size = (to - from) << SECTOR_SHIFT;
	clone->bi_iter.bi_sector = sector;
	clone->bi_opf = CB_READ_OPF;
	clone->bi_private = read;
	clone->bi_end_io = cb_read_clone_end_io;
	atomic_inc(&read->pending);
	cb_submit_past_hook(clone);
}

/* ---- one window -------------------------------------------------------- */

static void cb_read_locate(struct cb_read *read, u64 block, struct cb_read_piece *piece,
			   bool overtaken)
{
	struct cb_device *dev = read->dev;
	bool preserved = test_bit(block, dev->preserved);
	struct cb_entry *entry = preserved ? cb_blocks_find(dev, block) : NULL;
	bool own = cb_block_is_own(dev, block) && !cb_mutant(own_blocks_live);
	bool early = cb_mutant(map_before_data) && entry && entry->state == CB_ENTRY_STORING;
	u64 run;
	u32 slot;

	lockdep_assert_held(&dev->lock);
	piece->entry = NULL;
	piece->source = cb_read_decide(cb_mutant(failed_reads_live) ? CB_PHASE_ACTIVE : dev->phase,
				       own, preserved, entry && !early);
	if (piece->source == CB_READ_MEMORY) {
		cb_blocks_get(entry);
		piece->entry = entry;
	} else if (piece->source == CB_READ_COW) {
		slot = early ? entry->slot : cb_slotmap_find(&dev->slotmap, block);
		if (WARN_ON_ONCE(slot == CB_SLOT_NONE ||
				 cb_data_slot(dev, slot, &piece->sector, &run)))
			piece->source = CB_READ_FAIL;
	}
	trace_cowbird_snapshot_read(dev, block, piece->source, overtaken);
}

static void cb_read_count(struct cb_device *dev, enum cb_read_source source, u32 blocks)
{
	switch (source) {
	case CB_READ_ORIGIN:
		atomic64_add(blocks, &dev->stats.reads_origin_blocks);
		break;
	case CB_READ_MEMORY:
		atomic64_add(blocks, &dev->stats.reads_memory_blocks);
		break;
	case CB_READ_COW:
		atomic64_add(blocks, &dev->stats.reads_cow_blocks);
		break;
	case CB_READ_ZERO:
		atomic64_add(blocks, &dev->stats.reads_zero_blocks);
		break;
	case CB_READ_FAIL:
		break;
	}
}

static void cb_read_from_memory(struct cb_read *read, u64 block, struct cb_read_piece *piece)
{
	unsigned long flags;
	void *page = cb_kmap(piece->entry->page);

	cb_read_fill(read, block, page);
	cb_kunmap(page);
	spin_lock_irqsave(&read->dev->lock, flags);
	cb_blocks_put(read->dev, piece->entry);
	spin_unlock_irqrestore(&read->dev->lock, flags);
	piece->entry = NULL;
}

/* How many pieces from i on one bio can read. */
static u32 cb_read_stretch(const struct cb_read *read, u32 i)
{
	const struct cb_read_piece *piece = &read->pieces[i];
	u32 n = 1;

	while (i + n < read->count && piece[n].source == piece->source &&
	       (piece->source != CB_READ_COW || cb_mutant(gaps_ignored) ||
		piece[n].sector == piece->sector + n * CB_BLOCK_SECTORS))
		n++;
	return n;
}

static u32 cb_read_start_stretch(struct cb_read *read, u32 i)
{
	struct cb_device *dev = read->dev;
	struct cb_read_piece *piece = &read->pieces[i];
	u64 from, to, end, sector, block = read->first + i;
	u32 n = cb_read_stretch(read, i);

	cb_read_span(read, block, &from, &end);
	cb_read_span(read, block + n - 1, &end, &to);
	sector = from;
	if (piece->source == CB_READ_COW)
		sector = piece->sector - dev->cow_base + (from - (block << CB_BLOCK_SECTOR_SHIFT));
	cb_read_submit_clone(read, piece->source == CB_READ_COW ? dev->cow.bdev : dev->origin.bdev,
			     sector, from, to);
	return n;
}

/* Fetches every piece of the window whose block number is in the given range. */
static int cb_read_fetch(struct cb_read *read)
{
	u32 i;

	reinit_completion(&read->done);
	atomic_set(&read->pending, 1);
	for (i = 0; i < read->count;) {
		struct cb_read_piece *piece = &read->pieces[i];

		switch ((enum cb_read_source)piece->source) {
		case CB_READ_ZERO:
			cb_read_fill(read, read->first + i, NULL);
			i++;
			break;
		case CB_READ_MEMORY:
			cb_read_from_memory(read, read->first + i, piece);
			i++;
			break;
		case CB_READ_ORIGIN:
		case CB_READ_COW:
			i += cb_read_start_stretch(read, i);
			break;
		case CB_READ_FAIL:
			WRITE_ONCE(read->error, -EIO);
			i++;
			break;
		}
	}
	cb_read_done_one(read);
	wait_for_completion_io(&read->done);
	return READ_ONCE(read->error);
}

static void cb_read_locate_all(struct cb_read *read, bool overtaken)
{
	unsigned long flags;
	u32 i = 0, until;

	while (i < read->count) {
		until = min(i + CB_READ_LOOKUPS, read->count);
		spin_lock_irqsave(&read->dev->lock, flags);
		for (; i < until; i++)
			cb_read_locate(read, read->first + i, &read->pieces[i], overtaken);
		spin_unlock_irqrestore(&read->dev->lock, flags);
	}
	for (i = 0; i < read->count; i++)
		cb_read_count(read->dev, read->pieces[i].source, 1);
}

/* Whether a block that came from the origin was preserved while it was read. */
static bool cb_read_overtaken(struct cb_device *dev, u64 block)
{
	if (cb_mutant(no_revalidate))
		return false;
	return !cb_read_confirm(CB_PHASE_ACTIVE, test_bit(block, dev->preserved));
}

/* Fetches again, one by one, the blocks that were overtaken. */
static int cb_read_revalidate(struct cb_read *read)
{
	struct cb_device *dev = read->dev;
	u64 first = read->first;
	u32 count = read->count, i;
	int ret = 0;

	/* Orders the look at the bits after the completion of the reads. */
	smp_mb();
	for (i = 0; i < count && !ret; i++) {
		if (read->pieces[i].source != CB_READ_ORIGIN ||
		    !cb_read_overtaken(dev, first + i))
			continue;
		/* A window of one block, in place of the first piece, which is done with. */
		read->first = first + i;
		read->count = 1;
		cb_read_locate_all(read, true);
		atomic64_inc(&dev->stats.reads_revalidated_blocks);
		ret = cb_read_fetch(read);
	}
	return ret;
}

/* A window that went straight: all of it is in the reader's pages. */
static void cb_read_recall(struct cb_read *read)
{
	u32 i;

	for (i = 0; i < read->count; i++) {
		read->pieces[i].entry = NULL;
		read->pieces[i].source = CB_READ_ORIGIN;
	}
}

static int cb_read_window(struct cb_read *read)
{
	int ret = 0;

	if (read->straight) {
		cb_read_recall(read);
	} else {
		cb_read_locate_all(read, false);
		ret = cb_read_fetch(read);
	}
	if (!ret)
		ret = cb_read_revalidate(read);
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
		queue_work(cb_read_queue, &read->work);
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
	cb_read_count(dev, CB_READ_ORIGIN,
		      cb_read_last_block(read) - cb_read_first_block(read) + 1);
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
	read->straight = false;
	init_completion(&read->done);
	INIT_WORK(&read->work, cb_read_work);
	atomic_inc(&dev->reads_in_flight);
	if (!cb_read_go_straight(read))
		queue_work(cb_read_queue, &read->work);
}
