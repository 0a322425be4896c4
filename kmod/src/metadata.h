/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Metadata of the COW file that somebody waits for: one slot, many of them, the state, and
 * all of a new file's (metadata.c), by bios that are waited for with a time limit
 * (metaio.c).
 */
#ifndef COWBIRD_METADATA_H
#define COWBIRD_METADATA_H

#include <linux/bio.h>
#include <linux/types.h>

#include "core/groups.h"
#include "core/meta.h"
#include "core/reload.h"
#include "core/scan.h"
#include "core/state.h"

struct cb_device;

/* ---- metaio.c ---------------------------------------------------------- */

/* Buffers and completion of a bio that somebody waits for, with a time limit. */
struct cb_meta_io;
struct cb_meta_io *cb_meta_io_alloc(struct cb_device *dev);
void cb_meta_end_io(struct bio *bio);
/* While writes are held: nothing is begun or waited for past this time, in jiffies. */
void cb_meta_io_limit(struct cb_meta_io *io, unsigned long deadline);
void cb_meta_io_free(struct cb_meta_io *io);

/* Several of them, under way at the same time. */
struct cb_meta_pool;
struct cb_meta_pool *cb_meta_pool_alloc(struct cb_device *dev);
void cb_meta_pool_limit(struct cb_meta_pool *pool, unsigned long deadline);
void cb_meta_pool_free(struct cb_meta_pool *pool);
/* One of them, for what is done alone. */
struct cb_meta_io *cb_meta_pool_single(struct cb_meta_pool *pool);

/* ---- metadata.c -------------------------------------------------------- */

/* What a slot says of itself; index counts within the kind. */
struct cb_meta cb_meta_of(struct cb_device *dev, enum cb_meta_kind kind, u64 index, u64 epoch,
			  u64 sequence);

/* Reads one block at a sector of the COW file's disk. */
int cb_meta_read(struct cb_meta_io *io, u64 sector, u8 *slot);

/* CRC-32C of the origin's first CB_HEAD_BYTES, or of all of it; with a copy, or NULL. */
int cb_meta_head_crc(struct cb_meta_io *io, u32 *crc, u8 *copy);
/* Has the origin's disk write down what it has taken, where that is not the COW file's. */
int cb_meta_sync_origin(struct cb_meta_io *io);

/* A reader's scan, see core/scan.h; its context is a pool. */
int cb_meta_scan(void *context, struct cb_reload *reload, struct cb_scan *scan);

/*
 * Gives the page of a slot that is to be written, zeroed; the payload is put there
 * before the next call. Slots that follow each other go together. In a COW file that is
 * not verified each slot is looked at first, and nothing is written where it is not
 * ours.
 */
int cb_meta_put(struct cb_meta_pool *pool, enum cb_meta_kind kind, u64 index, u64 epoch,
		u64 sequence, struct page **page);
/* Waits until all of them are written; the first error since the last call. */
int cb_meta_flush(struct cb_meta_pool *pool);
/* Has the disk of the COW file write down what it has taken. */
int cb_meta_sync(struct cb_meta_pool *pool);

/* Puts slots [first, first + count) of a kind; fill makes one payload. */
int cb_meta_write(struct cb_meta_pool *pool, enum cb_meta_kind kind, u64 first, u64 count,
		  u64 epoch, u64 sequence,
		  void (*fill)(struct cb_device *dev, u64 index, u8 *payload));

/*
 * Writes the next state with FUA, after everything written before it, with the groups of
 * slots that a save has written. The engine is parked.
 */
int cb_meta_write_state(struct cb_meta_io *io, const struct cb_state *state,
			const struct cb_groups *groups);

/* A state of this status as things are. */
struct cb_state cb_meta_state(struct cb_device *dev, enum cb_status status);

/* Makes the metadata of a new COW file. */
int cb_meta_format(struct cb_device *dev);

#endif
