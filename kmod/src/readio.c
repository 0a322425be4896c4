// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a read of the snapshot device that is not all on the origin is fetched.
 *
 * On a snapshot in use single preserved blocks lie everywhere, and a bio for
 * each of them and for each stretch between them costs more than the data. So
 * the origin is read across a few blocks that come from elsewhere; these take
 * their place once that has ended. Blocks from the COW file are asked for at
 * once, in the order in which they lie there, so that the block layer makes one
 * request of neighbours.
 */
#include <linux/sort.h>

#include "snapread.h"

/* ---- which part of the reader's pages a piece is ------------------------ */

/* Bytes of n pieces from the i-th on. */
static u32 cb_read_bytes(const struct cb_read *read, u32 i, u32 n)
{
	u64 from, to, end;

	if (!n)
		return 0;
	cb_read_span(read, i, &from, &end);
	cb_read_span(read, i + n - 1, &end, &to);
	return (to - from) << SECTOR_SHIFT;
}

void cb_read_map(struct cb_read *read)
{
	struct bvec_iter iter = cb_mutant(advanced_iterator) ? read->bio->bi_iter : read->next;
	u32 i, n;

	for (i = 0; i < read->count; i += n) {
		n = min_t(u32, CB_READ_STEP, read->count - i);
		read->places[i / CB_READ_STEP] = iter;
		bio_advance_iter(read->bio, &iter, cb_read_bytes(read, i, n));
	}
	read->next = iter;
}

/* Fault: places are counted from the first piece that is fetched. */
static u32 cb_mutant_lead(const struct cb_read *read)
{
	u32 lead = 0;

	while (lead < read->count && read->pieces[lead].source == CB_READ_THERE)
		lead++;
	return lead;
}

struct bvec_iter cb_read_iter(const struct cb_read *read, u32 i)
{
	u32 bytes = cb_read_bytes(read, i, 1), before;
	struct bvec_iter iter;

	if (cb_mutant(advanced_iterator))
		i -= min(i, cb_mutant_lead(read));
	iter = read->places[i / CB_READ_STEP];
	before = round_down(i, CB_READ_STEP);
	bio_advance_iter(read->bio, &iter, cb_read_bytes(read, before, i - before));
	iter.bi_size = bytes;
	return iter;
}

void cb_read_fill(struct cb_read *read, u32 i, const void *content)
{
	struct bvec_iter iter = cb_read_iter(read, i);
	struct bio_vec bvec;
	u64 from, to;
	u32 offset;

	cb_read_span(read, i, &from, &to);
	offset = (from & (CB_BLOCK_SECTORS - 1)) << SECTOR_SHIFT;
	__bio_for_each_segment(bvec, read->bio, iter, iter) {
		char *page = cb_kmap(bvec.bv_page);

		/* Of a whole page; other copies may go byte by byte. */
		if (content && bvec.bv_len == PAGE_SIZE)
			copy_page(page, (void *)content);
		else if (content)
			memcpy(page + bvec.bv_offset, content + offset, bvec.bv_len);
		else
			memset(page + bvec.bv_offset, 0, bvec.bv_len);
		flush_dcache_page(bvec.bv_page);
		cb_kunmap(page);
		offset += bvec.bv_len;
	}
}

/* ---- bios --------------------------------------------------------------- */

void cb_read_done_one(struct cb_read *read)
{
	if (!atomic_dec_and_test(&read->pending))
		return;
	if (read->direct)
		cb_read_put_together(read);
	else
		complete(&read->done);
}

void cb_read_end_io(struct bio *bio)
{
	struct cb_read *read = bio->bi_private;

	if (bio->bi_status && !cb_mutant(hide_read_errors))
		WRITE_ONCE(read->error, blk_status_to_errno(bio->bi_status));
	bio_put(bio);
	cb_read_done_one(read);
}

/* Of a bio that reads more than was asked for. */
static void cb_read_bridge_end_io(struct bio *bio)
{
	struct cb_read *read = bio->bi_private;

	if (bio->bi_status && !cb_mutant(hide_read_errors))
		WRITE_ONCE(read->bridge_error, true);
	bio_put(bio);
	cb_read_done_one(read);
}

void cb_read_submit(struct cb_read *read, struct bio *bio, u64 sector)
{
	bio->bi_iter.bi_sector = sector;
	bio->bi_private = read;
	atomic_inc(&read->pending);
	cb_submit_past_hook(bio);
}

