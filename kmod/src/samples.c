// SPDX-License-Identifier: GPL-2.0-only
/*
 * Samples of the origin, by which a reload sees what others have written meanwhile.
 *
 * The module's own blocks are not among them: it goes on to write there. Nor is what was
 * discarded, which may read as anything from then on.
 */
#include <linux/major.h>
#include <linux/slab.h>

#include "metaio.h"

/* ---- what was written last --------------------------------------------- */

void cb_written_init(struct cb_written *written)
{
	u32 i;

	atomic_set(&written->next, 0);
	for (i = 0; i < CB_SAMPLES_LAST; i++)
		written->last[i] = CB_NO_BLOCK;
}

static void cb_written_add(struct cb_written *written, u64 block)
{
	u32 next = (u32)atomic_read(&written->next);

	/* Who rewrites a block takes one place. */
	if (READ_ONCE(written->last[(next - 1) % CB_SAMPLES_LAST]) == block)
		return;
	next = (u32)atomic_fetch_inc(&written->next);
	WRITE_ONCE(written->last[next % CB_SAMPLES_LAST], block);
}

static void cb_written_forget(struct cb_written *written, u64 first, u64 last)
{
	u32 i;

	for (i = 0; i < CB_SAMPLES_LAST; i++) {
		u64 block = READ_ONCE(written->last[i]);

		if (block >= first && block <= last)
			WRITE_ONCE(written->last[i], CB_NO_BLOCK);
	}
}

void cb_written_note(struct cb_device *dev, const struct bio *bio, u64 first, u64 last)
{
	if (bio_op(bio) == REQ_OP_DISCARD || bio_op(bio) == REQ_OP_SECURE_ERASE) {
		cb_written_forget(&dev->written, first, last);
		return;
	}
	cb_written_add(&dev->written, first);
	if (last != first)
		cb_written_add(&dev->written, last);
}

void cb_written_inherit(struct cb_device *dev, const struct cb_device *before)
{
	memcpy(dev->written.last, before->written.last, sizeof(dev->written.last));
	atomic_set(&dev->written.next, atomic_read(&before->written.next));
}

static void cb_written_list(const struct cb_written *written, u64 *blocks)
{
	u32 next = (u32)atomic_read(&written->next), i;

	for (i = 0; i < CB_SAMPLES_LAST; i++)
		blocks[i] = READ_ONCE(written->last[(next - 1 - i) % CB_SAMPLES_LAST]);
}

/* ---- reading ----------------------------------------------------------- */

/* sectors of 0 mark what was not read. */
static void cb_samples_read_done(struct cb_meta_pool *pool, struct cb_samples *samples, u32 which,
				 int error)
{
	struct cb_sample *sample = &samples->list[pool->at[which]];
	u32 i;

	sample->crc = 0;
	for (i = 0; !error && i < sample->sectors / CB_BLOCK_SECTORS; i++) {
		u8 *page = cb_kmap(pool->io[which]->pages[i]);

		sample->crc = cb_mutant(grub_sampled) ?
				      cb_crc32c_more(sample->crc, page, CB_BLOCK_BYTES) :
				      cb_sample_crc(sample->crc, page);
		cb_kunmap(page);
	}
	if (error)
		sample->sectors = 0;
}

static void cb_samples_read(struct cb_meta_pool *pool, struct cb_samples *samples,
			    unsigned long until)
{
	struct block_device *bdev = pool->dev->origin.bdev;
	u32 next = 0;

	while (next < samples->count || pool->flying) {
		u32 which = pool->oldest;

		if (next < samples->count && pool->flying < pool->ios) {
			struct cb_sample *sample = &samples->list[next];

			which = cb_meta_pool_next(pool);
			pool->at[which] = next++;
			if (time_after(jiffies, until) ||
			    cb_meta_io_start(pool->io[which], bdev, REQ_OP_READ | REQ_SYNC,
					     sample->sector, sample->sectors / CB_BLOCK_SECTORS))
				sample->sectors = 0;
			else
				pool->flying++;
			continue;
		}
		cb_samples_read_done(pool, samples, which, cb_meta_pool_wait(pool));
	}
}

/* ---- a clean save ------------------------------------------------------ */

/* Where we write ourselves, or where nobody may have: then the halves of a mirror differ. */
static bool cb_samples_leaves_out(void *context, u64 sector, u32 sectors)
{
	struct cb_device *dev = context;
	bool own;

	if (dev->origin_disk->major == MD_MAJOR && sector + sectors == dev->geom.sectors)
		return true;
	if (!dev->cow_on_origin)
		return false;
	sector += dev->geom.start;
	rcu_read_lock();
	own = cb_extents_touch(&dev->extents, sector, sectors) ||
	      cb_annex_touch(dev, sector, sectors);
	rcu_read_unlock();
	return own;
}

static void cb_samples_drop_unread(struct cb_samples *samples)
{
	u32 i, kept = 0;

	for (i = 0; i < samples->count; i++)
		if (samples->list[i].sectors)
			samples->list[kept++] = samples->list[i];
	samples->count = kept;
}

void cb_samples_take(struct cb_samples_work *work, unsigned long until)
{
	struct cb_device *dev = work->pool->dev;
	struct cb_samples_of of = {
		.origin_sectors = dev->geom.sectors,
		.written = work->written,
		.written_count = CB_SAMPLES_LAST,
		.head = work->head,
		.head_bytes = CB_HEAD_BYTES,
		.own = cb_samples_leaves_out,
		.context = dev,
	};

	cb_written_list(&dev->written, work->written);
	cb_samples_choose(&work->samples, &of);
	/* A place that cannot be read, or not for long, is left out, and keeps nobody waiting. */
	cb_meta_pool_limit(work->pool, until);
	cb_samples_read(work->pool, &work->samples, until);
	cb_samples_drop_unread(&work->samples);
}

int cb_samples_put(struct cb_meta_pool *pool, const struct cb_samples *samples)
{
	struct cb_device *dev = pool->dev;
	u64 sequence = dev->state_sequence + 1;
	struct page *page;
	u8 *slot;
	int ret = cb_meta_put(pool, CB_META_SAMPLES, sequence % CB_STATE_COPIES, dev->epoch,
			      sequence, &page);

	if (ret)
		return ret;
	slot = cb_kmap(page);
	cb_samples_encode(samples, slot + CB_PAYLOAD_AT);
	cb_kunmap(slot);
	return 0;
}

/* ---- a reload ---------------------------------------------------------- */

int cb_samples_compare(struct cb_meta_pool *pool, const struct cb_samples *then, u64 *sector)
{
	struct cb_samples *now = kmemdup(then, sizeof(*then), GFP_KERNEL);
	u32 i;
	int ret = 0;

	if (!now)
		return -ENOMEM;
	/* Each of them has the time limit of the pool. */
	cb_samples_read(pool, now, pool->looker->deadline);
	for (i = 0; !ret && i < then->count; i++) {
		*sector = then->list[i].sector;
		if (!now->list[i].sectors)
			ret = -EIO;
		else if (now->list[i].crc != then->list[i].crc)
			ret = -ESTALE;
	}
	kfree(now);
	for (i = then->count; !ret && i; i--)
		if (then->list[i - 1].sectors == CB_BLOCK_SECTORS)
			cb_written_add(&pool->dev->written,
				       then->list[i - 1].sector / CB_BLOCK_SECTORS);
	return ret;
}
