// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tracking that is lost: the COW file must say so before the next write goes.
 *
 * From the moment at which changes can no longer be tracked, the region marks on disk
 * lack whatever is written from then on, and still say that they are complete. So every
 * write waits until the state LOST is on stable storage. Often it is the disk of the COW
 * file that has failed, so this is tried again and again for as long as the snapshot
 * exists, and at once when the machine or a filesystem is shut down. A write waits for
 * CB_LOSING_LIMIT at most (invariant 4); that it goes without the COW file knowing is in
 * the log.
 */
#include "cowbird.h"

/* So long may a write wait for that, beside what it has waited for. */
#define CB_LOSING_LIMIT HZ
/* Pauses between two tries: the first one, and the longest. */
#define CB_LOSING_RETRY max(HZ / 4, 1)
#define CB_LOSING_RETRY_MAX (60 * HZ)
/* A device that cannot be opened, or whose opening hangs, is left alone after so many tries. */
#define CB_LOSING_OPENS 8

static bool cb_losing_has_cow(struct cb_device *dev)
{
	return smp_load_acquire(&dev->owns_state) && !READ_ONCE(dev->cow_left);
}

/*
 * A driver that needs an opener has us, and nobody else: a write that waits, or a reader
 * of the snapshot, has the origin open, but may go while the state is under way.
 */
bool cb_losing_is_open(struct cb_device *dev)
{
	return !dev->cow.needs_opener || READ_ONCE(dev->cow.is_open) ||
	       READ_ONCE(dev->lose_holds);
}

static bool cb_losing_is_due(struct cb_device *dev)
{
	if (!cb_losing_has_cow(dev) || dev->lost_in_cow || dev->state_write.in_flight)
		return false;
	if (cb_mutant(tell_loss_once) && dev->lose_next != dev->lose_since)
		return false;
	return time_after_eq(jiffies, READ_ONCE(dev->lose_next));
}

bool cb_losing_wants_cow(struct cb_device *dev)
{
	return cb_losing_is_due(dev) && cb_losing_is_open(dev);
}

/* No look and no write is under way; a write follows a look without a gap. */
static bool cb_losing_is_at_rest(struct cb_device *dev)
{
	return !smp_load_acquire(&dev->state_write.looks) && !READ_ONCE(dev->state_write.in_flight);
}

static void cb_losing_pause(struct cb_device *dev)
{
	dev->lose_pause = clamp_t(unsigned long, 2 * dev->lose_pause, CB_LOSING_RETRY,
				  CB_LOSING_RETRY_MAX);
	WRITE_ONCE(dev->lose_next, jiffies + dev->lose_pause);
}

static bool cb_losing_is_over(struct cb_device *dev)
{
	return READ_ONCE(dev->lost_in_cow) || cb_phase_of(dev) == CB_PHASE_CLOSING;
}

/* Has the origin open for one try, and for as long as that takes: its disk is the COW file's. */
static void cb_losing_work(struct work_struct *work)
{
	struct cb_device *dev = container_of(work, struct cb_device, lose_work);

	if (cb_device_use(dev)) {
		dev->lose_opens++;
		cb_losing_pause(dev);
	} else {
		WRITE_ONCE(dev->lose_next, jiffies);
		WRITE_ONCE(dev->lose_holds, true);
		cb_engine_wake(dev);
		wait_event_idle_timeout(dev->park_wait, cb_losing_is_over(dev), CB_LOSING_LIMIT);
		WRITE_ONCE(dev->lose_holds, false);
		/* Pairs with cb_marking_write_lost: it sees that, or we see its try. */
		smp_mb();
		/* A disk may take any time, and then nobody else may take it down. */
		wait_event_idle(dev->park_wait, cb_losing_is_at_rest(dev));
		cb_device_unuse(dev);
	}
	/* After the times above, which are the engine's from then on. */
	smp_store_release(&dev->lose_opening, false);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->meta_in_flight)) {
		wake_up_all(&dev->reads_wait);
		cb_engine_wake(dev);
	}
	rcu_read_unlock();
}

/* Nobody is known to have the device open, and its driver needs that. */
static void cb_losing_open(struct cb_device *dev)
{
	if (smp_load_acquire(&dev->lose_opening) || dev->lose_opens >= CB_LOSING_OPENS ||
	    READ_ONCE(dev->park) || cb_losing_is_open(dev) || !cb_losing_is_due(dev))
		return;
	WRITE_ONCE(dev->lose_opening, true);
	atomic_inc(&dev->meta_in_flight);
	INIT_WORK(&dev->lose_work, cb_losing_work);
	cb_ending_queue(&dev->lose_work);
}

void cb_losing_say_unknown(struct cb_device *dev)
{
	if (dev->lost_unknown)
		return;
	dev->lost_unknown = true;
	pr_err("snapshot %u of %s: tracking was lost, but this could not be recorded in the COW file; destroy snapshot %u before the next boot, or a reload may miss changes\n",
	       dev->minor, dev->origin_path, dev->minor);
}

void cb_losing_cow_done(struct cb_device *dev, int error)
{
	cb_losing_pause(dev);
	if (error) {
		/* Before, it is tried again; after a destroy nobody asks. */
		if (cb_phase_of(dev) == CB_PHASE_FAILED)
			cb_losing_say_unknown(dev);
		return;
	}
	WRITE_ONCE(dev->lost_in_cow, true);
	if (dev->lost_unknown)
		pr_info("snapshot %u of %s: the COW file says now that changes are not tracked any more\n",
			dev->minor, dev->origin_path);
	wake_up_all(&dev->park_wait);
}

/* ---- the engine -------------------------------------------------------- */

static bool cb_losing_waits(struct cb_device *dev)
{
	if (READ_ONCE(dev->lost_in_cow) || cb_mutant(tell_loss_once) ||
	    cb_mutant(loss_holds_nothing))
		return false;
	/* The series may be taken over yet. */
	if (!cb_losing_has_cow(dev) && READ_ONCE(dev->taken_over))
		return false;
	/* Whoever comes first waits from then on, and it is tried at once. */
	if (!READ_ONCE(dev->held_count)) {
		dev->lose_since = jiffies;
		dev->lose_is_idle = true;
	} else if (dev->lose_is_idle) {
		dev->lose_is_idle = false;
		dev->lose_pause = 0;
		WRITE_ONCE(dev->lose_next, jiffies);
	}
	return time_before(jiffies, dev->lose_since + CB_LOSING_LIMIT);
}

bool cb_losing_act(struct cb_device *dev)
{
	if (cb_phase_is_lost(cb_phase_of(dev)))
		cb_losing_open(dev);
	if (cb_phase_of(dev) != CB_PHASE_LOSING || cb_losing_waits(dev))
		return false;
	/* Where the blocks are somebody else's, or the series has been ended, nobody takes it up. */
	if (!READ_ONCE(dev->lost_in_cow) && cb_losing_has_cow(dev))
		cb_losing_say_unknown(dev);
	cb_device_event(dev, CB_EVENT_TOLD);
	wake_up_all(&dev->slow_wait);
	return true;
}

static bool cb_losing_is_settled(struct cb_device *dev)
{
	return !cb_phase_is_lost(cb_phase_of(dev)) || READ_ONCE(dev->lost_in_cow) ||
	       !cb_losing_has_cow(dev);
}

void cb_losing_wait(struct cb_device *dev, unsigned long deadline)
{
	if (cb_mutant(tell_loss_once))
		return;
	WRITE_ONCE(dev->lose_next, jiffies);
	cb_engine_wake(dev);
	wait_event_timeout(dev->park_wait, cb_losing_is_settled(dev), cb_time_left(deadline));
}
