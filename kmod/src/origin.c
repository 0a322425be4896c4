// SPDX-License-Identifier: GPL-2.0-only
/*
 * What happens to one write to an origin, in the context of its submitter.
 *
 * A write whose blocks are all preserved, and whose regions are marked on disk,
 * passes after a look at two bitmaps, without a lock. Any other is put on the
 * snapshot's list and its submitter goes on: the submitter may be inside another
 * driver's submission, where waiting for I/O would never end. The engine
 * releases the write later.
 */
#include <linux/bitmap.h>

#include "cowbird.h"
#include "cowbird_trace.h"

/* Longest time that one writer is made to wait, whatever the engine does. */
#define CB_SLOW_LIMIT (5 * HZ)

u64 cb_next_unpreserved(struct cb_device *dev, u64 from, u64 last)
{
	u64 next = from;

	while (next <= last) {
		next = find_next_zero_bit(dev->preserved, last + 1, next);
		if (!cb_mutant_skips_block(dev, next, last))
			break;
		next++;
	}
	return next;
}

static u64 cb_bio_sectors(const struct bio *bio)
{
	return bio->bi_iter.bi_size >> SECTOR_SHIFT;
}

bool cb_origin_marked(struct cb_device *dev, u64 first, u64 last)
{
	if (cb_mutant(release_before_mark))
		return true;
	if (READ_ONCE(dev->saved))
		return false;
	return cb_marks_next_unstable(&dev->marks, first, last) > last;
}

enum cb_write_action cb_origin_decide(struct cb_device *dev, struct bio *bio,
				      const struct cb_blocks *touched)
{
	bool preserved = cb_next_unpreserved(dev, touched->first, touched->last) > touched->last;
	bool marked = cb_origin_marked(dev, touched->first, touched->last);

	return cb_write_decide(cb_phase_of(dev), preserved, marked,
			       bio_op(bio) == REQ_OP_DISCARD);
}

void cb_origin_note(struct cb_device *dev, u64 first, u64 last)
{
	u64 block = first;
	bool news = false;

	if (cb_mutant(note_first_block))
		last = min(first, last);
	/* Most blocks are noted already; look before taking the cache line. */
	while ((block = cb_next_unpreserved(dev, block, last)) <= last) {
		set_bit(block++, dev->preserved);
		news = true;
	}
	/* Noted before the write is submitted, seen by whoever sees its effect. */
	smp_mb__after_atomic();
	if (news)
		trace_cowbird_change(dev, first, last);
}

void cb_origin_absorb(struct cb_device *dev, struct bio *bio)
{
	atomic64_inc(&dev->stats.absorbed_discards);
	bio_endio(bio);
	/* Keeps this a call, by which the watch of ends knows it for ours. */
	barrier();
}

static void cb_origin_enqueue(struct cb_device *dev, struct bio *bio)
{
	lockdep_assert_held(&dev->lock);
	/*
	 * A held bio completes by interrupt: nobody can poll for it. And its
	 * submitter has been told that it was taken: when it leaves it waits for
	 * a free request as any other, and does not fail.
	 */
	bio->bi_opf &= ~(CB_REQ_POLLED | REQ_NOWAIT);
	cb_bio_keep_ioprio(bio);
	bio_list_add(&dev->incoming, bio);
	dev->held_count++;
	atomic_inc(&dev->unreleased);
	dev->arrivals.enqueued++;
}

/* Whether one more write may wait. Those of tracking that is lost do so for a short time only. */
static bool cb_origin_has_room(struct cb_device *dev)
{
	lockdep_assert_held(&dev->lock);
	return dev->held_count < CB_HELD_MAX || dev->phase == CB_PHASE_LOSING;
}

/*
 * The decision under the lock, where the phase cannot change; carried out if it is to
 * hold, unless too many wait: then *overflow.
 */
