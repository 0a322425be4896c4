/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the COW file is told on stable storage before a write goes: that its region changes
 * (marking.c), or that tracking is lost (losing.c).
 */
#ifndef COWBIRD_MARKING_H
#define COWBIRD_MARKING_H

#include <linux/bio.h>
#include <linux/jiffies.h>
#include <linux/llist.h>
#include <linux/types.h>

struct cb_device;

/* ---- marking.c --------------------------------------------------------- */

/* One write of a metadata slot by the engine. */
struct cb_mark {
	struct llist_node done; /* in cb_device.marks_done after completion */
	struct cb_device *dev;
	struct page *page;
	u32 index; /* slot of the region map, or copy of the state */
	bool in_flight; /* engine */
	bool looks; /* engine: what is under way reads what is to be overwritten */
	blk_status_t status;
};

int cb_marking_init(struct cb_device *dev);
void cb_mark_end_io(struct bio *bio);
void cb_marking_free(struct cb_device *dev);
/* Steps of the engine: true when something moved. */
bool cb_marking_finish(struct cb_device *dev);
bool cb_marking_start(struct cb_device *dev);
/* Whether the state on disk is behind. */
bool cb_marking_wants_state(struct cb_device *dev);

/* ---- losing.c ---------------------------------------------------------- */

/* For the engine, when tracking is lost: lets writes go when the COW file knows it. */
bool cb_losing_act(struct cb_device *dev);
/* Says once that the COW file claims what is not so. */
void cb_losing_say_unknown(struct cb_device *dev);
/* Whether the device of the COW file is known to stay while something is under way to it. */
bool cb_losing_is_open(struct cb_device *dev);
/* Whether the state LOST is to be written to the COW file, again if need be. */
bool cb_losing_wants_cow(struct cb_device *dev);
/* The state LOST was written to the COW file, or not. */
void cb_losing_cow_done(struct cb_device *dev, int error);
/* Waits until a disk knows of what is lost; not past a time, in jiffies. */
void cb_losing_wait(struct cb_device *dev, unsigned long deadline);
/* Who shuts the machine or a filesystem down waits so long at most, for all of them together. */
#define CB_LOSING_WAIT (3 * HZ)

#endif
