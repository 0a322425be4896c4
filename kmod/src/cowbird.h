/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Structures of the module and what its files offer each other.
 *
 *   hook.c     every bio of the machine passes here; finds the tracked ones
 *   registry.c where snapshots are found, by minor and by disk
 *   passage.c  who is inside the original submission, and for which disks
 *   lanes.c    threads that submit bios, so that nobody else of ours sleeps in a disk
 *   audit.c    looks a second time, below the hook
 *   origin.c   decides about one write to an origin: pass or hold
 *   engine.c   one thread per snapshot: preserves blocks, releases writes
 *   storing.c  blocks go from memory to the COW file, many together
 *   marking.c  its marks of changed regions, on stable storage;  losing.c that they
 *              are not complete, before the next write goes
 *   blocks.c   the blocks in memory and the slots in the COW file;  budget.c
 *              how much memory
 *   quiesce.c  makes the cut at T0;  freeze.c the filesystems before it;  set.c the
 *              snapshots that begin with it
 *   snapdisk.c /dev/cowbird<minor>;  snapread.c serves its reads;  readio.c by
 *              these bios;  straight.c where nothing has to be waited for;
 *              ahead.c reads ahead in the COW file
 *   device.c   life of a snapshot;   ending.c its end;   control.c its ioctls;
 *              info.c its report
 *   save.c     writes down what is in memory;  resume.c takes it up again
 *   annex.c    more room for the preserved blocks of an active snapshot
 *   cowfile.c  pins COW files;  unmount.c notices when their filesystem goes
 *   hibernate.c ends tracking before the machine hibernates
 *   blockio.c  the module's own bios;  metadata.c those that somebody waits for
 *
 * Locking, outermost first:
 *   cb_control_mutex      set-up and destruction; never taken by the snapshot
 *                         device's own operations, nor by an unmount
 *   s_umount              of a filesystem that goes, or that is frozen
 *   cb_life_mutex         held while cb_devices[] changes, and by whoever parks
 *                         an engine: saving, unmounting, ending
 *   cb_device.use_lock    while the origin is opened or closed
 *   cb_device.lock        spinlock, interrupts off; see each field
 *
 * Snapshots are found under RCU. Whoever unpublishes a snapshot waits for a grace
 * period, and for those who pause on its account (pausing); tasks that sleep in
 * the original submission hold no reference to a snapshot.
 *
 * What must stay true, wherever the code cites it:
 *
 *   I1  old before new     no write to a block of an active snapshot reaches the origin
 *                          before the block's content of T0 is preserved: engine.c
 *   I2  revalidate         what was read from the origin counts only if the block was
 *                          still unpreserved afterwards: snapread.c
 *   I3  a true cut         at T0 no write is in flight, and none that passed before lands
 *                          later, on whatever task's list or queue above the origin it
 *                          was: quiesce.c, passage.c, hook.c, audit.c
 *   I4  the origin first   its I/O is never failed; the delay of a write is bounded by
 *                          hold_limit_s, counted from its arrival: engine.c
 *   I5  no silent hole     what cannot be preserved or tracked fails the snapshot or the
 *                          tracking, visibly: cb_device_spoil, cb_device_fail
 *   I6  the map is true    a write is released only once the COW file knows on stable
 *                          storage that its region changes: marking.c; or, where it cannot
 *                          be told, that tracking is lost: losing.c
 *   I7  fixed extents      the COW file is addressed by extents that are pinned, or
 *                          verified before the next write: cowfile.c, metadata.c
 *   I8  bounded memory     and queues, per snapshot and in total: blocks.c, budget.c; who
 *                          writes from above is slowed before anything is lost: origin.c
 *   I9  own blocks         of the COW file read as zeros and are in no map: snapread.c
 *   I10 nobody is freed under a sleeper
 *                          neither the module's code (passage.c) nor a snapshot whose own
 *                          I/O is still under way (ending.c)
 *   I11 no thread that others wait for sleeps in a disk
 *                          the engine and the control path submit through lanes: lanes.c
 *   I12 every wait of the control path has a bound
 *                          destroy, unmount, reboot and the report work whatever a disk
 *                          does: cb_engine_park, cb_device_end
 *   I13 one's slowness is not another's
 *                          passages know their disks, lanes their cgroups, large writes
 *                          are taken piece by piece
 */
#ifndef COWBIRD_H
#define COWBIRD_H

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/mempool.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "mutants.h"

