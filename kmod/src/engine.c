// SPDX-License-Identifier: GPL-2.0-only
/*
 * One thread per snapshot. It loads the T0 content of blocks that held writes
 * wait for, declares them preserved, releases the writes, and stores the blocks
 * in the COW file behind the writers' backs. The thread only decides: whatever it
 * wants submitted goes to a lane (lanes.c), so that no disk can make it sleep and
 * its time limits hold. Each turn runs these steps in this order:
 *
 *   finish   completed loads become preserved, completed stores free memory,
 *            completed marks are stable
 *   release  writes whose blocks are all preserved and marked, in order of arrival
 *   admit    writes that the hook has put on the list (admitting.c)
 *   mark     regions that admitted writes wait for (marking.c)
 *   load     blocks that admitted writes wait for, as far as memory goes (loading.c)
 *   store    preserved blocks (storing.c)
 *   check    how long writes have waited (overdue.c)
 *
 * The order of finish and release is what I1, old before new, and I6, the map is true,
 * rest on: a write leaves only after cb_engine_loaded() has set the bits of all its
 * blocks, and cb_marks_done() those of its regions. The engine itself sends nothing to a
 * disk (I11, no thread that others wait for sleeps in a disk).
 */
#include <linux/sched.h>
#include <linux/slab.h>

#include "cowbird.h"
#include "cowbird_trace.h"

/* Longest wait for the engine to come to rest; the second after one that was in vain. */
#define CB_PARK_LIMIT (10 * HZ)
#define CB_PARK_LIMIT_AGAIN HZ
/* How often the time is looked at while writes wait for somebody to know that tracking is lost. */
#define CB_LOSING_POLL max(HZ / 10, 1)

void cb_engine_wake(struct cb_device *dev)
{
	wake_up(&dev->engine_wait);
}

/* ---- finish ------------------------------------------------------------ */

static bool cb_engine_finish(struct cb_device *dev)
{
	struct llist_node *done = llist_reverse_order(llist_del_all(&dev->done));
	struct cb_run *run, *next;

	llist_for_each_entry_safe(run, next, done, done) {
		if (run->store)
			cb_storing_stored(dev, run);
		else
			cb_engine_loaded(dev, run);
		list_add(&run->free, &dev->runs_free);
	}
	return cb_marking_finish(dev) || done;
}

/* ---- release ----------------------------------------------------------- */

/* One held write less that the engine has. */
static void cb_engine_hands_over(struct cb_device *dev)
{
	if (atomic_dec_return(&dev->unreleased) == CB_HELD_SLOW)
		wake_up_all(&dev->slow_wait);
}

static void cb_engine_subtract(struct cb_device *dev)
{
	unsigned long flags;
	bool wake;

	spin_lock_irqsave(&dev->lock, flags);
	wake = --dev->held_count == CB_HELD_MANY;
	spin_unlock_irqrestore(&dev->lock, flags);
	if (wake)
		wake_up_all(&dev->slow_wait);
}

void cb_engine_put(struct cb_device *dev)
{
	cb_engine_subtract(dev);
	cb_engine_hands_over(dev);
}

void cb_engine_released(struct cb_device *dev)
{
	cb_engine_subtract(dev);
	/* The engine waits for the last one before it rests. */
	if (atomic_dec_and_test(&dev->releasing))
		cb_engine_wake(dev);
}

/*
 * fail-held and drop-held: what a snapshot that has failed still held is not written.
 * drop-some-held: a part of what any snapshot held is not.
 */
static bool cb_mutant_ends_held(struct cb_device *dev, struct bio *bio)
{
	if (cb_mutant(drop_some_held) &&
	    cb_bio_disk_sector(bio) / CB_BLOCK_SECTORS % CB_MUTANT_NTH == 0)
		return true;
	if ((!cb_mutant(fail_held) && !cb_mutant(drop_held)) ||
	    (cb_phase_of(dev) != CB_PHASE_INVALIDATED && cb_phase_of(dev) != CB_PHASE_FAILED))
		return false;
	if (cb_mutant(fail_held))
		bio->bi_status = BLK_STS_IOERR;
	return true;
}

void cb_engine_release(struct cb_device *dev, struct bio *bio)
{
	trace_cowbird_release(dev, cb_bio_disk_sector(bio), bio->bi_iter.bi_size >> SECTOR_SHIFT,
			      cb_bio_opf(bio));
	if (cb_mutant_ends_held(dev, bio)) {
		bio_endio(bio);
		cb_engine_put(dev);
		return;
	}
	atomic_inc(&dev->releasing);
	cb_engine_hands_over(dev);
	cb_lane_release(dev, bio);
}

