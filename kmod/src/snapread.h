/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One read of the snapshot device: snapread.c says where each block of it comes
 * from, readio.c fetches them; passthrough.c does both at once where it can. checking.c compares
 * what came from the COW file with what was stored there.
 */
#ifndef COWBIRD_SNAPREAD_H
#define COWBIRD_SNAPREAD_H

#include "cowbird.h"

/* Blocks handled at once; one more for a read that is not aligned. */
#define CB_READ_BLOCKS (CB_READ_MAX_SECTORS / CB_BLOCK_SECTORS + 1)

/* Blocks looked up under the lock at once: others wait for it with interrupts off. */
#define CB_READ_LOOKUPS 32

/* Blocks from elsewhere across which one bio reads the origin: 64 KiB. */
#define CB_READ_BRIDGE 16

/* The reader's hints are not for the devices below; nor is FUA for a read. */
#define CB_READ_OPF (REQ_OP_READ | REQ_SYNC)

/* Preserved blocks of a direct read across which the origin is read: 256 KiB. */
#define CB_READ_CROSSED 64

/* Blocks between two places in the reader's pages that are kept. */
#define CB_READ_STEP 16

/* Sources of a block beside enum cb_read_source. */
enum {
	CB_READ_UNKNOWN = CB_READ_FAIL + 1, /* to be looked up */
	CB_READ_THERE, /* in the reader's pages already */
	CB_READ_DAMAGED, /* what its slot gave is not what was stored there */
};

/* One block's share of a read. */
struct cb_read_piece {
	union {
		struct cb_entry *entry; /* CB_READ_MEMORY: referenced */
		struct page *page; /* direct, CB_READ_COW: its slot's content, or NULL */
	};
	u64 sector; /* CB_READ_COW: of the slot, on the COW file's disk */
	u32 slot; /* CB_READ_COW */
	u8 source; /* enum cb_read_source or above */
	bool overtaken; /* it was preserved while the origin was read */
};

struct cb_read {
	struct work_struct work;
	struct cb_device *dev;
	struct bio *bio;
	u64 sector; /* of the bio, which stays untouched */
	u32 sectors;
	bool passthrough; /* the origin has been read already, and has to be looked at again */
	bool direct; /* all that it needs is under way at once */
	u32 crosses; /* direct: blocks that it counts in reads_crossing */
	bool ahead; /* what lies behind it in the COW file is wanted next */
	u32 fetched; /* pieces in memory that this read had fetched to it */
	bool rest; /* only what was overtaken is left */

	/*
	 * direct: the pieces that are preserved, ascending. The others are on the origin, and
	 * nothing is written down of them.
	 */
	u16 found[CB_READ_CROSSED];
	u32 found_count;

	/* The window in hand: blocks first .. first + count - 1. */
	u64 first;
	u32 count;
	struct bvec_iter next; /* where the window behind it goes in the reader's pages */
	/* Where every so many of its pieces go: a place is found by counting from the start. */
	struct bvec_iter places[DIV_ROUND_UP(CB_READ_BLOCKS, CB_READ_STEP)];
	atomic_t pending;
	struct completion done;
	int error; /* any negative errno of a bio; written by completions */
	bool bridge_error; /* as error, of a bio that read more than was asked for */

	/* Slots that are read as a whole although a part is asked for: at most the two ends. */
	struct page *whole; /* two pages that follow each other, or NULL */
	u32 whole_count;
	u16 whole_piece[2];

	u16 order[CB_READ_BLOCKS]; /* pieces from the COW file as they lie there */
	struct cb_read_piece pieces[CB_READ_BLOCKS];
};

/* Sectors [*from, *to) of the origin that both a piece and the read cover. */
static inline void cb_read_span(const struct cb_read *read, u32 i, u64 *from, u64 *to)
{
	u64 start = (read->first + i) << CB_BLOCK_SECTOR_SHIFT;

	*from = max(start, read->sector);
	*to = min(start + CB_BLOCK_SECTORS, read->sector + read->sectors);
}

static inline u64 cb_read_first_block(const struct cb_read *read)
{
	return read->sector >> CB_BLOCK_SECTOR_SHIFT;
}

