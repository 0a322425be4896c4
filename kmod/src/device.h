/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A snapshot: all that is known of it, with what protects each field, where it is found, its
 * phases, and how it fails (device.c). What others keep in it is described in their headers.
 */
#ifndef COWBIRD_DEVICE_H
#define COWBIRD_DEVICE_H

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/build_bug.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "blocks.h"
#include "compat.h"
#include "core/extents.h"
#include "core/geom.h"
#include "core/layout.h"
#include "core/marks.h"
#include "core/protocol.h"
#include "core/slotmap.h"
#include "cowfile.h"
#include "cowio.h"
#include "engine.h"
#include "hook.h"
#include "include/uapi/cowbird.h"
#include "marking.h"
#include "metadata.h"
#include "samples.h"
#include "save.h"
#include "snapdisk.h"

struct cb_stats {
	atomic64_t preserved_blocks;
	atomic64_t stored_blocks;
	atomic64_t held_writes; /* total ever held */
	atomic64_t passed_writes;
	atomic64_t gated_writes;
	atomic64_t absorbed_discards;
	atomic64_t reads_origin_blocks;
	atomic64_t reads_memory_blocks;
	atomic64_t reads_cow_blocks;
	atomic64_t reads_zero_blocks;
	atomic64_t reads_revalidated_blocks;
	atomic64_t throttled_writers;
	atomic64_t mark_writes;
	atomic_t memory_peak_blocks;
	u32 save_hold_ms; /* cb_life_mutex: for so long the last save held writes */
	u32 freeze_us; /* set once, before the epoch begins */
	u32 gate_us;
};

/*
 * One snapshot. Made by cb_device_create and found by others through
 * cb_devices[]; lives until cb_device_destroy has unpublished it and every
 * reader of cb_devices[] has left.
 */
struct cb_device {
	/* Constant once published. */
	unsigned int minor;
	unsigned int slot; /* in cb_devices[]; changes once, when a series goes on */
	struct cb_known_bdev origin; /* whether it is open: use_lock */
	struct gendisk *origin_disk;
	struct cb_geom geom;
	u64 block_count;
	struct cb_known_bdev cow; /* carries the COW file's filesystem */
	struct gendisk *cow_disk;
	u64 cow_base; /* first sector of cow_bdev on its disk */
	struct cb_extents extents;
	struct cb_layout layout;
	bool cow_on_origin; /* the COW file lies on the origin's disk */
	bool watches_ends; /* see audit.c */
	u64 own_blocks; /* blocks of the origin that belong to the COW file */
	u8 uuid[COWBIRD_UUID_BYTES];
	u8 boot_id[COWBIRD_UUID_BYTES];
	u64 epoch;
	u64 before_epoch; /* whose marks lie in the other area of the COW file; or 0 */
	u64 tracked_from; /* the bitmap names every change since this epoch */
	unsigned int hold_limit_jiffies;
	char origin_path[COWBIRD_PATH_BYTES];
	char cow_path[COWBIRD_PATH_BYTES];

	/*
	 * The pinned COW file, by inode, which does not keep its filesystem
	 * mounted; the file too where an unmount would not be noticed. NULL
	 * while it is not pinned. cb_life_mutex.
	 */
	struct inode *cow_inode;
	struct file *cow_file;
	unsigned long cow_ino;

	/*
	 * The extents are known to be the COW file's: it is pinned, or was
	 * until its filesystem went. Else only metadata may be written, and
	 * only where it was found. Written under cb_life_mutex, read anywhere.
	 */
	bool verified;

	/*
	 * Who needs the origin open; see cb_device_use. use_lock is taken under the lock
	 * of the snapshot's disk and under cb_life_mutex, with the engine at work.
	 */
	struct mutex use_lock;
	u32 users; /* use_lock */
	bool read_use; /* the snapshot device is open, and counted. Under its disk's lock */

	spinlock_t lock;

	/* Set once the set-up cannot fail any more: only then it is reported. */
	bool committed;

