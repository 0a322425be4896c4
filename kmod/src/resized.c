// SPDX-License-Identifier: GPL-2.0-only
/*
 * An origin whose size changes and is the same again before the engine looks: a logical
 * volume that is reduced and extended has other extents at its end.
 *
 * Device-mapper tells a new size by set_capacity, which is a function of its own from 5.11
 * on. Older kernels, and those without kprobes, have the engine's look once a second
 * (overdue.c).
 */
#include <linux/kprobes.h>
#include <linux/rculist.h>

#include "cowbird.h"

static void cb_resized_note(const struct gendisk *disk, u64 sectors)
{
	struct hlist_head *watches = cb_registry_watches(disk);
	struct cb_watch *watch;

	if (!watches || cb_mutant(resize_unseen))
		return;
	rcu_read_lock();
	hlist_for_each_entry_rcu(watch, watches, node) {
		struct cb_device *dev = watch->dev;

		/* A partition stays as it is. */
		if (watch->disk != disk || disk != dev->origin_disk || dev->geom.start ||
		    sectors == dev->geom.sectors)
			continue;
		WRITE_ONCE(dev->resized_to, sectors);
		/* Before who sees that it was. */
		smp_store_release(&dev->resized, true);
	}
	rcu_read_unlock();
}

static int cb_resized_seen(struct kprobe *probe, struct pt_regs *regs)
{
	cb_resized_note((struct gendisk *)regs_get_kernel_argument(regs, 0),
			regs_get_kernel_argument(regs, 1));
	return 0;
}
NOKPROBE_SYMBOL(cb_resized_seen);

static struct kprobe cb_resized_probe = {
	.symbol_name = "set_capacity",
	.pre_handler = cb_resized_seen,
};

static bool cb_resized_registered;

void cb_resized_init(void)
{
	cb_resized_registered = !register_kprobe(&cb_resized_probe);
}

void cb_resized_exit(void)
{
	if (cb_resized_registered)
		unregister_kprobe(&cb_resized_probe);
}
