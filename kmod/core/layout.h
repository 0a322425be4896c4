/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What lies where in a COW file, counted in its slots:
 *
 *   0              epoch header (header.h)
 *   extents_first  the COW file's own extents, so that the rest is found from
 *                  the place of slot 0 alone, with no filesystem mounted
 *   state_first    two copies of the state (state.h), written in turn
 *   samples_first  samples of the origin, for each copy of the state (samples.h); written
 *                  by a clean save
 *   regions_first  two maps of marked regions, one per parity of the epoch
 *   fine_first     two maps of changed blocks, likewise; written by a clean save
 *   index_first    which block each slot keeps, and its sum; written by a clean save
 *   data_first     preserved blocks
 *
 * A map of an epoch that is over stays where it is until the epoch after the
 * next one needs the place: a slot names its epoch, and one of an older epoch
 * counts as empty. So nothing has to be cleared at T0, and when the power goes
 * before a backup of the new snapshot is complete, the changes since the one
 * before are still known.
 *
 * The layout follows from three numbers, all of them in the epoch header.
 */
#ifndef COWBIRD_CORE_LAYOUT_H
#define COWBIRD_CORE_LAYOUT_H

#include "platform.h"

/* What a metadata slot holds behind its identity and before its checksum. */
#define CB_PAYLOAD_BYTES 4000u
#define CB_PAYLOAD_WORDS (CB_PAYLOAD_BYTES / 8)
#define CB_PAYLOAD_BITS (CB_PAYLOAD_BYTES * 8)
#define CB_PAYLOAD_EXTENTS (CB_PAYLOAD_BYTES / 16)

/* A region has 1 MiB; more where its map would have more slots than this. */
#define CB_REGION_SHIFT_MIN 8
#define CB_REGION_SLOTS_MAX 64

#define CB_STATE_COPIES 2
#define CB_AREAS 2

enum cb_meta_kind {
	CB_META_EXTENTS = 1,
	CB_META_STATE,
	CB_META_REGIONS,
	CB_META_FINE,
	CB_META_INDEX,
	CB_META_SAMPLES,
};

struct cb_layout {
	u64 block_count;
	u64 region_count;
	u32 region_shift; /* a region has 1 << region_shift blocks */
	u64 extent_slots;
	u64 region_slots; /* of one area */
	u64 fine_slots; /* of one area */
	u64 index_slots;
	u64 extents_first;
	u64 state_first;
	u64 samples_first;
	u64 regions_first;
	u64 fine_first;
	u64 index_first;
	u64 data_first;
};

/*
 * -ENOSPC when the COW file has no slot left for data; the layout is complete
 * then too, so that data_first tells how many slots were needed.
 */
int cb_layout_init(struct cb_layout *layout, u64 block_count, u64 cow_slots, u32 extent_count);

/* First slot of a kind. Its slots are numbered from there on, second area after first. */
u64 cb_layout_first(const struct cb_layout *layout, enum cb_meta_kind kind);

/* Number, within their kind, of the first of an epoch's slots of region marks. */
static inline u64 cb_layout_regions_of(const struct cb_layout *layout, u64 epoch)
{
	return (epoch & 1) * layout->region_slots;
}

/* Likewise for its map of changed blocks. */
static inline u64 cb_layout_fine_of(const struct cb_layout *layout, u64 epoch)
{
	return (epoch & 1) * layout->fine_slots;
}

/* 64-bit words that a bitmap of so many bits has. */
static inline u64 cb_words(u64 bits)
{
	return (bits + 63) / 64;
}

#endif
