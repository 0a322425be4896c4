// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tracking that is lost: a disk must know before the next write goes.
 *
 * From the moment at which changes can no longer be tracked, the region marks on disk
 * lack whatever is written from then on, and still say that they are complete. So every
 * write waits until that is on stable storage, in one of two places:
 *
 *   stamp     on the origin itself, which takes the write; where the epoch has one
 *   COW file  the state LOST. Often it is its disk that has failed, so this is tried
 *             again and again for as long as the snapshot exists, and at once when the
 *             machine or a filesystem is shut down
 *
 * Where there is a stamp, it is what counts: when the disk of the COW file does not
 * answer, or goes back in time, or a part of it, nobody asks there. A write waits for
 * CB_LOSING_LIMIT at most (invariant 4); who goes without anybody knowing is in the log.
 *
 * The stamp lies in a file, whose filesystem may have moved it. It is read first and
 * changed only if it is still ours, all in the time in which no write passes: so nobody
 * can have been given the block in between.
 */
#include "cowbird.h"

/* So long may a write wait for that, beside what it has waited for. */
#define CB_LOSING_LIMIT HZ
/* Pauses between two tries of the COW file: the first one, and the longest. */
#define CB_LOSING_RETRY HZ
#define CB_LOSING_RETRY_MAX (60 * HZ)

/* Whether the stamp can still be asked to keep it. */
static bool cb_losing_has_stamp(const struct cb_device *dev)
{
	return dev->stamp_sector && !dev->stamp_left && READ_ONCE(dev->settled);
}

/* Where a driver needs an opener, there is one as long as a write waits, or as we have it open. */
static bool cb_losing_is_open(struct cb_device *dev, const struct cb_known_bdev *known)
{
	return !known->needs_opener || READ_ONCE(known->is_open) || READ_ONCE(dev->held_count) ||
	       (dev->cow_on_origin && READ_ONCE(dev->origin.is_open));
}

static bool cb_losing_has_cow(struct cb_device *dev)
{
	return READ_ONCE(dev->owns_state) && !READ_ONCE(dev->cow_left);
}

static bool cb_losing_is_known(struct cb_device *dev)
{
	return READ_ONCE(dev->lost_in_stamp) ||
	       (!cb_losing_has_stamp(dev) && READ_ONCE(dev->lost_in_cow));
}

/* Whether the COW file is to be tried now, if its device can be. */
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
	return cb_losing_is_due(dev) && cb_losing_is_open(dev, &dev->cow);
}

/* No look and no write is under way; a write follows a look without a gap. */
static bool cb_losing_is_at_rest(struct cb_device *dev)
{
	return !smp_load_acquire(&dev->state_write.looks) && !READ_ONCE(dev->state_write.in_flight);
}