	/* Set once, during the cut: from here on nothing unpreserved may be written. */
	bool drained;
	/* A write that nobody could hold has reached the origin since, before the epoch began. */
	bool escaped; /* a write has ended while writes are held; no lock */
	struct cb_found found; /* what the look at ends found, on a real-time kernel */
	bool unseen; /* a delayed write went on whose task is in no passage */

	/* Written under lock, read anywhere. */
	enum cb_phase phase;
	int error;
	char error_text[COWBIRD_REASON_BYTES]; /* L */

	/*
	 * One bit per block, never cleared within an epoch, read anywhere. In a
	 * snapshot set under lock once the block's T0 content is readable
	 * without the origin; while tracking, before a write to the block is
	 * submitted. A block is preserved because it is written, so that at the
	 * end of the epoch these are the blocks that have changed in it.
	 */
	unsigned long *preserved;

	/*
	 * What the disk knows (I6, the map is true). marks are the engine's, but stable
	 * is read by every writer. saved: the state on disk is clean, or may be;
	 * nothing may pass until the engine has written that it is not. Set
	 * while the engine is parked, cleared by the engine.
	 */
	struct cb_marks marks;
	u64 *mark_words;
	bool saved;
	/*
	 * The clean state is known to be on disk, with this mode; of no meaning while saved is
	 * not set. cb_life_mutex.
	 */
	bool saved_known;
	u32 saved_mode;

	/*
	 * No lock: see samples.c. Every write that passes writes here, and reads what is before
	 * and behind it: those have cache lines of their own.
	 */
	struct cb_written written ____cacheline_aligned_in_smp;

	/* What the COW file holds of what is in memory; see saveslots.c. cb_life_mutex. */
	struct cb_saved on_disk ____cacheline_aligned_in_smp;

	/*
	 * Somebody else writes to the extents: never again will we, but for the
	 * state LOST. What they write is held until then; cow_left: from there
	 * on they have the blocks to themselves.
	 */
	bool cow_gone;
	bool cow_left;
	unsigned long gone_since; /* jiffies, set before cow_gone */

	/*
	 * What the epoch before left in that place, and its number. Written
	 * while the set-up has the device to itself, constant afterwards.
	 */
	unsigned long *changes;
	u64 changes_from_epoch;

	/* Written under cb_control_mutex, with the engine parked; read anywhere. */
	struct cb_annex annexes[CB_ANNEXES];
	u32 annex_count;

	struct cb_slotmap slotmap; /* L */
	/*
	 * Blocks in memory, by number: a bucket for each that there may be. Before
	 * that many were allowed there was a smaller table, from which they move
	 * bit by bit: a block is in one of the two. L
	 */
	struct cb_table memory_table;
	struct cb_table memory_table_before;

	/* Writes that the hook holds, in order of arrival. */
	struct bio_list incoming; /* L */
	struct cb_arrivals arrivals;
	u32 held_count; /* L: incoming, being worked on, and on a lane */
	atomic_t unreleased; /* of held_count: those that are on no lane */
	wait_queue_head_t slow_wait; /* writers that wait for fewer to be there, or on their lane */
	atomic_t pausing; /* these, and those that are about to */
	atomic_t releasing; /* writes on a lane to the origin */

