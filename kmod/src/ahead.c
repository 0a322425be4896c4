// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading ahead in the COW file.
 *
 * A batch of stores is sorted (storing.c), so the slots behind those of one read have
 * blocks that a reader who goes on wants next. A read that finds blocks in the COW file
 * has them fetched to the memory of preserved blocks, together with the slots behind
 * them, as long as these have ascending blocks that are not in memory. The reads that
 * come for them meanwhile wait for the same bio.
 *
 * Memory is for writes first: nothing is fetched when less than a quarter of it is free, and
 * never more than an eighth at a time. Each bio has at least one read that waits for it, so
 * none outlives its snapshot. Reads of other groups and priorities do not wait for it: what
 * the limits of one delay is not for others.
 */
#include "snapread.h"
#include "cowbird_trace.h"

/* A read that begins no farther from the end of the last one goes on with it: 8 MiB. */
#define CB_AHEAD_NEAR (16 * 1024)
/* Blocks farther ahead of a read are not fetched with it: 64 MiB. */
#define CB_AHEAD_FAR 16384
/* Of the memory for preserved blocks so much may be under way. */
#define CB_AHEAD_SHARE 8
/* More blocks than this are checked by a thread, not in the completion: it has interrupts off. */
#define CB_AHEAD_CHECKED 32
/*
 * So long reads ask for what they need only, once the COW file's disk has failed one: a bad
 * place costs time.
 */
#define CB_AHEAD_PAUSE (30 * HZ)

bool cb_ahead_expects(struct cb_read *read)
{
	u64 next = READ_ONCE(read->dev->reads_next);
	unsigned long failed = READ_ONCE(read->dev->ahead_failed);

	WRITE_ONCE(read->dev->reads_next, read->sector + read->sectors);
	if (failed && time_before(jiffies, failed + CB_AHEAD_PAUSE))
		return false;
	/* Several reads that are under way at once may come in any order. */
	return read->sector - next + CB_AHEAD_NEAR <= 2 * CB_AHEAD_NEAR;
}

/* ---- those who wait ------------------------------------------------------- */

/* Whether limits and priority of two reads are the same. */
static bool cb_ahead_is_equal(const struct bio *one, const struct bio *other)
{
#ifdef CONFIG_BLK_CGROUP
	if (one->bi_blkg != other->bi_blkg)
		return false;
#endif
	return one->bi_ioprio == other->bi_ioprio;
}

static bool cb_ahead_add(struct cb_ahead *ahead, struct cb_read *read)
{
	u32 i;

	for (i = 0; i < ahead->read_count; i++)
		if (ahead->reads[i] == read)
			return true;
	if (ahead->read_count == CB_AHEAD_READS)
		return false;
	ahead->reads[ahead->read_count++] = read;
	atomic_inc(&read->pending);
	return true;
}

bool cb_ahead_join(struct cb_read *read, const struct cb_entry *entry)
{
	struct cb_device *dev = read->dev;
	u32 i;

	lockdep_assert_held(&dev->lock);
	if (!read->direct)
		return cb_mutant(ahead_unawaited);
	if (cb_mutant(ahead_unawaited))
		return true;
	for (i = 0; i < CB_AHEADS; i++) {
		struct cb_ahead *ahead = &dev->aheads[i];

		/* The first one began it, and is there as long as it is busy. */
		if (ahead->busy && entry->slot - ahead->slot < ahead->count)
			return cb_ahead_is_equal(ahead->reads[0]->bio, read->bio) &&
			       cb_ahead_add(ahead, read);
	}
	return false;
}

/* ---- the end --------------------------------------------------------------- */

/* The first few entries; false when there are none. */
static bool cb_ahead_finish(struct cb_ahead *ahead, bool good)
{
	struct cb_device *dev = ahead->dev;
	unsigned long flags;
	bool any;
	u32 n;

	spin_lock_irqsave(&dev->lock, flags);
	for (n = 0; n < CB_READ_LOOKUPS && !list_empty(&ahead->entries); n++) {
		struct cb_entry *entry = list_first_entry(&ahead->entries, struct cb_entry, list);

		list_del_init(&entry->list);
		/* From here on it may go, and be fetched again by another bio. */
		ahead->slot++;
		ahead->count--;
		cb_blocks_fetched(dev, entry, good);
	}
	any = n;
	spin_unlock_irqrestore(&dev->lock, flags);
	return any;
}

