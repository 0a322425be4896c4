/* SPDX-License-Identifier: GPL-2.0-only */
/* Epoch header of a COW file; the layout is in include/uapi/cowbird.h. */
#ifndef COWBIRD_CORE_HEADER_H
#define COWBIRD_CORE_HEADER_H

#include "crc.h"
#include "platform.h"

#define CB_UUID_BYTES 16

/* The COW file lies on the disk of the origin. */
#define CB_HEADER_COW_ON_ORIGIN 1u
/*
 * The index of this epoch has a sum for each block (sum.h). 2 was the flag of sums by
 * CRC-32C, which no release had.
 */
#define CB_HEADER_SUMS 4u

struct cb_header {
	u8 uuid[CB_UUID_BYTES];
	u64 epoch;
	u64 before_epoch; /* whose region marks lie in the other area; 0 for none */
	u64 origin_start; /* sectors, from the start of its disk */
	u64 origin_sectors;
	u64 cow_slots;
	u64 sector; /* where the header itself lies on its disk */
	u64 extents_sector; /* where the slot after it lies */
	u64 data_first; /* first slot that is no metadata */
	u32 extent_count;
	u32 region_shift; /* a region has 1 << region_shift blocks */
	u32 flags;
};

/* Writes the header's CB_BLOCK_BYTES bytes. */
void cb_header_encode(const struct cb_header *header, u8 *block);

/*
 * Reads CB_BLOCK_BYTES bytes. -ENOENT where there is no header at all,
 * -EPROTO for a version that this code does not know, -EBADMSG for a header
 * whose checksum or fixed fields are wrong.
 *
 * Everything lies in the first sector, which ends with a checksum of its own. A
 * CRC over bytes and their CRC is a constant, so all that follows is the same in
 * every header: one that was torn between two sectors, when the power went at T0,
 * is the old or the new one as a whole.
 */
int cb_header_decode(struct cb_header *header, const u8 *block);

#endif
