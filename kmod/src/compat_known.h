/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A block device that is known for long but open only for a time, struct cb_known_bdev: what
 * keeps its memory, and how one tells that it is gone, differ between kernels. Included by
 * compat.h.
 */
#ifndef COWBIRD_COMPAT_KNOWN_H
#define COWBIRD_COMPAT_KNOWN_H

#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "compat_bdev.h"
#include "cowbird_config.h"

/*
 * A block device that is known for long but open only for a time: whoever keeps a
 * device open keeps its page cache alive, keeps it from being removed, and is seen
 * by everybody else (docs/decisions/0034). bdev may be looked at, and bios be sent to
 * it, until cb_known_forget, even when the device is gone; then they fail. Where
 * needs_opener is set, that holds of bios only while somebody has the device open.
 */
struct cb_known_bdev {
	struct block_device *bdev;
	struct cb_bdev open;
	u64 start; /* on its disk, as it was at first; an object that is gone may have forgotten */
	u64 sectors;
	bool is_open;
	bool needs_opener;
	bool holds_driver;
};

/*
 * Whether a disk is of the kind that an administrator's command takes apart: device-mapper, md,
 * loop and their like look only whether it is open, and wait for no bio. Hardware and
 * what resembles it has a parent, and is removed by del_gendisk, which waits for all.
 */
static inline bool cb_disk_is_virtual(struct gendisk *disk)
{
	return !disk_to_dev(disk)->parent;
}

#ifdef HAVE_BIO_BDEV

static inline bool cb_known_needs_opener(struct block_device *bdev)
{
	return cb_disk_is_virtual(bdev->bd_disk);
}

/*
 * The inodes keep the block device, its disk and their statistics; the queue has
 * a count of its own. Bios are also charged to what only the disk's device keeps.
 * That one is not kept of a virtual disk, which would not give its name back, and
 * its release calls the driver, which therefore must not be unloaded.
 */
static inline int cb_known_hold(struct cb_known_bdev *known)
{
	struct block_device *bdev = known->open.bdev;

	if (!blk_get_queue(bdev_get_queue(bdev)))
		return -ENODEV;
	ihold(cb_bdev_inode(bdev));
	ihold(cb_bdev_inode(bdev_whole(bdev)));
	known->holds_driver = !cb_disk_is_virtual(bdev->bd_disk);
	if (known->holds_driver) {
		__module_get(bdev->bd_disk->fops->owner);
		get_device(&bdev->bd_device);
	}
	known->bdev = bdev;
	return 0;
}

static inline void cb_known_drop(struct cb_known_bdev *known)
{
	struct block_device *bdev = known->bdev;
	struct block_device *whole = bdev_whole(bdev);
	struct request_queue *queue = bdev_get_queue(bdev);

	if (known->holds_driver) {
		struct module *owner = bdev->bd_disk->fops->owner;

		put_device(&bdev->bd_device);
		module_put(owner);
	}
	iput(cb_bdev_inode(bdev));
	iput(cb_bdev_inode(whole));
	blk_put_queue(queue);
}

/* The same blocks of the same disk: a partition is another object after its disk's table was read anew. */
static inline bool cb_known_is_same(const struct cb_known_bdev *known,
				    const struct block_device *bdev)
{
	return known->bdev->bd_disk == bdev->bd_disk &&
	       known->start == get_start_sect((struct block_device *)bdev) &&
	       known->sectors == cb_bdev_sectors((struct block_device *)bdev);
}

/* The object that stands for the device now, with a reference for cb_bdev_unfind; or NULL. */
static inline struct block_device *cb_known_current(const struct cb_known_bdev *known)
{
	struct block_device *bdev;

	if (inode_unhashed(cb_bdev_inode(bdev_whole(known->bdev))))
		return NULL;
	bdev = cb_bdev_find(known->bdev->bd_dev);
	if (bdev && !cb_known_is_same(known, bdev)) {
		cb_bdev_unfind(bdev);
		bdev = NULL;
	}
	return bdev;
}

/* Its disk is gone, and does not come back. */
static inline bool cb_known_disk_is_gone(const struct cb_known_bdev *known)
{
	return inode_unhashed(cb_bdev_inode(bdev_whole(known->bdev)));
}

/* Removed, or in its place is another one of the same number. */
static inline bool cb_known_is_gone(const struct cb_known_bdev *known)
{
	struct block_device *bdev;

	if (cb_known_disk_is_gone(known))
		return true;
	if (!inode_unhashed(cb_bdev_inode(known->bdev)))
		return false;
	bdev = cb_known_current(known);
	if (bdev)
		cb_bdev_unfind(bdev);
	return !bdev;
}

/* As cb_bdev_written, of the object that stands for the device now. */
static inline u64 cb_known_written(const struct cb_known_bdev *known)
{
	struct block_device *bdev = cb_known_current(known);
	u64 written = cb_bdev_written(bdev ?: known->bdev);

	if (bdev)
		cb_bdev_unfind(bdev);
	return written;
}

#else

/* A bio names its partition by number here, which may become another one's while nobody has it open. */
static inline bool cb_known_needs_opener(struct block_device *bdev)
{
	return bdev->bd_partno || cb_disk_is_virtual(bdev->bd_disk);
}

