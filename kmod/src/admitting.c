// SPDX-License-Identifier: GPL-2.0-only
/*
 * Held writes come from the list on which the hook has put them to the engine, as many as it
 * works on at once, in order of arrival; large ones piece by piece, so that others get
 * their turn (I13, one's slowness is not another's).
 */
#include "cowbird.h"
#include "cowbird_trace.h"

/* The next write in order of arrival; *arrived: its number. */
static struct bio *cb_engine_pop(struct cb_device *dev, u64 *arrived)
{
	unsigned long flags;
	struct bio *bio = NULL;

	spin_lock_irqsave(&dev->lock, flags);
	/* While the cut is being made nothing moves. */
	if (dev->phase != CB_PHASE_HOLDING)
		bio = bio_list_pop(&dev->incoming);
	if (bio)
		*arrived = dev->arrivals.popped++;
	spin_unlock_irqrestore(&dev->lock, flags);
	return bio;
}

/*
 * Large writes are admitted piece by piece, and few pieces of them at once, so that
 * one write-zeroes of gigabytes neither takes all memory nor keeps small writes
 * from theirs. Each piece is a write of its own to the time limit.
 */
static bool cb_engine_is_large(struct cb_device *dev, struct bio *bio,
			       const struct cb_blocks *touched)
{
	return touched->last - touched->first >= CB_HELD_BLOCKS && cb_bio_may_split(bio) &&
	       cb_phase_of(dev) == CB_PHASE_ACTIVE && !cb_mutant_splits_nothing();
}

/* A piece that was split off, in the memory of its bio set. */
static struct cb_piece *cb_piece_of(struct bio *bio)
{
	return container_of(bio, struct cb_piece, bio);
}

/* Its memory is the snapshot's, which stays until the last piece has ended. */
static void cb_piece_end_io(struct bio *bio)
{
	struct bio *whole = cb_piece_of(bio)->whole;
	struct cb_device *dev = cb_piece_of(bio)->dev;

	if (bio->bi_status && !whole->bi_status)
		whole->bi_status = bio->bi_status;
	bio_put(bio);
	bio_endio(whole);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->pieces_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

/*
 * The first piece of a large write, which shrinks to the rest; the whole where it
 * cannot be split at this moment. Nothing is waited for: what pieces are made from
 * may be in the hands of writes that wait for this thread.
 */
static struct bio *cb_engine_split(struct cb_device *dev, struct bio *bio,
				   struct cb_blocks *touched)
{
	u64 sector = cb_bio_disk_sector(bio), end;
	struct bio *piece;

	end = cb_geom_block_start(&dev->geom, touched->first + CB_HELD_BLOCKS);
	piece = cb_bio_split(bio, end - sector, &dev->split_bios);
	if (!piece)
		return bio;
	cb_piece_of(piece)->whole = bio;
	cb_piece_of(piece)->dev = dev;
	piece->bi_end_io = cb_piece_end_io;
	bio_inc_remaining(bio);
	atomic_inc(&dev->pieces_in_flight);
	touched->last = touched->first + CB_HELD_BLOCKS - 1;
	return piece;
}

static void cb_engine_admit_one(struct cb_device *dev, struct bio *bio,
				const struct cb_blocks *touched, unsigned long since, bool piece)
{
	struct cb_held *held;

	/* A discard that the gate had held. */
	if (cb_origin_decide(dev, bio, touched) == CB_WRITE_ABSORB) {
		cb_origin_absorb(dev, bio);
		cb_engine_put(dev);
		return;
	}
	held = list_first_entry(&dev->held_free, struct cb_held, list);
	held->bio = bio;
	held->first = touched->first;
	held->ready = touched->first;
	held->issued = touched->first;
	held->last = touched->last;
	if (cb_mutant(remainder_only) && touched->last - touched->first >= CB_RUN_BLOCKS)
		held->ready = held->issued = touched->first + CB_RUN_BLOCKS;
	held->since = since;
	held->piece = piece;
	dev->pieces_held += piece;
	list_move_tail(&held->list, &dev->held);
	cb_marks_want(&dev->marks, touched->first, touched->last);
}

/* Whether another large write, or a piece of one, can be admitted or let go. */
bool cb_engine_may_admit_large(struct cb_device *dev)
{
	if (bio_list_empty(&dev->large))
		return false;
	if (cb_device_passes_all(dev))
		return !cb_engine_must_drain(dev);
	return dev->pieces_held < CB_PIECES && !list_empty(&dev->held_free);
}

static void cb_engine_admit_piece(struct cb_device *dev, struct bio *bio)
{
	struct cb_blocks touched;
	struct bio *piece = bio;

	/* It touched the origin when it was put on the list. */
	WARN_ON_ONCE(!cb_geom_touched(&dev->geom, cb_bio_disk_sector(bio),
				      bio->bi_iter.bi_size >> SECTOR_SHIFT, &touched));
	if (cb_engine_is_large(dev, bio, &touched))
		piece = cb_engine_split(dev, bio, &touched);
	if (piece != bio) {
		unsigned long flags;

		bio_list_add(&dev->large, bio);
		dev->large_since = jiffies;
		spin_lock_irqsave(&dev->lock, flags);
		dev->held_count++;
		atomic_inc(&dev->unreleased);
		spin_unlock_irqrestore(&dev->lock, flags);
	}
	cb_engine_admit_one(dev, piece, &touched, jiffies, true);
}

static void cb_engine_add_large(struct cb_device *dev, struct bio *bio)
{
	if (bio_list_empty(&dev->large))
		dev->large_since = jiffies;
	bio_list_add(&dev->large, bio);
}

static bool cb_engine_admit_large(struct cb_device *dev)
{
	bool progress = false;

	while (cb_engine_may_admit_large(dev)) {
		struct bio *bio = bio_list_pop(&dev->large);

		if (cb_device_passes_all(dev))
			cb_engine_release(dev, bio);
		else
			cb_engine_admit_piece(dev, bio);
		progress = true;
	}
	return progress;
}

/* Whether a write that was put on the list touches the origin, and where. */
static bool cb_engine_concerns(struct cb_device *dev, struct bio *bio, struct cb_blocks *touched)
{
	if (cb_mutant_forgets_gated(dev))
		return false;
	return cb_geom_touched(&dev->geom, cb_bio_disk_sector(bio),
			       bio->bi_iter.bi_size >> SECTOR_SHIFT, touched);
}

/* When the write with this number arrived. */
static unsigned long cb_engine_arrival(struct cb_device *dev, u64 arrived)
{
	return cb_mutant(age_from_admission) ? jiffies : cb_arrivals_time(dev, arrived);
}

bool cb_engine_admit(struct cb_device *dev)
{
	/* Before small writes, which may come without end, have taken all room. */
	bool progress = cb_engine_admit_large(dev);
	struct bio *bio;

	while (!cb_engine_must_drain(dev)) {
		bool all = cb_device_passes_all(dev);
		struct cb_blocks touched;
		u64 arrived;

		if (!all && list_empty(&dev->held_free))
			break;
		bio = cb_engine_pop(dev, &arrived);
		if (!bio)
			break;
		progress = true;
		if (all || !cb_engine_concerns(dev, bio, &touched))
			cb_engine_release(dev, bio);
		else if (cb_engine_is_large(dev, bio, &touched))
			cb_engine_add_large(dev, bio);
		else
			cb_engine_admit_one(dev, bio, cb_mutant_touched(&touched),
					    cb_engine_arrival(dev, arrived), false);
	}
	return cb_engine_admit_large(dev) || progress;
}
