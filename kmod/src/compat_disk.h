/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernels about whole disks: what a disk counts as in flight, its
 * queue, and a disk of our own, which the snapshot device is. Included by compat.h.
 */
#ifndef COWBIRD_COMPAT_DISK_H
#define COWBIRD_COMPAT_DISK_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/part_stat.h>
#include <linux/rcupdate.h>

#include "cowbird_config.h"

/* ---- any disk ---------------------------------------------------------- */

static inline u64 cb_disk_sectors(struct gendisk *disk)
{
	return get_capacity(disk);
}

static inline void cb_queue_unfreeze(struct request_queue *queue)
{
#if defined(HAVE_UNFREEZE_NOMEMRESTORE)
	blk_mq_unfreeze_queue_nomemrestore(queue);
#elif defined(HAVE_UNFREEZE_PLAIN)
	blk_mq_unfreeze_queue(queue);
#else
#error "cowbird: no known way to unfreeze a queue on this kernel; see cowbird_config.log"
#endif
}

#ifdef HAVE_BIO_BDEV
static inline long cb_part_in_flight(struct block_device *part, int write)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += part_stat_local_read_cpu(part, in_flight[write], cpu);
	return sum;
}
#else
static inline long cb_part_in_flight(struct hd_struct *part, int write)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += part_stat_local_read_cpu(part, in_flight[write], cpu);
	return sum;
}
#endif

/*
 * Writes, or reads, in flight on a whole disk; exact only while none can enter, as is
 * so of writes while they are held. A device that works on bios alone counts them where they were sent to: at the
 * disk, or at one of its partitions.
 */
static inline unsigned long cb_disk_counts(struct gendisk *disk, int write)
{
	long sum = 0;
#ifdef HAVE_BIO_BDEV
	struct block_device *part;
	unsigned long index;

	/* The disk itself is number 0 of the table. */
	rcu_read_lock();
	xa_for_each(&disk->part_tbl, index, part)
		sum += cb_part_in_flight(part, write);
	rcu_read_unlock();
#else
	struct disk_part_iter iter;
	struct hd_struct *part;

	disk_part_iter_init(&iter, disk, DISK_PITER_INCL_EMPTY_PART0);
	while ((part = disk_part_iter_next(&iter)))
		sum += cb_part_in_flight(part, write);
	disk_part_iter_exit(&iter);
#endif
	return sum > 0 ? sum : 0;
}

static inline unsigned long cb_disk_writes_in_flight(struct gendisk *disk)
{
	return cb_disk_counts(disk, 1);
}

static inline bool cb_disk_in_flight(struct gendisk *disk)
{
	return cb_disk_counts(disk, 0) || cb_disk_counts(disk, 1);
}

/* Reads of a whole disk that have ended, partitions included. */
static inline u64 cb_disk_reads(struct gendisk *disk)
{
#ifdef HAVE_BIO_BDEV
	return part_stat_read(disk->part0, ios[STAT_READ]);
#else
	return part_stat_read(&disk->part0, ios[STAT_READ]);
#endif
}

/* Whether whoever counts the end of a bio has counted it in flight, too. */
#ifdef HAVE_SUBMIT_BIO_VOID
#define CB_COUNTS_IN_PAIRS true
#else
#define CB_COUNTS_IN_PAIRS false
#endif

/* ---- the snapshot device ----------------------------------------------- */

#ifdef HAVE_SUBMIT_BIO_VOID
#define CB_SUBMIT_BIO_TYPE void
#define CB_SUBMIT_BIO_RETURN
#else
#define CB_SUBMIT_BIO_TYPE blk_qc_t
#define CB_SUBMIT_BIO_RETURN BLK_QC_T_NONE
#endif

static inline struct gendisk *cb_disk_alloc(unsigned int logical_block_bytes,
					    unsigned int max_sectors)
{
#if defined(HAVE_ALLOC_DISK_LIMITS)
	struct queue_limits limits = {
		.logical_block_size = logical_block_bytes,
		.physical_block_size = PAGE_SIZE,
		.io_min = PAGE_SIZE,
		.max_hw_sectors = max_sectors,
	};

	return blk_alloc_disk(&limits, NUMA_NO_NODE);
#else
	struct gendisk *disk;

#if defined(HAVE_ALLOC_DISK_NODE)
	disk = blk_alloc_disk(NUMA_NO_NODE);
	if (!disk)
		return ERR_PTR(-ENOMEM);
#else
	struct request_queue *queue;

	queue = blk_alloc_queue(NUMA_NO_NODE);
	if (!queue)
		return ERR_PTR(-ENOMEM);
	disk = alloc_disk(1);
	if (!disk) {
		blk_cleanup_queue(queue);
		return ERR_PTR(-ENOMEM);
	}
	disk->queue = queue;
#endif
	blk_queue_logical_block_size(disk->queue, logical_block_bytes);
	blk_queue_physical_block_size(disk->queue, PAGE_SIZE);
	blk_queue_io_min(disk->queue, PAGE_SIZE);
	blk_queue_max_hw_sectors(disk->queue, max_sectors);
	return disk;
#endif
}

static inline int cb_disk_add(struct gendisk *disk)
{
#ifdef HAVE_ADD_DISK_INT
	return add_disk(disk);
#else
	add_disk(disk);
	return 0;
#endif
}

/*
 * The last reference of a disk that was deleted, or was never added. Before
 * 5.14 the disk and its queue are released apart, and only a disk that was
 * added holds a reference of its own to the queue.
 */
static inline void cb_disk_put(struct gendisk *disk, bool added)
{
#if defined(HAVE_BLK_CLEANUP_DISK)
	blk_cleanup_disk(disk);
#elif defined(HAVE_ALLOC_DISK_NODE) || defined(HAVE_ALLOC_DISK_LIMITS)
	put_disk(disk);
#else
	blk_cleanup_queue(disk->queue);
	if (!added)
		disk->queue = NULL;
	put_disk(disk);
#endif
}

#ifdef GENHD_FL_NO_PART_SCAN
#define CB_DISK_FLAGS (GENHD_FL_NO_PART_SCAN | GENHD_FL_EXT_DEVT)
#elif defined(HAVE_DISK_OPEN) || defined(HAVE_SUBMIT_BIO_VOID)
#define CB_DISK_FLAGS GENHD_FL_NO_PART
#else
#error "cowbird: no known flags for a disk without partitions; see cowbird_config.log"
#endif

#endif
