// SPDX-License-Identifier: GPL-2.0-only
/*
 * A second look at writes, below the hook.
 *
 * From 5.16 on a bio that a cgroup's limit has delayed (io.max) goes on by
 * submit_bio_noacct_nocheck, without passing submit_bio_noacct again. It may
 * have passed our hook before the snapshot began and leave its queue after:
 * then neither freezing the queue nor waiting for the hook has seen it.
 *
 * So whatever arrives there is compared with what must be true by then: while
 * a snapshot is active, a write that goes to the origin has all of its blocks
 * preserved. A write for which that is wrong cannot be stopped any more without
 * failing the origin's I/O; the snapshot is failed instead, visibly (invariant
 * 5). The function is only watched, not replaced. On older kernels it does not
 * exist, and delayed bios enter the hook again.
 */
#include "cowbird.h"

static bool cb_audit_registered;

static void cb_audit_write(struct cb_device *dev, struct bio *bio)
{
	u64 sector = cb_bio_disk_sector(bio), unpreserved;
	struct cb_blocks touched;

	if (!READ_ONCE(dev->drained) || cb_device_holds_nothing(dev))
		return;
	if (!cb_geom_touched(&dev->geom, sector, bio->bi_iter.bi_size >> SECTOR_SHIFT, &touched))
		return;
	/* Our own stores into the COW file, and nobody else's; see cb_origin_guard_cow. */
	if (dev->cow_on_origin &&
	    cb_extents_touch(&dev->extents, sector, bio->bi_iter.bi_size >> SECTOR_SHIFT))
		return;
	unpreserved = cb_next_unpreserved(dev, touched.first, touched.last);
	if (unpreserved <= touched.last)
		cb_device_fail(dev, -EIO,
			       "a write that was delayed since before the snapshot overwrote block %llu",
			       (unsigned long long)unpreserved);
}

static void notrace cb_audit_callback(unsigned long ip, unsigned long parent_ip,
				      struct ftrace_ops *ops, CB_FTRACE_REGS *fregs)
{
	struct pt_regs *regs = cb_ftrace_pt_regs(fregs);
	struct cb_device *dev;
	struct gendisk *disk;
	struct bio *bio;
	unsigned int slot;

	unsigned long used = READ_ONCE(cb_devices_used);

	if (!regs || !used)
		return;
	bio = (struct bio *)regs_get_kernel_argument(regs, 0);
	if (!op_is_write(bio_op(bio)) || !bio->bi_iter.bi_size)
		return;
	disk = cb_bio_disk(bio);
	rcu_read_lock();
	for_each_set_bit(slot, &used, CB_DEVICE_SLOTS) {
		dev = rcu_dereference(cb_devices[slot]);
		if (dev && disk == dev->origin_disk)
			cb_audit_write(dev, bio);
	}
	rcu_read_unlock();
}

static struct ftrace_ops cb_audit_ops = {
	.func = cb_audit_callback,
	.flags = CB_FTRACE_WATCH_FLAGS,
};

int cb_audit_init(void)
{
	static unsigned char function[] = "submit_bio_noacct_nocheck";
	int ret = ftrace_set_filter(&cb_audit_ops, function, sizeof(function) - 1, 0);

	if (ret)
		return 0; /* This kernel has no such path. */
	ret = register_ftrace_function(&cb_audit_ops);
	if (ret) {
		pr_err("cannot watch submit_bio_noacct_nocheck (error %d)\n", ret);
		ftrace_set_filter(&cb_audit_ops, NULL, 0, 1);
		return ret;
	}
	cb_audit_registered = true;
	return 0;
}

void cb_audit_exit(void)
{
	if (!cb_audit_registered)
		return;
	unregister_ftrace_function(&cb_audit_ops);
	ftrace_set_filter(&cb_audit_ops, NULL, 0, 1);
}