/*
 * Whether all that was fetched is what was stored. Of what is not, the readers' threads find
 * out whether it concerns them.
 */
static bool cb_ahead_is_good(const struct cb_ahead *ahead)
{
	/* A map that takes its place cuts sums as this one does. */
	const struct cb_slotmap *map = &ahead->dev->slotmap;
	const struct cb_entry *entry;

	if (cb_mutant_closes_sums())
		return true;
	list_for_each_entry(entry, &ahead->entries, list)
		if (cb_slotmap_cut(map, cb_sum_of_page(entry->block, entry->page)) != entry->sum)
			return false;
	return true;
}

static void cb_ahead_end(struct cb_ahead *ahead, int error)
{
	struct cb_device *dev = ahead->dev;
	struct cb_read *reads[CB_AHEAD_READS];
	unsigned long flags;
	u32 i, count;

	if (!error && !cb_ahead_is_good(ahead))
		error = -EIO;
	if (error)
		WRITE_ONCE(dev->ahead_failed, jiffies ?: 1);
	while (cb_ahead_finish(ahead, !error))
		;
	spin_lock_irqsave(&dev->lock, flags);
	count = ahead->read_count;
	memcpy(reads, ahead->reads, sizeof(reads));
	ahead->read_count = 0;
	ahead->busy = false;
	spin_unlock_irqrestore(&dev->lock, flags);
	if (READ_ONCE(dev->stuck))
		cb_engine_wake(dev);
	/* The snapshot may be gone after the last of these. */
	for (i = 0; i < count; i++) {
		if (error)
			WRITE_ONCE(reads[i]->error, error);
		cb_read_done_one(reads[i]);
	}
}

static void cb_ahead_end_io(struct bio *bio)
{
	struct cb_ahead *ahead = bio->bi_private;
	int error = cb_mutant(hide_read_errors) ? 0 : blk_status_to_errno(bio->bi_status);

	bio_put(bio);
	/* Nothing comes or goes while they are being fetched. */
	if (!error && ahead->count > CB_AHEAD_CHECKED)
		queue_work(ahead->dev->read_queue, &ahead->work);
	else
		cb_ahead_end(ahead, error);
}

static void cb_ahead_work(struct work_struct *work)
{
	cb_ahead_end(container_of(work, struct cb_ahead, work), 0);
}

void cb_ahead_init(struct cb_device *dev)
{
	u32 i;

	for (i = 0; i < CB_AHEADS; i++) {
		dev->aheads[i].dev = dev;
		INIT_LIST_HEAD(&dev->aheads[i].entries);
		INIT_WORK(&dev->aheads[i].work, cb_ahead_work);
	}
}

/* ---- the beginning --------------------------------------------------------- */

static struct cb_ahead *cb_ahead_claim(struct cb_read *read)
{
	struct cb_device *dev = read->dev;
	struct cb_ahead *found = NULL;
	unsigned long flags;
	u32 i;