/*
 * A block device forgets its disk when it is closed; this is a copy that does
 * not. Everything that is used of it hangs on the disk or on the partition.
 */
static inline int cb_known_hold(struct cb_known_bdev *known)
{
	struct block_device *bdev = known->open.bdev;
	struct block_device *copy = kzalloc(sizeof(*copy), GFP_KERNEL);

	if (!copy)
		return -ENOMEM;
	copy->bd_dev = bdev->bd_dev;
	copy->bd_partno = bdev->bd_partno;
	copy->bd_disk = bdev->bd_disk;
	copy->bd_part = bdev->bd_part;
	get_device(disk_to_dev(copy->bd_disk));
	get_device(part_to_dev(copy->bd_part));
	known->bdev = copy;
	return 0;
}

static inline void cb_known_drop(struct cb_known_bdev *known)
{
	put_device(part_to_dev(known->bdev->bd_part));
	put_device(disk_to_dev(known->bdev->bd_disk));
	kfree(known->bdev);
}

/* The same blocks of the same disk: a partition is another object after its disk's table was read anew. */
static inline bool cb_part_is_same(const struct cb_known_bdev *known,
				   const struct hd_struct *part)
{
	return known->bdev->bd_part == part ||
	       (known->start == part->start_sect && known->sectors == READ_ONCE(part->nr_sects));
}

static inline bool cb_known_is_same(const struct cb_known_bdev *known,
				    const struct block_device *bdev)
{
	return known->bdev->bd_disk == bdev->bd_disk &&
	       cb_part_is_same(known, bdev->bd_part);
}

/* Its disk is gone, and does not come back. */
static inline bool cb_known_disk_is_gone(const struct cb_known_bdev *known)
{
	return !(known->bdev->bd_disk->flags & GENHD_FL_UP);
}

/* Removed, or in its place is another one of the same number. *written: as cb_bdev_written. */
static inline bool cb_known_look(const struct cb_known_bdev *known, u64 *written)
{
	const struct block_device *bdev = known->bdev;
	struct block_device now = { .bd_part = bdev->bd_part };
	struct disk_part_tbl *table;
	struct hd_struct *part = NULL;
	bool same;

	rcu_read_lock();
	table = rcu_dereference(bdev->bd_disk->part_tbl);
	if (table && bdev->bd_partno < table->len)
		part = rcu_dereference(table->part[bdev->bd_partno]);
	same = part && cb_part_is_same(known, part);
	if (same)
		now.bd_part = part;
	*written = cb_bdev_written(&now);
	rcu_read_unlock();
	return same;
}

static inline bool cb_known_is_gone(const struct cb_known_bdev *known)
{
	u64 written;

	return cb_known_disk_is_gone(known) || !cb_known_look(known, &written);
}

static inline u64 cb_known_written(const struct cb_known_bdev *known)
{
	u64 written;

	cb_known_look(known, &written);
	return written;
}

#endif

/* Its size; as it was at first where the object is gone and stands for nothing any more. */
static inline u64 cb_known_sectors(const struct cb_known_bdev *known)
{
#ifdef HAVE_BIO_BDEV
	bool here = !inode_unhashed(cb_bdev_inode(known->bdev));
#else
	const struct block_device *bdev = known->bdev;
	struct disk_part_tbl *table;
	bool here;

	rcu_read_lock();
	table = rcu_dereference(bdev->bd_disk->part_tbl);
	here = table && bdev->bd_partno < table->len &&
	       rcu_access_pointer(table->part[bdev->bd_partno]) == bdev->bd_part;
	rcu_read_unlock();
#endif
	return here ? cb_bdev_sectors(known->bdev) : known->sectors;
}

static inline void cb_known_close(struct cb_known_bdev *known)
{
	if (known->is_open)
		cb_bdev_close(&known->open);
	known->is_open = false;
}

/* Opens it for the first time. It is open afterwards. */
static inline int cb_known_open(struct cb_known_bdev *known, dev_t dev)
{
	int ret = cb_bdev_open(&known->open, dev, NULL);

	if (ret)
		return ret;
	known->is_open = true;
	known->needs_opener = cb_known_needs_opener(known->open.bdev);
	known->start = get_start_sect(known->open.bdev);
	known->sectors = cb_bdev_sectors(known->open.bdev);
	ret = cb_known_hold(known);
	if (ret)
		cb_known_close(known);
	return ret;
}

/* Opens it again, if that is still the same device. */
static inline int cb_known_reopen(struct cb_known_bdev *known)
{
	int ret = cb_known_is_gone(known) ?
			  -ENODEV :
			  cb_bdev_open(&known->open, known->bdev->bd_dev, NULL);

	if (ret)
		return ret;
	known->is_open = true;
	if (cb_known_is_same(known, known->open.bdev))
		return 0;
	cb_known_close(known);
	return -ENODEV;
}

/* Safe where it was never opened. */
static inline void cb_known_forget(struct cb_known_bdev *known)
{
	cb_known_close(known);
	if (known->bdev)
		cb_known_drop(known);
	known->bdev = NULL;
}

#endif
