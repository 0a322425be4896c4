// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "stamp.h"

#define CB_STAMP_CRC_AT (CB_SECTOR_BYTES - 4)

static const u8 cb_stamp_magic[8] = { 'C', 'O', 'W', 'B', 'S', 'T', 'P', 1 };

void cb_stamp_encode(const struct cb_stamp *stamp, u8 *block)
{
	u32 i;

	memset(block, 0, CB_BLOCK_BYTES);
	memcpy(block, cb_stamp_magic, sizeof(cb_stamp_magic));
	cb_put(block + 8, stamp->status, 4);
	memcpy(block + 16, stamp->uuid, CB_UUID_BYTES);
	cb_put(block + 32, stamp->sector, 8);
	for (i = 0; i < CB_STAMP_IDS; i++)
		memcpy(block + 40 + i * CB_UUID_BYTES, stamp->ids[i], CB_UUID_BYTES);
	cb_put(block + CB_STAMP_CRC_AT, cb_crc32c(block, CB_STAMP_CRC_AT), 4);
}

int cb_stamp_decode(struct cb_stamp *stamp, const u8 *block)
{
	u32 i;

	if (memcmp(block, cb_stamp_magic, sizeof(cb_stamp_magic)))
		return -ENOENT;
	if (cb_get(block + CB_STAMP_CRC_AT, 4) != cb_crc32c(block, CB_STAMP_CRC_AT))
		return -EBADMSG;
	stamp->status = (u32)cb_get(block + 8, 4);
	memcpy(stamp->uuid, block + 16, CB_UUID_BYTES);
	stamp->sector = cb_get(block + 32, 8);
	for (i = 0; i < CB_STAMP_IDS; i++)
		memcpy(stamp->ids[i], block + 40 + i * CB_UUID_BYTES, CB_UUID_BYTES);
	return 0;
}

enum cb_stamped cb_stamp_expected(const struct cb_header *header)
{
	if (header->stamp_sector)
		return CB_STAMPED_FITS;
	return header->flags & CB_HEADER_COW_ON_ORIGIN ? CB_STAMPED_NEEDLESS : CB_STAMPED_NOT;
}

enum cb_stamped cb_stamp_judge(const struct cb_header *header, const u8 *block)
{
	static const u8 none[CB_UUID_BYTES];
	struct cb_stamp stamp;
	u32 i;

	if (cb_stamp_decode(&stamp, block) || stamp.sector != header->stamp_sector)
		return CB_STAMPED_GONE;
	if (memcmp(stamp.uuid, header->uuid, CB_UUID_BYTES))
		return CB_STAMPED_OTHER;
	if (stamp.status != CB_STAMP_KEPT)
		return CB_STAMPED_LOST;
	for (i = 0; i < CB_STAMP_IDS; i++)
		if (memcmp(stamp.ids[i], none, CB_UUID_BYTES) &&
		    !memcmp(stamp.ids[i], header->epoch_id, CB_UUID_BYTES))
			return CB_STAMPED_FITS;
	return CB_STAMPED_OTHER;
}