	/* Engine. */
	struct task_struct *engine;
	wait_queue_head_t engine_wait;
	struct llist_head done; /* completed runs */
	struct list_head held; /* struct cb_held in order of arrival */
	struct list_head held_free;
	struct cb_held *held_array;
	struct bio_list large; /* engine: writes that are admitted piece by piece */
	unsigned long large_since; /* engine: jiffies; when one of them was last admitted a piece of */
	u32 pieces_held; /* engine */
	atomic_t pieces_in_flight; /* those that have not ended */
	struct bio_set split_bios;
	struct list_head entries_free; /* L: a reader may return the last one */
	u32 entries_free_count; /* L */
	struct list_head stored; /* L: nobody reads them; who was stored or read longest ago is first */
	u32 stored_count; /* L, read by the engine */
	u32 reading_count; /* L, read by the engine: in the COW file, and being read or fetched */
	u32 fetching_count; /* L: those being fetched */
	bool stuck; /* the engine's, read anywhere: a write waits for memory */
	struct list_head dirty; /* L: preserved, in no batch to be stored yet */
	struct list_head batch; /* L: to be stored next, ascending blocks; see storing.c */
	u32 batch_count; /* L, read by the engine */
	u32 dirty_count; /* L, read anywhere: of both */
	unsigned long dirty_since; /* jiffies: since when the oldest in dirty is there */
	bool store_soon; /* cb_life_mutex, read by the engine: somebody waits until all is stored */
	bool store_none; /* set once: the snapshot is about to be destroyed */
	/* All memory for preserved blocks; its bound changes under cb_control_mutex. */
	struct list_head entries_all; /* L */
	u32 entry_count; /* L: that exist */
	u32 entry_limit; /* L, read anywhere: that may */
	u64 cache_bytes; /* cb_control_mutex: counted in the total of all snapshots */
	struct list_head runs_free;
	struct cb_run *runs;
	u32 loads_in_flight;
	u32 stores_in_flight;
	struct cb_mark *mark_slots;
	struct cb_mark state_write; /* dirty or lost */
	struct llist_head marks_done;
	u32 marks_in_flight; /* the state's included */
	u64 state_sequence; /* L: of the state written last, or given up */
	u32 state_status; /* enum cb_status: what it says, or will say */
	/* Of tracking that is lost. Read anywhere; the engine's, but lose_since, which is set before the phase. */
	unsigned long lose_since; /* jiffies: since when writes wait for somebody to know it */
	unsigned long lose_next; /* jiffies: not before is it written to the COW file again */
	unsigned long lose_pause; /* jiffies: between the last two tries */
	struct work_struct lose_work; /* while lose_opening: has the origin open for a try */
	bool lose_opening; /* set by the engine, cleared by the work */
	bool lose_holds; /* the work has it open; a try may begin */
	u32 lose_opens; /* works that could not open it */
	bool lose_is_idle; /* engine: no write waited for it when it was looked last */
	bool lost_in_cow; /* it is on stable storage there */
	bool lost_unknown; /* the log says that nobody knows it yet */
	bool owns_state; /* false until the series is taken over; after state_sequence */
	bool tells_refusal; /* a reload was refused, and the COW file is being told */
	bool taken_over; /* owns_state is not going to become true any more */
	u64 slots_reserved; /* by entries that are in memory or stored */
	u64 slots_used; /* given out, the header's included */
	unsigned long next_check; /* jiffies */
	bool resized; /* set once, any context: its size was another for a moment; after resized_to */
	u64 resized_to;
	u32 missed_checks; /* that did not find the origin or the COW file's device */
	struct bio_set run_bios; /* one for each run */
	struct bio_set mark_bios; /* for each mark, and the state */
	struct bio_set meta_bios; /* metadata that somebody waits for, the header, probes */

	struct cb_lane lanes[CB_LANES];
	struct workqueue_struct *lane_queues[CB_LANE_QUEUES];

	/* Parking: cb_life_mutex asks, the engine answers. */
	bool park;
	bool parked;
	bool save_deferred; /* cb_life_mutex: another save from the same disk took too long */
	bool cow_slow; /* it was waited for in vain, and no write to the COW file has ended since */
	wait_queue_head_t park_wait;

	struct cb_watch origin_watch;
	struct cb_watch cow_watch; /* where that is another disk */
	bool watched; /* cb_life_mutex */

	/* The end; see ending.c. */
	struct work_struct end_work;
	struct list_head end_list; /* cb_life_mutex */
	struct cb_ending *ending;

	/* Synchronous bios that were given up by those who waited. */
	atomic_t meta_in_flight;

	/* To flush the origin by, where that is another disk than the COW file's: set-up only. */
	struct cb_meta_io *cut_io;

	/* Epoch header: set-up only. */
	struct page *header_page;
	struct completion header_done;
	blk_status_t header_status;
	struct bio *header_bio; /* under way, or NULL */
	bool header_sent; /* it may be on the disk */

