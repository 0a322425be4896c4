/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The module's own bios. One carries blocks that follow each other, from the origin to
 * memory or from there to the COW file (blockio.c, which also writes the epoch header);
 * lanes submit it, so that whoever wants it submitted does not sleep in a disk (lanes.c).
 */
#ifndef COWBIRD_COWIO_H
#define COWBIRD_COWIO_H

#include <linux/bio.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/workqueue.h>

struct cb_device;

/* Blocks in one bio of the module's own: 256 KiB. */
#define CB_RUN_BLOCKS 64
/* The module's own loads and stores in flight per snapshot. */
#define CB_RUNS 128

/* One bio of the engine's own and the blocks that it carries. */
struct cb_run {
	struct llist_node done; /* in cb_device.done after completion */
	struct list_head free; /* engine */
	struct list_head entries; /* engine: struct cb_entry, ascending blocks */
	struct cb_device *dev;
	u32 count;
	bool store; /* to the COW file, else from the origin */
	blk_status_t status;
};

/* ---- blockio.c --------------------------------------------------------- */

/* Where a slot of the COW file lies on dev->cow. */
int cb_cow_sector(struct cb_device *dev, u64 slot, u64 *sector);

/* Starts a run's I/O; its completion puts it on cb_device.done. */
void cb_run_submit_load(struct cb_run *run);
void cb_run_submit_store(struct cb_run *run);
bool cb_bio_is_own(const struct bio *bio);

int cb_header_prepare(struct cb_device *dev);

/*
 * Writes the epoch header with FUA, and waits at most so long: origin writes
 * are held meanwhile, and a COW disk that hangs must not make the origin hang.
 * After -ETIMEDOUT the write is still under way; cb_header_free waits for it,
 * when nothing is held any more.
 */
int cb_header_write(struct cb_device *dev, unsigned long timeout_jiffies);
/* Waits for a header that is under way; -ETIMEDOUT past so much time. */
int cb_header_wait(struct cb_device *dev, unsigned long timeout_jiffies);
void cb_header_free(struct cb_device *dev);

/* ---- lanes.c ----------------------------------------------------------- */

/* Lanes to submit on; see lanes.c. */
#define CB_LANES_RELEASE 8
enum cb_lane_kind {
	CB_LANE_ORIGIN,
	CB_LANE_COW,
	CB_LANE_RELEASE, /* and those behind it */
	CB_LANES = CB_LANE_RELEASE + CB_LANES_RELEASE,
};

/*
 * One for each lane up to the first that releases, one for those behind it: a lane that
 * sleeps in its disk must not be in the way where memory is short.
 */
#define CB_LANE_QUEUES (CB_LANE_RELEASE + 2)

struct cb_lane {
	spinlock_t lock;
	struct bio_list bios; /* lock */
	bool busy; /* lock, read anywhere: it has bios, or its work has not sent off the last ones */
	const void *group; /* lock, read anywhere: whose bios these are, while it is busy */
	atomic_t waiting; /* held writes on it, and the one being submitted */
	struct work_struct work;
	struct cb_device *dev;
};

int cb_lanes_init(struct cb_device *dev);
/* Waits for the last bio to be submitted. Safe when there are none. */
void cb_lanes_free(struct cb_device *dev);
/* Submits a bio of our own, later. Never sleeps. */
void cb_lane_add(struct cb_device *dev, enum cb_lane_kind kind, struct bio *bio);
/* As cb_hook_release and then cb_engine_released, later. One caller at a time: the engine. */
void cb_lane_release(struct cb_device *dev, struct bio *bio);
/* The group of a bio, only to be compared; NULL for the root group. */
const void *cb_lane_group(const struct bio *bio);
/* Held writes that the next one of this group will wait for on its lane. Takes no lock. */
u32 cb_lane_backlog(struct cb_device *dev, const void *group);
/*
 * Takes a bio back; false where it has been submitted already. It may have ended, and its
 * memory be another bio's: owner is its bi_private, by which it is known.
 */
bool cb_lane_cancel(struct cb_device *dev, enum cb_lane_kind kind, struct bio *bio,
		    const void *owner);

#endif