#include "include/uapi/cowbird.h"

#include "core/extents.h"
#include "core/geom.h"
#include "core/header.h"
#include "core/protocol.h"
#include "core/reload.h"
#include "core/slotmap.h"

#undef pr_fmt
#define pr_fmt(fmt) "cowbird: " fmt

/* Blocks in one bio of the module's own: 256 KiB. */
#define CB_RUN_BLOCKS 64
/* The module's own loads and stores in flight per snapshot. */
#define CB_RUNS 128
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
/* Blocks in memory that a save leaves for when writes are held: 1 MiB. */
#define CB_STORE_BATCH 256
/* Largest read of the snapshot device that is handled at once, in sectors. */
#define CB_READ_MAX_SECTORS 2048
/* Pages that are kept for reads of a snapshot while it is open: 512 KiB. */
#define CB_READ_SPARES 128
/* Disks that a passage knows by name; with more it counts for all. */
#define CB_PASSAGE_DISKS 4
/* Notes of how many writes had arrived; see engine.c. */
#define CB_ARRIVAL_NOTES 64

/* Checks in a row that must not find a device before it counts as removed. */
#define CB_MISSED_CHECKS 3

/* Times that the COW file of a snapshot can be expanded. */
#define CB_ANNEXES 16

enum cb_entry_state {
	CB_ENTRY_FREE,
	CB_ENTRY_LOADING, /* being read from the origin: not yet preserved */
	CB_ENTRY_DIRTY, /* preserved in memory, waits to be stored */
	CB_ENTRY_STORING, /* preserved in memory, being written to the COW file */
	CB_ENTRY_STORED, /* in the COW file, and in memory until that is wanted */
	CB_ENTRY_FETCHING, /* in the COW file, and being read from there; see ahead.c */
	CB_ENTRY_LOST, /* could not be read from there: free once nobody refers to it */
};

/* One block in memory. Owned by the engine; fields marked L by cb_device.lock. */
struct cb_entry {
	struct list_head all; /* L: in cb_device.entries_all */
	struct hlist_node hash; /* L: in a memory_table unless free */
	struct list_head list; /* L: free, dirty, of a batch, of a run, or stored and not being read */
	struct page *page; /* T0 content, constant while DIRTY and after */
	u64 block; /* L */
	u32 slot; /* engine: valid while STORING; L: while FETCHING */
	u32 readers; /* L */
	u8 state; /* L: enum cb_entry_state */
	bool ahead; /* L: read ahead of a reader */
	bool wanted; /* L, ahead: a reader came for it; hardly anybody wants it again */
};

struct cb_read;

/* A bio reads so many slots ahead at most (1 MiB), for so many reads; bios at a time. */
#define CB_AHEAD_BLOCKS 256
#define CB_AHEAD_READS 4
#define CB_AHEADS 4

/* Slots of the COW file that follow each other and are being read to memory. */
struct cb_ahead {
	struct cb_device *dev;
	bool busy; /* L */
	u32 slot, count; /* L: these slots, without those that are there already */
	struct list_head entries; /* L: their entries, in this order */
	u32 read_count; /* L */
	struct cb_read *reads[CB_AHEAD_READS]; /* L: each has it in pending once */
};

/* A hash table of blocks in memory. */
struct cb_table {
	struct hlist_head *buckets; /* NULL where there is none */
	u32 bits;
};

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
	struct work_struct work;
	struct cb_device *dev;
};

/* A task inside the original submission, on its own stack; see passage.c. */
struct cb_passage {
	struct hlist_node node;
	struct task_struct *task;
	unsigned long began; /* jiffies */
	struct cb_device *pause; /* on whose account it has to pause, or NULL */
	/* Disks to which it carries writes, and whether there are more; its bucket's lock. */
	struct gendisk *disks[CB_PASSAGE_DISKS];
	u32 disk_count;
	bool many;
	bool nowait;
	bool dispatch; /* of bios that a cgroup's limit had delayed */
	bool may_pause; /* its task asks afterwards whether it has to */
};

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

/* More slots for an active snapshot; see annex.c. Constant once it is counted. */
struct cb_annex {
	struct cb_extents extents;
	u64 first_slot; /* of the snapshot */
	struct file *file; /* pinned */
};

