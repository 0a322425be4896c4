// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads of the snapshot device that the reader's own context sends off, with nothing to wait for.
 *
 * Where no block is preserved, one bio reads the origin, and its completion takes the
 * second look (I2, revalidate).
 *
 * Where single blocks are, the origin is read by one bio, across them, straight into the
 * reader's pages. What is in memory is found beforehand. Beside the bio a thread has what
 * the COW file has read to memory (ahead.c), or into pages of our own. What is preserved
 * takes its place when all of that has ended, as the origin's bio would overwrite it, and
 * then the second look is taken. What was overtaken is left for the thread, and so is all
 * of the read when one of the bios failed, perhaps at a place that nobody asked for, or when
 * a slot does not have what was stored there (checking.c).
 */
#include "snapread.h"
#include "cowbird_trace.h"

/* Of the memory for preserved blocks, so much may be in the hands of such reads. */
#define CB_READ_SHARE 8
/* Whether no block of the read is preserved. */
static bool cb_read_is_untouched(const struct cb_read *read)
{
	u64 last = cb_read_last_block(read);

	return find_next_bit(read->dev->preserved, last + 1, cb_read_first_block(read)) > last;
}

/* Whether none of it is the COW file's own, and the snapshot can be read; by a first look. */
static bool cb_read_is_plain(const struct cb_read *read)
{
	struct cb_device *dev = read->dev;
	bool own = dev->cow_on_origin &&
		   cb_extents_touch(&dev->extents, dev->geom.start + read->sector, read->sectors);

	return cb_read_decide(cb_read_phase(dev), own && !cb_mutant(own_blocks_live), false,
			      false) == CB_READ_ORIGIN;
}

/* ---- nothing is preserved ------------------------------------------------- */

static void cb_read_passthrough_end_io(struct bio *clone)
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
	if (!error && !cb_read_confirm(cb_read_phase(read->dev), preserved))
		error = -EIO;
	cb_read_end(read, error);
}

static void cb_read_note_origin(const struct cb_read *read)
{
	u64 first = cb_read_first_block(read), last = cb_read_last_block(read), block;

	atomic64_add(last - first + 1, &read->dev->stats.reads_origin_blocks);
	if (trace_cowbird_snapshot_read_enabled())
		for (block = first; block <= last; block++)
			trace_cowbird_snapshot_read(read->dev, block, CB_READ_ORIGIN, false);
}

static bool cb_read_go_untouched(struct cb_read *read)
{
	struct cb_device *dev = read->dev;
	struct bio *clone = cb_bio_clone(dev->origin.bdev, read->bio, GFP_NOWAIT,
					 &dev->read_bios);

	if (!clone)
		return false;
	clone->bi_opf = CB_READ_OPF;
	clone->bi_private = read;
	clone->bi_end_io = cb_read_passthrough_end_io;
	read->passthrough = true;
	cb_read_note_origin(read);
	cb_submit_past_hook(clone);
	return true;
}

/* ---- single blocks are ---------------------------------------------------- */

/* Whether one bio can read the origin across what is preserved, and how many blocks it crosses. */
static bool cb_read_can_cross(const struct cb_read *read, u32 *crosses)
{
	const unsigned long *preserved = read->dev->preserved;
	u64 first = cb_read_first_block(read), last = cb_read_last_block(read), block, end;
	u64 crossed = 0;

	if (last - first >= CB_READ_BLOCKS)
		return false;
	for (block = first; (block = find_next_bit(preserved, last + 1, block)) <= last;
	     block = end) {
		end = find_next_zero_bit(preserved, last + 1, block);
		crossed += end - block;
		if (end - block > CB_READ_BRIDGE || crossed > CB_READ_CROSSED ||
		    crossed > last - first)
			return false;
	}
	*crosses = crossed;
	return true;
}

/*
 * A read has what it crosses in its hands, in memory and in pages, until its bios have
 * ended. Writes need that memory too: what all reads have is bounded. So many more.
 */
static bool cb_read_claim(struct cb_read *read, u32 crosses)
{
	struct cb_device *dev = read->dev;

	if (atomic_add_return(crosses, &dev->reads_crossing) >
	    READ_ONCE(dev->entry_limit) / CB_READ_SHARE) {
		atomic_sub(crosses, &dev->reads_crossing);
		return false;
	}
	read->crosses += crosses;
	return true;
}

static void cb_read_unclaim(struct cb_read *read)
{
	atomic_sub(read->crosses, &read->dev->reads_crossing);
}

/*
 * Pages for what is read from the COW file. They are kept from read to read, up to
 * CB_READ_SPARES: kernels that clear what they give out spend more on that than the read costs.
 */
static struct page *cb_read_take_page(struct cb_device *dev)
{
	struct page *page = NULL;
	unsigned long flags;