/* Has the origin open for one try, and for as long as that takes: its disk may be the COW file's. */
static void cb_losing_work(struct work_struct *work)
{
	struct cb_device *dev = container_of(work, struct cb_device, lose_work);

	if (!cb_device_use(dev)) {
		WRITE_ONCE(dev->lose_next, jiffies);
		cb_engine_wake(dev);
		wait_event_timeout(dev->park_wait, READ_ONCE(dev->lost_in_cow), CB_LOSING_RETRY);
		wait_event(dev->park_wait, cb_losing_is_at_rest(dev));
		cb_device_unuse(dev);
	}
	WRITE_ONCE(dev->lose_opening, false);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->meta_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

/* Nobody is known to have the device open, and its driver needs that. */
static void cb_losing_open(struct cb_device *dev)
{
	if (!cb_losing_is_due(dev) || cb_losing_is_open(dev, &dev->cow) ||
	    READ_ONCE(dev->lose_opening) || READ_ONCE(dev->park))
		return;
	WRITE_ONCE(dev->lose_opening, true);
	atomic_inc(&dev->meta_in_flight);
	INIT_WORK(&dev->lose_work, cb_losing_work);
	cb_ending_queue(&dev->lose_work);
}

static void cb_losing_say_unknown(struct cb_device *dev)
{
	if (dev->lost_unknown)
		return;
	dev->lost_unknown = true;
	pr_err("snapshot %u of %s: the COW file still says that its marks are complete, which they are not; destroy it before the next boot\n",
	       dev->minor, dev->origin_path);
}

static void cb_losing_told(struct cb_device *dev, bool *where, const char *place)
{
	WRITE_ONCE(*where, true);
	if (dev->lost_unknown)
		pr_info("snapshot %u of %s: %s says now that changes are not tracked any more\n",
			dev->minor, dev->origin_path, place);
	wake_up_all(&dev->park_wait);
}

void cb_losing_cow_done(struct cb_device *dev, int error)
{
	dev->lose_pause = clamp_t(unsigned long, 2 * dev->lose_pause, CB_LOSING_RETRY,
				  CB_LOSING_RETRY_MAX);
	WRITE_ONCE(dev->lose_next, jiffies + dev->lose_pause);
	if (!error)
		cb_losing_told(dev, &dev->lost_in_cow, "the COW file");
	else if (!dev->lost_in_stamp && !cb_losing_has_stamp(dev))
		cb_losing_say_unknown(dev);
}

/* ---- the stamp --------------------------------------------------------- */

static bool cb_losing_wants_stamp(struct cb_device *dev)
{
	return cb_losing_has_stamp(dev) && !dev->lost_in_stamp && !dev->stamp_write.in_flight &&
	       cb_losing_is_open(dev, &dev->origin) && !cb_mutant(loss_unstamped);
}

static void cb_losing_send(struct cb_device *dev, unsigned int opf)
{
	dev->stamp_write.looks = !op_is_write(opf & REQ_OP_MASK);
	cb_mark_send(&dev->stamp_write, CB_LANE_ORIGIN, dev->origin.bdev, opf, dev->stamp_sector);
}

/* What was read is ours: it shall say LOST. False where it is not, or says so. */
static bool cb_losing_fill(struct cb_device *dev)
{
	struct cb_header header = { .stamp_sector = dev->stamp_sector };
	struct cb_stamp stamp;
	enum cb_stamped stamped;
	u8 *block = cb_kmap(dev->stamp_write.page);

	memcpy(header.uuid, dev->uuid, sizeof(header.uuid));
	memcpy(header.epoch_id, dev->epoch_id, sizeof(header.epoch_id));
	stamped = cb_stamp_judge(&header, block);
	if (stamped == CB_STAMPED_FITS && !cb_stamp_decode(&stamp, block)) {
		stamp.status = CB_STAMP_LOST;
		cb_stamp_encode(&stamp, block);
	}
	cb_kunmap(block);
	if (stamped == CB_STAMPED_LOST)
		cb_losing_told(dev, &dev->lost_in_stamp, "the origin's stamp");
	return stamped == CB_STAMPED_FITS;
}

void cb_losing_stamp_done(struct cb_device *dev, int error)
{
	bool looked = dev->stamp_write.looks;

	/* Once writes pass again the block may be somebody else's. */
	if (!error && looked && cb_phase_of(dev) == CB_PHASE_LOSING && cb_losing_fill(dev)) {
		cb_losing_send(dev, REQ_OP_WRITE | REQ_SYNC | REQ_FUA);
		return;
	}
	if (!error && !looked)
		cb_losing_told(dev, &dev->lost_in_stamp, "the origin's stamp");
	dev->stamp_left = !dev->lost_in_stamp;
}

/* ---- the engine -------------------------------------------------------- */

static bool cb_losing_waits(struct cb_device *dev)
{
	if (cb_losing_is_known(dev) || cb_mutant(tell_loss_once))
		return false;
	/* The series may be taken over yet. */
	if (!cb_losing_has_stamp(dev) && !cb_losing_has_cow(dev) && READ_ONCE(dev->settled))
		return false;
	/* Whoever comes first waits from then on. */
	if (!READ_ONCE(dev->held_count))
		dev->lose_since = jiffies;
	return time_before(jiffies, dev->lose_since + CB_LOSING_LIMIT);
}

bool cb_losing_has_work(struct cb_device *dev)
{
	return cb_phase_of(dev) == CB_PHASE_LOSING &&
	       (cb_losing_wants_stamp(dev) || cb_losing_is_known(dev));
}

bool cb_losing_act(struct cb_device *dev)
{
	bool progress = false;

	if (cb_phase_is_lost(cb_phase_of(dev)))
		cb_losing_open(dev);
	if (cb_phase_of(dev) != CB_PHASE_LOSING)
		return false;
	if (cb_losing_wants_stamp(dev)) {
		cb_losing_send(dev, REQ_OP_READ | REQ_SYNC);
		progress = true;
	}
	if (cb_losing_waits(dev))
		return progress;
	if (!cb_losing_is_known(dev) && (cb_losing_has_stamp(dev) || cb_losing_has_cow(dev)))
		cb_losing_say_unknown(dev);
	cb_device_event(dev, CB_EVENT_TOLD);
	wake_up_all(&dev->slow_wait);
	return true;
}

static bool cb_losing_is_settled(struct cb_device *dev)
{
	return !cb_phase_is_lost(cb_phase_of(dev)) || READ_ONCE(dev->lost_in_cow) ||
	       READ_ONCE(dev->lost_in_stamp) || !cb_losing_has_cow(dev);
}

void cb_losing_wait(struct cb_device *dev, unsigned long deadline)
{
	if (cb_mutant(tell_loss_once))
		return;
	WRITE_ONCE(dev->lose_next, jiffies);
	cb_engine_wake(dev);
	wait_event_timeout(dev->park_wait, cb_losing_is_settled(dev), cb_time_left(deadline));
}