/* Whether our own writes to blocks that somebody else has now must end first. */
bool cb_engine_must_drain(struct cb_device *dev)
{
	if (!smp_load_acquire(&dev->cow_gone) || READ_ONCE(dev->cow_left))
		return false;
	/* The state LOST is tried, now or in a moment. */
	if (cb_phase_of(dev) == CB_PHASE_LOSING)
		return true;
	if (time_after(jiffies, READ_ONCE(dev->gone_since) + dev->hold_limit_jiffies))
		return false;
	return dev->stores_in_flight || dev->marks_in_flight || cb_marking_wants_state(dev) ||
	       atomic_read(&dev->meta_in_flight) || READ_ONCE(dev->header_bio);
}

static void cb_engine_leave_cow(struct cb_device *dev)
{
	/* Not before it was tried to say there that tracking is lost. */
	if (READ_ONCE(dev->cow_gone) && cb_device_passes_all(dev) && !cb_engine_must_drain(dev))
		WRITE_ONCE(dev->cow_left, true);
}

/*
 * Whether a held write may go. Once tracking is lost every write may, but one
 * into the COW file's extents not before our own writes there have ended.
 */
static bool cb_engine_may_go(struct cb_device *dev, struct cb_held *held)
{
	switch (cb_phase_of(dev)) {
	case CB_PHASE_ACTIVE:
		held->ready = cb_next_unpreserved(dev, held->ready, held->last);
		if (cb_mutant(full_skips_cow) && dev->slots_reserved >= dev->slotmap.capacity)
			held->ready = held->last + 1;
		return held->ready > held->last && cb_origin_marked(dev, held->first, held->last);
	case CB_PHASE_INVALIDATED:
	case CB_PHASE_TRACKING:
		return cb_origin_marked(dev, held->first, held->last);
	default:
		return cb_device_passes_all(dev) && !cb_engine_must_drain(dev);
	}
}

static void cb_engine_let_held_go(struct cb_device *dev, struct cb_held *held)
{
	/* That fault has let it go before. */
	if (cb_mutant(read_after_write) && !held->bio)
		cb_engine_put(dev);
	else
		cb_engine_release(dev, held->bio);
}

static bool cb_engine_release_ready(struct cb_device *dev)
{
	struct cb_held *held, *next;
	bool progress = false;

	list_for_each_entry_safe(held, next, &dev->held, list) {
		if (!cb_engine_may_go(dev, held))
			continue;
		/* While tracking: what is before ready was preserved, and so is noted. */
		cb_origin_note(dev, held->ready, held->last);
		if (held->bio)
			cb_written_note(dev, held->bio, held->first, held->last);
		list_move_tail(&held->list, &dev->held_free);
		dev->pieces_held -= held->piece;
		if (cb_mutant_loses(held->first))
			continue;
		cb_engine_let_held_go(dev, held);
		progress = true;
	}
	return progress;
}

/* ---- runs -------------------------------------------------------------- */

struct cb_run *cb_engine_new_run(struct cb_device *dev, bool store)
{
	struct cb_run *run = list_first_entry(&dev->runs_free, struct cb_run, free);

	list_del(&run->free);
	run->store = store;
	run->count = 0;
	run->status = BLK_STS_OK;
	INIT_LIST_HEAD(&run->entries);
	return run;
}

/* ---- the thread -------------------------------------------------------- */

/* Released writes count until they have been submitted: until then nothing else knows of them. */
static bool cb_engine_is_idle(struct cb_device *dev)
{
	return !dev->loads_in_flight && !dev->stores_in_flight && !dev->marks_in_flight &&
	       !atomic_read(&dev->releasing);
}

/* Whether what is still counted as held is on its lane. */
static bool cb_engine_has_released_all(struct cb_device *dev)
{
	return list_empty(&dev->held) && bio_list_empty(&dev->incoming) &&
	       bio_list_empty(&dev->large);
}

static bool cb_engine_has_work(struct cb_device *dev)
{
	if (!llist_empty(&dev->done) || !llist_empty(&dev->marks_done))
		return true;
	if (READ_ONCE(dev->park) ? cb_engine_is_idle(dev) :
				   cb_phase_is_lost(cb_phase_of(dev)) &&
					   cb_marking_wants_state(dev))
		return true;
	if (cb_phase_of(dev) == CB_PHASE_LOSING && READ_ONCE(dev->lost_in_cow))
		return true;
	if (cb_storing_has_work(dev))
		return true;
	/* A reader has given memory back. */
	if (dev->stuck && !READ_ONCE(dev->park) && cb_blocks_has_room(dev))
		return true;
	if (!READ_ONCE(dev->held_count))
		return false;
	return (cb_device_passes_all(dev) && !cb_engine_must_drain(dev) &&
		!cb_engine_has_released_all(dev)) ||
	       cb_engine_may_admit_large(dev) ||
	       (cb_phase_of(dev) != CB_PHASE_HOLDING && !cb_engine_must_drain(dev) &&
		!bio_list_empty(&dev->incoming) && !list_empty(&dev->held_free));
}

/*
 * One turn. When it is to be parked, no I/O is begun but stores; writes that may
 * go still go, and time limits hold, because a COW disk that hangs can make the
 * rest be long in coming.
 */
