/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The thread of a snapshot and the writes that it holds: the turns that it takes and how it
 * comes to rest (engine.c), and what it does in each of them: writes come (admitting.c),
 * blocks go from the origin to memory (loading.c) and on to the COW file (storing.c), and no
 * write waits for too long (overdue.c).
 */
#ifndef COWBIRD_ENGINE_H
#define COWBIRD_ENGINE_H

#include <linux/bio.h>
#include <linux/list.h>
#include <linux/types.h>

struct cb_device;
struct cb_run;

/* ---- engine.c ---------------------------------------------------------- */

/* Held writes that the engine works on at once. */
#define CB_HELD 512
/* Blocks of one held write; larger ones are split: 1 MiB. So many pieces of large ones at once. */
#define CB_HELD_BLOCKS 256
#define CB_PIECES 8
/* Held writes beyond which a writer has to pause when its submission returns. */
#define CB_HELD_SLOW 1024
/* The same for one that asked not to be made to wait. */
#define CB_HELD_SLOW_NOWAIT (8 * CB_HELD_SLOW)
/* Held writes beyond which tracking is given up; what keeps them below is the pause. */
#define CB_HELD_MAX 65536
/* With so many all tasks pause, whatever group holds them. */
#define CB_HELD_MANY (CB_HELD_MAX / 4)

/* Notes of how many writes had arrived; see overdue.c. */
#define CB_ARRIVAL_NOTES 64

/* How often an idle engine looks after time limits and the origin's size. */
#define CB_CHECK_INTERVAL HZ

/* A write to the origin that waits for its blocks. Owned by the engine. */
struct cb_held {
	struct list_head list;
	struct bio *bio;
	u64 first; /* blocks that the write touches */
	u64 last;
	u64 ready; /* blocks before this one are preserved */
	u64 issued; /* blocks before this one are preserved or being loaded */
	unsigned long since; /* jiffies: when it arrived, or its piece was taken off */
	bool piece; /* of a large write */
};

/* A piece of a large write. */
struct cb_piece {
	struct bio *whole; /* which does not end before its pieces have */
	struct cb_device *dev;
	struct bio bio; /* last: its vectors follow */
};

/* How many writes arrived at what time. */
struct cb_arrivals {
	u64 enqueued; /* L */
	u64 popped; /* L */
	/* Engine: a ring, next is the oldest. */
	struct {
		u64 enqueued;
		unsigned long at; /* jiffies */
	} notes[CB_ARRIVAL_NOTES];
	u32 next;
};

int cb_engine_start(struct cb_device *dev);
/* Releases everything, waits for the engine's bios and ends the thread. */
void cb_engine_stop(struct cb_device *dev);
void cb_engine_wake(struct cb_device *dev);
/* A free run, which there must be. */
struct cb_run *cb_engine_new_run(struct cb_device *dev, bool store);
/* Releases a held write, by a lane. */
void cb_engine_release(struct cb_device *dev, struct bio *bio);
/* A write that was released has been submitted. Any thread. */
void cb_engine_released(struct cb_device *dev);
/* One held write less, which no lane has. */
void cb_engine_put(struct cb_device *dev);
/* Whether our own writes to blocks that somebody else has now must end first. */
bool cb_engine_must_drain(struct cb_device *dev);
/*
 * Lets the engine come to rest: nothing in flight, nothing released or marked
 * any more, preserved blocks in the COW file as far as they may be. Under
 * cb_life_mutex, as everything until it is unparked. -ETIMEDOUT, and it goes on,
 * where a disk does not let it in time.
 */
int cb_engine_park(struct cb_device *dev);
/* The same with a time limit of the caller's, in jiffies. */
int cb_engine_park_for(struct cb_device *dev, unsigned long limit);
void cb_engine_unpark(struct cb_device *dev);

/* ---- admitting.c ------------------------------------------------------- */

/* Admits, or lets go of, what the hook has put on the list; true when something moved. */
bool cb_engine_admit(struct cb_device *dev);
/* Whether another large write, or a piece of one, can be admitted or let go. */
bool cb_engine_may_admit_large(struct cb_device *dev);

/* ---- loading.c --------------------------------------------------------- */

/* Begins what writes wait for; true when something moved. */
bool cb_engine_load(struct cb_device *dev);
/* A load has ended. */
void cb_engine_loaded(struct cb_device *dev, struct cb_run *run);

/* ---- storing.c --------------------------------------------------------- */

/* Blocks in memory that a save leaves for when writes are held: 1 MiB. */
#define CB_STORE_BATCH 256

/* Whether a store can be begun at once. */
bool cb_storing_has_work(const struct cb_device *dev);
/* Jiffies until one may be due by the age of a block; MAX_JIFFY_OFFSET where none will. */
unsigned long cb_storing_wait(const struct cb_device *dev);
/* Begins what is due; whether there was anything. */
bool cb_storing_start(struct cb_device *dev);
/*
 * Has what is in memory stored while writes go on, but for the last CB_STORE_BATCH blocks, so that
 * whoever parks the engine afterwards holds them for a short time. At most so many jiffies.
 * Stores are not put off from here on, until cb_storing_relax. cb_life_mutex.
 */
void cb_storing_drain(struct cb_device *dev, unsigned long limit);
void cb_storing_relax(struct cb_device *dev);
/* A store has ended. */
void cb_storing_stored(struct cb_device *dev, struct cb_run *run);

/* ---- overdue.c --------------------------------------------------------- */

/* Time limits (I4, the origin first) and changes under our feet (I5, no silent hole). */
void cb_engine_check(struct cb_device *dev);
/* When a write arrived that is not admitted yet, by its number. */
unsigned long cb_arrivals_time(struct cb_device *dev, u64 number);

#endif
