/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Preserved blocks: those in memory and the slots in the COW file (blocks.c), by what sums
 * they are known there (checking.c), and how much memory all snapshots together may take for them
 * and for their maps (budget.c).
 */
#ifndef COWBIRD_BLOCKS_H
#define COWBIRD_BLOCKS_H

#include <linux/list.h>
#include <linux/types.h>

#include "core/slotmap.h"

struct cb_device;
struct cb_setup;

/* ---- blocks.c ---------------------------------------------------------- */

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
	u32 sum; /* engine: while STORING, of what is stored; L: while FETCHING, what must be found */
	u8 state; /* L: enum cb_entry_state */
	bool ahead; /* L: read ahead of a reader */
	bool wanted; /* L, ahead: a reader came for it; hardly anybody wants it again */
};

/* A hash table of blocks in memory. */
struct cb_table {
	struct hlist_head *buckets; /* NULL where there is none */
	u32 bits;
};

int cb_blocks_init(struct cb_device *dev);
/* Memory for a map, zeroed, for vfree; NULL where there is none. */
void *cb_map_alloc(u64 bytes);
/* What a map of the origin's blocks takes, and a map of so many slots. */
u64 cb_map_bytes(const struct cb_device *dev);
u64 cb_slotmap_bytes(u64 slots);
int cb_blocks_alloc_slotmap(const struct cb_device *dev, struct cb_slotmap *map, u32 capacity);
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

/* ---- checking.c -------------------------------------------------------- */

/* The sum (core/sum.h) of a block whose content is in a page. Any context. */
u32 cb_sum_of_page(u64 block, struct page *page);

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

#endif
