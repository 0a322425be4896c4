// SPDX-License-Identifier: GPL-2.0-only
/*
 * The end of a snapshot, which must not depend on its disks.
 *
 * Whatever a snapshot has under way uses its memory: pages that a disk may still
 * write to or read from, and the structures that completions look at. A COW disk
 * that does not answer keeps all of that. So a thread does the end, and whoever
 * has asked for it waits with a limit (I12, every wait of the control path has a
 * bound). Until the last bio has come back (I10, nobody is freed under a sleeper) the
 * snapshot stays in memory, holds its COW file, whose blocks may still be
 * written, and a reference to the module; nobody finds it, and its minor is free.
 */
#include <linux/slab.h>

#include "cowbird.h"

/* Longest time that anybody waits for a snapshot to end. */
#define CB_END_LIMIT (5 * HZ)

/* Outlives the snapshot for whoever waits. */
struct cb_ending {
	struct completion done;
	refcount_t users; /* the snapshot, and who waits */
};

static struct workqueue_struct *cb_end_queue;
static LIST_HEAD(cb_end_devices); /* cb_life_mutex */

static void cb_ending_put(struct cb_ending *ending)
{
	if (ending && refcount_dec_and_test(&ending->users))
		kfree(ending);
}

int cb_ending_prepare(struct cb_device *dev)
{
	dev->ending = kzalloc(sizeof(*dev->ending), GFP_KERNEL);
	if (!dev->ending)
		return -ENOMEM;
	init_completion(&dev->ending->done);
	refcount_set(&dev->ending->users, 1);
	return 0;
}

static void cb_ending_work(struct work_struct *work)
{
	struct cb_device *dev = container_of(work, struct cb_device, end_work);
	struct cb_ending *ending = dev->ending;

	wait_event(dev->reads_wait, !atomic_read(&dev->pausing));
	cb_engine_stop(dev);
	cb_header_wait(dev, MAX_SCHEDULE_TIMEOUT);
	cb_lanes_free(dev);
	cb_snapdisk_destroy(dev);
	cb_cow_file_end(dev);
	cb_device_unclaim_memory(dev);
	cb_device_free(dev);
	complete(&ending->done);
	cb_ending_put(ending);
	/* The queue is destroyed on unloading, which waits for what follows here. */
	cb_module_put();
}

void cb_ending_list(struct cb_device *dev)
{
	lockdep_assert_held(&cb_life_mutex);
	if (list_empty(&dev->end_list))
		list_add(&dev->end_list, &cb_end_devices);
	/* Pairs with cb_unmount_concerns_any, which looks for it elsewhere first. */
	smp_wmb();
}

bool cb_device_end(struct cb_device *dev)
{
	struct cb_ending *ending = dev->ending;
	unsigned int minor = dev->minor;
	char *path = kstrdup(dev->origin_path, GFP_KERNEL);
	bool done;

	/* Nobody has the snapshot device open; afterwards its name is free. */
	cb_snapdisk_remove(dev);
	refcount_inc(&ending->users);
	mutex_lock(&cb_life_mutex);
	cb_ending_list(dev);
	mutex_unlock(&cb_life_mutex);
	INIT_WORK(&dev->end_work, cb_ending_work);
	queue_work(cb_end_queue, &dev->end_work);
	done = wait_for_completion_timeout(&ending->done, CB_END_LIMIT);
	if (!done)
		pr_warn("snapshot %u of %s has ended, but I/O of its own has not: the disk of its COW file or the origin does not answer; its memory, its COW file and the module stay in use until then\n",
			minor, path ?: "its origin");
	kfree(path);
	cb_ending_put(ending);
	return done;
}

void cb_ending_queue(struct work_struct *work)
{
	queue_work(cb_end_queue, work);
}

bool cb_ending_has_any(void)
{
	return !list_empty_careful(&cb_end_devices);
}

struct cb_device *cb_ending_find(const struct super_block *sb)
{
	struct cb_device *dev;

	lockdep_assert_held(&cb_life_mutex);
	list_for_each_entry(dev, &cb_end_devices, end_list)
		if (dev->cow_inode && dev->cow_inode->i_sb == sb)
			return dev;
	return NULL;
}

int cb_ending_init(void)
{
	cb_end_queue = alloc_workqueue("cowbird_end", WQ_UNBOUND, 0);
	return cb_end_queue ? 0 : -ENOMEM;
}

void cb_ending_exit(void)
{
	destroy_workqueue(cb_end_queue);
}