/* A disk whose writes concern a snapshot; see registry.c. */
struct cb_watch {
	struct hlist_node node; /* changed under cb_life_mutex, read under RCU */
	struct gendisk *disk;
	struct cb_device *dev;
	/* All of the COW file on this disk lies in between, sectors; they only move apart. */
	u64 cow_first;
	u64 cow_end;
};

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
	bool settled;

	/* Set once, during the cut: from here on nothing unpreserved may be written. */
	bool drained;
	/* A write that nobody could hold has reached the origin since, before the epoch began. */
	bool escaped; /* a write has ended while writes are held; no lock */
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
	 * What the disk knows (invariant 6). marks are the engine's, but stable
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

	/* What the COW file holds of what is in memory; see save.c. cb_life_mutex. */
	struct cb_saved on_disk;

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
	wait_queue_head_t slow_wait; /* writers that wait for held_count to fall */
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
	bool taken_over; /* owns_state is not going to become true any more */
	u64 slots_reserved; /* by entries that are in memory or stored */
	u64 slots_used; /* given out, the header's included */
	unsigned long next_check; /* jiffies */
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
	atomic_t reads_crossing; /* preserved blocks that reads have in their hands; see straight.c */
	u64 reads_next; /* sector behind the last read: a hint, changed without a lock */
	struct cb_ahead aheads[CB_AHEADS]; /* L: see ahead.c */
	unsigned long ahead_failed; /* jiffies, any context; 0: nothing that was read ahead has failed */
	spinlock_t spare_lock;
	struct page *spare_pages[CB_READ_SPARES]; /* spare_lock: see straight.c */
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

/* What is to be frozen, as user space names it: files of filesystems, and block devices. */
struct cb_freeze_list {
	struct file **files;
	u32 file_count;
	struct cowbird_freeze_device *devices;
	u32 device_count;
};

/* A filesystem that is frozen: all of it, through one of its devices. */
struct cb_frozen {
	struct block_device *bdev;
	struct super_block *sb; /* NULL where it is known by its device alone */
	bool found; /* bdev is for cb_bdev_unfind; sb, if any, for deactivate_super */
};

/* What a set-up or a reload needs, checked and copied from user space. */
struct cb_setup {
	unsigned int minor;
	dev_t origin;
	dev_t cow; /* device of the COW file's filesystem */
	u64 cow_sector; /* reload: where slot 0 lies on it */
	u64 cache_bytes;
	struct cb_extent *extents; /* NULL once they are taken over */
	u32 extent_count;
	struct file *cow_file; /* taken over; NULL unless it is a new series */
	u32 pin; /* its place among the control device's pinned files */
	bool file_taken; /* by a snapshot that was not taken, for as long as that may write there */
	struct cb_device *before; /* the series goes on from this one, else NULL */
	struct cb_freeze_list freeze;
	u8 uuid[COWBIRD_UUID_BYTES];
	u8 boot_id[COWBIRD_UUID_BYTES];
	u64 epoch;
	u32 timeout_ms;
	bool want_snapshot; /* reload */
	bool final; /* reload: what is refused for good is told to the COW file */
	const char *origin_path;
	const char *cow_path;
	char *reason; /* COWBIRD_REASON_BYTES, out */
	struct cb_device *dev; /* the new snapshot, until it is settled */
};

/* Snapshots that begin at one instant: all of them, or none. */
struct cb_set {
	struct cb_setup *setups;
	u32 count;
	u32 timeout_ms; /* of the whole cut */
	struct cb_setup *blamed; /* out: why it was refused, if one member was the reason */
	struct cb_frozen *frozen; /* room for every filesystem that is named */
	u32 frozen_count;
};

int cb_device_destroy(unsigned int minor, char *reason);
int cb_device_track(unsigned int minor, char *reason);
int cb_device_suspend(unsigned int minor, char *reason);
/* The snapshot with a minor, under cb_control_mutex. */
struct cb_device *cb_device_get(unsigned int minor);

