// SPDX-License-Identifier: GPL-2.0-only
/*
 * The two devices of a snapshot, the origin and that of the COW file's filesystem: opened
 * for a set-up and where a driver needs an opener, closed as soon as that may be, and looked
 * after, because whoever does not keep a device open does not keep it from being removed.
 */
#include <linux/slab.h>

#include "cowbird.h"

/* Checks in a row that must not find a device before it counts as removed. */
#define CB_MISSED_CHECKS 3
/* Longest wait for a device to be opened. */
#define CB_OPEN_LIMIT (5 * HZ)

/* Bios of what somebody waits for: a pool of metadata, its looker, the header and a probe. */
#define CB_META_BIOS 16

int cb_device_open_origin(struct cb_device *dev, struct cb_setup *setup)
{
	struct block_device *bdev;
	int ret = cb_known_open(&dev->origin, setup->origin);

	if (ret)
		return cb_refuse(setup->reason, ret, "cannot open %s", setup->origin_path);
	dev->users = 1;
	bdev = dev->origin.bdev;
	dev->origin_disk = bdev->bd_disk;
	if (bdev_is_zoned(bdev))
		return cb_refuse(setup->reason, -EOPNOTSUPP, "%s is a zoned device",
				 setup->origin_path);
	if (blk_queue_dax(dev->origin_disk->queue) && !cb_mutant(allow_dax))
		return cb_refuse(setup->reason, -EOPNOTSUPP,
				 "%s has DAX: a filesystem may write to it without any bio",
				 setup->origin_path);
	if (bdev_logical_block_size(bdev) > CB_BLOCK_BYTES)
		return cb_refuse(setup->reason, -EOPNOTSUPP,
				 "%s has logical blocks of more than 4096 bytes", setup->origin_path);
	ret = cb_geom_init(&dev->geom, get_start_sect(bdev), cb_bdev_sectors(bdev));
	if (ret)
		return cb_refuse(setup->reason, ret, "%s is empty", setup->origin_path);
	dev->block_count = cb_geom_block_count(&dev->geom);
	return 0;
}

int cb_device_open_cow(struct cb_device *dev, struct cb_setup *setup)
{
	int ret = bioset_init(&dev->run_bios, CB_RUNS, 0, BIOSET_NEED_BVECS);

	if (!ret)
		ret = bioset_init(&dev->meta_bios, CB_META_BIOS, 0, BIOSET_NEED_BVECS);
	if (!ret)
		ret = bioset_init(&dev->split_bios, CB_PIECES, offsetof(struct cb_piece, bio), 0);
	if (!ret)
		ret = cb_lanes_init(dev);
	if (ret)
		return cb_refuse(setup->reason, ret, "not enough memory for the snapshot");
	ret = cb_known_open(&dev->cow, setup->cow);
	if (ret)
		return cb_refuse(setup->reason, ret,
				 "cannot open the device of the COW file's filesystem");
	dev->cow_disk = dev->cow.bdev->bd_disk;
	dev->cow_base = get_start_sect(dev->cow.bdev);
	dev->cow_on_origin = dev->cow_disk == dev->origin_disk;
	return 0;
}

/*
 * A COW file's metadata is written at times when its filesystem is not mounted. On
 * another device than the origin that needs an opener of its own.
 */
static bool cb_device_keeps_cow_open(const struct cb_device *dev)
{
	return dev->cow.needs_opener && dev->cow.bdev->bd_dev != dev->origin.bdev->bd_dev;
}

void cb_device_close_devices(struct cb_device *dev)
{
	if (!cb_device_keeps_cow_open(dev) && !cb_mutant(keep_open))
		cb_known_close(&dev->cow);
	cb_device_unuse(dev);
}

/* A device that is being opened by a worker. */
struct cb_opening {
	struct work_struct work;
	struct completion done;
	refcount_t users; /* who waits, and the worker */
	struct cb_known_bdev known; /* a copy of what is to be opened */
	struct cb_device *dev; /* whose that is; until meta_in_flight is given back */
	int ret;
};

static void cb_opening_put(struct cb_opening *opening)
{
	if (!refcount_dec_and_test(&opening->users))
		return;
	/* Nobody has taken it over. */
	cb_known_close(&opening->known);
	kfree(opening);
}