	spin_lock_irqsave(&dev->spare_lock, flags);
	if (dev->spare_count)
		page = dev->spare_pages[--dev->spare_count];
	spin_unlock_irqrestore(&dev->spare_lock, flags);
	return page ?: alloc_page(GFP_NOWAIT | __GFP_NOWARN | __GFP_NOMEMALLOC);
}

static void cb_read_put_page(struct cb_device *dev, struct page *page)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->spare_lock, flags);
	if (dev->spare_count < CB_READ_SPARES) {
		dev->spare_pages[dev->spare_count++] = page;
		page = NULL;
	}
	spin_unlock_irqrestore(&dev->spare_lock, flags);
	if (page)
		__free_page(page);
}

void cb_snapread_free_spares(struct cb_device *dev)
{
	struct page *page;
	unsigned long flags;

	do {
		spin_lock_irqsave(&dev->spare_lock, flags);
		page = dev->spare_count ? dev->spare_pages[--dev->spare_count] : NULL;
		spin_unlock_irqrestore(&dev->spare_lock, flags);
		if (page)
			__free_page(page);
	} while (page);
}

static void cb_read_put_pages(struct cb_read *read)
{
	u32 n;

	for (n = 0; n < read->found_count; n++) {
		struct cb_read_piece *piece = &read->pieces[read->found[n]];

		if (piece->source != CB_READ_COW || !piece->page)
			continue;
		cb_read_put_page(read->dev, piece->page);
		piece->page = NULL;
	}
}

/* What it has of blocks in memory. */
static void cb_read_put_found(struct cb_read *read)
{
	unsigned long flags;
	u32 n = 0, end;

	while (n < read->found_count) {
		end = min(n + CB_READ_LOOKUPS, read->found_count);
		spin_lock_irqsave(&read->dev->lock, flags);
		for (; n < end; n++) {
			struct cb_read_piece *piece = &read->pieces[read->found[n]];

			if (piece->source != CB_READ_MEMORY)
				continue;
			cb_blocks_put(read->dev, piece->entry);
			piece->entry = NULL;
		}
		spin_unlock_irqrestore(&read->dev->lock, flags);
	}
}

/* Pieces from the n-th on, of all that there are, whose slots follow each other. */
static u32 cb_read_neighbours(const struct cb_read *read, u32 n, u32 all)
{
	u64 sector = read->pieces[read->order[n]].sector;
	u32 run = 1;

	while (n + run < all &&
	       (read->pieces[read->order[n + run]].sector == sector + run * CB_BLOCK_SECTORS ||
		cb_mutant(gaps_ignored)))
		run++;
	return run;
}

/* Reads slots that follow each other, of run pieces from the n-th on; false without memory. */
static bool cb_read_slots(struct cb_read *read, u32 n, u32 run)
{
	struct cb_device *dev = read->dev;
	u64 sector = read->pieces[read->order[n]].sector - dev->cow_base;
	struct bio *bio = cb_bio_alloc(dev->cow.bdev, run, CB_READ_OPF, &dev->read_bios);
	u32 i;

	cb_bio_for(bio, read->bio, dev->cow.bdev);
	bio->bi_end_io = cb_read_end_io;
	for (i = n; i < n + run; i++) {
		struct page *page = cb_read_take_page(dev);

		if (!page) {
			bio_put(bio);
			return false;
		}
		read->pieces[read->order[i]].page = page;
		/* Cannot fail: the bio was allocated for so many pages. */
		WARN_ON_ONCE(bio_add_page(bio, page, CB_BLOCK_BYTES, 0) != CB_BLOCK_BYTES);
	}
	cb_read_submit(read, bio, sector);
	return true;
}

/* Where there is no page at once, all of the read is done over again, without. */
static void cb_read_all_slots(struct cb_read *read)
{
	u32 n, run, all = 0;
	struct blk_plug plug;

	for (n = 0; n < read->found_count; n++)
		if (read->pieces[read->found[n]].source == CB_READ_COW)
			read->order[all++] = read->found[n];
	cb_read_sort(read, all);
	blk_start_plug(&plug);
	for (n = 0; n < all; n += run) {
		u32 ahead;

		run = cb_read_neighbours(read, n, all);
		ahead = read->ahead ? cb_ahead_begin(read, n, run) : 0;
		if (ahead) {
			run = ahead;
			continue;
		}
		if (!cb_read_slots(read, n, run)) {
			WRITE_ONCE(read->error, -ENOMEM);
			break;
		}
	}
	blk_finish_plug(&plug);
}

/*
 * Whether the read may have in its hands what it is about to find: more may have been
 * preserved since that was counted, too much for the memory, a bio, or a completion.
 */
static bool cb_read_may_hold(struct cb_read *read)
{
	return cb_read_look_direct(read) &&
	       (read->found_count <= read->crosses ||
		cb_read_claim(read, read->found_count - read->crosses));
}

