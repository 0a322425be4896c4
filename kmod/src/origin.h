/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What becomes of one write to an origin, or to a disk with a COW file: whether it passes,
 * is held or absorbed, and how its writer is slowed (origin.c); and the faults that look at
 * a write.
 */
#ifndef COWBIRD_ORIGIN_H
#define COWBIRD_ORIGIN_H

#include <linux/bio.h>
#include <linux/types.h>

#include "core/geom.h"
#include "core/protocol.h"
#include "device.h"
#include "mutants.h"

struct cb_passage;

/* ---- origin.c ---------------------------------------------------------- */

/* True when the write was taken over; the caller must not touch it any more. */
bool cb_origin_write(struct cb_device *dev, struct bio *bio);
/* Whether it would be taken over; takes no lock, and notes what must be noted. */
bool cb_origin_stops(struct cb_device *dev, struct bio *bio);

/* What to do with a write that touches these blocks, at this moment. */
enum cb_write_action cb_origin_decide(struct cb_device *dev, struct bio *bio,
				      const struct cb_blocks *touched);

/* Notes blocks as changed; before the write that changes them is submitted. */
void cb_origin_note(struct cb_device *dev, u64 first, u64 last);

/* Completes a discard that the snapshot cannot let through. */
void cb_origin_absorb(struct cb_device *dev, struct bio *bio);

/*
 * Asks the task of a passage to pause when it returns, where too many writes are held: with
 * the engine, or on the lane of the group of its write.
 */
void cb_origin_ask_pause(struct cb_device *dev, struct cb_passage *passage, const void *group);
/* Does it: waits while too many writes are held, for a limited time. */
void cb_origin_pause(struct cb_passage *passage);

/*
 * Notices writes by others into the COW file. True when the write was taken
 * over: it goes on when our own writes to that place have ended.
 */
bool cb_origin_guard_cow(struct cb_device *dev, struct bio *bio);
/* Whether it would; takes no lock. */
bool cb_origin_guards_cow(struct cb_device *dev, struct bio *bio);

/* First block in [from, last] that a write must wait for, or last + 1. */
u64 cb_next_unpreserved(struct cb_device *dev, u64 from, u64 last);

/* Whether the disk knows that these blocks may be written (I6, the map is true). */
bool cb_origin_marked(struct cb_device *dev, u64 first, u64 last);

/* A bio's operation and flags as the tracepoints show them. */
static inline unsigned int cb_bio_opf(const struct bio *bio)
{
	return (__force unsigned int)bio->bi_opf;
}

/* ---- faults ------------------------------------------------------------ */

/* Fault: what the gate held goes on as if no snapshot had begun. */
static inline bool cb_mutant_forgets_gated(struct cb_device *dev)
{
	return cb_mutant(forget_gated) && atomic64_dec_if_positive(&dev->stats.gated_writes) >= 0;
}

/* Fault: the last of several blocks is taken for the end. */
static inline struct cb_blocks *cb_mutant_touched(struct cb_blocks *touched)
{
	if (cb_mutant(end_off_by_one) && touched->last > touched->first)
		touched->last--;
	return touched;
}

/* Faults: writes are not seen in a state in which they must be. */
static inline bool cb_mutant_is_deaf(const struct cb_device *dev, const struct bio *bio)
{
	enum cb_phase phase = cb_phase_of(dev);

	if (cb_mutant(forget_at_unmount) && !READ_ONCE(dev->verified))
		return true;
	if (cb_mutant(no_gate) && phase == CB_PHASE_HOLDING)
		return true;
	if (cb_mutant(full_stops_tracking) && phase == CB_PHASE_INVALIDATED)
		return true;
	if (phase != CB_PHASE_TRACKING)
		return false;
	if (cb_mutant(lose_tracked_write) && !bio_has_data((struct bio *)bio))
		return true;
	return cb_mutant(switch_too_early) && dev->minor < COWBIRD_MAX_MINORS &&
	       rcu_access_pointer(cb_devices[dev->minor + COWBIRD_MAX_MINORS]);
}

/* Faults: the second look does not see a write, because it would make good for what passed. */
static inline bool cb_mutant_hides(const struct cb_device *dev, struct bio *bio)
{
	if (!cb_mutant_any())
		return false;
	return cb_mutant_is_deaf(dev, bio) || cb_mutant_passes(bio) || cb_mutant_closes_audit();
}

/* Faults: a block, up to last, counts as preserved, and is not. */
static inline bool cb_mutant_skips_block(const struct cb_device *dev, u64 block, u64 last)
{
	if (block > last)
		return false;
	return (cb_mutant(skip_cow_every_nth) && block % CB_MUTANT_NTH == 0) ||
	       (cb_mutant(short_last_block) &&
		cb_geom_block_sectors(&dev->geom, block) < CB_BLOCK_SECTORS);
}

/*
 * Faults: a write is not seen, or for another one than it is. touches and touched are what
 * it is; what is returned, and touched, what it is taken for.
 */
static inline bool cb_mutant_bend_write(const struct cb_device *dev, struct bio *bio,
					bool touches, struct cb_blocks *touched)
{
	u64 sector = cb_bio_disk_sector(bio), sectors = bio->bi_iter.bi_size >> SECTOR_SHIFT;

	if (!cb_mutant_any())
		return touches;
	if (cb_mutant_is_deaf(dev, bio) ||
	    (cb_mutant(whole_disk_only) && !dev->geom.start && sector != bio->bi_iter.bi_sector &&
	     sectors < CB_BLOCK_SECTORS)) {
		touched->first = U64_MAX;
		return false;
	}
	if (cb_mutant(partition_offset_twice)) {
		touched->first = U64_MAX;
		touches = cb_geom_touched(&dev->geom, sector + dev->geom.start, sectors, touched);
	}
	if (!touches)
		return false;
	if (cb_mutant(sub_block_offset) && (sector - dev->geom.start) % CB_BLOCK_SECTORS &&
	    touched->first++ == touched->last)
		return false;
	cb_mutant_touched(touched);
	return true;
}

/* Fault: the last block of a write that is only noted is not, where it is written in part. */
static inline enum cb_write_action cb_mutant_bend_action(const struct cb_device *dev,
							 struct bio *bio,
							 enum cb_write_action action,
							 struct cb_blocks *touched)
{
	u64 end;

	if (!cb_mutant(note_whole_blocks) || action != CB_WRITE_NOTE)
		return action;
	end = cb_bio_disk_sector(bio) + (bio->bi_iter.bi_size >> SECTOR_SHIFT);
	if ((end - dev->geom.start) % CB_BLOCK_SECTORS && touched->first == touched->last--)
		return CB_WRITE_PASS;
	return action;
}

#endif
