/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bios of metadata from within, for those who begin and wait for them: one with its pages,
 * and a pool of them that are under way at the same time. What others may do with them is in
 * metadata.h.
 */
#ifndef COWBIRD_METAIO_H
#define COWBIRD_METAIO_H

#include "cowbird.h"

struct cb_meta_io {
	refcount_t users; /* its owner, and a bio under way */
	struct cb_device *dev;
	struct completion done;
	bool busy; /* a bio is under way, and uses the pages */
	struct bio *bio; /* that one, for who has begun it; and its lane */
	enum cb_lane_kind lane;
	bool limited; /* by deadline, all bios together */
	unsigned long deadline; /* jiffies */
	blk_status_t status;
	struct page *pages[CB_RUN_BLOCKS];
};

/* Begins one bio. sector counts from the start of bdev; the first pages hold the data. */
int cb_meta_io_start(struct cb_meta_io *io, struct block_device *bdev, unsigned int opf,
		     u64 sector, u32 count);
/* Begins one bio and waits for it. */
int cb_meta_io_run(struct cb_meta_io *io, struct block_device *bdev, unsigned int opf, u64 sector,
		   u32 count);

/* Bios under way at once: at 1 ms each, they bring or take 2 GiB in a second. */
#define CB_META_IOS 8

/* In the order in which they were begun; the next one may be in the making. */
struct cb_meta_pool {
	struct cb_device *dev;
	struct cb_meta_io *io[CB_META_IOS];
	struct cb_meta_io *looker; /* looks at what is to be overwritten */
	u64 at[CB_META_IOS]; /* reads: number of the first slot in its scan */
	u32 count[CB_META_IOS]; /* slots in it */
	u32 ios;
	u32 oldest;
	u32 flying;
	struct cb_meta open; /* writes: identity of the first slot of the one in the making */
	u64 open_run; /* slots that may follow each other there */
};

/* Which one of the pool is begun next. */
u32 cb_meta_pool_next(const struct cb_meta_pool *pool);
/* Waits for the one that was begun first. */
int cb_meta_pool_wait(struct cb_meta_pool *pool);
/* Those under way are given up: they own their pages until they end. */
void cb_meta_pool_abandon(struct cb_meta_pool *pool);

#endif
