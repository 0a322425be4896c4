/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One read of the snapshot device: snapread.c says where each block of it comes
 * from, readio.c fetches them.
 */
#ifndef COWBIRD_SNAPREAD_H
#define COWBIRD_SNAPREAD_H

#include "cowbird.h"

/* Blocks handled at once; one more for a read that is not aligned. */
#define CB_READ_BLOCKS (CB_READ_MAX_SECTORS / CB_BLOCK_SECTORS + 1)

/* Blocks between two places in the reader's pages that are kept. */
#define CB_READ_STEP 16

/* Sources of a block beside enum cb_read_source. */
enum {
	CB_READ_UNKNOWN = CB_READ_FAIL + 1, /* to be looked up */
	CB_READ_THERE, /* in the reader's pages already */
};

/* One block's share of a read. */
struct cb_read_piece {
	struct cb_entry *entry; /* CB_READ_MEMORY: referenced */
	u64 sector; /* CB_READ_COW: of the slot, on the COW file's disk */
	u8 source; /* enum cb_read_source or above */
	bool overtaken; /* it was preserved while the origin was read */
};

struct cb_read {
	struct work_struct work;
	struct cb_device *dev;
	struct bio *bio;
	u64 sector; /* of the bio, which stays untouched */
	u32 sectors;
	bool straight; /* the origin has been read already, and has to be looked at again */

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

	/* Slots that are read as a whole, because their disk reads no less: at most the two ends. */
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

/* Begins a window: notes where each of its pieces goes in the reader's pages. */
void cb_read_map(struct cb_read *read);

/*
 * Reads the pieces that are on the origin, and waits for it. Pieces between
 * them may then hold what the origin has in their place.
 */
int cb_read_origin(struct cb_read *read);

/* Fetches all that is elsewhere. The origin must not be read into these pages any more. */
int cb_read_elsewhere(struct cb_read *read);

#endif