	/* Snapshot device. */
	struct gendisk *disk;
	bool disk_added;
	bool disk_removed;
	atomic_t open_count; /* -1 before the set is complete, and once it is being destroyed */
	struct bio_set read_bios;
	struct bio_set read_pieces; /* of reads larger than CB_READ_MAX_SECTORS */
	mempool_t read_pool;
	mempool_t read_pages; /* of two pages each */
	struct workqueue_struct *read_queue;
	atomic_t reads_in_flight;
	atomic_t reads_crossing; /* preserved blocks that reads have in their hands; see passthrough.c */
	u64 reads_next; /* sector behind the last read: a hint, changed without a lock */
	struct cb_ahead aheads[CB_AHEADS]; /* L: see ahead.c */
	unsigned long ahead_failed; /* jiffies, any context; 0: nothing that was read ahead has failed */
	spinlock_t spare_lock;
	struct page *spare_pages[CB_READ_SPARES]; /* spare_lock: see passthrough.c */
	u32 spare_count; /* spare_lock */
	wait_queue_head_t reads_wait;

	struct cb_stats stats;
};

/* Readers of the trace events may take the snapshot's number from there. */
static_assert(offsetof(struct cb_device, minor) == 0, "tracer/EVENTS.md: minor comes first");

/* ---- device.c ---------------------------------------------------------- */

extern struct mutex cb_control_mutex;
extern struct mutex cb_life_mutex;
/*
 * By minor; while a series goes on with a new snapshot, that one is at its
 * minor + COWBIRD_MAX_MINORS until it takes over. Changed under cb_life_mutex,
 * read under RCU.
 */
#define CB_DEVICE_SLOTS (2 * COWBIRD_MAX_MINORS)
extern struct cb_device __rcu *cb_devices[CB_DEVICE_SLOTS];
/* How many the hook may find; what it looks at first. */
extern int cb_device_count;

/* The snapshot with a minor, under cb_control_mutex. */
struct cb_device *cb_device_get(unsigned int minor);
/* COWBIRD_STATE_* */
u32 cb_device_state(const struct cb_device *dev);

/* Moves the phase; -EINVAL where the protocol does not know the move. */
int cb_device_event(struct cb_device *dev, enum cb_event event);

/*
 * Tracking is lost, and the snapshot with it: from here on writes wait until a disk
 * knows that, for a short time, and then pass; reads fail, and the reason shows. Any
 * context. The first reason stays.
 */
__printf(3, 4) void cb_device_fail(struct cb_device *dev, int error, const char *fmt, ...);

/* The same of one whose epoch has not begun: only who asked for it has lost anything. */
void cb_device_abandon(struct cb_device *dev, int error);
void cb_device_clear_error(struct cb_device *dev);

/* The snapshot is lost, its reads fail; change tracking continues. Any context. */
__printf(3, 4) void cb_device_invalidate(struct cb_device *dev, int error, const char *fmt, ...);

static inline enum cb_phase cb_phase_of(const struct cb_device *dev)
{
	return READ_ONCE(dev->phase);
}

/* No write is held any more: tracking is lost, or it is being taken apart. */
static inline bool cb_device_passes_all(const struct cb_device *dev)
{
	enum cb_phase phase = cb_phase_of(dev);

	return phase == CB_PHASE_FAILED || phase == CB_PHASE_CLOSING;
}

/* Writes are looked at: held, preserved or noted. */
static inline bool cb_phase_is_live(enum cb_phase phase)
{
	return phase == CB_PHASE_HOLDING || phase == CB_PHASE_ACTIVE ||
	       phase == CB_PHASE_TRACKING || phase == CB_PHASE_INVALIDATED ||
	       phase == CB_PHASE_LOSING;
}

/* Tracking is lost; no epoch goes on. */
static inline bool cb_phase_is_lost(enum cb_phase phase)
{
	return phase == CB_PHASE_LOSING || phase == CB_PHASE_FAILED;
}

/* Changes of an epoch that has begun are tracked. */
static inline bool cb_device_tracks(const struct cb_device *dev)
{
	enum cb_phase phase = cb_phase_of(dev);

	return cb_phase_is_live(phase) && phase != CB_PHASE_HOLDING && phase != CB_PHASE_LOSING;
}

#endif
