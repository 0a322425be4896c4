/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernels about block devices: opening one, finding one by its number,
 * what it has counted, and the filesystem on it. Included by compat.h.
 */
#ifndef COWBIRD_COMPAT_BDEV_H
#define COWBIRD_COMPAT_BDEV_H

#include <linux/blkdev.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/part_stat.h>
#include <linux/rcupdate.h>

#include "cowbird_config.h"

/* ---- block devices ----------------------------------------------------- */

static inline u64 cb_bdev_sectors(struct block_device *bdev)
{
#if defined(HAVE_BDEV_NR_SECTORS)
	return bdev_nr_sectors(bdev);
#elif defined(HAVE_BIO_BDEV)
	return i_size_read(bdev->bd_inode) >> SECTOR_SHIFT;
#else
	/* The inode follows only when somebody opens the device. */
	return READ_ONCE(bdev->bd_part->nr_sects);
#endif
}

/* An open block device, however this kernel names that. */
struct cb_bdev {
	struct block_device *bdev;
	bool claimed;
#ifdef HAVE_BDEV_FILE
	struct file *file;
#endif
};

/*
 * Opened for reading only: bios do not ask, and nobody's claim is disturbed. With
 * a holder the device is claimed, which fails where a filesystem is mounted.
 */
static inline int cb_bdev_open(struct cb_bdev *open, dev_t dev, void *holder)
{
#if defined(HAVE_BDEV_FILE)
	open->file = bdev_file_open_by_dev(dev, BLK_OPEN_READ, holder, NULL);
	if (IS_ERR(open->file))
		return PTR_ERR(open->file);
	open->bdev = file_bdev(open->file);
	open->claimed = holder;
#elif defined(HAVE_BLKDEV_GET_FMODE)
	open->bdev = blkdev_get_by_dev(dev, FMODE_READ | (holder ? FMODE_EXCL : 0), holder);
	if (IS_ERR(open->bdev))
		return PTR_ERR(open->bdev);
	open->claimed = holder;
#else
#error "cowbird: no known way to open a block device on this kernel; see cowbird_config.log"
#endif
	return 0;
}

static inline void cb_bdev_close(struct cb_bdev *open)
{
#ifdef HAVE_BDEV_FILE
	fput(open->file);
#else
	blkdev_put(open->bdev, FMODE_READ | (open->claimed ? FMODE_EXCL : 0));
#endif
}

/*
 * Sectors that were written to or discarded on a device since it appeared. Each
 * request is counted before its bios complete.
 */
static inline u64 cb_bdev_written(struct block_device *bdev)
{
#ifdef HAVE_BIO_BDEV
	return (u64)part_stat_read(bdev, sectors[STAT_WRITE]) +
	       part_stat_read(bdev, sectors[STAT_DISCARD]);
#else
	return (u64)part_stat_read(bdev->bd_part, sectors[STAT_WRITE]) +
	       part_stat_read(bdev->bd_part, sectors[STAT_DISCARD]);
#endif
}

/* Of a block device that the kernel knows by its number, the inode that its life hangs on. */
static inline struct inode *cb_bdev_inode(struct block_device *bdev)
{
#ifdef HAVE_BDEV_INODE
	return bdev->bd_inode;
#else
	return bdev->bd_mapping->host;
#endif
}

/*
 * The block device of a number, without opening it: that may take its time. NULL where
 * nothing has it open, and maybe where it exists. For cb_bdev_unfind.
 */
#ifdef HAVE_BIO_BDEV
static inline struct block_device *cb_bdev_find(dev_t dev)
{
	struct inode *inode = ilookup(blockdev_superblock, dev);

	return inode ? I_BDEV(inode) : NULL;
}
#else
static inline int cb_bdev_has_number(struct inode *inode, void *dev)
{
	return I_BDEV(inode)->bd_dev == *(dev_t *)dev;
}

static inline struct block_device *cb_bdev_find(dev_t dev)
{
	/* As hash() of fs/block_dev.c. */
	struct inode *inode = ilookup5(blockdev_superblock, MAJOR(dev) + MINOR(dev),
				       cb_bdev_has_number, &dev);

	return inode ? I_BDEV(inode) : NULL;
}
#endif

static inline void cb_bdev_unfind(struct block_device *bdev)
{
	iput(cb_bdev_inode(bdev));
}

/* ---- the filesystem on one ---------------------------------------------- */

/*
 * The filesystem on a device, whoever mounted it where, with an active reference
 * for deactivate_super; or NULL. *freezes: the device is claimed by one that is
 * reached through the device only.
 */
static inline struct super_block *cb_bdev_get_super(struct block_device *bdev, bool *freezes)
{
	struct super_block *sb;

	*freezes = false;
#ifdef HAVE_BDEV_FREEZE
	/* Keeps the claim, and with it the super block's memory. */
	mutex_lock(&bdev->bd_holder_lock);
	sb = NULL;
	if (bdev->bd_holder && bdev->bd_holder_ops && bdev->bd_holder_ops->freeze) {
		*freezes = true;
		sb = bdev->bd_holder;
	}
	/* An external journal, or a filesystem that is not complete yet or no more. */
	if (sb && (READ_ONCE(sb->s_bdev) != bdev || !atomic_inc_not_zero(&sb->s_active)))
		sb = NULL;
	mutex_unlock(&bdev->bd_holder_lock);
#else
	/* Super blocks are freed after a grace period. */
	rcu_read_lock();
	sb = READ_ONCE(bdev->bd_super);
	if (sb && !atomic_inc_not_zero(&sb->s_active))
		sb = NULL;
	rcu_read_unlock();
#endif
	return sb;
}

/* Freezes the filesystem on a device. Counts: each call wants one cb_thaw. */
static inline int cb_freeze(struct block_device *bdev)
{
#if defined(HAVE_BDEV_FREEZE)
	return bdev_freeze(bdev);
#elif defined(HAVE_FREEZE_BDEV_INT)
	return freeze_bdev(bdev);
#else
	struct super_block *sb = freeze_bdev(bdev);

	return IS_ERR(sb) ? PTR_ERR(sb) : 0;
#endif
}

static inline int cb_thaw(struct block_device *bdev, struct super_block *sb)
{
#if defined(HAVE_BDEV_FREEZE)
	return bdev_thaw(bdev);
#elif defined(HAVE_FREEZE_BDEV_INT)
	return thaw_bdev(bdev);
#else
	return thaw_bdev(bdev, sb);
#endif
}

#endif