static inline u64 cb_read_last_block(const struct cb_read *read)
{
	return (read->sector + read->sectors - 1) >> CB_BLOCK_SECTOR_SHIFT;
}

/* ---- snapread.c ------------------------------------------------------------ */

/* The phase for a reader: a snapshot that is about to be invalidated is that already. */
enum cb_phase cb_read_phase(struct cb_device *dev);
/*
 * Of direct reads: says which pieces are preserved; false when these are more than CB_READ_CROSSED.
 * Finds those that have no place yet. How many come from a source.
 */
bool cb_read_look_direct(struct cb_read *read);
void cb_read_find_direct(struct cb_read *read);
u32 cb_read_count_found(const struct cb_read *read, u8 source);
/* The second look, when all is there and counted; whether something is left to be fetched. */
bool cb_read_is_overtaken(struct cb_read *read);
/* Ends a read, as its snapshot is at this moment, from any context. */
void cb_read_finish(struct cb_read *read, int ret);
/* The same when that has been looked at. */
void cb_read_end(struct cb_read *read, int ret);

/* ---- passthrough.c --------------------------------------------------------- */

/* Sends a read off. False when a thread has to do it. Nothing waits here: the reader may be another driver. */
bool cb_read_pass_through(struct cb_read *read);
/* A thread's part of a direct read; it may have ended, and be gone, afterwards. */
void cb_read_beside(struct cb_read *read);
/* The last bio of a direct read has ended. */
void cb_read_put_together(struct cb_read *read);

/* ---- ahead.c --------------------------------------------------------------- */

void cb_ahead_init(struct cb_device *dev);
/* Whether a read goes on about where the last one ended; notes where it ends itself. */
bool cb_ahead_expects(struct cb_read *read);
/* Waits in pending for an entry that is being fetched. False when it cannot: see its slot. */
bool cb_ahead_join(struct cb_read *read, const struct cb_entry *entry);
/*
 * Has pieces from order[n] on, of run that have slots one behind the other, read to memory with what
 * lies behind them; how many pieces that is. None where there is no memory to spare.
 */
u32 cb_ahead_begin(struct cb_read *read, u32 n, u32 run);

/* ---- readio.c -------------------------------------------------------------- */

/* Begins a window: notes where each of its pieces goes in the reader's pages. */
void cb_read_map(struct cb_read *read);

/*
 * Reads the pieces that are on the origin, and waits for it. Pieces between
 * them may then hold what the origin has in their place.
 */
int cb_read_origin(struct cb_read *read);

/* Fetches all that is elsewhere. The origin must not be read into these pages any more. */
int cb_read_elsewhere(struct cb_read *read);

/* Parts of these. */
/* Puts n pieces in order[] into the order in which they lie in the COW file. */
void cb_read_sort(struct cb_read *read, u32 n);
/* Copies to the reader's pages from a whole block; from NULL fills with zeros. */
void cb_read_fill(struct cb_read *read, u32 i, const void *content);
/* The same from memory. */
void cb_read_from_memory(struct cb_read *read, u32 i);
void cb_read_begin(struct cb_read *read);
int cb_read_wait(struct cb_read *read);
/* Where a piece goes in the reader's pages. */
struct bvec_iter cb_read_iter(const struct cb_read *read, u32 i);
bool cb_read_is_whole(const struct cb_read *read, u32 i);
/* Reads a piece's slot, at a sector of the COW file's device, to a page of our own. */
void cb_read_whole_slot(struct cb_read *read, u32 i, u64 slot);
/* Gives back the pages of what was read as a whole; fill: after it went where its parts are asked for. */
void cb_read_take_slots(struct cb_read *read, bool fill);
void cb_read_submit(struct cb_read *read, struct bio *bio, u64 sector);
void cb_read_end_io(struct bio *bio);
void cb_read_done_one(struct cb_read *read);

/* ---- checking.c ------------------------------------------------------------ */

/* Whether the slots that a direct read has in pages of our own are what was stored. Any context. */
bool cb_read_check_pages(struct cb_read *read);
/* The same of what a thread has read; pieces that are not are CB_READ_DAMAGED. */
bool cb_read_check_pieces(struct cb_read *read);
/* Reads these once more; an error where the snapshot is invalidated. */
int cb_read_check_damaged(struct cb_read *read);

#endif
