/* SPDX-License-Identifier: GPL-2.0-only */
/* Epoch header of a COW file; the layout is in include/uapi/cowbird.h. */
#ifndef COWBIRD_CORE_HEADER_H
#define COWBIRD_CORE_HEADER_H

#include "platform.h"

#define CB_UUID_BYTES 16

struct cb_header {
	u8 uuid[CB_UUID_BYTES];
	u64 epoch;
	u64 origin_sectors;
	u64 cow_slots;
	u32 flags;
};

/* CRC-32C (Castagnoli, reflected, all-ones at both ends). */
u32 cb_crc32c(const u8 *bytes, size_t length);

/* Writes the header's CB_BLOCK_BYTES bytes. */
void cb_header_encode(const struct cb_header *header, u8 *block);

/*
 * Reads CB_BLOCK_BYTES bytes. -ENOENT where there is no header at all,
 * -EPROTO for a version that this code does not know, -EBADMSG for a header
 * whose checksum or fixed fields are wrong.
 */
int cb_header_decode(struct cb_header *header, const u8 *block);

#endif