/* Reads count pieces from the i-th on, which follow each other at a sector of a device. */
static void cb_read_pieces(struct cb_read *read, struct block_device *bdev, u64 sector, u32 i,
			   u32 count, bool bridged)
{
	struct bio *bio = cb_bio_clone(bdev, read->bio, GFP_NOIO, &read->dev->read_bios);
	u64 from, to, end;

	cb_read_span(read, i, &from, &end);
	cb_read_span(read, i + count - 1, &end, &to);
	bio->bi_iter = cb_read_iter(read, i);
	bio->bi_iter.bi_size = (to - from) << SECTOR_SHIFT;
	bio->bi_opf = CB_READ_OPF;
	bio->bi_end_io = bridged ? cb_read_bridge_end_io : cb_read_end_io;
	cb_read_submit(read, bio, sector);
}

/* ---- the origin ---------------------------------------------------------- */

/*
 * Pieces from the i-th on that one bio reads: up to the last on the origin
 * before more of them are elsewhere than it may read across.
 */
static u32 cb_read_stretch(const struct cb_read *read, u32 i, u32 bridge, bool *bridged)
{
	u32 end = i + 1, next;

	*bridged = false;
	for (next = end; next < read->count && next - end <= bridge; next++) {
		if (read->pieces[next].source != CB_READ_ORIGIN)
			continue;
		*bridged |= next > end;
		end = next + 1;
	}
	return end - i;
}

static void cb_read_from_origin(struct cb_read *read, u32 bridge)
{
	struct blk_plug plug;
	u64 from, to;
	bool bridged;
	u32 i, n;

	blk_start_plug(&plug);
	for (i = 0; i < read->count; i += n) {
		n = 1;
		if (read->pieces[i].source != CB_READ_ORIGIN)
			continue;
		n = cb_read_stretch(read, i, bridge, &bridged);
		cb_read_span(read, i, &from, &to);
		cb_read_pieces(read, read->dev->origin.bdev, from, i, n, bridged);
	}
	blk_finish_plug(&plug);
}

/* ---- the COW file -------------------------------------------------------- */

static int cb_read_compare(const void *a, const void *b, const void *private)
{
	const struct cb_read *read = private;
	u64 first = read->pieces[*(const u16 *)a].sector;
	u64 second = read->pieces[*(const u16 *)b].sector;

	return first < second ? -1 : first > second;
}

void cb_read_sort(struct cb_read *read, u32 n)
{
	bool sorted = true;
	u32 i;

	for (i = 1; i < n && sorted; i++)
		sorted = cb_read_compare(&read->order[i - 1], &read->order[i], read) <= 0;
	if (!sorted && !cb_mutant(gaps_ignored))
		sort_r(read->order, n, sizeof(read->order[0]), cb_read_compare, NULL, read);
}

/* Pieces from the n-th on, of all that there are, that follow each other here and there. */
static u32 cb_read_run(const struct cb_read *read, u32 n, u32 all)
{
	const struct cb_read_piece *piece = &read->pieces[read->order[n]];
	u32 run = 1;

	while (n + run < all && read->order[n + run] == read->order[n] + run &&
	       (piece[run].sector == piece->sector + run * CB_BLOCK_SECTORS ||
		cb_mutant(gaps_ignored)))
		run++;
	return run;
}

/* All of its block is asked for. A part has no sum, and the COW file's disk may not give it. */
bool cb_read_is_whole(const struct cb_read *read, u32 i)
{
	return cb_read_bytes(read, i, 1) == CB_BLOCK_BYTES || cb_mutant(split_slots);
}

void cb_read_whole_slot(struct cb_read *read, u32 i, u64 slot)
{
	u32 n = read->whole_count++;
	struct bio *bio;

	/* Before the bio: who waits for one pool must hold nothing of the other. */
	if (!read->whole)
		read->whole = mempool_alloc(&read->dev->read_pages, GFP_NOIO);
	bio = cb_bio_alloc(read->dev->cow.bdev, 1, CB_READ_OPF, &read->dev->read_bios);
	cb_bio_for(bio, read->bio, read->dev->cow.bdev);
	bio->bi_end_io = cb_read_end_io;
	read->whole_piece[n] = i;
	WARN_ON_ONCE(bio_add_page(bio, read->whole + n, CB_BLOCK_BYTES, 0) != CB_BLOCK_BYTES);
	cb_read_submit(read, bio, slot);
}