/* Parts of a set-up that a reload shares. */
struct cb_device *cb_device_alloc(struct cb_setup *setup);
int cb_device_open_origin(struct cb_device *dev, struct cb_setup *setup);
int cb_device_open_cow(struct cb_device *dev, struct cb_setup *setup);
/* The set-up is over: the devices are not kept open from here on. */
void cb_device_close_devices(struct cb_device *dev);
/* Against all other snapshots, and against one: neither may change the other's image. */
int cb_device_check_others(struct cb_device *dev, struct cb_setup *setup);
int cb_device_check_pair(const struct cb_device *dev, const struct cb_device *other, char *reason);
/* A series goes on only over the same blocks, and only if none was missed. */
int cb_device_check_before(struct cb_device *dev, struct cb_setup *setup);
int cb_device_init_memory(struct cb_device *dev, struct cb_setup *setup);
int cb_device_start(struct cb_device *dev, struct cb_setup *setup);
void cb_device_publish(struct cb_device *dev);
/* After this nobody finds the snapshot any more; what it holds is on its way. */
void cb_device_unpublish(struct cb_device *dev);
void cb_device_free(struct cb_device *dev);
/* Extents that user space gave, as the COW file's disk has them; on success the list is in use. */
int cb_device_place_extents(struct cb_device *dev, struct cb_setup *setup,
			    struct cb_extents *extents);
/* Frees what only a snapshot needs, when there is none any more. */
void cb_device_drop_preserved(struct cb_device *dev);

/*
 * Around I/O to a device that nobody else is known to have open, as the reads of
 * a snapshot. Where the origin's driver needs it, it is open in between. May sleep; not while the
 * engine is parked.
 */
int cb_device_use(struct cb_device *dev);
void cb_device_unuse(struct cb_device *dev);

/* Ends tracking when the origin or the COW file's device is gone, or the origin was resized. For the engine. */
void cb_device_check_devices(struct cb_device *dev);

/* Steps of a member of a set; see set.c. */
int cb_device_make(struct cb_setup *setup);
void cb_device_unmake(struct cb_setup *setup);
void cb_device_withdraw(struct cb_setup *setup);
void cb_device_settle(struct cb_setup *setup);

/* COWBIRD_STATE_* */
u32 cb_device_state(const struct cb_device *dev);

/* A snapshot's reference to the module. */
static inline bool cb_module_get(void)
{
	return cb_mutant(unload_any_time) || try_module_get(THIS_MODULE);
}

static inline void cb_module_put(void)
{
	if (!cb_mutant(unload_any_time))
		module_put(THIS_MODULE);
}

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

/* The snapshot is lost, its reads fail; changes go on to be tracked. Any context. */
__printf(3, 4) void cb_device_spoil(struct cb_device *dev, int error, const char *fmt, ...);

/* Writes a refusal's reason for user space and returns the error. */
__printf(3, 4) int cb_refuse(char *reason, int error, const char *fmt, ...);

/* A bio's operation and flags as the tracepoints show them. */
static inline unsigned int cb_bio_opf(const struct bio *bio)
{
	return (__force unsigned int)bio->bi_opf;
}

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
	       phase == CB_PHASE_TRACKING || phase == CB_PHASE_SPOILT ||
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
	if (cb_mutant(full_stops_tracking) && phase == CB_PHASE_SPOILT)
		return true;
	if (phase != CB_PHASE_TRACKING)
		return false;
	if (cb_mutant(lose_tracked_write) && !bio_has_data((struct bio *)bio))
		return true;
	return cb_mutant(switch_too_early) && dev->minor < COWBIRD_MAX_MINORS &&
	       rcu_access_pointer(cb_devices[dev->minor + COWBIRD_MAX_MINORS]);
}

/* ---- registry.c -------------------------------------------------------- */

/* Under cb_life_mutex, as the two below: who looks from now on finds the snapshot, or nobody, there. */
void cb_registry_place(unsigned int slot, struct cb_device *dev);
/* The hook finds the snapshot by its disks, or does not any more. */
void cb_registry_watch(struct cb_device *dev);
void cb_registry_unwatch(struct cb_device *dev);
/* There is more of the COW file on its disk; before the first write to it. */
void cb_registry_extend(struct cb_device *dev, const struct cb_extents *extents);
/* What may concern a disk, others among it; under RCU. NULL where there is no snapshot at all. */
struct hlist_head *cb_registry_watches(const struct gendisk *disk);

/* ---- ending.c ---------------------------------------------------------- */

int cb_ending_init(void);
void cb_ending_exit(void);
int cb_ending_prepare(struct cb_device *dev);
/*
 * The end of a snapshot that is not published, or not any more: everything is freed
 * as soon as its own I/O has ended. The caller waits for that with a limit; false
 * where it has passed, and the rest goes on by itself. Either way the snapshot is
 * not the caller's any more.
 */
