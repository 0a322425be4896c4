// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bios of metadata that somebody waits for.
 *
 * Each wait has a limit, because writes to the origin may be held meanwhile. A bio
 * that was given up owns its pages until it ends.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "metaio.h"

/* Longest time that one of these bios is waited for where nobody has set a limit. */
#define CB_META_TIMEOUT (10 * HZ)

/* ---- one bio ----------------------------------------------------------- */

static void cb_meta_io_put(struct cb_meta_io *io)
{
	u32 i;

	if (!refcount_dec_and_test(&io->users))
		return;
	for (i = 0; i < CB_RUN_BLOCKS; i++)
		if (io->pages[i])
			__free_page(io->pages[i]);
	kfree(io);
}

struct cb_meta_io *cb_meta_io_alloc(struct cb_device *dev)
{
	struct cb_meta_io *io = kzalloc(sizeof(*io), GFP_KERNEL);
	u32 i;

	if (!io)
		return NULL;
	refcount_set(&io->users, 1);
	io->dev = dev;
	for (i = 0; i < CB_RUN_BLOCKS; i++) {
		io->pages[i] = alloc_page(GFP_KERNEL);
		if (!io->pages[i]) {
			cb_meta_io_put(io);
			return NULL;
		}
	}
	return io;
}

void cb_meta_io_limit(struct cb_meta_io *io, unsigned long deadline)
{
	io->limited = true;
	io->deadline = deadline;
}

void cb_meta_io_free(struct cb_meta_io *io)
{
	if (io)
		cb_meta_io_put(io);
}

void cb_meta_end_io(struct bio *bio)
{
	struct cb_meta_io *io = bio->bi_private;
	struct cb_device *dev = io->dev;

	io->status = bio->bi_status;
	if (!bio->bi_status && io->lane == CB_LANE_COW && op_is_write(bio_op(bio)))
		WRITE_ONCE(dev->cow_slow, false);
	bio_put(bio);
	smp_store_release(&io->busy, false);
	complete(&io->done);
	cb_meta_io_put(io);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->meta_in_flight)) {
		wake_up_all(&dev->reads_wait);
		/* A write of somebody else may wait for it; see cb_engine_must_drain. */
		cb_engine_wake(dev);
	}
	rcu_read_unlock();
}

/* Begins one bio. sector counts from the start of bdev; the first pages hold the data. */
int cb_meta_io_start(struct cb_meta_io *io, struct block_device *bdev, unsigned int opf,
		     u64 sector, u32 count)
{
	struct bio *bio;
	u32 i;

	if (io->limited && time_after_eq(jiffies, io->deadline))
		return -ETIMEDOUT;
	/* One that was given up may still write into these pages. */
	if (smp_load_acquire(&io->busy))
		return -ETIMEDOUT;
	bio = cb_bio_alloc(bdev, max(count, 1u), opf, &io->dev->meta_bios);
	init_completion(&io->done);
	bio->bi_iter.bi_sector = sector;
	bio->bi_private = io;
	bio->bi_end_io = cb_meta_end_io;
	for (i = 0; i < count; i++)
		WARN_ON_ONCE(bio_add_page(bio, io->pages[i], CB_BLOCK_BYTES, 0) != CB_BLOCK_BYTES);
	io->busy = true;
	refcount_inc(&io->users);
	atomic_inc(&io->dev->meta_in_flight);
	io->bio = bio;
	io->lane = bdev == io->dev->origin.bdev ? CB_LANE_ORIGIN : CB_LANE_COW;
	cb_lane_add(io->dev, io->lane, bio);
	return 0;
}

/* What has not reached the disk need not, and must not later. */
static void cb_meta_io_cancel(struct cb_meta_io *io)
{
	if (!cb_lane_cancel(io->dev, io->lane, io->bio, io))
		return;
	io->bio->bi_status = BLK_STS_TIMEOUT;
	bio_endio(io->bio);
}

/* Waits for the bio that was begun last. */
static int cb_meta_io_wait(struct cb_meta_io *io)
{
	unsigned long limit = io->limited ? cb_time_left(io->deadline) : CB_META_TIMEOUT;

	if (wait_for_completion_io_timeout(&io->done, limit))
		return blk_status_to_errno(io->status);
	cb_meta_io_cancel(io);
	return -ETIMEDOUT;
}

int cb_meta_io_run(struct cb_meta_io *io, struct block_device *bdev, unsigned int opf, u64 sector,
		   u32 count)
{
	int ret = cb_meta_io_start(io, bdev, opf, sector, count);

	return ret ?: cb_meta_io_wait(io);
}

/* ---- several of them --------------------------------------------------- */

struct cb_meta_pool *cb_meta_pool_alloc(struct cb_device *dev)
{
	struct cb_meta_pool *pool = kzalloc(sizeof(*pool), GFP_KERNEL);

	if (!pool)
		return NULL;
	pool->dev = dev;
	pool->looker = cb_meta_io_alloc(dev);
	/* Some of them will do where there is little memory. */
	while (pool->looker && pool->ios < CB_META_IOS) {
		pool->io[pool->ios] = cb_meta_io_alloc(dev);
		if (!pool->io[pool->ios])
			break;
		pool->ios++;
	}
	if (pool->ios)
		return pool;
	cb_meta_pool_free(pool);
	return NULL;
}

void cb_meta_pool_free(struct cb_meta_pool *pool)
{
	u32 i;

	if (!pool)
		return;
	for (i = 0; i < pool->ios; i++)
		cb_meta_io_free(pool->io[i]);
	cb_meta_io_free(pool->looker);
	kfree(pool);
}

void cb_meta_pool_limit(struct cb_meta_pool *pool, unsigned long deadline)
{
	u32 i;

	for (i = 0; i < pool->ios; i++)
		cb_meta_io_limit(pool->io[i], deadline);
	cb_meta_io_limit(pool->looker, deadline);
}

struct cb_meta_io *cb_meta_pool_single(struct cb_meta_pool *pool)
{
	return pool->looker;
}

u32 cb_meta_pool_next(const struct cb_meta_pool *pool)
{
	return (pool->oldest + pool->flying) % pool->ios;
}

/* Those under way are given up: they own their pages until they end. */
void cb_meta_pool_abandon(struct cb_meta_pool *pool)
{
	u32 i;

	for (i = 0; i < pool->flying; i++)
		cb_meta_io_cancel(pool->io[(pool->oldest + i) % pool->ios]);
	pool->oldest = cb_meta_pool_next(pool);
	pool->flying = 0;
}

/* Waits for the one that was begun first. */
int cb_meta_pool_wait(struct cb_meta_pool *pool)
{
	struct cb_meta_io *io = pool->io[pool->oldest];

	pool->oldest = (pool->oldest + 1) % pool->ios;
	pool->flying--;
	return cb_meta_io_wait(io);
}
