// SPDX-License-Identifier: GPL-2.0-only
/*
 * A look at the ends of writes, where a device works on bios alone: there is no
 * queue that can be frozen, only a count of what is in flight, and from 5.19 on
 * dm-crypt counts a write only once it is encrypted. One that was not is missed by
 * the drain and lands after it.
 *
 * So whatever ends there is compared with what must be true by then: while a
 * snapshot is active, a write that goes to the origin has all of its blocks
 * preserved; while changes are tracked, they are noted and their regions marked on
 * disk. A write for which that is wrong has been done; the snapshot is invalidated or
 * tracking given up, visibly (I5, no silent hole). The function is only watched,
 * not replaced.
 */
#include <linux/rculist.h>

#include "cowbird.h"

/* A snapshot that ends stops watching from a thread of its own. */
static DEFINE_MUTEX(cb_audit_mutex);
static unsigned int cb_audit_end_users; /* cb_audit_mutex */

/*
 * While writes are held, none may end but those that the drain waits for. One that
 * ends later is behind the instant and in the image: then the epoch does not begin.
 * Without a lock, which must not be taken here on a real-time kernel: who begins the
 * epoch looks once more when the phase has changed. False where it has begun.
 */
static bool cb_audit_escaped(struct cb_device *dev)
{
	WRITE_ONCE(dev->escaped, true);
	/* Pairs with the one in cb_device_event. */
	smp_mb();
	return cb_phase_of(dev) == CB_PHASE_HOLDING;
}

bool cb_audit_take_escaped(struct cb_device *dev)
{
	return xchg(&dev->escaped, false);
}

static void cb_audit_spoils(struct cb_device *dev, u64 block)
{
	cb_device_invalidate(dev, -EIO,
			     "a write that started before the snapshot overwrote block %llu",
			     (unsigned long long)block);
}

static void cb_audit_fails(struct cb_device *dev, const struct cb_blocks *touched)
{
	cb_device_fail(dev, -EIO,
		       "a write that started before the snapshot changed blocks %llu to %llu, and they are missing from the change map",
		       (unsigned long long)touched->first, (unsigned long long)touched->last);
}

/*
 * With a second tracer of the same function, ftrace calls this with preemption off. On a
 * real-time kernel no lock of ours may be taken there: what was found is noted, readers of
 * the snapshot see that at once, and an irq_work, which is a thread there, tells the rest.
 */
static void cb_audit_tell(struct irq_work *work)
{
	struct cb_device *dev = container_of(work, struct cb_device, found.work);
	int what = atomic_read_acquire(&dev->found.what);

	if (what & CB_FOUND_INVALIDATES)
		cb_audit_spoils(dev, dev->found.unpreserved);
	if (what & CB_FOUND_FAILS)
		cb_audit_fails(dev, &dev->found.unmarked);
}

/* claim: set by who is the first to find such a write, which alone notes it. */
static bool cb_audit_claim(struct cb_device *dev, int claim)
{
	return !(atomic_fetch_or(claim, &dev->found.what) & claim);
}

static void cb_audit_note(struct cb_device *dev, int what)
{
	/* Orders it behind what is noted. */
	smp_mb__before_atomic();
	atomic_or(what, &dev->found.what);
	irq_work_queue(&dev->found.work);
}

static void cb_audit_unpreserved(struct cb_device *dev, u64 block)
{
	if (!IS_ENABLED(CONFIG_PREEMPT_RT)) {
		cb_audit_spoils(dev, block);
	} else if (cb_audit_claim(dev, CB_FOUND_UNPRESERVED)) {
		dev->found.unpreserved = block;
		cb_audit_note(dev, CB_FOUND_INVALIDATES);
	}
}

static void cb_audit_unmarked(struct cb_device *dev, const struct cb_blocks *touched)
{
	if (!IS_ENABLED(CONFIG_PREEMPT_RT)) {
		cb_audit_fails(dev, touched);
	} else if (cb_audit_claim(dev, CB_FOUND_UNMARKED)) {
		dev->found.unmarked = *touched;
		cb_audit_note(dev, CB_FOUND_FAILS);
	}
}