bool cb_device_end(struct cb_device *dev);
/* Other work that nobody waits for without a limit, done before the module goes. */
void cb_ending_queue(struct work_struct *work);
/* Whether there are snapshots at their end; a look without a lock. */
bool cb_ending_has_any(void);
/* Lets go of the COW files on a filesystem that goes, of snapshots that are at their end. */
void cb_ending_forget_files(struct super_block *sb);

/* ---- hook.c ------------------------------------------------------------ */

int cb_hook_init(void);
void cb_hook_exit(void);

/* A bio that is to be seen by the hook, by which it is then set to NULL; see device.c. */
extern struct bio *cb_hook_trial;

/* Submits one of the module's own bios, past the hook. */
cb_cookie_t cb_submit_past_hook(struct bio *bio);

/* Lets go of a write that dev held, or nobody did; the other snapshots are asked. May sleep. */
void cb_hook_release(struct cb_device *dev, struct bio *bio);

/* ---- passage.c --------------------------------------------------------- */

void cb_passage_init(void);

/* disk: to which the task carries a write; or NULL. */
void cb_passage_begin(struct cb_passage *passage, struct gendisk *disk);
void cb_passage_end(struct cb_passage *passage);
/* Adds a disk, or NULL, to the passage of the current task; NULL where it has none. */
struct cb_passage *cb_passage_extend(struct gendisk *disk);
/* It carries no write any more, and goes on to keep the module. */
void cb_passage_unload(struct cb_passage *passage);

/*
 * Waits until no task carries a write to a disk that had entered the hook by now.
 * -ETIMEDOUT past a deadline in jiffies.
 */
int cb_passage_wait(struct gendisk *disk, unsigned long deadline);
/* Waits until there is no passage at all; without a limit, but it says for whom it waits. */
void cb_passage_wait_all(void);

/* ---- lanes.c ----------------------------------------------------------- */

int cb_lanes_init(struct cb_device *dev);
/* Waits for the last bio to be submitted. Safe when there are none. */
void cb_lanes_free(struct cb_device *dev);
/* Submits a bio of our own, later. Never sleeps. */
void cb_lane_add(struct cb_device *dev, enum cb_lane_kind kind, struct bio *bio);
/* As cb_hook_release and then cb_engine_released, later. */
void cb_lane_release(struct cb_device *dev, struct bio *bio);
/*
 * Takes a bio back; false where it has been submitted already. It may have ended, and its
 * memory be another bio's: owner is its bi_private, by which it is known.
 */
bool cb_lane_cancel(struct cb_device *dev, enum cb_lane_kind kind, struct bio *bio,
		    const void *owner);

/* ---- audit.c ----------------------------------------------------------- */

/* Watches how writes to a snapshot's origin end; until the snapshot is freed. */
int cb_audit_watch_ends(struct cb_device *dev);
void cb_audit_unwatch_ends(struct cb_device *dev);
/* Whether a write has ended while writes are held, since it was asked last. */
bool cb_audit_take_escaped(struct cb_device *dev);

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

/* Asks the task of a passage to pause when it returns, where too many writes are held. */
void cb_origin_ask_pause(struct cb_device *dev, struct cb_passage *passage);
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

/* Whether the disk knows that these blocks may be written (invariant 6). */
bool cb_origin_marked(struct cb_device *dev, u64 first, u64 last);

/* ---- engine.c ---------------------------------------------------------- */

int cb_engine_start(struct cb_device *dev);
/* Releases everything, waits for the engine's bios and ends the thread. */
void cb_engine_stop(struct cb_device *dev);
void cb_engine_wake(struct cb_device *dev);
/* A free run, which there must be. */
struct cb_run *cb_engine_new_run(struct cb_device *dev, bool store);
/* A write that was released has been submitted. Any thread. */
void cb_engine_released(struct cb_device *dev);
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

/* ---- marking.c --------------------------------------------------------- */

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

/* ---- metadata.c -------------------------------------------------------- */

/* Buffers and completion of a bio that somebody waits for, with a time limit. */
struct cb_meta_io;
struct cb_meta_io *cb_meta_io_alloc(struct cb_device *dev);
void cb_meta_end_io(struct bio *bio);
/* While writes are held: nothing is begun or waited for past this time, in jiffies. */
void cb_meta_io_limit(struct cb_meta_io *io, unsigned long deadline);
void cb_meta_io_free(struct cb_meta_io *io);

