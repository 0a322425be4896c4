// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module's own bios: loads of T0 content from the origin, stores into the
 * COW file's extents, and the epoch header. They never pass through a
 * filesystem or the page cache.
 */
#include <linux/slab.h>

#include "cowbird.h"

static void cb_run_end_io(struct bio *bio)
{
	struct cb_run *run = bio->bi_private;
	struct cb_device *dev = run->dev;

	run->status = bio->bi_status;
	bio_put(bio);
	/*
	 * Once the run is on the list the engine may finish and the snapshot
	 * be destroyed; cb_device_free waits for this read section.
	 */
	rcu_read_lock();
	/* Whoever found the list empty wakes the engine, which then takes all of it. */
	if (llist_add(&run->done, &dev->done))
		cb_engine_wake(dev);
	rcu_read_unlock();
}

static struct cb_entry *cb_run_first(struct cb_run *run)
{
	return list_first_entry(&run->entries, struct cb_entry, list);
}

/* Bytes of an entry's page that the run's bio carries. A short last block leaves the rest zero. */
static u32 cb_run_page_bytes(const struct cb_run *run, const struct cb_entry *entry)
{
	u32 bytes = cb_geom_block_sectors(&run->dev->geom, entry->block) << SECTOR_SHIFT;
	void *page;

	if (run->store)
		return CB_BLOCK_BYTES;
	if (cb_mutant(lose_last_sector) && run->count == 1 && bytes == CB_BLOCK_BYTES)
		return bytes - SECTOR_SIZE;
	if (bytes < CB_BLOCK_BYTES) {
		page = cb_kmap(entry->page);
		memset(page + bytes, 0, CB_BLOCK_BYTES - bytes);
		cb_kunmap(page);
	}
	return bytes;
}

/* Pages that follow each other in memory are one segment. */
static void cb_run_add_pages(struct cb_run *run, struct bio *bio)
{
	struct page *first = NULL;
	struct cb_entry *entry;
	u32 bytes = 0;

	list_for_each_entry(entry, &run->entries, list) {
		if (first && entry->page != first + (bytes >> PAGE_SHIFT)) {
			/* Cannot fail: the bio was allocated for so many pages. */
			WARN_ON_ONCE(bio_add_page(bio, first, bytes, 0) != bytes);
			first = NULL;
		}
		if (!first) {
			first = entry->page;
			bytes = 0;
		}
		bytes += cb_run_page_bytes(run, entry);
	}
	WARN_ON_ONCE(bio_add_page(bio, first, bytes, 0) != bytes);
}

static struct bio *cb_run_bio(struct cb_run *run, struct block_device *bdev, unsigned int opf,
			      u64 sector)
{
	struct bio *bio = cb_bio_alloc(bdev, run->count, opf, &run->dev->run_bios);

	bio->bi_iter.bi_sector = sector;
	bio->bi_private = run;
	bio->bi_end_io = cb_run_end_io;
	cb_run_add_pages(run, bio);
	return bio;
}

void cb_run_submit_load(struct cb_run *run)
{
	struct cb_device *dev = run->dev;
	/* The origin's own device: sectors count from the origin's start. */
	u64 sector = cb_run_first(run)->block << CB_BLOCK_SECTOR_SHIFT;

	if (cb_mutant(shift_preserved_copy) &&
	    cb_run_first(run)->block + run->count + 1 < dev->block_count)
		sector += CB_BLOCK_SECTORS;
	cb_lane_add(dev, CB_LANE_ORIGIN,
		    cb_run_bio(run, dev->origin.bdev, REQ_OP_READ | REQ_SYNC, sector));
}

/* Faults: blocks are stored where they do not belong. */
static void cb_mutant_bend_store(const struct cb_run *run, u64 *sector, u64 contiguous)
{
	const struct cb_device *dev = run->dev;

	if (cb_mutant(shift_stored_copy) && contiguous > run->count)
		*sector += CB_BLOCK_SECTORS;
	if (cb_mutant(cow_base_forgotten) &&
	    *sector + run->count * CB_BLOCK_SECTORS <= cb_bdev_sectors(dev->cow.bdev))
		*sector += dev->cow_base;
}