/*
 * The thread's part, while the origin is being read: what is in the COW file is fetched, or is
 * in memory by now. It counts in pending, and with that is over.
 */
void cb_read_beside(struct cb_read *read)
{
	u32 n;

	for (n = 0; n < read->found_count; n++)
		if (read->pieces[read->found[n]].source == CB_READ_COW)
			read->pieces[read->found[n]].source = CB_READ_UNKNOWN;
	cb_read_find_direct(read);
	for (n = 0; n < read->found_count; n++) {
		struct cb_read_piece *piece = &read->pieces[read->found[n]];

		if (piece->source == CB_READ_COW)
			piece->page = NULL;
		else if (piece->source == CB_READ_FAIL)
			WRITE_ONCE(read->error, -EIO);
	}
	cb_read_all_slots(read);
	cb_read_done_one(read);
}

/* Finds what is preserved. False when the read may not have as much in its hands. */
static bool cb_read_begin_direct(struct cb_read *read)
{
	u32 n;

	read->first = cb_read_first_block(read);
	read->count = cb_read_last_block(read) - read->first + 1;
	read->next = read->bio->bi_iter;
	if (!cb_read_may_hold(read))
		return false;
	cb_read_map(read);
	read->direct = true;
	/* What is pending from the beginning is the part that needs no bio for the origin. */
	cb_read_begin(read);
	cb_read_find_direct(read);
	for (n = 0; n < read->found_count; n++) {
		u8 source = read->pieces[read->found[n]].source;

		if (source == CB_READ_FAIL)
			WRITE_ONCE(read->error, -EIO);
		else if (source == CB_READ_MEMORY && cb_mutant(patch_too_early))
			cb_read_from_memory(read, read->found[n]);
	}
	return true;
}

static bool cb_read_go_direct(struct cb_read *read)
{
	struct cb_device *dev = read->dev;
	struct bio *bio = cb_bio_clone(dev->origin.bdev, read->bio, GFP_NOWAIT, &dev->read_bios);
	bool in_memory;

	if (!bio)
		return false;
	if (!cb_read_begin_direct(read)) {
		bio_put(bio);
		return false;
	}
	bio->bi_opf = CB_READ_OPF;
	bio->bi_end_io = cb_read_end_io;
	in_memory = !cb_read_count_found(read, CB_READ_COW);
	cb_read_submit(read, bio, read->sector);
	/* Only what is in the COW file takes a thread. */
	if (in_memory)
		cb_read_done_one(read);
	else
		queue_work(dev->read_queue, &read->work);
	return true;
}

/* What is preserved takes its place. */
static void cb_read_place(struct cb_read *read)
{
	void *content;
	u32 n;

	for (n = 0; n < read->found_count; n++) {
		const struct cb_read_piece *piece = &read->pieces[read->found[n]];

		if (piece->source == CB_READ_MEMORY) {
			if (!cb_mutant(patch_too_early))
				cb_read_from_memory(read, read->found[n]);
		} else if (piece->source == CB_READ_COW) {
			content = cb_kmap(piece->page);
			cb_read_fill(read, read->found[n], content);
			cb_kunmap(content);
		}
	}
}

/* In the context of the last completion: at most CB_READ_CROSSED blocks are checked and copied. */
void cb_read_put_together(struct cb_read *read)
{
	struct cb_stats *stats = &read->dev->stats;
	int error = READ_ONCE(read->error);
	u32 memory, cow;

	read->direct = false;
	if (!error && !cb_read_check_pages(read))
		error = -EIO;
	if (!error)
		cb_read_place(read);
	cb_read_put_pages(read);
	cb_read_put_found(read);
	cb_read_unclaim(read);
	if (error && !cb_mutant(bridge_errors)) {
		read->error = 0;
		read->fetched = 0;
		queue_work(read->dev->read_queue, &read->work);
		return;
	}
	memory = cb_read_count_found(read, CB_READ_MEMORY) - read->fetched;
	cow = cb_read_count_found(read, CB_READ_COW) + read->fetched;
	read->fetched = 0;
	atomic64_add(read->count - read->found_count, &stats->reads_origin_blocks);
	atomic64_add(memory, &stats->reads_memory_blocks);
	atomic64_add(cow, &stats->reads_cow_blocks);
	if (!error && cb_read_is_overtaken(read)) {
		read->rest = true;
		queue_work(read->dev->read_queue, &read->work);
		return;
	}
	cb_read_finish(read, error);
}

bool cb_read_pass_through(struct cb_read *read)
{
	u32 crosses;

	if (!cb_read_is_plain(read))
		return false;
	if (cb_read_is_untouched(read))
		return cb_read_go_untouched(read);
	if (!cb_read_can_cross(read, &crosses) || !cb_read_claim(read, crosses))
		return false;
	if (cb_read_go_direct(read))
		return true;
	cb_read_unclaim(read);
	return false;
}
