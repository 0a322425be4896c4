// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "header.h"

#define CB_HEADER_VERSION 3u
#define CB_HEADER_SECTOR_CRC_AT (CB_SECTOR_BYTES - 4)
#define CB_HEADER_CRC_AT (CB_BLOCK_BYTES - 4)

static const u8 cb_header_magic[8] = { 'C', 'O', 'W', 'B', 'I', 'R', 'D', 1 };

void cb_header_encode(const struct cb_header *header, u8 *block)
{
	memset(block, 0, CB_BLOCK_BYTES);
	memcpy(block, cb_header_magic, sizeof(cb_header_magic));
	cb_put(block + 8, CB_HEADER_VERSION, 4);
	cb_put(block + 12, CB_BLOCK_BYTES, 4);
	memcpy(block + 16, header->uuid, CB_UUID_BYTES);
	cb_put(block + 32, header->epoch, 8);
	cb_put(block + 40, header->origin_sectors, 8);
	cb_put(block + 48, header->cow_slots, 8);
	cb_put(block + 56, header->flags, 4);
	cb_put(block + 60, header->extent_count, 4);
	cb_put(block + 64, header->origin_start, 8);
	cb_put(block + 72, header->before_epoch, 8);
	cb_put(block + 80, header->sector, 8);
	cb_put(block + 88, header->extents_sector, 8);
	cb_put(block + 96, header->data_first, 8);
	cb_put(block + 104, header->region_shift, 4);
	cb_put(block + CB_HEADER_SECTOR_CRC_AT, cb_crc32c(block, CB_HEADER_SECTOR_CRC_AT), 4);
	cb_put(block + CB_HEADER_CRC_AT, cb_crc32c(block, CB_HEADER_CRC_AT), 4);
}

int cb_header_decode(struct cb_header *header, const u8 *block)
{
	if (memcmp(block, cb_header_magic, sizeof(cb_header_magic)))
		return -ENOENT;
	if (cb_get(block + CB_HEADER_CRC_AT, 4) != cb_crc32c(block, CB_HEADER_CRC_AT))
		return -EBADMSG;
	if (cb_get(block + 8, 4) != CB_HEADER_VERSION)
		return -EPROTO;
	if (cb_get(block + CB_HEADER_SECTOR_CRC_AT, 4) !=
	    cb_crc32c(block, CB_HEADER_SECTOR_CRC_AT))
		return -EBADMSG;
	if (cb_get(block + 12, 4) != CB_BLOCK_BYTES)
		return -EBADMSG;
	memcpy(header->uuid, block + 16, CB_UUID_BYTES);
	header->epoch = cb_get(block + 32, 8);
	header->origin_sectors = cb_get(block + 40, 8);
	header->cow_slots = cb_get(block + 48, 8);
	header->flags = (u32)cb_get(block + 56, 4);
	header->extent_count = (u32)cb_get(block + 60, 4);
	header->origin_start = cb_get(block + 64, 8);
	header->before_epoch = cb_get(block + 72, 8);
	header->sector = cb_get(block + 80, 8);
	header->extents_sector = cb_get(block + 88, 8);
	header->data_first = cb_get(block + 96, 8);
	header->region_shift = (u32)cb_get(block + 104, 4);
	return 0;
}