static enum cb_write_action cb_origin_try_hold(struct cb_device *dev, struct bio *bio,
					       const struct cb_blocks *touched, bool *overflow)
{
	enum cb_write_action action;
	bool first = false;
	unsigned long flags;

	*overflow = false;
	spin_lock_irqsave(&dev->lock, flags);
	action = cb_origin_decide(dev, bio, touched);
	if (action == CB_WRITE_HOLD && cb_origin_has_room(dev)) {
		first = bio_list_empty(&dev->incoming);
		cb_origin_enqueue(dev, bio);
		if (dev->phase == CB_PHASE_HOLDING)
			atomic64_inc(&dev->stats.gated_writes);
	} else if (action == CB_WRITE_HOLD) {
		*overflow = true;
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	/* Who found the list empty wakes the engine, which then takes all that it has room for. */
	if (first)
		cb_engine_wake(dev);
	return action;
}

static enum cb_write_action cb_origin_hold(struct cb_device *dev, struct bio *bio,
					   const struct cb_blocks *touched)
{
	bool overflow;
	enum cb_write_action action = cb_origin_try_hold(dev, bio, touched, &overflow);

	if (!overflow)
		return action;
	cb_device_fail(dev, -EOVERFLOW, "more than %u writes were waiting", CB_HELD_MAX);
	/* This one waits, too, until a disk knows of it. */
	action = cb_origin_try_hold(dev, bio, touched, &overflow);
	return overflow ? CB_WRITE_PASS : action;
}

/* True when the write was taken over. */
static bool cb_origin_act(struct cb_device *dev, struct bio *bio, const struct cb_blocks *touched,
			  enum cb_write_action action)
{
	switch (action) {
	case CB_WRITE_HOLD:
		atomic64_inc(&dev->stats.held_writes);
		return true;
	case CB_WRITE_ABSORB:
		cb_origin_absorb(dev, bio);
		return true;
	case CB_WRITE_NOTE:
		cb_origin_note(dev, touched->first, touched->last);
		return false;
	case CB_WRITE_PASS:
		break;
	}
	return false;
}

/* Whether a write touches the origin, and where. */
static bool cb_origin_touches(struct cb_device *dev, struct bio *bio, struct cb_blocks *touched)
{
	bool touches = cb_geom_touched(&dev->geom, cb_bio_disk_sector(bio), cb_bio_sectors(bio),
				       touched);

	return cb_mutant_bend_write(dev, bio, touches, touched);
}

/* What to do with a write; PASS also where it does not concern the snapshot. */
static enum cb_write_action cb_origin_look(struct cb_device *dev, struct bio *bio,
					   struct cb_blocks *touched)
{
	touched->first = U64_MAX;
	if (!cb_phase_is_live(cb_phase_of(dev)) || !cb_origin_touches(dev, bio, touched))
		return CB_WRITE_PASS;
	return cb_mutant_bend_action(dev, bio, cb_origin_decide(dev, bio, touched), touched);
}

static bool cb_origin_lets_pass(enum cb_write_action action)
{
	return action == CB_WRITE_PASS || action == CB_WRITE_NOTE;
}

/* It goes on to the origin, if it concerns it. */
static void cb_origin_note_last(struct cb_device *dev, const struct bio *bio,
				const struct cb_blocks *touched)
{
	if (touched->first != U64_MAX)
		cb_written_note(dev, bio, touched->first, touched->last);
}

bool cb_origin_write(struct cb_device *dev, struct bio *bio)
{
	struct cb_blocks touched;
	enum cb_write_action action = cb_origin_look(dev, bio, &touched);

	if (action == CB_WRITE_PASS && touched.first != U64_MAX)
		atomic64_inc(&dev->stats.passed_writes);
	if (!cb_origin_lets_pass(action)) {
		trace_cowbird_intercept(dev, touched.first, touched.last, cb_bio_opf(bio));
		action = cb_origin_hold(dev, bio, &touched);
	}
	if (cb_origin_lets_pass(action))
		cb_origin_note_last(dev, bio, &touched);
	return cb_origin_act(dev, bio, &touched, action);
}

bool cb_origin_stops(struct cb_device *dev, struct bio *bio)
{
	struct cb_blocks touched;
	enum cb_write_action action;

	if (cb_mutant(delayed_ignores_gate) && cb_phase_of(dev) == CB_PHASE_HOLDING)
		return false;
	action = cb_origin_look(dev, bio, &touched);
	if (action == CB_WRITE_NOTE)
		cb_origin_note(dev, touched.first, touched.last);
	if (cb_origin_lets_pass(action))
		cb_origin_note_last(dev, bio, &touched);
	return !cb_origin_lets_pass(action);
}

/*
 * What is with the engine is waited for by all; what is on the lane of a group, by
 * that group alone: the others have no part in its limits.
 */
static bool cb_origin_is_slow(struct cb_device *dev, const void *group, u32 limit)
{
	if (cb_mutant(pause_for_all))
		return READ_ONCE(dev->held_count) > limit;
	/* Many groups together must not come near the number at which tracking is given up. */
	if (READ_ONCE(dev->held_count) > CB_HELD_MANY)
		return true;
	return atomic_read(&dev->unreleased) > limit || cb_lane_backlog(dev, group) > limit;
}

void cb_origin_ask_pause(struct cb_device *dev, struct cb_passage *passage, const void *group)
{
	u32 limit;

	if (!passage || !passage->may_pause || passage->pause || cb_mutant(never_pause))
		return;
	limit = passage->nowait ? CB_HELD_SLOW_NOWAIT : CB_HELD_SLOW;
	if (READ_ONCE(dev->held_count) <= limit || !cb_origin_is_slow(dev, group, limit))
		return;
	/* Under RCU, in which the snapshot was found: it stays until this is taken back. */
	atomic_inc(&dev->pausing);
	passage->pause = dev;
	passage->group = group;
}

/*
 * Here the task is outside of every driver, whoever's device it has written to:
 * so also writers above the origin are slowed, which hold no request of it.
 */
void cb_origin_pause(struct cb_passage *passage)
{
	struct cb_device *dev = passage->pause;

	/* Nobody who waits for writes has to wait for a pause. */
	cb_passage_unload(passage);
	atomic64_inc(&dev->stats.throttled_writers);
	trace_cowbird_overflow(dev, READ_ONCE(dev->held_count), CB_HELD_SLOW);
	wait_event_timeout(dev->slow_wait,
			   !cb_origin_is_slow(dev, passage->group, CB_HELD_SLOW) ||
				   cb_device_passes_all(dev),
			   CB_SLOW_LIMIT);
	/* Who ends the snapshot waits for a grace period after the last one. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->pausing))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

bool cb_origin_guards_cow(struct cb_device *dev, struct bio *bio)
{
	u64 sector = cb_bio_disk_sector(bio);
	enum cb_phase phase = cb_phase_of(dev);

	return !READ_ONCE(dev->cow_left) &&
	       (cb_phase_is_live(phase) || cb_phase_is_lost(phase)) &&
	       (cb_extents_touch(&dev->extents, sector, cb_bio_sectors(bio)) ||
		cb_annex_touch(dev, sector, cb_bio_sectors(bio)));
}

/*
 * Nobody has written to the extents before, so every slot is still as we left it,
 * and the state LOST can be written without harm; no other write of ours begins.
 * All of them end before the foreign one goes on: whoever has the blocks now
 * shall have the last word.
 */
bool cb_origin_guard_cow(struct cb_device *dev, struct bio *bio)
{
	u64 sector = cb_bio_disk_sector(bio);
	unsigned long flags;
	bool taken;

	if (!cb_origin_guards_cow(dev, bio))
		return false;
	if (!READ_ONCE(dev->cow_gone)) {
		WRITE_ONCE(dev->gone_since, jiffies);
		smp_store_release(&dev->cow_gone, true);
	}
	cb_device_fail(dev, -EIO, "somebody else wrote into the COW file, at sector %llu of its disk",
		       (unsigned long long)sector);
	spin_lock_irqsave(&dev->lock, flags);
	taken = cb_phase_is_lost(dev->phase) && cb_origin_has_room(dev);
	if (taken)
		cb_origin_enqueue(dev, bio);
	spin_unlock_irqrestore(&dev->lock, flags);
	if (taken)
		cb_engine_wake(dev);
	return taken;
}
