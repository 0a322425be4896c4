/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every difference between kernels, in one place. The HAVE_ macros come from
 * the compile probes; a kernel that fits none of the known forms stops the
 * build here, with a message, rather than somewhere below.
 */
#ifndef COWBIRD_COMPAT_H
#define COWBIRD_COMPAT_H

#include <linux/bio.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/highmem.h>
#include <linux/ioprio.h>
#include <linux/list_sort.h>
#include <linux/module.h>
#include <linux/part_stat.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "cowbird_config.h"

/* ---- where a bio goes -------------------------------------------------- */

#ifdef HAVE_BIO_BDEV

static inline struct gendisk *cb_bio_disk(const struct bio *bio)
{
	return bio->bi_bdev->bd_disk;
}

/*
 * First sector of the bio on its whole disk. A bio for a partition is relative
 * to the partition until the block layer has moved it, which BIO_REMAPPED
 * tells; the rest of a split bio enters again with that flag set.
 */
static inline u64 cb_bio_disk_sector(struct bio *bio)
{
	u64 sector = bio->bi_iter.bi_sector;

	if (bdev_is_partition(bio->bi_bdev) && !bio_flagged(bio, BIO_REMAPPED))
		sector += get_start_sect(bio->bi_bdev);
	return sector;
}

/* A bio that is not on its way to a device has none. */
static inline bool cb_bio_has_disk(const struct bio *bio)
{
	return bio->bi_bdev;
}

#else

static inline struct gendisk *cb_bio_disk(const struct bio *bio)
{
	return bio->bi_disk;
}

static inline bool cb_bio_has_disk(const struct bio *bio)
{
	return bio->bi_disk;
}

/* As above; moving the bio to the disk clears bi_partno on these kernels. */
static inline u64 cb_bio_disk_sector(struct bio *bio)
{
	u64 sector = bio->bi_iter.bi_sector;
	struct disk_part_tbl *table;
	struct hd_struct *part;

	if (!bio->bi_partno)
		return sector;
	rcu_read_lock();
	table = rcu_dereference(bio->bi_disk->part_tbl);
	if (bio->bi_partno < table->len) {
		part = rcu_dereference(table->part[bio->bi_partno]);
		if (part)
			sector += part->start_sect;
	}
	rcu_read_unlock();
	return sector;
}

#endif

#ifdef HAVE_REQ_POLLED
#define CB_REQ_POLLED REQ_POLLED
#else
#define CB_REQ_POLLED REQ_HIPRI
#endif

/* ---- submission -------------------------------------------------------- */

/*
 * What the submission of a bio returns: before 5.16 a cookie, by which a polled
 * bio is looked for; nothing from then on.
 */
typedef unsigned int cb_cookie_t;
#define CB_NO_COOKIE (~0u)

/* A macro, so that the call is made by whoever is seen as the caller. */
#ifdef HAVE_SUBMIT_BIO_VOID
#define cb_submit_original(bio) ({ submit_bio_noacct(bio); CB_NO_COOKIE; })
#else
#define cb_submit_original(bio) ((cb_cookie_t)submit_bio_noacct(bio))
#endif

/* ---- bios -------------------------------------------------------------- */

static inline struct bio *cb_bio_alloc(struct block_device *bdev, unsigned short vecs,
				       unsigned int opf, struct bio_set *set)
{
	struct bio *bio;

#ifdef HAVE_BIO_ALLOC_BDEV
	bio = bio_alloc_bioset(bdev, vecs, opf, GFP_NOIO, set);
#else
	bio = bio_alloc_bioset(GFP_NOIO, vecs, set);
	bio_set_dev(bio, bdev);
	bio->bi_opf = opf;
#endif
	return bio;
}

/* Counts a bio to bdev as its reader's: limits and priorities go by that. */
static inline void cb_bio_for(struct bio *bio, struct bio *reader, struct block_device *bdev)
{
	bio_clone_blkg_association(bio, reader);
	bio->bi_ioprio = reader->bi_ioprio;
	/* Some kernels take over what belongs to the reader's own device; this looks it up. */
	bio_set_dev(bio, bdev);
}

/* A bio that shares the pages of another; the other must outlive it. */
static inline struct bio *cb_bio_clone(struct block_device *bdev, struct bio *from, gfp_t gfp,
				       struct bio_set *set)
{
#ifdef HAVE_BIO_ALLOC_CLONE
	return bio_alloc_clone(bdev, from, gfp, set);
#else
	struct bio *bio = bio_clone_fast(from, gfp, set);

	if (bio)
		bio_set_dev(bio, bdev);
	return bio;
#endif
}

/* What list_sort gives its comparison. */
#ifdef HAVE_LIST_SORT_CONST
typedef const struct list_head *cb_list_sort_arg;
#else
typedef struct list_head *cb_list_sort_arg;
#endif

/* Whether a write may be done in pieces: not where its atomicity or its place depends on one request. */
static inline bool cb_bio_may_split(const struct bio *bio)
{
#ifdef REQ_ATOMIC
	if (bio->bi_opf & REQ_ATOMIC)
		return false;
#endif
	return bio_op(bio) == REQ_OP_WRITE || bio_op(bio) == REQ_OP_WRITE_ZEROES ||
	       bio_op(bio) == REQ_OP_SECURE_ERASE;
}

/* The first sectors of a bio, which shrinks to the rest; NULL where there is no memory at once. */
static inline struct bio *cb_bio_split(struct bio *bio, u32 sectors, struct bio_set *set)
{
	struct bio *piece = bio_split(bio, sectors, GFP_NOWAIT | __GFP_NOWARN, set);

	return IS_ERR_OR_NULL(piece) ? NULL : piece;
}

/*
 * The priority of its task, where it has none of its own: another task submits it.
 * From 5.18 on each bio has it from the beginning.
 */
static inline void cb_bio_keep_ioprio(struct bio *bio)
{
#ifndef HAVE_SUBMIT_BIO_VOID
	if (!ioprio_valid(bio_prio(bio)))
		bio_set_prio(bio, get_current_ioprio());
#endif
}

#ifdef HAVE_KMAP_LOCAL
#define cb_kmap(page) kmap_local_page(page)
#define cb_kunmap(address) kunmap_local(address)
#else
#define cb_kmap(page) kmap_atomic(page)
#define cb_kunmap(address) kunmap_atomic(address)
#endif

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

static inline u64 cb_disk_sectors(struct gendisk *disk)
{
	return get_capacity(disk);
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

/* ---- interception ------------------------------------------------------ */

#ifdef HAVE_FTRACE_REGS
#define CB_FTRACE_REGS struct ftrace_regs
#define cb_ftrace_pt_regs(fregs) ftrace_get_regs(fregs)
#else
#define CB_FTRACE_REGS struct pt_regs
#define cb_ftrace_pt_regs(fregs) (fregs)
#endif

/*
 * The callbacks keep no state, so that they may nest; they must not be skipped
 * by ftrace's recursion guard either: a skipped callback is a missed write.
 */
#ifdef HAVE_FTRACE_RECURSION_SAFE
#define CB_FTRACE_WATCH_FLAGS                                                                     \
	(FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_PERMANENT | FTRACE_OPS_FL_RECURSION_SAFE)
#else
#define CB_FTRACE_WATCH_FLAGS (FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_PERMANENT)
#endif
#define CB_FTRACE_REPLACE_FLAGS (CB_FTRACE_WATCH_FLAGS | FTRACE_OPS_FL_IPMODIFY)

#endif