/* What a slot says of itself; index counts within the kind. */
struct cb_meta cb_meta_of(struct cb_device *dev, enum cb_meta_kind kind, u64 index, u64 epoch,
			  u64 sequence);

/* Reads one block at a sector of the COW file's disk. */
int cb_meta_read(struct cb_meta_io *io, u64 sector, u8 *slot);

/* CRC-32C of the origin's first CB_HEAD_BYTES, or of all of it. */
int cb_meta_head_crc(struct cb_meta_io *io, u32 *crc);
/* Has the origin's disk write down what it has taken, where that is not the COW file's. */
int cb_meta_sync_origin(struct cb_meta_io *io);

/* Several of them, under way at the same time. */
struct cb_meta_pool;
struct cb_meta_pool *cb_meta_pool_alloc(struct cb_device *dev);
void cb_meta_pool_limit(struct cb_meta_pool *pool, unsigned long deadline);
void cb_meta_pool_free(struct cb_meta_pool *pool);
/* One of them, for what is done alone. */
struct cb_meta_io *cb_meta_pool_single(struct cb_meta_pool *pool);

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

/* ---- save.c, resume.c -------------------------------------------------- */

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
/* Memory for what is known to be on disk. */
int cb_saved_init(struct cb_device *dev);
void cb_saved_free(struct cb_device *dev);
int cb_save_init(void);
void cb_save_exit(void);

/* Takes a series up again from its COW file. */
int cb_resume(struct cb_setup *setup, u32 *state);

/* ---- cowfile.c, unmount.c ---------------------------------------------- */

/* Fixes the extents of a file; the caller's reference stays the caller's. */
int cb_cow_file_pin(struct file *file, char *reason);
/* Undoes it and drops a reference. */
void cb_cow_file_unpin(struct file *file);
/* A device takes a pinned file over, with the caller's reference. */
void cb_cow_file_give(struct cb_device *dev, struct file *file);
/* Lets go of the device's COW file; safe when there is none. Under cb_life_mutex. */
void cb_cow_file_drop(struct cb_device *dev);
/* Compares a pinned file with the extents in use, and takes it over when it is the same. */
int cb_cow_file_verify(struct cb_device *dev, struct cb_setup *setup);

int cb_unmount_init(void);
void cb_unmount_exit(void);
/* Whether the end of a filesystem is noticed, so that its files need not be held open. */
bool cb_unmount_is_noticed(void);

/* ---- hibernate.c ------------------------------------------------------- */

/* Refuses, with a reason, while the machine hibernates. Under cb_control_mutex. */
int cb_hibernate_check(char *reason);
int cb_hibernate_init(void);
void cb_hibernate_exit(void);

/* ---- budget.c ---------------------------------------------------------- */

/* A share of the memory for all snapshots, and its end. */
int cb_device_claim_memory(struct cb_device *dev, struct cb_setup *setup);
void cb_device_unclaim_memory(struct cb_device *dev);
/* Whether so much more may be taken, of what is available. */
bool cb_memory_fits(u64 bytes, u64 *available);
/* Whether the maps of a snapshot fit into memory. */
int cb_device_check_memory(struct cb_device *dev, struct cb_setup *setup);
/* What maps there are now take, bytes. */
u64 cb_device_map_bytes(const struct cb_device *dev);
/* Another bound of preserved blocks in memory. */
int cb_device_reconfigure(unsigned int minor, u64 cache_bytes, char *reason);

/* ---- annex.c ----------------------------------------------------------- */

/* The setup's pinned file becomes an annex. */
int cb_annex_add(struct cb_device *dev, struct cb_setup *setup);
/* Lets go of so many annexes, which nobody finds any more. */
void cb_annex_free_all(struct cb_device *dev, u32 count);
u64 cb_annex_slots(const struct cb_device *dev);
bool cb_annex_touch(const struct cb_device *dev, u64 sector, u64 sectors);
/* Whether preserved blocks lie in an annex, where no save finds them. With the engine at rest. */
bool cb_annex_is_used(const struct cb_device *dev);
/* As cb_extents_slot, for every slot that may keep a preserved block. */
int cb_data_slot(const struct cb_device *dev, u64 slot, u64 *sector, u64 *run);

/* ---- blocks.c ---------------------------------------------------------- */

