/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernels about bios: where one goes, how it is submitted, made, split
 * and counted as somebody's. Included by compat.h.
 */
#ifndef COWBIRD_COMPAT_BIO_H
#define COWBIRD_COMPAT_BIO_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/ioprio.h>
#include <linux/rcupdate.h>

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

#endif
