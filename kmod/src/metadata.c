// SPDX-License-Identifier: GPL-2.0-only
/*
 * Metadata that somebody waits for: all of it when a COW file is made, maps and
 * index when a snapshot is saved, and everything when it is taken up again. Its
 * bios, and how long they are waited for, are in metaio.c.
 */
#include "metaio.h"

static_assert(CB_SCAN_RUN == CB_RUN_BLOCKS, "what is asked for at once fits one bio");

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

int cb_meta_head_crc(struct cb_meta_io *io, u32 *crc, u8 *copy)
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
		if (copy)
			memcpy(copy + i * CB_BLOCK_BYTES, page, CB_BLOCK_BYTES);
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
		ret = cb_meta_write(pool, CB_META_SAMPLES, 0, CB_STATE_COPIES, 0, 0, NULL);
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
