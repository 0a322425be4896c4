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
	bio_put(bio);
	smp_store_release(&io->busy, false);
	complete(&io->done);
	cb_meta_io_put(io);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->meta_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

/* sector counts from the start of bdev; the first pages hold the data. */
static int cb_meta_io_run(struct cb_meta_io *io, struct block_device *bdev, unsigned int opf,
			  u64 sector, u32 count)
{
	unsigned long limit = io->limited ? cb_time_left(io->deadline) : CB_META_TIMEOUT;
	enum cb_lane_kind lane;
	struct bio *bio;
	u32 i;

	if (io->limited && time_after_eq(jiffies, io->deadline))
		return -ETIMEDOUT;
	/* One that was given up may still write into these pages. */
	if (smp_load_acquire(&io->busy))
		return -ETIMEDOUT;
	bio = cb_bio_alloc(bdev, count, opf, &io->dev->run_bios);
	init_completion(&io->done);
	bio->bi_iter.bi_sector = sector;
	bio->bi_private = io;
	bio->bi_end_io = cb_meta_end_io;
	for (i = 0; i < count; i++)
		WARN_ON_ONCE(bio_add_page(bio, io->pages[i], CB_BLOCK_BYTES, 0) != CB_BLOCK_BYTES);
	io->busy = true;
	refcount_inc(&io->users);
	atomic_inc(&io->dev->meta_in_flight);
	lane = bdev == io->dev->origin.bdev ? CB_LANE_ORIGIN : CB_LANE_COW;
	cb_lane_add(io->dev, lane, bio);
	if (wait_for_completion_io_timeout(&io->done, limit))
		return blk_status_to_errno(io->status);
	/* What has not reached the disk need not, and must not later. */
	if (cb_lane_cancel(io->dev, lane, bio)) {
		bio->bi_status = BLK_STS_TIMEOUT;
		bio_endio(bio);
	}
	return -ETIMEDOUT;
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

int cb_meta_write(struct cb_meta_io *io, enum cb_meta_kind kind, u64 first, u64 count, u64 epoch,
		  u64 sequence, void (*fill)(struct cb_device *dev, u64 index, u8 *payload))
{
	struct cb_device *dev = io->dev;
	u64 slot = cb_layout_first(&dev->layout, kind) + first, end = first + count;

	while (first < end) {
		u64 sector, run;
		u32 n, i;
		int ret = cb_extents_slot(&dev->extents, slot, &sector, &run);

		if (ret)
			return ret;
		n = min3(run, end - first, (u64)CB_RUN_BLOCKS);
		if (READ_ONCE(dev->cow_gone))
			return -ESTALE;
		if (!READ_ONCE(dev->verified)) {
			ret = cb_meta_look(io, kind, first, n);
			if (ret)
				return ret;
		}
		for (i = 0; i < n; i++) {
			struct cb_meta meta = cb_meta_of(dev, kind, first + i, epoch, sequence);
			u8 *page = cb_kmap(io->pages[i]);

			memset(page, 0, CB_BLOCK_BYTES);
			if (fill)
				fill(dev, first + i, page + CB_PAYLOAD_AT);
			cb_meta_seal(&meta, page);
			cb_kunmap(page);
		}
		ret = cb_meta_io_run(io, dev->cow.bdev, REQ_OP_WRITE | REQ_SYNC,
				     sector - dev->cow_base, n);
		if (ret)
			return ret;
		first += n;
		slot += n;
	}
	return 0;
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

int cb_meta_write_state(struct cb_meta_io *io, const struct cb_state *state)
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
	struct cb_meta_io *io = cb_meta_io_alloc(dev);
	struct cb_state state = cb_meta_state(dev, CB_STATUS_DIRTY);
	int ret;

	if (!io)
		return -ENOMEM;
	ret = cb_meta_write(io, CB_META_EXTENTS, 0, layout->extent_slots, dev->epoch, 0,
			    cb_meta_fill_extents);
	if (!ret)
		ret = cb_meta_write(io, CB_META_STATE, 0, CB_STATE_COPIES, dev->epoch, 0,
				    cb_meta_fill_state);
	/* Of epoch 0: they hold nothing of any epoch. */
	if (!ret)
		ret = cb_meta_write(io, CB_META_REGIONS, 0, CB_AREAS * layout->region_slots, 0, 0,
				    NULL);
	if (!ret)
		ret = cb_meta_write(io, CB_META_FINE, 0, CB_AREAS * layout->fine_slots, 0, 0, NULL);
	if (!ret)
		ret = cb_meta_write(io, CB_META_INDEX, 0, layout->index_slots, 0, 0, NULL);
	/* Flushes what was written before. */
	if (!ret)
		ret = cb_meta_write_state(io, &state);
	cb_meta_io_free(io);
	return ret;
}
