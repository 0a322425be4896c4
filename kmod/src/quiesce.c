// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cut at T0 (invariant 3).
 *
 *   freeze    every filesystem that writes to the origin; see freeze.c
 *   gate      writes that enter the hook from now on are held, not blocked
 *   leave     writes that had entered before have been submitted
 *   drain     and have completed
 *   flush     and are on stable storage, as what was written before the snapshot must
 *             be when its changes are known
 *   mark      the epoch header goes to the COW file, with the origin quiet
 *   begin     the snapshot is active; held writes go on, under COW
 *   thaw
 *
 * Each step is done for all snapshots of a set before the next one begins. No
 * write to any of them is let go before all are drained, so whoever waits for
 * one write before the next finds no later one in an image without the earlier.
 *
 * All waits from the gate on share one
 * deadline; past it everything is let go and the snapshot is refused.
 */
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "cowbird.h"
#include "cowbird_trace.h"

#define CB_DRAIN_POLL_MS 1
/* Reads of the origin by which it is found out whether it counts them. */
#define CB_PROBE_READS 64
/* Longest time that one of them may take. */
#define CB_PROBE_LIMIT (10 * HZ)

/*
 * One read of the origin by a thread, so that a device which lets nobody submit, or
 * does not answer, makes the set-up fail and not hang.
 */
struct cb_probe {
	struct work_struct work;
	refcount_t users; /* who waits, and the thread */
	struct completion done;
	struct page *page;
	struct cb_device *dev; /* until meta_in_flight is given back */
	bool by_hook; /* the hook is tried, else what the origin counts */
	bool seen; /* by the hook, or by what the origin counts */
	int error;
};

static void cb_probe_put(struct cb_probe *probe)
{
	if (!refcount_dec_and_test(&probe->users))
		return;
	__free_page(probe->page);
	kfree(probe);
}

/* Submitted as any kernel code does it, and not by a call from this module, the hook must see it. */
static void cb_probe_hook(struct cb_probe *probe, struct bio *bio)
{
	WRITE_ONCE(cb_hook_trial, bio);
	probe->error = submit_bio_wait(bio);
	probe->seen = READ_ONCE(cb_hook_trial) != bio;
}

static void cb_probe_end_io(struct bio *bio)
{
	complete(bio->bi_private);
}

/*
 * The plug keeps what a request queue below has got from being sent off before the
 * look. That reads are counted when they end proves nothing before 5.14: md counts them
 * there, and nothing in flight. Later both are counted by one pair of functions.
 */
static void cb_probe_count(struct cb_probe *probe, struct bio *bio)
{
	DECLARE_COMPLETION_ONSTACK(ended);
	u64 before = cb_disk_reads(probe->dev->origin_disk);
	struct blk_plug plug;

	bio->bi_private = &ended;
	bio->bi_end_io = cb_probe_end_io;
	blk_start_plug(&plug);
	cb_submit_past_hook(bio);
	probe->seen = cb_disk_in_flight(probe->dev->origin_disk);
	blk_finish_plug(&plug);
	wait_for_completion_io(&ended);
	probe->seen |= CB_COUNTS_IN_PAIRS && cb_disk_reads(probe->dev->origin_disk) != before;
	probe->error = blk_status_to_errno(bio->bi_status);
	/* A path of a multipath device, whose I/O the device itself does not count in time. */
	if (cb_bio_disk(bio) != probe->dev->origin_disk)
		probe->error = -EXDEV;
}

