// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lanes: threads that submit bios, so that nobody else of ours sleeps in a disk
 * (I11, no thread that others wait for sleeps in a disk).
 *
 * To submit a bio can mean to sleep: for a free request, at a frozen queue, in
 * the limits of a cgroup. The engine, which releases writes and watches time
 * limits, and whoever waits with a time limit, must not; they put their bios on
 * a lane. A lane sleeps at one disk only:
 *
 *   CB_LANE_ORIGIN   loads and reads from the origin
 *   CB_LANE_COW      stores, marks and metadata to and from the COW file
 *   CB_LANE_RELEASE  held writes of the root cgroup, which go on to the origin
 *   and behind it    those of other cgroups, each group with a lane to itself as long as
 *                    there are enough, so that the limits of one do not delay others
 *                    (I13, one's slowness is not another's)
 *
 * A bio that is still on its lane can be taken back (cb_lane_cancel). When the
 * snapshot is being taken apart, what is left for the COW file is not submitted
 * any more: its blocks may soon be somebody else's.
 */
#include <linux/hash.h>

#include "cowbird.h"

static struct bio *cb_lane_pop(struct cb_lane *lane)
{
	struct bio *bio;
	unsigned long flags;

	spin_lock_irqsave(&lane->lock, flags);
	bio = bio_list_pop(&lane->bios);
	spin_unlock_irqrestore(&lane->lock, flags);
	return bio;
}

/* Whether nothing has come meanwhile: then the lane is idle. */
static bool cb_lane_rests(struct cb_lane *lane)
{
	unsigned long flags;
	bool rests;

	spin_lock_irqsave(&lane->lock, flags);
	rests = bio_list_empty(&lane->bios);
	if (rests)
		lane->busy = false;
	spin_unlock_irqrestore(&lane->lock, flags);
	return rests;
}

/* Whether the blocks in the COW file are somebody else's, or are about to be. */
static bool cb_lane_must_drop(struct cb_device *dev, const struct bio *bio)
{
	if (READ_ONCE(dev->cow_left))
		return true;
	if (cb_phase_of(dev) == CB_PHASE_CLOSING)
		return !READ_ONCE(dev->tells_refusal);
	/* Only that tracking is lost may still be written. */
	return smp_load_acquire(&dev->cow_gone) && bio->bi_private != &dev->state_write;
}

static void cb_lane_submit(struct cb_lane *lane, struct bio *bio)
{
	struct cb_device *dev = lane->dev;

	if (lane >= &dev->lanes[CB_LANE_RELEASE]) {
		cb_hook_release(dev, bio);
		if (atomic_dec_return(&lane->waiting) == CB_HELD_SLOW)
			wake_up_all(&dev->slow_wait);
		cb_engine_released(dev);
	} else if (lane == &dev->lanes[CB_LANE_COW] && op_is_write(bio_op(bio)) &&
		   cb_lane_must_drop(dev, bio)) {
		bio->bi_status = BLK_STS_IOERR;
		bio_endio(bio);
	} else {
		cb_submit_past_hook(bio);
	}
}

static void cb_lane_work(struct work_struct *work)
{
	struct cb_lane *lane = container_of(work, struct cb_lane, work);
	struct cb_device *dev = lane->dev;
	struct blk_plug plug;
	struct bio *bio;

	do {
		/* What comes together reaches the driver together; who sleeps sends off what there is. */
		blk_start_plug(&plug);
		while ((bio = cb_lane_pop(lane)))
			cb_lane_submit(lane, bio);
		/* Arrays submit here what they have collected, and may sleep. */
		blk_finish_plug(&plug);
	} while (!cb_lane_rests(lane));
	/* A group that waits for others on its lane may have this one. */
	if (lane > &dev->lanes[CB_LANE_RELEASE] && wq_has_sleeper(&dev->slow_wait))
		wake_up_all(&dev->slow_wait);
}

static void cb_lane_queue(struct cb_device *dev, u32 which)
{
	/* Does nothing where it is queued already; running work is queued once more. */
	queue_work(dev->lane_queues[min_t(u32, which, CB_LANE_RELEASE + 1)],
		   &dev->lanes[which].work);
}

/* Adds a bio of a group, whoever has the lane. */
static void cb_lane_share(struct cb_device *dev, u32 which, struct bio *bio, const void *group)
{
	struct cb_lane *lane = &dev->lanes[which];
	unsigned long flags;

	spin_lock_irqsave(&lane->lock, flags);
	if (!lane->busy)
		WRITE_ONCE(lane->group, group);
	WRITE_ONCE(lane->busy, true);
	bio_list_add(&lane->bios, bio);
	spin_unlock_irqrestore(&lane->lock, flags);
	cb_lane_queue(dev, which);
}

void cb_lane_add(struct cb_device *dev, enum cb_lane_kind kind, struct bio *bio)
{
	cb_lane_share(dev, kind, bio, NULL);
}