static bool cb_engine_turn(struct cb_device *dev, bool parking)
{
	struct blk_plug plug;
	bool progress;

	/* What one turn submits reaches the driver together. */
	blk_start_plug(&plug);
	progress = cb_engine_finish(dev);
	progress |= cb_losing_act(dev);
	cb_engine_leave_cow(dev);
	progress |= cb_engine_release_ready(dev);
	progress |= cb_engine_admit(dev);
	if (!parking) {
		progress |= cb_marking_start(dev);
		progress |= cb_engine_load(dev);
	}
	progress |= cb_storing_start(dev);
	blk_finish_plug(&plug);
	cb_engine_check(dev);
	return progress;
}

/* Stays here for as long as somebody wants the engine to rest. */
static void cb_engine_rest(struct cb_device *dev)
{
	WRITE_ONCE(dev->parked, true);
	wake_up_all(&dev->park_wait);
	wait_event_interruptible(dev->engine_wait, !READ_ONCE(dev->park));
	WRITE_ONCE(dev->parked, false);
	/* What was lost meanwhile could not be told. */
	dev->lose_since = jiffies;
	wake_up_all(&dev->park_wait);
}

/* Longest time that the engine sleeps when it has nothing to do. */
static unsigned long cb_engine_patience(struct cb_device *dev)
{
	unsigned long patience =
		cb_phase_of(dev) == CB_PHASE_LOSING ? CB_LOSING_POLL : CB_CHECK_INTERVAL;

	return min(patience, cb_storing_wait(dev));
}

static int cb_engine_main(void *data)
{
	struct cb_device *dev = data;

	while (!kthread_should_stop() || READ_ONCE(dev->held_count) || !cb_engine_is_idle(dev)) {
		bool parking = READ_ONCE(dev->park);
		bool progress = cb_engine_turn(dev, parking);

		/* Writers that come without end must not put the rest off. */
		if (parking && cb_engine_is_idle(dev)) {
			cb_engine_rest(dev);
			continue;
		}
		if (progress) {
			cond_resched();
			continue;
		}
		wait_event_interruptible_timeout(dev->engine_wait,
						 cb_engine_has_work(dev) || kthread_should_stop(),
						 cb_engine_patience(dev));
		if (kthread_should_stop() && !cb_engine_has_work(dev))
			schedule_timeout_uninterruptible(1);
	}
	return 0;
}

int cb_engine_park(struct cb_device *dev)
{
	return cb_engine_park_for(dev, CB_PARK_LIMIT);
}

int cb_engine_park_for(struct cb_device *dev, unsigned long limit)
{
	lockdep_assert_held(&cb_life_mutex);
	/* A disk that has kept one caller waiting is not waited for as long by the next. */
	if (READ_ONCE(dev->cow_slow))
		limit = min_t(unsigned long, limit, CB_PARK_LIMIT_AGAIN);
	WRITE_ONCE(dev->park, true);
	cb_engine_wake(dev);
	if (wait_event_timeout(dev->park_wait, READ_ONCE(dev->parked), limit))
		return 0;
	WRITE_ONCE(dev->cow_slow, true);
	cb_engine_unpark(dev);
	pr_warn("snapshot %u of %s: I/O that Cowbird submitted has not completed within %lu s; check the disks of the COW file and of the origin\n",
		dev->minor, dev->origin_path, limit / HZ);
	return -ETIMEDOUT;
}

void cb_engine_unpark(struct cb_device *dev)
{
	WRITE_ONCE(dev->park, false);
	cb_engine_wake(dev);
	/* The thread sleeps nowhere but in wait for us. */
	wait_event(dev->park_wait, !READ_ONCE(dev->parked));
}

int cb_engine_start(struct cb_device *dev)
{
	u32 i;

	dev->held_array = kvcalloc(CB_HELD, sizeof(*dev->held_array), GFP_KERNEL);
	dev->runs = kvcalloc(CB_RUNS, sizeof(*dev->runs), GFP_KERNEL);
	if (!dev->held_array || !dev->runs)
		return -ENOMEM;
	for (i = 0; i < CB_HELD; i++)
		list_add_tail(&dev->held_array[i].list, &dev->held_free);
	for (i = 0; i < CB_RUNS; i++) {
		dev->runs[i].dev = dev;
		list_add_tail(&dev->runs[i].free, &dev->runs_free);
	}
	dev->next_check = jiffies + CB_CHECK_INTERVAL;
	dev->engine = kthread_run(cb_engine_main, dev, "cowbird/%u", dev->minor);
	if (IS_ERR(dev->engine)) {
		int ret = PTR_ERR(dev->engine);

		dev->engine = NULL;
		return ret;
	}
	return 0;
}

void cb_engine_stop(struct cb_device *dev)
{
	WRITE_ONCE(dev->park, false);
	if (dev->engine)
		kthread_stop(dev->engine);
	dev->engine = NULL;
	kvfree(dev->held_array);
	kvfree(dev->runs);
	dev->held_array = NULL;
	dev->runs = NULL;
}
