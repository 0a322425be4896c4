// SPDX-License-Identifier: GPL-2.0-only
/* The block device /dev/cowbird<minor>: read-only, served by snapread.c. */
#include "cowbird.h"

static int cb_major;

/*
 * While it is open, snapshot reads may go to the origin at any time, for which some drivers
 * need an opener. The kernel calls this and its counterpart under the disk's lock.
 */
static int cb_snapdisk_get(struct gendisk *disk)
{
	struct cb_device *dev = disk->private_data;
	int ret;

	/* Takes no lock of ours: the caller holds the disk's, the destroyer ours. */
	if (!atomic_inc_unless_negative(&dev->open_count))
		return -ENXIO;
	if (dev->read_use || !dev->origin.needs_opener || cb_phase_is_lost(cb_phase_of(dev)))
		return 0;
	ret = cb_device_use(dev);
	if (ret)
		atomic_dec(&dev->open_count);
	else
		dev->read_use = true;
	return ret;
}

static void cb_snapdisk_put(struct gendisk *disk)
{
	struct cb_device *dev = disk->private_data;

	if (atomic_read(&dev->open_count) == 1) {
		cb_snapread_free_spares(dev);
		if (dev->read_use)
			cb_device_unuse(dev);
		dev->read_use = false;
	}
	atomic_dec(&dev->open_count);
}

#ifdef HAVE_DISK_OPEN
static int cb_snapdisk_open(struct gendisk *disk, blk_mode_t mode)
{
	if (mode & BLK_OPEN_WRITE)
		return -EROFS;
	return cb_snapdisk_get(disk);
}

static void cb_snapdisk_release(struct gendisk *disk)
{
	cb_snapdisk_put(disk);
}
#else
static int cb_snapdisk_open(struct block_device *bdev, fmode_t mode)
{
	if (mode & FMODE_WRITE)
		return -EROFS;
	return cb_snapdisk_get(bdev->bd_disk);
}

static void cb_snapdisk_release(struct gendisk *disk, fmode_t mode)
{
	cb_snapdisk_put(disk);
}
#endif

static CB_SUBMIT_BIO_TYPE cb_snapdisk_submit(struct bio *bio)
{
	struct cb_device *dev = cb_bio_disk(bio)->private_data;

	if (bio_op(bio) == REQ_OP_READ && bio->bi_iter.bi_size) {
		cb_snapread_submit(dev, bio);
	} else {
		/* An empty flush has nothing to do; anything with data would be a write. */
		if (bio->bi_iter.bi_size)
			bio->bi_status = BLK_STS_NOTSUPP;
		bio_endio(bio);
	}
	return CB_SUBMIT_BIO_RETURN;
}

static const struct block_device_operations cb_snapdisk_ops = {
	.owner = THIS_MODULE,
	.open = cb_snapdisk_open,
	.release = cb_snapdisk_release,
	.submit_bio = cb_snapdisk_submit,
};

int cb_snapdisk_create(struct cb_device *dev)
{
	struct gendisk *disk = cb_disk_alloc(bdev_logical_block_size(dev->origin.bdev),
					     CB_READ_MAX_SECTORS);

	if (IS_ERR(disk))
		return PTR_ERR(disk);
	disk->major = cb_major;
	disk->first_minor = dev->minor;
	disk->minors = 1;
	disk->flags |= CB_DISK_FLAGS;
	disk->fops = &cb_snapdisk_ops;
	disk->private_data = dev;
	snprintf(disk->disk_name, sizeof(disk->disk_name), COWBIRD_DISK_PREFIX "%u", dev->minor);
	set_capacity(disk, dev->geom.sectors);
	set_disk_ro(disk, true);
	dev->disk = disk;
	return 0;
}

int cb_snapdisk_publish(struct cb_device *dev)
{
	int ret;

	/* Until the whole set is there it may have to go again, which must not wait for users. */
	atomic_set(&dev->open_count, -1);
	ret = cb_disk_add(dev->disk);
	dev->disk_added = !ret;
	return ret;
}

void cb_snapdisk_open_up(struct cb_device *dev)
{
	atomic_set(&dev->open_count, 0);
	/* The system's device manager could not look into it when it was added. */
	kobject_uevent(&disk_to_dev(dev->disk)->kobj, KOBJ_CHANGE);
}

void cb_snapdisk_remove(struct cb_device *dev)
{
	if (dev->disk && dev->disk_added && !dev->disk_removed)
		del_gendisk(dev->disk);
	dev->disk_removed = true;
}

void cb_snapdisk_destroy(struct cb_device *dev)
{
	if (!dev->disk)
		return;
	cb_snapdisk_remove(dev);
	wait_event(dev->reads_wait, !atomic_read(&dev->reads_in_flight));
	cb_disk_put(dev->disk, dev->disk_added);
	dev->disk = NULL;
}

int cb_snapdisk_init(void)
{
	cb_major = register_blkdev(0, COWBIRD_DISK_PREFIX);
	return cb_major < 0 ? cb_major : 0;
}

void cb_snapdisk_exit(void)
{
	unregister_blkdev(cb_major, COWBIRD_DISK_PREFIX);
}