static void cb_read_from_cow(struct cb_read *read)
{
	u32 n, run, i, all = 0;
	struct blk_plug plug;
	u64 sector, from, to;

	for (i = 0; i < read->count; i++)
		if (read->pieces[i].source == CB_READ_COW)
			read->order[all++] = i;
	cb_read_sort(read, all);
	blk_start_plug(&plug);
	for (n = 0; n < all; n += run) {
		run = 1;
		i = read->order[n];
		sector = read->pieces[i].sector - read->dev->cow_base;
		if (!cb_read_is_whole(read, i)) {
			cb_read_whole_slot(read, i, sector);
			continue;
		}
		run = cb_read_run(read, n, all);
		/* A part of a block is the end of the read. */
		if (run > 1 && !cb_read_is_whole(read, i + run - 1))
			run--;
		cb_read_span(read, i, &from, &to);
		sector += from & (CB_BLOCK_SECTORS - 1);
		cb_read_pieces(read, read->dev->cow.bdev, sector, i, run, false);
	}
	blk_finish_plug(&plug);
}

void cb_read_take_slots(struct cb_read *read, bool fill)
{
	u32 n;

	for (n = 0; n < read->whole_count; n++) {
		void *content;

		if (!fill || read->pieces[read->whole_piece[n]].source == CB_READ_DAMAGED)
			continue;
		content = cb_kmap(read->whole + n);
		cb_read_fill(read, read->whole_piece[n], content);
		cb_kunmap(content);
	}
	if (read->whole)
		mempool_free(read->whole, &read->dev->read_pages);
	read->whole = NULL;
	read->whole_count = 0;
}

/* ---- no I/O ---------------------------------------------------------------- */

void cb_read_from_memory(struct cb_read *read, u32 i)
{
	void *page = cb_kmap(read->pieces[i].entry->page);

	cb_read_fill(read, i, page);
	cb_kunmap(page);
}

static void cb_read_put_entries(struct cb_read *read)
{
	unsigned long flags;
	u32 i = 0, put;

	while (i < read->count) {
		spin_lock_irqsave(&read->dev->lock, flags);
		for (put = 0; i < read->count && put < CB_READ_LOOKUPS; i++) {
			if (read->pieces[i].source != CB_READ_MEMORY)
				continue;
			cb_blocks_put(read->dev, read->pieces[i].entry);
			read->pieces[i].entry = NULL;
			put++;
		}
		spin_unlock_irqrestore(&read->dev->lock, flags);
	}
}

static void cb_read_without_io(struct cb_read *read)
{
	u32 i, from_memory = 0;

	for (i = 0; i < read->count; i++) {
		if (read->pieces[i].source == CB_READ_ZERO) {
			cb_read_fill(read, i, NULL);
		} else if (read->pieces[i].source == CB_READ_MEMORY) {
			cb_read_from_memory(read, i);
			from_memory++;
		} else if (read->pieces[i].source == CB_READ_FAIL) {
			WRITE_ONCE(read->error, -EIO);
		}
	}
	if (from_memory)
		cb_read_put_entries(read);
}

/* ---- all of it -------------------------------------------------------------- */

void cb_read_begin(struct cb_read *read)
{
	reinit_completion(&read->done);
	atomic_set(&read->pending, 1);
}

int cb_read_wait(struct cb_read *read)
{
	cb_read_done_one(read);
	wait_for_completion_io(&read->done);
	return READ_ONCE(read->error);
}

int cb_read_origin(struct cb_read *read)
{
	int ret;

	cb_read_begin(read);
	cb_read_from_origin(read, CB_READ_BRIDGE);
	ret = cb_read_wait(read);
	if (ret || !READ_ONCE(read->bridge_error))
		return ret;
	if (cb_mutant(bridge_errors))
		return -EIO;
	/*
	 * What a bio read across may be what the disk cannot read any more, and
	 * nobody asked for it: what was asked for is read by itself.
	 */
	read->bridge_error = false;
	cb_read_begin(read);
	cb_read_from_origin(read, 0);
	return cb_read_wait(read);
}

int cb_read_elsewhere(struct cb_read *read)
{
	bool good = true;
	int ret;

	cb_read_begin(read);
	/* First, as writes may need the memory, and the COW file's disk may keep us waiting. */
	cb_read_without_io(read);
	cb_read_from_cow(read);
	ret = cb_read_wait(read);
	if (!ret)
		good = cb_read_check_pieces(read);
	/* What could not be read is no content. */
	cb_read_take_slots(read, !ret);
	return good ? ret : cb_read_check_damaged(read);
}