int cb_blocks_init(struct cb_device *dev);
/* Memory for a map, zeroed, for vfree; NULL where there is none. */
void *cb_map_alloc(u64 bytes);
/* What a map of the origin's blocks takes, and a map of so many slots. */
u64 cb_map_bytes(const struct cb_device *dev);
u64 cb_slotmap_bytes(u64 slots);
int cb_blocks_alloc_slotmap(struct cb_slotmap *map, u32 capacity);
void cb_blocks_free(struct cb_device *dev);
/* Frees what only a snapshot needs; the bitmap stays. */
void cb_blocks_free_preserved(struct cb_device *dev);

/*
 * Changes the bound of blocks in memory, and waits until it is kept: what is
 * too much goes when it has been stored. After -EBUSY the bound is what was left.
 */
int cb_blocks_set_limit(struct cb_device *dev, u32 limit);

/* All of these under cb_device.lock. */
struct cb_entry *cb_blocks_find(struct cb_device *dev, u64 block);
struct cb_entry *cb_blocks_take(struct cb_device *dev, u64 block);
struct cb_entry *cb_blocks_take_stored(struct cb_device *dev, u64 block, u32 slot);
void cb_blocks_fetched(struct cb_device *dev, struct cb_entry *entry, bool good);
/* Whether there is memory for another block, free or not needed any more; read anywhere. */
bool cb_blocks_has_room(const struct cb_device *dev);
/* Blocks that are in memory and not in the COW file yet, or that are being read. Under the lock. */
u32 cb_blocks_in_use(const struct cb_device *dev);
void cb_blocks_forget(struct cb_device *dev, struct cb_entry *entry);
int cb_blocks_stored(struct cb_device *dev, struct cb_entry *entry);
void cb_blocks_get(struct cb_device *dev, struct cb_entry *entry);
void cb_blocks_put(struct cb_device *dev, struct cb_entry *entry);

bool cb_block_is_own(struct cb_device *dev, u64 block);

/* ---- storing.c ----------------------------------------------------------- */

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

/* ---- set.c ------------------------------------------------------------- */

/* Takes the snapshots; the setups are complete but for what comes out. */
int cb_set_create(struct cb_set *set);

/* ---- freeze.c ---------------------------------------------------------- */

/* Refuses when one of the filesystems is frozen already, before anything waits for it. */
int cb_freeze_check(const struct cb_freeze_list *list, char *reason);

/* Freezes the filesystems of all members, or none. */
int cb_freeze_all(struct cb_set *set);
void cb_thaw_all(struct cb_set *set);
/* Whether all that was frozen is so still; -EAGAIN with a reason. */
int cb_freeze_recheck(struct cb_set *set);

/* ---- quiesce.c --------------------------------------------------------- */

int cb_check_drainable(struct cb_device *dev, struct cb_setup *setup);

/* Makes the cut: on success the epochs have begun and the devices are ACTIVE. */
int cb_quiesce_and_begin(struct cb_set *set);

/* Holds every write from here on, and waits until none is in flight. */
int cb_gate_and_drain(struct cb_set *set, unsigned long deadline);

/* Waits until nothing is in flight on the origin, where nothing can enter. */
int cb_drain(struct cb_device *dev, unsigned long deadline);

static inline unsigned long cb_time_left(unsigned long deadline)
{
	return time_before(jiffies, deadline) ? deadline - jiffies : 1;
}

/* ---- snapdisk.c, snapread.c, readio.c ---------------------------------- */

int cb_snapdisk_init(void);
void cb_snapdisk_exit(void);
int cb_snapdisk_create(struct cb_device *dev);
/* Nobody has it open, or will: its name is free afterwards. Safe when there is none. */
void cb_snapdisk_remove(struct cb_device *dev);
/* Waits for the last of its reads, then frees it. */
void cb_snapdisk_destroy(struct cb_device *dev);
/* Adds the disk, which nobody can open yet; then it can be. */
int cb_snapdisk_publish(struct cb_device *dev);
void cb_snapdisk_open_up(struct cb_device *dev);

/* What reads need; cb_snapread_free is safe without it, and comes when no read is under way. */
int cb_snapread_init(struct cb_device *dev);
void cb_snapread_free(struct cb_device *dev);
/* Nobody has the snapshot open any more. */
void cb_snapread_free_spares(struct cb_device *dev);
void cb_snapread_submit(struct cb_device *dev, struct bio *bio);

/* ---- control.c, info.c ------------------------------------------------- */

int cb_control_init(void);
void cb_control_exit(void);
int cb_info_init(void);
void cb_info_exit(void);

#endif
