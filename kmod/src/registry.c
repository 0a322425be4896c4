// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where snapshots are found: by minor, for requests; by disk, for the hook, which
 * asks with every write of the machine and must not pay for snapshots of other
 * disks.
 */
#include <linux/hash.h>
#include <linux/rculist.h>

#include "cowbird.h"

#define CB_WATCH_BITS 8

struct cb_device __rcu *cb_devices[CB_DEVICE_SLOTS];
int cb_device_count;

static struct hlist_head cb_watches[1 << CB_WATCH_BITS];

static struct hlist_head *notrace cb_watch_bucket(const struct gendisk *disk)
{
	return &cb_watches[hash_ptr((void *)disk, CB_WATCH_BITS)];
}

struct hlist_head *notrace cb_registry_watches(const struct gendisk *disk)
{
	return READ_ONCE(cb_device_count) ? cb_watch_bucket(disk) : NULL;
}

static void cb_watch_extend(struct cb_watch *watch, const struct cb_extents *extents)
{
	const struct cb_extent *last = &extents->list[extents->count - 1];

	WRITE_ONCE(watch->cow_first, min(watch->cow_first, extents->list->sector));
	WRITE_ONCE(watch->cow_end,
		   max(watch->cow_end, last->sector + (last->slots << CB_BLOCK_SECTOR_SHIFT)));
}

static struct cb_watch *cb_watch_of_cow(struct cb_device *dev)
{
	return dev->cow_disk == dev->origin_disk ? &dev->origin_watch : &dev->cow_watch;
}

void cb_registry_extend(struct cb_device *dev, const struct cb_extents *extents)
{
	lockdep_assert_held(&cb_life_mutex);
	cb_watch_extend(cb_watch_of_cow(dev), extents);
}

static void cb_watch_add(struct cb_device *dev, struct cb_watch *watch, struct gendisk *disk)
{
	watch->dev = dev;
	watch->disk = disk;
	watch->cow_first = U64_MAX;
	watch->cow_end = 0;
	if (watch == cb_watch_of_cow(dev))
		cb_watch_extend(watch, &dev->extents);
	hlist_add_head_rcu(&watch->node, cb_watch_bucket(disk));
}

void cb_registry_place(unsigned int slot, struct cb_device *dev)
{
	lockdep_assert_held(&cb_life_mutex);
	rcu_assign_pointer(cb_devices[slot], dev);
}

void cb_registry_watch(struct cb_device *dev)
{
	lockdep_assert_held(&cb_life_mutex);
	if (dev->watched)
		return;
	dev->watched = true;
	/* Before the first of them can be found: who sees no count looks no further. */
	WRITE_ONCE(cb_device_count, cb_device_count + 1);
	cb_watch_add(dev, &dev->origin_watch, dev->origin_disk);
	if (dev->cow_disk != dev->origin_disk)
		cb_watch_add(dev, &dev->cow_watch, dev->cow_disk);
}

void cb_registry_unwatch(struct cb_device *dev)
{
	lockdep_assert_held(&cb_life_mutex);
	if (!dev->watched)
		return;
	dev->watched = false;
	hlist_del_rcu(&dev->origin_watch.node);
	if (dev->cow_disk != dev->origin_disk)
		hlist_del_rcu(&dev->cow_watch.node);
	WRITE_ONCE(cb_device_count, cb_device_count - 1);
}