	spin_lock_irqsave(&dev->lock, flags);
	for (i = 0; i < CB_AHEADS && !found; i++)
		if (!dev->aheads[i].busy)
			found = &dev->aheads[i];
	if (found) {
		found->busy = true;
		found->count = 0;
		cb_ahead_add(found, read);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	return found;
}

/* Whether there is memory to spare, writes and what they have still to store considered. */
static bool cb_ahead_has_room(const struct cb_device *dev)
{
	lockdep_assert_held(&dev->lock);
	return dev->entries_free_count + dev->stored_count > dev->entry_limit / 4 &&
	       dev->fetching_count < dev->entry_limit / CB_AHEAD_SHARE &&
	       dev->entry_count <= dev->entry_limit && !READ_ONCE(dev->stuck) &&
	       READ_ONCE(dev->verified);
}

/* The block of the slot behind those that are taken, if it is worth having; false if it is not. */
static bool cb_ahead_next(const struct cb_read *read, u32 slot, u64 before, u64 *block)
{
	const struct cb_slotmap *map = &read->dev->slotmap;

	if (slot >= map->capacity || !cb_slotmap_keeps(map, slot))
		return false;
	*block = cb_slotmap_block_of(map, map->words[slot]);
	return *block > before && *block - cb_read_last_block(read) <= CB_AHEAD_FAR;
}

/* Takes entries for some more slots, until count are taken; false when that is all. */
static bool cb_ahead_fill(struct cb_ahead *ahead, struct cb_read *read, u32 n, u32 run, u32 count,
			  u64 *before)
{
	struct cb_device *dev = read->dev;
	u32 end = min(count, ahead->count + CB_READ_LOOKUPS);

	lockdep_assert_held(&dev->lock);
	if (cb_phase_of(dev) != CB_PHASE_ACTIVE)
		return false;
	while (ahead->count < end) {
		struct cb_read_piece *piece = NULL;
		u32 slot = ahead->slot + ahead->count;
		struct cb_entry *entry;
		u64 block;

		if (ahead->count < run) {
			piece = &read->pieces[read->order[n + ahead->count]];
			block = read->first + read->order[n + ahead->count];
		} else if (!cb_ahead_next(read, slot, *before, &block)) {
			return false;
		}
		if (!cb_ahead_has_room(dev) || cb_blocks_find(dev, block))
			return false;
		entry = cb_blocks_take_stored(dev, block, slot);
		list_add_tail(&entry->list, &ahead->entries);
		*before = block;
		ahead->count++;
		if (!piece)
			continue;
		cb_blocks_get(dev, entry);
		piece->source = CB_READ_MEMORY;
		piece->entry = entry;
		read->fetched++;
	}
	return ahead->count < count;
}

static void cb_ahead_submit(struct cb_ahead *ahead, struct cb_read *read, struct bio *bio,
			    u64 sector)
{
	struct cb_entry *entry;

	cb_bio_for(bio, read->bio, read->dev->cow.bdev);
	bio->bi_iter.bi_sector = sector + (cb_mutant(ahead_shifted) ? CB_BLOCK_SECTORS : 0);
	bio->bi_private = ahead;
	bio->bi_end_io = cb_ahead_end_io;
	/* They cannot go from the list while they are being fetched. */
	list_for_each_entry(entry, &ahead->entries, list)
		WARN_ON_ONCE(bio_add_page(bio, entry->page, CB_BLOCK_BYTES, 0) != CB_BLOCK_BYTES);
	cb_submit_past_hook(bio);
}

u32 cb_ahead_begin(struct cb_read *read, u32 n, u32 run)
{
	struct cb_device *dev = read->dev;
	const struct cb_read_piece *piece = &read->pieces[read->order[n]];
	u64 sector = piece->sector - dev->cow_base, before = 0, start, contiguous;
	struct cb_ahead *ahead;
	struct bio *bio;
	unsigned long flags;
	bool more;
	u32 count;

	if (cb_data_slot(dev, piece->slot, &start, &contiguous))
		return 0;
	ahead = cb_ahead_claim(read);
	if (!ahead)
		return 0;
	bio = cb_bio_alloc(dev->cow.bdev, CB_AHEAD_BLOCKS, CB_READ_OPF, &dev->read_bios);
	ahead->slot = piece->slot;
	count = min_t(u64, contiguous, CB_AHEAD_BLOCKS);
	do {
		spin_lock_irqsave(&dev->lock, flags);
		more = cb_ahead_fill(ahead, read, n, run, count, &before);
		spin_unlock_irqrestore(&dev->lock, flags);
	} while (more);
	count = ahead->count;
	if (count) {
		cb_ahead_submit(ahead, read, bio, sector);
	} else {
		bio_put(bio);
		cb_ahead_end(ahead, 0);
	}
	return min(count, run);
}