static void cb_probe_work(struct work_struct *work)
{
	struct cb_probe *probe = container_of(work, struct cb_probe, work);
	struct cb_device *dev = probe->dev;
	u32 bytes = min_t(u64, dev->geom.sectors << SECTOR_SHIFT, CB_BLOCK_BYTES);
	struct bio *bio = cb_bio_alloc(dev->origin.bdev, 1, REQ_OP_READ, &dev->meta_bios);

	bio->bi_iter.bi_sector = 0;
	WARN_ON_ONCE(bio_add_page(bio, probe->page, bytes, 0) != bytes);
	if (probe->by_hook)
		cb_probe_hook(probe, bio);
	else
		cb_probe_count(probe, bio);
	bio_put(bio);
	complete(&probe->done);
	cb_probe_put(probe);
	/* The snapshot stays until none of its probes does anything any more. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->meta_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

static struct cb_probe *cb_probe_alloc(struct cb_device *dev, bool by_hook)
{
	struct cb_probe *probe = kzalloc(sizeof(*probe), GFP_KERNEL);

	if (!probe)
		return NULL;
	probe->page = alloc_page(GFP_KERNEL);
	if (!probe->page) {
		kfree(probe);
		return NULL;
	}
	probe->dev = dev;
	probe->by_hook = by_hook;
	refcount_set(&probe->users, 2);
	init_completion(&probe->done);
	INIT_WORK(&probe->work, cb_probe_work);
	return probe;
}

static int cb_probe_read(struct cb_device *dev, struct cb_setup *setup, bool by_hook, bool *seen)
{
	struct cb_probe *probe = cb_probe_alloc(dev, by_hook);
	int ret = 0;

	if (!probe)
		return cb_refuse(setup->reason, -ENOMEM, "not enough memory for the snapshot");
	atomic_inc(&dev->meta_in_flight);
	queue_work(dev->lane_queues[CB_LANE_ORIGIN], &probe->work);
	if (!wait_for_completion_io_timeout(&probe->done, CB_PROBE_LIMIT)) {
		ret = cb_refuse(setup->reason, -ETIMEDOUT, "%s has not answered a read within %u s",
				setup->origin_path, CB_PROBE_LIMIT / HZ);
	} else {
		*seen = probe->seen;
		if (probe->error == -EXDEV)
			ret = cb_refuse(setup->reason, -EOPNOTSUPP,
					"%s hands its I/O on to other devices, where it cannot be drained",
					setup->origin_path);
		else if (probe->error)
			ret = cb_refuse(setup->reason, probe->error, "cannot read %s",
					setup->origin_path);
	}
	cb_probe_put(probe);
	return ret;
}

/*
 * Whether the origin can be tracked and drained. The hook must see what others
 * submit to it. And it has a request queue, or it counts the bios that it has in
 * flight: device-mapper does so on some kernels without saying it in its queue's
 * flags, so it is tried. Reads of other people that are seen in flight instead
 * prove the same.
 */
int cb_check_drainable(struct cb_device *dev, struct cb_setup *setup)
{
	bool seen = false;
	int ret, i;

	ret = cb_probe_read(dev, setup, true, &seen);
	if (!ret && !seen)
		ret = cb_refuse(setup->reason, -EOPNOTSUPP,
				"this kernel submits I/O past submit_bio_noacct, where the module intercepts it; no snapshot is possible");
	seen = queue_is_mq(dev->origin_disk->queue);
	for (i = 0; i < CB_PROBE_READS && !seen && !ret; i++)
		ret = cb_probe_read(dev, setup, false, &seen);
	if (ret || seen)
		return ret;
	return cb_refuse(setup->reason, -EOPNOTSUPP,
			 "%s does not count its I/O in flight, without which its writes cannot be drained; set queue/iostats to 1",
			 dev->origin_disk->disk_name);
}

/*
 * Waits until nothing is in flight on the origin's disk.
 *
 * A request queue is frozen, which also waits for requests that sit in a
 * task's plug. A device that works on bios alone (dm) has no such count; there
 * its statistics of bios in flight serve, which cb_check_drainable has seen at work.
 * They lack what waits to be encrypted, and a bio leaves them before it ends. So the
 * device must be found at rest twice, with no write that has ended in between.
 */
int cb_drain(struct cb_device *dev, unsigned long deadline)
{
	struct request_queue *queue = dev->origin_disk->queue;
	bool rested = false;

	if (queue_is_mq(queue)) {
		int drained;

		blk_freeze_queue_start(queue);
		drained = blk_mq_freeze_queue_wait_timeout(queue, cb_time_left(deadline));
		cb_queue_unfreeze(queue);
		return drained ? 0 : -ETIMEDOUT;
	}
	do {
		bool ended = cb_audit_take_escaped(dev), rests;

		rests = !cb_disk_writes_in_flight(dev->origin_disk);
		if (rests && rested && !ended)
			return 0;
		rested = rests;
		schedule_timeout_uninterruptible(msecs_to_jiffies(CB_DRAIN_POLL_MS));
	} while (time_before(jiffies, deadline));
	return -ETIMEDOUT;
}

/* One step of the cut for all members. */
static int cb_for_each(struct cb_set *set, unsigned long deadline,
		       int (*step)(struct cb_setup *setup, unsigned long deadline))
{
	struct cb_setup *setup;

	for (setup = set->setups; setup < set->setups + set->count; setup++) {
		int ret = step(setup, deadline);

		if (ret) {
			set->blamed = setup;
			return ret;
		}
	}
	return 0;
}

static int cb_step_gate(struct cb_setup *setup, unsigned long deadline)
{
	int ret = cb_device_event(setup->dev, CB_EVENT_GATE);

	if (!ret)
		trace_cowbird_epoch(setup->dev, setup->dev->epoch, CB_EPOCH_GATED);
	return ret;
}

static int cb_step_leave(struct cb_setup *setup, unsigned long deadline)
{
	int ret = cb_passage_wait(setup->dev->origin_disk, deadline);

	if (ret)
		return cb_refuse(setup->reason, ret,
				 "writes to %s that were being submitted did not go on within %u ms; try again when it is less busy, or allow more time",
				 setup->origin_path, setup->timeout_ms);
	return 0;
}

static int cb_step_drain(struct cb_setup *setup, unsigned long deadline)
{
	int ret = cb_mutant(no_drain) ? 0 : cb_drain(setup->dev, deadline);

	if (!ret && READ_ONCE(setup->dev->unseen))
		return cb_refuse(setup->reason, -EAGAIN,
				 "writes to %s that a limit on the I/O of a cgroup delays cannot be followed; try again, and see that /sys/kernel/debug/kprobes/enabled is 1",
				 setup->origin_path);
	if (ret)
		return cb_refuse(setup->reason, ret, "writes to %s did not come to rest within %u ms",
				 setup->origin_path, setup->timeout_ms);
	WRITE_ONCE(setup->dev->drained, true);
	trace_cowbird_epoch(setup->dev, setup->dev->epoch, CB_EPOCH_DRAINED);
	return 0;
}

/*
 * The header's flush reaches the COW file's disk only. What the origin's has taken and not
 * written down would be in the image and, after a power cut, not on the origin; no map
 * would name it.
 */
static int cb_flush(struct cb_setup *setup)
{
	struct cb_device *dev = setup->dev;
	int ret = dev->cut_io ? cb_meta_sync_origin(dev->cut_io) : 0;

	if (ret)
		return cb_refuse(setup->reason, ret, "cannot flush what %s has taken",
				 setup->origin_path);
	return 0;
}

static int cb_step_flush(struct cb_setup *setup, unsigned long deadline)
{
	if (setup->dev->cut_io)
		cb_meta_io_limit(setup->dev->cut_io, deadline);
	return cb_flush(setup);
}

/* Most of it, while nobody waits yet. */
static int cb_step_flush_ahead(struct cb_setup *setup, unsigned long deadline)
{
	return cb_flush(setup);
}

static int cb_step_mark(struct cb_setup *setup, unsigned long deadline)
{
	int ret = cb_header_write(setup->dev, cb_time_left(deadline));

	if (ret)
		return cb_refuse(setup->reason, ret, "cannot write the epoch header to the COW file");
	return 0;
}

static int cb_step_begin(struct cb_setup *setup, unsigned long deadline)
{
	int ret;

	if (setup->before)
		cb_written_inherit(setup->dev, setup->before);
	ret = cb_device_event(setup->dev, CB_EVENT_BEGIN);
	if (ret == -EAGAIN)
		return cb_refuse(setup->reason, ret,
				 "a write to %s that started before the snapshot completed at the snapshot instant; try again",
				 setup->origin_path);
	if (ret)
		return cb_refuse(setup->reason, ret, "the snapshot failed while it was being taken");
	trace_cowbird_epoch(setup->dev, setup->dev->epoch, CB_EPOCH_BEGUN);
	return 0;
}

int cb_gate_and_drain(struct cb_set *set, unsigned long deadline)
{
	int ret = cb_for_each(set, deadline, cb_step_gate);

	if (!ret)
		ret = cb_for_each(set, deadline, cb_step_leave);
	if (!ret)
		ret = cb_for_each(set, deadline, cb_step_drain);
	return ret;
}

/* From the gates to the beginning of the epochs. */
static int cb_cut(struct cb_set *set)
{
	unsigned long deadline = jiffies + msecs_to_jiffies(set->timeout_ms);
	int ret = cb_gate_and_drain(set, deadline);

	if (!ret)
		ret = cb_freeze_recheck(set);
	if (!ret)
		ret = cb_for_each(set, deadline, cb_step_flush);
	if (!ret)
		ret = cb_for_each(set, deadline, cb_step_mark);
	if (!ret)
		ret = cb_for_each(set, deadline, cb_step_begin);
	return ret;
}

/* A fault: each member has an instant of its own. */
static int cb_cut_one_by_one(struct cb_set *set)
{
	u32 i;
	int ret = 0;

	for (i = 0; !ret && i < set->count; i++) {
		struct cb_set one = *set;

		one.setups += i;
		one.count = 1;
		ret = cb_cut(&one);
		set->blamed = one.blamed;
		cb_engine_wake(one.setups->dev);
		msleep(CB_MUTANT_SWITCH_MS);
	}
	return ret;
}

int cb_quiesce_and_begin(struct cb_set *set)
{
	struct cb_setup *setup, *end = set->setups + set->count;
	ktime_t start = ktime_get(), gate;
	unsigned int noio;
	int ret;

	/* Memory that writes to a frozen filesystem could free must not be waited for. */
	noio = memalloc_noio_save();
	ret = cb_for_each(set, 0, cb_step_flush_ahead);
	if (!ret)
		ret = cb_freeze_all(set);
	if (ret)
		goto out;
	gate = ktime_get();
	for (setup = set->setups; setup < end; setup++) {
		setup->dev->stats.freeze_us = ktime_us_delta(gate, start);
		trace_cowbird_epoch(setup->dev, setup->dev->epoch, CB_EPOCH_FROZEN);
	}
	ret = cb_mutant(switch_one_by_one) ? cb_cut_one_by_one(set) : cb_cut(set);
	for (setup = set->setups; setup < end; setup++) {
		if (ret)
			cb_device_abandon(setup->dev, ret);
		setup->dev->stats.gate_us = ktime_us_delta(ktime_get(), gate);
		cb_engine_wake(setup->dev);
	}
	cb_thaw_all(set);
out:
	memalloc_noio_restore(noio);
	return ret;
}