void cb_audit_init(struct cb_device *dev)
{
	init_irq_work(&dev->found.work, cb_audit_tell);
}

static void cb_audit_write(struct cb_device *dev, struct bio *bio)
{
	u64 sector = cb_bio_disk_sector(bio), unpreserved;
	enum cb_phase phase = cb_phase_of(dev);
	struct cb_blocks touched;

	if (!cb_phase_is_live(phase) ||
	    (phase != CB_PHASE_HOLDING && !READ_ONCE(dev->drained)))
		return;
	if (cb_mutant_hides(dev, bio))
		return;
	if (!cb_geom_touched(&dev->geom, sector, bio->bi_iter.bi_size >> SECTOR_SHIFT, &touched))
		return;
	/* Our own stores into the COW file, and nobody else's; see cb_origin_guard_cow. */
	if (dev->cow_on_origin &&
	    cb_extents_touch(&dev->extents, sector, bio->bi_iter.bi_size >> SECTOR_SHIFT))
		return;
	if (phase == CB_PHASE_HOLDING && cb_audit_escaped(dev))
		return;
	unpreserved = cb_next_unpreserved(dev, touched.first, touched.last);
	if (unpreserved <= touched.last) {
		cb_audit_unpreserved(dev, unpreserved);
		cb_origin_note(dev, touched.first, touched.last);
	}
	if (cb_marks_next_unstable(&dev->marks, touched.first, touched.last) <= touched.last)
		cb_audit_unmarked(dev, &touched);
}

static void cb_audit_all(struct bio *bio)
{
	struct gendisk *disk = cb_bio_disk(bio);
	struct hlist_head *watches = cb_registry_watches(disk);
	struct cb_watch *watch;

	if (!watches)
		return;
	rcu_read_lock();
	hlist_for_each_entry_rcu(watch, watches, node)
		if (disk == watch->disk && disk == watch->dev->origin_disk &&
		    watch->dev->watches_ends)
			cb_audit_write(watch->dev, bio);
	rcu_read_unlock();
}

/* A write ends. One that this module ends itself has not been done. */
static void notrace cb_audit_end_callback(unsigned long ip, unsigned long parent_ip,
					  struct ftrace_ops *ops, CB_FTRACE_REGS *fregs)
{
	struct pt_regs *regs = cb_ftrace_pt_regs(fregs);
	struct bio *bio;

	if (!regs || within_module(parent_ip, THIS_MODULE))
		return;
	bio = (struct bio *)regs_get_kernel_argument(regs, 0);
	if (bio && cb_bio_has_disk(bio) && op_is_write(bio_op(bio)) && bio->bi_iter.bi_size)
		cb_audit_all(bio);
}

static struct ftrace_ops cb_audit_end_ops = {
	.func = cb_audit_end_callback,
	.flags = CB_FTRACE_WATCH_FLAGS,
};

int cb_audit_watch_ends(struct cb_device *dev)
{
	static unsigned char function[] = "bio_endio";
	int ret = 0;

	mutex_lock(&cb_audit_mutex);
	if (!cb_audit_end_users) {
		ret = ftrace_set_filter(&cb_audit_end_ops, function, sizeof(function) - 1, 1);
		if (!ret)
			ret = register_ftrace_function(&cb_audit_end_ops);
	}
	if (!ret) {
		cb_audit_end_users++;
		dev->watches_ends = true;
	}
	mutex_unlock(&cb_audit_mutex);
	return ret;
}

void cb_audit_unwatch_ends(struct cb_device *dev)
{
	mutex_lock(&cb_audit_mutex);
	if (dev->watches_ends && !--cb_audit_end_users) {
		unregister_ftrace_function(&cb_audit_end_ops);
		ftrace_set_filter(&cb_audit_end_ops, NULL, 0, 1);
	}
	dev->watches_ends = false;
	mutex_unlock(&cb_audit_mutex);
	irq_work_sync(&dev->found.work);
}
