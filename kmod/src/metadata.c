// SPDX-License-Identifier: GPL-2.0-only
/*
 * Metadata that somebody waits for: all of it when a COW file is made, maps and
 * index when a snapshot is saved, and everything when it is taken up again.
 *
 * Each wait has a limit, because writes to the origin may be held meanwhile. A bio
 * that was given up owns its pages until it ends.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "cowbird.h"

/* Longest time that one of these bios is waited for where nobody has set a limit. */
#define CB_META_TIMEOUT (10 * HZ)

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
static int cb_meta_io_start(struct cb_meta_io *io, struct block_device *bdev, unsigned int opf,
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

static int cb_meta_io_run(struct cb_meta_io *io, struct block_device *bdev, unsigned int opf,
			  u64 sector, u32 count)
{
	int ret = cb_meta_io_start(io, bdev, opf, sector, count);

	return ret ?: cb_meta_io_wait(io);
}

/* ---- several of them --------------------------------------------------- */

/* Bios under way at once: at 1 ms each, they bring or take 2 GiB in a second. */
#define CB_META_IOS 8

static_assert(CB_SCAN_RUN == CB_RUN_BLOCKS, "what is asked for at once fits one bio");

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

static u32 cb_meta_pool_next(const struct cb_meta_pool *pool)
{
	return (pool->oldest + pool->flying) % pool->ios;
}

/* Those under way are given up: they own their pages until they end. */
static void cb_meta_pool_abandon(struct cb_meta_pool *pool)
{
	u32 i;

	for (i = 0; i < pool->flying; i++)
		cb_meta_io_cancel(pool->io[(pool->oldest + i) % pool->ios]);
	pool->oldest = cb_meta_pool_next(pool);
	pool->flying = 0;
}

/* Waits for the one that was begun first. */
static int cb_meta_pool_wait(struct cb_meta_pool *pool)
{
	struct cb_meta_io *io = pool->io[pool->oldest];

	pool->oldest = (pool->oldest + 1) % pool->ios;
	pool->flying--;
	return cb_meta_io_wait(io);
}

/* ---- reading ----------------------------------------------------------- */

int cb_meta_read(struct cb_meta_io *io, u64 sector, u8 *slot)
{
	struct cb_device *dev = io->dev;
	void *page;
	int ret;

	if (sector < dev->cow_base ||
	    sector - dev->cow_base > cb_bdev_sectors(dev->cow.bdev) - CB_BLOCK_SECTORS)
		return -ERANGE;
	ret = cb_meta_io_run(io, dev->cow.bdev, REQ_OP_READ | REQ_SYNC, sector - dev->cow_base, 1);
	if (ret)
		return ret;
	page = cb_kmap(io->pages[0]);
	memcpy(slot, page, CB_BLOCK_BYTES);
	cb_kunmap(page);
	return 0;
}

/* Begins the next read of a scan; false at its end. */
static bool cb_meta_scan_start(struct cb_meta_pool *pool, struct cb_reload *reload,
			       struct cb_scan *scan, int *error)
{
	struct cb_device *dev = pool->dev;
	u32 next = cb_meta_pool_next(pool);
	u64 sector, end;

	pool->count[next] = cb_scan_next(reload, scan, &pool->at[next], &sector);
	if (!pool->count[next])
		return false;
	end = sector + (u64)pool->count[next] * CB_BLOCK_SECTORS;
	if (sector < dev->cow_base || end - dev->cow_base > cb_bdev_sectors(dev->cow.bdev))
		*error = -ERANGE;
	else
		*error = cb_meta_io_start(pool->io[next], dev->cow.bdev, REQ_OP_READ | REQ_SYNC,
					  sector - dev->cow_base, pool->count[next]);
	return true;
}

static int cb_meta_scan_take(struct cb_meta_pool *pool, struct cb_reload *reload,
			     struct cb_scan *scan, u32 which, int error)
{
	u32 i;
	int ret = 0;

	for (i = 0; !ret && i < pool->count[which]; i++) {
		u8 *page = cb_kmap(pool->io[which]->pages[i]);

		ret = cb_scan_take(reload, scan, pool->at[which] + i, page, error);
		cb_kunmap(page);
	}
	cond_resched();
	return ret;
}

int cb_meta_scan(void *context, struct cb_reload *reload, struct cb_scan *scan)
{
	struct cb_meta_pool *pool = context;
	bool more = true;
	int ret = 0;

	while (!ret && (more || pool->flying)) {
		u32 which = pool->oldest;
		int error = 0;

		if (more && pool->flying < pool->ios) {
			u32 next = cb_meta_pool_next(pool);

			more = cb_meta_scan_start(pool, reload, scan, &error);
			if (more && error)
				ret = cb_meta_scan_take(pool, reload, scan, next, error);
			else if (more)
				pool->flying++;
			continue;
		}
		error = cb_meta_pool_wait(pool);
		ret = cb_meta_scan_take(pool, reload, scan, which, error);
	}
	cb_meta_pool_abandon(pool);
	return ret;
}

int cb_meta_head_crc(struct cb_meta_io *io, u32 *crc)
{
	struct cb_device *dev = io->dev;
	u32 bytes = min_t(u64, dev->geom.sectors << SECTOR_SHIFT, CB_HEAD_BYTES);
	u32 blocks = bytes / CB_BLOCK_BYTES, i;
	int ret;

	*crc = 0;
	if (!blocks)
		return 0;
	ret = cb_meta_io_run(io, dev->origin.bdev, REQ_OP_READ | REQ_SYNC, 0, blocks);
	for (i = 0; i < blocks && !ret; i++) {
		u8 *page = cb_kmap(io->pages[i]);

		*crc = cb_crc32c_more(*crc, page, CB_BLOCK_BYTES);
		cb_kunmap(page);
	}
	return ret;
}

/* ---- writing ----------------------------------------------------------- */

struct cb_meta cb_meta_of(struct cb_device *dev, enum cb_meta_kind kind, u64 index, u64 epoch,
			  u64 sequence)
{
	struct cb_meta meta = {
		.kind = kind, .index = index, .epoch = epoch, .sequence = sequence,
	};
	u64 run;

	memcpy(meta.uuid, dev->uuid, sizeof(meta.uuid));
	/* The layout was made for these extents. */
	WARN_ON_ONCE(cb_extents_slot(&dev->extents, cb_layout_first(&dev->layout, kind) + index,
				     &meta.sector, &run));
	return meta;
}

/* Whether the slots from an index on are still where they belong. */
static int cb_meta_look(struct cb_meta_io *io, enum cb_meta_kind kind, u64 index, u32 count)
{
	struct cb_device *dev = io->dev;
	struct cb_meta first = cb_meta_of(dev, kind, index, 0, 0);
	u32 i;
	int ret = cb_meta_io_run(io, dev->cow.bdev, REQ_OP_READ | REQ_SYNC,
				 first.sector - dev->cow_base, count);

	for (i = 0; i < count && !ret; i++) {
		struct cb_meta expected = cb_meta_of(dev, kind, index + i, 0, 0), found = {};
		void *page = cb_kmap(io->pages[i]);

		if (cb_meta_open(&found, page) == -ENOENT || !cb_meta_same_place(&found, &expected))
			ret = -ESTALE;
		cb_kunmap(page);
	}
	return ret;
}

/* Writes the one in the making. */
static int cb_meta_pool_close(struct cb_meta_pool *pool)
{
	struct cb_device *dev = pool->dev;
	u32 next = cb_meta_pool_next(pool), count = pool->count[next], i;
	struct cb_meta_io *io = pool->io[next];
	int ret = 0;

	if (!pool->open_run)
		return 0;
	pool->open_run = 0;
	if (READ_ONCE(dev->cow_gone))
		return -ESTALE;
	if (!READ_ONCE(dev->verified))
		ret = cb_meta_look(pool->looker, pool->open.kind, pool->open.index, count);
	if (ret)
		return ret;
	for (i = 0; i < count; i++) {
		struct cb_meta meta = cb_meta_of(dev, pool->open.kind, pool->open.index + i,
						 pool->open.epoch, pool->open.sequence);
		u8 *page = cb_kmap(io->pages[i]);

		cb_meta_seal(&meta, page);
		cb_kunmap(page);
	}
	ret = cb_meta_io_start(io, dev->cow.bdev, REQ_OP_WRITE | REQ_SYNC,
			       pool->open.sector - dev->cow_base, count);
	if (!ret)
		pool->flying++;
	cond_resched();
	return ret;
}

/* Begins to make one that starts with this slot. */
static int cb_meta_pool_open(struct cb_meta_pool *pool, const struct cb_meta *meta, u64 run)
{
	int ret = cb_meta_pool_close(pool);

	if (!ret && pool->flying == pool->ios)
		ret = cb_meta_pool_wait(pool);
	if (ret)
		return ret;
	pool->open = *meta;
	pool->open_run = min_t(u64, run, CB_RUN_BLOCKS);
	pool->count[cb_meta_pool_next(pool)] = 0;
	return 0;
}

int cb_meta_put(struct cb_meta_pool *pool, enum cb_meta_kind kind, u64 index, u64 epoch,
		u64 sequence, struct page **page)
{
	struct cb_meta meta = { .kind = kind, .index = index, .epoch = epoch, .sequence = sequence };
	u64 slot = cb_layout_first(&pool->dev->layout, kind) + index, run;
	u32 next = cb_meta_pool_next(pool);
	int ret = cb_extents_slot(&pool->dev->extents, slot, &meta.sector, &run);

	if (!ret && (!pool->open_run || pool->count[next] == pool->open_run ||
		     kind != pool->open.kind || index != pool->open.index + pool->count[next] ||
		     epoch != pool->open.epoch || sequence != pool->open.sequence))
		ret = cb_meta_pool_open(pool, &meta, run);
	if (ret)
		return ret;
	next = cb_meta_pool_next(pool);
	*page = pool->io[next]->pages[pool->count[next]++];
	clear_highpage(*page);
	return 0;
}

int cb_meta_flush(struct cb_meta_pool *pool)
{
	int ret = cb_meta_pool_close(pool);

	/* Where one did not end in time, nobody waits for the others. */
	while (pool->flying && ret != -ETIMEDOUT) {
		int error = cb_meta_pool_wait(pool);

		ret = ret ?: error;
	}
	cb_meta_pool_abandon(pool);
	return ret;
}

int cb_meta_sync(struct cb_meta_pool *pool)
{
	return cb_meta_io_run(pool->looker, pool->dev->cow.bdev,
			      REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH, 0, 0);
}

int cb_meta_sync_origin(struct cb_meta_io *io)
{
	if (io->dev->cow_on_origin || cb_mutant(origin_unflushed))
		return 0;
	return cb_meta_io_run(io, io->dev->origin.bdev, REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH, 0,
			      0);
}

int cb_meta_write(struct cb_meta_pool *pool, enum cb_meta_kind kind, u64 first, u64 count,
		  u64 epoch, u64 sequence,
		  void (*fill)(struct cb_device *dev, u64 index, u8 *payload))
{
	u64 end = first + count;
	int ret = 0;

	for (; !ret && first < end; first++) {
		struct page *page;
		u8 *slot;

		ret = cb_meta_put(pool, kind, first, epoch, sequence, &page);
		if (ret || !fill)
			continue;
		slot = cb_kmap(page);
		fill(pool->dev, first, slot + CB_PAYLOAD_AT);
		cb_kunmap(slot);
	}
	return ret;
}

struct cb_state cb_meta_state(struct cb_device *dev, enum cb_status status)
{
	struct cb_state state = {
		.status = status,
		.mode = cb_phase_of(dev) == CB_PHASE_TRACKING ? CB_MODE_INCREMENTAL :
								CB_MODE_SNAPSHOT,
		.tracked_from = dev->tracked_from,
	};

	memcpy(state.boot_id, dev->boot_id, sizeof(state.boot_id));
	return state;
}

int cb_meta_write_state(struct cb_meta_io *io, const struct cb_state *state,
			const struct cb_groups *groups)
{
	struct cb_device *dev = io->dev;
	u64 sequence = dev->state_sequence + 1, index = sequence % CB_STATE_COPIES;
	struct cb_meta meta = cb_meta_of(dev, CB_META_STATE, index, dev->epoch, sequence);
	u8 *page;
	int ret = 0;

	if (READ_ONCE(dev->cow_gone))
		return -ESTALE;
	if (!READ_ONCE(dev->verified))
		ret = cb_meta_look(io, CB_META_STATE, index, 1);
	if (ret)
		return ret;
	page = cb_kmap(io->pages[0]);
	memset(page, 0, CB_BLOCK_BYTES);
	cb_state_encode(state, page + CB_PAYLOAD_AT);
	if (groups)
		memcpy(page + CB_PAYLOAD_AT + CB_GROUPS_AT, groups, sizeof(*groups));
	cb_meta_seal(&meta, page);
	cb_kunmap(page);
	/* Even if this fails it may have reached the disk. */
	dev->state_sequence = sequence;
	dev->state_status = state->status;
	return cb_meta_io_run(io, dev->cow.bdev,
			      REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH | REQ_FUA,
			      meta.sector - dev->cow_base, 1);
}

/* ---- a new COW file ---------------------------------------------------- */

static void cb_meta_fill_extents(struct cb_device *dev, u64 index, u8 *payload)
{
	u64 at = index * CB_PAYLOAD_EXTENTS;
	u32 i;

	for (i = 0; i < CB_PAYLOAD_EXTENTS && at + i < dev->extents.count; i++) {
		const struct cb_extent *piece = &dev->extents.list[at + i];
		__le64 pair[2] = { cpu_to_le64(piece->sector), cpu_to_le64(piece->slots) };

		memcpy(payload + i * sizeof(pair), pair, sizeof(pair));
	}
}

static void cb_meta_fill_state(struct cb_device *dev, u64 index, u8 *payload)
{
	struct cb_state state = cb_meta_state(dev, CB_STATUS_DIRTY);

	cb_state_encode(&state, payload);
}

int cb_meta_format(struct cb_device *dev)
{
	const struct cb_layout *layout = &dev->layout;
	struct cb_meta_pool *pool = cb_meta_pool_alloc(dev);
	struct cb_state state = cb_meta_state(dev, CB_STATUS_DIRTY);
	int ret, error;

	if (!pool)
		return -ENOMEM;
	ret = cb_meta_write(pool, CB_META_EXTENTS, 0, layout->extent_slots, dev->epoch, 0,
			    cb_meta_fill_extents);
	if (!ret)
		ret = cb_meta_write(pool, CB_META_STATE, 0, CB_STATE_COPIES, dev->epoch, 0,
				    cb_meta_fill_state);
	/*
	 * Of epoch 0: they hold nothing of any epoch. All are written, because later on
	 * a slot of a file that is not verified is written only where one of ours is.
	 */
	if (!ret)
		ret = cb_meta_write(pool, CB_META_REGIONS, 0, CB_AREAS * layout->region_slots, 0,
				    0, NULL);
	if (!ret)
		ret = cb_meta_write(pool, CB_META_FINE, 0, CB_AREAS * layout->fine_slots, 0, 0,
				    NULL);
	if (!ret)
		ret = cb_meta_write(pool, CB_META_INDEX, 0, layout->index_slots, 0, 0, NULL);
	error = cb_meta_flush(pool);
	ret = ret ?: error;
	/* Flushes what was written before. */
	if (!ret)
		ret = cb_meta_write_state(pool->looker, &state, NULL);
	cb_meta_pool_free(pool);
	return ret;
}
