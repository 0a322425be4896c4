/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A series that outlives its time in memory: what is there is written down (save.c, and
 * saveslots.c slot by slot) and taken up again (resume.c); before the machine hibernates it
 * ends (hibernate.c).
 */
#ifndef COWBIRD_SAVE_H
#define COWBIRD_SAVE_H

#include <linux/build_bug.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/types.h>

#include "core/groups.h"
#include "core/layout.h"
#include "core/state.h"

struct cb_device;
struct cb_meta_io;
struct cb_meta_pool;
struct cb_setup;

/* ---- save.c ------------------------------------------------------------ */

/*
 * What earlier saves have written, so that the next one has less to do. A bit of a map is
 * never cleared within an epoch: a slot is the same as long as it has as many.
 */
struct cb_saved {
	u16 *bits; /* of the map, by slot, in what was written; or CB_SAVED_NOTHING */
	struct cb_groups *groups; /* of slots that hold something */
	u64 since; /* sequence of the first save that counts; 0 for none */
	u64 index_slots; /* slots of the index before this one are complete on disk */
	bool all_seen; /* every slot of the map has been looked at once */
	bool changes; /* all of the map of the epoch before is there */
};

#define CB_SAVED_NOTHING ((u16)~0)
static_assert(CB_PAYLOAD_BITS < CB_SAVED_NOTHING, "a slot's bits can be counted");

/* Longest time that writes are held by a save while others may be waiting for them. */
#define CB_SAVE_HOLD HZ
/* The same where nobody is left who could wait. */
#define CB_SAVE_HOLD_ALONE (10 * HZ)

/* Longest time for the saves that one end of a filesystem, or one suspension, asks for. */
#define CB_SAVE_LIMIT (30 * HZ)

/*
 * Writes down all that is in memory, so that a reload goes on exactly; until deadline, in
 * jiffies, and writes are held no longer than hold. Under cb_life_mutex.
 */
int cb_save(struct cb_device *dev, unsigned long deadline, unsigned long hold);
/*
 * The same for all snapshots of which concerns says so, or for all. Those whose COW file is
 * on a disk that does not answer soon come last, in what is left of the limit; such a
 * disk takes 3 s of it, or 1 s when half of it is over. Under cb_life_mutex.
 */
void cb_save_all(bool (*concerns)(struct cb_device *dev, struct super_block *sb),
		 struct super_block *sb, unsigned long limit, unsigned long hold);
/* Tells the disk what is the case now; under cb_life_mutex, with the engine parked. */
int cb_save_status(struct cb_device *dev, struct cb_meta_io *io, enum cb_status status);
int cb_save_init(void);
void cb_save_exit(void);

/* ---- saveslots.c ------------------------------------------------------- */

/* Memory for what is known to be on disk. */
int cb_saved_init(struct cb_device *dev);
void cb_saved_free(struct cb_device *dev);

/* Parts of a save. */
/* Nothing of what was written counts any more. */
void cb_save_forget(struct cb_device *dev);
/* Puts the slots of the epoch's map that differ from what is on disk; how many, or an error. */
int cb_save_tracked(struct cb_device *dev, struct cb_meta_pool *pool, unsigned long deadline);
/* Puts the map of the epoch before, which does not change any more. */
int cb_save_changes(struct cb_device *dev, struct cb_meta_pool *pool, unsigned long deadline);
/* Puts slots of the index that are complete, as far as there are any. */
int cb_save_index_ahead(struct cb_device *dev, struct cb_meta_pool *pool, unsigned long deadline);
/* The first slot of the index that is not on disk. */
u64 cb_save_index_first(struct cb_device *dev);
/* Makes a slot of the index; for cb_meta_write. */
void cb_save_fill_index(struct cb_device *dev, u64 index, u8 *payload);

/* ---- resume.c ---------------------------------------------------------- */

/* Takes a series up again from its COW file. */
int cb_resume(struct cb_setup *setup, u32 *state);

/* ---- hibernate.c ------------------------------------------------------- */

/* Refuses, with a reason, while the machine hibernates. Under cb_control_mutex. */
int cb_hibernate_check(char *reason);
int cb_hibernate_init(void);
void cb_hibernate_exit(void);

#endif