static void cb_opening_run(struct work_struct *work)
{
	struct cb_opening *opening = container_of(work, struct cb_opening, work);

	struct cb_device *dev = opening->dev;

	opening->ret = cb_known_reopen(&opening->known);
	complete(&opening->done);
	cb_opening_put(opening);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->meta_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

/*
 * Opens it in a context of its own: who asks holds the lock of another disk, or of a
 * super block on another disk. Those are taken after a disk's lock elsewhere. And an
 * open can take its time, which nobody waits for without a limit.
 */
static int cb_device_reopen(struct cb_device *dev, struct cb_known_bdev *known)
{
	struct cb_opening *opening = kzalloc(sizeof(*opening), GFP_NOIO);
	int ret = -ETIMEDOUT;

	if (!opening)
		return -ENOMEM;
	opening->known = *known;
	opening->dev = dev;
	atomic_inc(&dev->meta_in_flight);
	refcount_set(&opening->users, 2);
	INIT_WORK(&opening->work, cb_opening_run);
	init_completion(&opening->done);
	cb_ending_queue(&opening->work);
	if (wait_for_completion_timeout(&opening->done, CB_OPEN_LIMIT)) {
		ret = opening->ret;
		known->open = opening->known.open;
		known->is_open = opening->known.is_open;
		opening->known.is_open = false;
	}
	cb_opening_put(opening);
	return ret;
}

int cb_device_use(struct cb_device *dev)
{
	int ret = 0;

	mutex_lock(&dev->use_lock);
	if (!dev->origin.is_open && dev->origin.needs_opener)
		ret = cb_device_reopen(dev, &dev->origin);
	if (!ret)
		dev->users++;
	mutex_unlock(&dev->use_lock);
	return ret;
}

void cb_device_unuse(struct cb_device *dev)
{
	mutex_lock(&dev->use_lock);
	if (!--dev->users && !cb_mutant(keep_open))
		cb_known_close(&dev->origin);
	mutex_unlock(&dev->use_lock);
}

/*
 * Without its device, or with less of it, the state LOST can be written nowhere, and a
 * driver that needs an opener may have none.
 */
static void cb_device_lose_state(struct cb_device *dev)
{
	if (cb_known_is_gone(&dev->cow) ||
	    (dev->cow.needs_opener && !cb_device_keeps_cow_open(dev)))
		dev->owns_state = false;
	/* It may be plugged in again. */
	if (cb_known_is_gone(&dev->cow) && !dev->cow_on_origin)
		cb_losing_say_unknown(dev);
}

/* While a disk's table is read anew its partitions are gone for a moment. */
static bool cb_device_is_gone(struct cb_device *dev, const struct cb_known_bdev *known)
{
	if (cb_mutant(ignore_removal) || !cb_known_is_gone(known))
		return false;
	return cb_known_disk_is_gone(known) || ++dev->missed_checks >= CB_MISSED_CHECKS;
}

static const char *cb_device_gone(struct cb_device *dev)
{
	u32 missed = dev->missed_checks;

	if (cb_device_is_gone(dev, &dev->origin))
		return "the origin was removed, or made anew in another place";
	if (cb_device_is_gone(dev, &dev->cow))
		return "the device of the COW file was removed, or made anew in another place";
	if (dev->missed_checks == missed)
		dev->missed_checks = 0;
	return NULL;
}

void cb_device_check_size(struct cb_device *dev)
{
	u64 sectors;

	sectors = cb_known_sectors(&dev->origin);
	if (sectors == dev->geom.sectors && smp_load_acquire(&dev->resized))
		sectors = READ_ONCE(dev->resized_to);
	if (sectors == dev->geom.sectors || cb_mutant(ignore_size))
		return;
	/* A device that is there can be told that its series is lost. */
	if (!sectors || cb_known_is_gone(&dev->cow))
		cb_device_lose_state(dev);
	if (sectors)
		cb_device_fail(dev, -ESTALE, "the origin changed its size from %llu to %llu sectors",
			       (unsigned long long)dev->geom.sectors, (unsigned long long)sectors);
	else
		cb_device_fail(dev, -ENODEV, "the origin was detached or has lost its medium");
}

void cb_device_check_devices(struct cb_device *dev)
{
	const char *gone = cb_device_gone(dev);

	if (!gone) {
		cb_device_check_size(dev);
		return;
	}
	cb_device_lose_state(dev);
	cb_device_fail(dev, -ENODEV, "%s", gone);
}
