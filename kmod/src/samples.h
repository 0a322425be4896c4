/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which blocks of an origin were written last, and the samples that a clean save takes of
 * it (samples.c); what these are is in core/samples.h.
 */
#ifndef COWBIRD_SAMPLES_H
#define COWBIRD_SAMPLES_H

#include <linux/atomic.h>
#include <linux/types.h>

#include "core/samples.h"
#include "core/state.h"

struct bio;
struct cb_device;
struct cb_meta_pool;

/*
 * The ends of the writes that were let go last, in a ring. Written by every submitter
 * without a lock: each has a place of its own, unless as many as there are come between
 * its two steps.
 */
struct cb_written {
	atomic_t next; /* that there were */
	u64 last[CB_SAMPLES_LAST]; /* blocks, or CB_NO_BLOCK */
};

void cb_written_init(struct cb_written *written);
/* A write, or what else changes blocks, is about to go on to the origin; any context. */
void cb_written_note(struct cb_device *dev, const struct bio *bio, u64 first, u64 last);
/* An epoch begins, in which the writes of the one before are the last ones yet. */
void cb_written_inherit(struct cb_device *dev, const struct cb_device *before);

/* Memory for taking them, which nobody may ask for while writes are held. */
struct cb_samples_work {
	struct cb_samples samples;
	struct cb_meta_pool *pool; /* for them alone: reads that are given up keep nobody else's waiting */
	u64 written[CB_SAMPLES_LAST];
	u8 head[CB_HEAD_BYTES]; /* of the origin, for its partition table */
};

/* Chooses and reads samples. What cannot be read, or not by a time, in jiffies, is left out. */
void cb_samples_take(struct cb_samples_work *work, unsigned long until);
/* Puts the slot that belongs to the next state; it is written with others. */
int cb_samples_put(struct cb_meta_pool *pool, const struct cb_samples *samples);

/*
 * Whether the origin is still as it was: 0, -EIO, or -ESTALE with the first sector of what
 * is not. If it is, its samples count as what was written last.
 */
int cb_samples_compare(struct cb_meta_pool *pool, const struct cb_samples *then, u64 *sector);

#endif
