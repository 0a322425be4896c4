// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a read got from the COW file is compared with the sums of what was stored there. A disk
 * may lose a store that it said to be stable, give another block, or rot, and none of these
 * is an error that it reports.
 *
 * A direct read has slots in pages of the module's own; where one of them is wrong, a thread
 * does all of it again. That has the blocks in the reader's pages, which the reader may change
 * meanwhile, or have given for several blocks at once. So what is wrong there is read once
 * more, to a page of our own, and that decides: the reader gets what was stored, or an error,
 * and then the snapshot is invalidated. What is read ahead is looked at in ahead.c.
 */
#include "snapread.h"
#include "core/sum.h"

u32 cb_sum_of_page(u64 block, struct page *page)
{
	void *content = cb_kmap(page);
	u32 sum = cb_sum(block, content);

	cb_kunmap(content);
	return sum;
}

/* Sums of a few pieces, to be compared under one lock. */
struct cb_check {
	struct cb_read *read;
	u32 count;
	u16 piece[CB_READ_LOOKUPS];
	u32 sum[CB_READ_LOOKUPS];
};

/* Whether all of them are of what was stored; those that are not are marked, if asked for. */
static bool cb_check_compare(struct cb_check *check, bool mark)
{
	const struct cb_slotmap *map = &check->read->dev->slotmap;
	unsigned long flags;
	bool good = true;
	u32 n;

	if (!check->count)
		return true;
	spin_lock_irqsave(&check->read->dev->lock, flags);
	for (n = 0; n < check->count; n++) {
		struct cb_read_piece *piece = &check->read->pieces[check->piece[n]];

		if (cb_slotmap_cut(map, check->sum[n]) ==
		    cb_slotmap_sum_of(map, map->words[piece->slot]))
			continue;
		good = false;
		if (mark)
			piece->source = CB_READ_DAMAGED;
	}
	spin_unlock_irqrestore(&check->read->dev->lock, flags);
	check->count = 0;
	return good;
}

static bool cb_check_add(struct cb_check *check, u32 i, u32 sum, bool mark)
{
	check->piece[check->count] = i;
	check->sum[check->count] = sum;
	return ++check->count < CB_READ_LOOKUPS || cb_check_compare(check, mark);
}

/* ---- pages of our own ----------------------------------------------------- */

bool cb_read_check_pages(struct cb_read *read)
{
	struct cb_check check = { .read = read };
	bool good = true;
	u32 n;

	if (cb_mutant_closes_sums())
		return true;
	for (n = 0; good && n < read->found_count; n++) {
		u32 i = read->found[n];

		if (read->pieces[i].source == CB_READ_COW)
			good = cb_check_add(&check, i,
					    cb_sum_of_page(read->first + i, read->pieces[i].page),
					    false);
	}
	return good && cb_check_compare(&check, false);
}

/* ---- the reader's pages --------------------------------------------------- */

static u32 cb_check_sum(const struct cb_read *read, u32 i)
{
	struct bvec_iter iter = cb_read_iter(read, i);
	struct bio_vec bvec;
	struct cb_sum sum;

	cb_sum_begin(&sum, read->first + i);
	__bio_for_each_segment(bvec, read->bio, iter, iter) {
		u8 *page = cb_kmap(bvec.bv_page);

		cb_sum_more(&sum, page + bvec.bv_offset, bvec.bv_len);
		cb_kunmap(page);
	}
	return cb_sum_end(&sum);
}

/* Slots that were read as a whole. */
static bool cb_check_slots(struct cb_check *check)
{
	struct cb_read *read = check->read;
	bool good = true;
	u32 n;

	for (n = 0; n < read->whole_count; n++) {
		u32 i = read->whole_piece[n];

		good &= cb_check_add(check, i, cb_sum_of_page(read->first + i, read->whole + n),
				     true);
	}
	return good;
}

bool cb_read_check_pieces(struct cb_read *read)
{
	struct cb_check check = { .read = read };
	bool good;
	u32 i;

	if (cb_mutant_closes_sums())
		return true;
	good = cb_check_slots(&check);
	for (i = 0; i < read->count; i++)
		if (read->pieces[i].source == CB_READ_COW && cb_read_is_whole(read, i))
			good &= cb_check_add(&check, i, cb_check_sum(read, i), true);
	return cb_check_compare(&check, true) && good;
}

/* Reads a piece's slot once more; if that is not what was stored, the snapshot is invalidated. */
static int cb_check_again(struct cb_read *read, u32 i)
{
	struct cb_read_piece *piece = &read->pieces[i];
	struct cb_check check = { .read = read };
	int ret;

	piece->source = CB_READ_COW;
	cb_read_begin(read);
	cb_read_whole_slot(read, i, piece->sector - read->dev->cow_base);
	ret = cb_read_wait(read);
	if (ret || (cb_check_slots(&check) && cb_check_compare(&check, true)))
		return ret;
	cb_device_invalidate(read->dev, -EIO,
			     "block %llu in the COW file is not what was stored there (sector %llu of its disk): check that disk, and take a new snapshot",
			     (unsigned long long)(read->first + i), (unsigned long long)piece->sector);
	return -EIO;
}

int cb_read_check_damaged(struct cb_read *read)
{
	int ret = 0;
	u32 i;

	for (i = 0; !ret && i < read->count; i++) {
		if (read->pieces[i].source != CB_READ_DAMAGED)
			continue;
		ret = cb_check_again(read, i);
		cb_read_take_slots(read, !ret);
	}
	return ret;
}