void cb_run_submit_store(struct cb_run *run)
{
	struct cb_device *dev = run->dev;
	u64 sector, contiguous;

	/* Slots come from the engine and exist; see cb_engine_fill_store. */
	if (WARN_ON_ONCE(cb_data_slot(dev, cb_run_first(run)->slot, &sector, &contiguous) ||
			 contiguous < run->count)) {
		run->status = BLK_STS_IOERR;
		llist_add(&run->done, &dev->done);
		return;
	}
	cb_mutant_bend_store(run, &sector, contiguous);
	cb_lane_add(dev, CB_LANE_COW,
		    cb_run_bio(run, dev->cow.bdev, REQ_OP_WRITE | REQ_SYNC,
			       sector - dev->cow_base));
}

int cb_cow_sector(struct cb_device *dev, u64 slot, u64 *sector)
{
	u64 run;
	int ret = cb_extents_slot(&dev->extents, slot, sector, &run);

	*sector -= dev->cow_base;
	return ret;
}

static void cb_header_end_io(struct bio *bio)
{
	struct cb_device *dev = bio->bi_private;

	dev->header_status = bio->bi_status;
	bio_put(bio);
	complete(&dev->header_done);
}

/*
 * Whether a write is the module's own, by who is told of its end. Most own
 * writes pass the hook for being submitted from here; one that a stacked driver
 * puts off comes back from there as the same bio: device-mapper does so with
 * every write that begins with a flush, and with all while a table is replaced.
 */
bool cb_bio_is_own(const struct bio *bio)
{
	if (cb_mutant(own_writes_foreign))
		return false;
	return bio->bi_end_io == cb_run_end_io || bio->bi_end_io == cb_header_end_io ||
	       bio->bi_end_io == cb_mark_end_io || bio->bi_end_io == cb_meta_end_io;
}

int cb_header_prepare(struct cb_device *dev)
{
	struct cb_header header = {
		.epoch = dev->epoch,
		.before_epoch = dev->before_epoch,
		.origin_start = dev->geom.start,
		.origin_sectors = dev->geom.sectors,
		.cow_slots = dev->extents.slots,
		.data_first = dev->layout.data_first,
		.extent_count = dev->extents.count,
		.region_shift = dev->layout.region_shift,
		.flags = CB_HEADER_SUMS | (dev->cow_on_origin ? CB_HEADER_COW_ON_ORIGIN : 0),
	};
	void *address;
	u64 run;
	int ret;

	ret = cb_extents_slot(&dev->extents, 0, &header.sector, &run);
	if (!ret)
		ret = cb_extents_slot(&dev->extents, dev->layout.extents_first,
				      &header.extents_sector, &run);
	if (ret)
		return ret;

	init_completion(&dev->header_done);
	dev->header_page = alloc_page(GFP_KERNEL);
	if (!dev->header_page)
		return -ENOMEM;
	memcpy(header.uuid, dev->uuid, sizeof(header.uuid));
	address = cb_kmap(dev->header_page);
	cb_header_encode(&header, address);
	cb_kunmap(address);
	return 0;
}

int cb_header_wait(struct cb_device *dev, unsigned long timeout_jiffies)
{
	if (!dev->header_bio)
		return 0;
	if (!wait_for_completion_io_timeout(&dev->header_done, timeout_jiffies))
		return -ETIMEDOUT;
	dev->header_bio = NULL;
	return 0;
}

int cb_header_write(struct cb_device *dev, unsigned long timeout_jiffies)
{
	struct bio *bio;
	u64 sector;
	int ret;

	ret = cb_cow_sector(dev, 0, &sector);
	if (ret)
		return ret;
	if (READ_ONCE(dev->cow_gone))
		return -ESTALE;
	/* One that was given up still has the page. */
	if (dev->header_bio)
		return -ETIMEDOUT;
	reinit_completion(&dev->header_done);
	bio = cb_bio_alloc(dev->cow.bdev, 1, REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH | REQ_FUA,
			   &dev->meta_bios);
	bio->bi_iter.bi_sector = sector;
	bio->bi_private = dev;
	bio->bi_end_io = cb_header_end_io;
	WARN_ON_ONCE(bio_add_page(bio, dev->header_page, CB_BLOCK_BYTES, 0) != CB_BLOCK_BYTES);
	dev->header_bio = bio;
	cb_lane_add(dev, CB_LANE_COW, bio);
	ret = cb_header_wait(dev, timeout_jiffies);
	/* What has not reached the disk need not, and must not later. */
	if (ret && cb_lane_cancel(dev, CB_LANE_COW, bio, dev)) {
		bio_put(bio);
		dev->header_bio = NULL;
		return ret;
	}
	dev->header_sent = true;
	return ret ?: blk_status_to_errno(dev->header_status);
}

void cb_header_free(struct cb_device *dev)
{
	if (dev->header_page)
		__free_page(dev->header_page);
}