/* Adds a bio of a group, if the lane is that group's, or is idle and an idle one will do. */
static bool cb_lane_try(struct cb_lane *lane, struct bio *bio, const void *group, bool idle)
{
	unsigned long flags;
	bool fits;

	/* Only the engine makes a lane busy, and this is the engine: what is busy may become idle, no more. */
	if (READ_ONCE(lane->busy) ? READ_ONCE(lane->group) != group : !idle)
		return false;
	spin_lock_irqsave(&lane->lock, flags);
	fits = lane->busy ? lane->group == group : idle;
	if (fits) {
		WRITE_ONCE(lane->busy, true);
		WRITE_ONCE(lane->group, group);
		bio_list_add(&lane->bios, bio);
		atomic_inc(&lane->waiting);
	}
	spin_unlock_irqrestore(&lane->lock, flags);
	return fits;
}

const void *cb_lane_group(const struct bio *bio)
{
#ifdef CONFIG_BLK_CGROUP
	if (bio->bi_blkg && bio->bi_blkg != cb_bio_disk(bio)->queue->root_blkg)
		return bio->bi_blkg;
#endif
	return NULL;
}

/* The lane that a group shares with others, where no idle one is left. */
static u32 cb_lane_shared(const void *group)
{
	return CB_LANE_RELEASE + 1 + hash_ptr((void *)group, 32) % (CB_LANES_RELEASE - 1);
}

/*
 * The root group has the first lane to itself, and that lane a queue: what other
 * groups' limits make wait does not keep its writes, not even where memory is so
 * short that a queue has one thread. Another group has the lane that has its bios, else
 * one that is idle. Where more groups wait than there are lanes, some share one.
 */
void cb_lane_release(struct cb_device *dev, struct bio *bio)
{
	const void *group = cb_lane_group(bio);
	u32 which = group ? cb_lane_shared(group) : CB_LANE_RELEASE;
	u32 i, way;

	for (way = 0; group && way < 2; way++) {
		for (i = CB_LANE_RELEASE + 1; i < CB_LANES; i++) {
			if (cb_lane_try(&dev->lanes[i], bio, group, way)) {
				cb_lane_queue(dev, i);
				return;
			}
		}
	}
	atomic_inc(&dev->lanes[which].waiting);
	cb_lane_share(dev, which, bio, group);
}

u32 cb_lane_backlog(struct cb_device *dev, const void *group)
{
	bool one_is_idle = false;
	u32 i;

	if (!group)
		return atomic_read(&dev->lanes[CB_LANE_RELEASE].waiting);
	for (i = CB_LANE_RELEASE + 1; i < CB_LANES; i++) {
		struct cb_lane *lane = &dev->lanes[i];

		if (!READ_ONCE(lane->busy))
			one_is_idle = true;
		else if (READ_ONCE(lane->group) == group)
			return atomic_read(&lane->waiting);
	}
	return one_is_idle ? 0 : atomic_read(&dev->lanes[cb_lane_shared(group)].waiting);
}

bool cb_lane_cancel(struct cb_device *dev, enum cb_lane_kind kind, struct bio *bio,
		    const void *owner)
{
	struct cb_lane *lane = &dev->lanes[kind];
	struct bio_list kept = BIO_EMPTY_LIST;
	bool found = false;
	unsigned long flags;
	struct bio *each;

	spin_lock_irqsave(&lane->lock, flags);
	while ((each = bio_list_pop(&lane->bios))) {
		/* What is on the lane has not ended. */
		if (each == bio && each->bi_private == owner)
			found = true;
		else
			bio_list_add(&kept, each);
	}
	lane->bios = kept;
	spin_unlock_irqrestore(&lane->lock, flags);
	return found;
}

int cb_lanes_init(struct cb_device *dev)
{
	u32 i;

	for (i = 0; i < CB_LANES; i++) {
		struct cb_lane *lane = &dev->lanes[i];

		lane->dev = dev;
		spin_lock_init(&lane->lock);
		bio_list_init(&lane->bios);
		INIT_WORK(&lane->work, cb_lane_work);
	}
	/* Writers wait for them, and memory may wait for those. */
	for (i = 0; i < CB_LANE_QUEUES; i++) {
		dev->lane_queues[i] = alloc_workqueue("cowbird%u/%u",
						      WQ_UNBOUND | WQ_MEM_RECLAIM | WQ_HIGHPRI, 0,
						      dev->minor, i);
		if (!dev->lane_queues[i])
			return -ENOMEM;
	}
	return 0;
}

void cb_lanes_free(struct cb_device *dev)
{
	u32 i;

	for (i = 0; i < CB_LANE_QUEUES; i++) {
		if (dev->lane_queues[i])
			destroy_workqueue(dev->lane_queues[i]);
		dev->lane_queues[i] = NULL;
	}
}
