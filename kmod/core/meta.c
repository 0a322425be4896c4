// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "crc.h"
#include "header.h"
#include "meta.h"

#define CB_META_CRC_AT (CB_BLOCK_BYTES - 4)

static const u8 cb_meta_magic[8] = { 'C', 'O', 'W', 'B', 'M', 'T', 'A', 1 };

void cb_meta_seal(const struct cb_meta *meta, u8 *slot)
{
	memcpy(slot, cb_meta_magic, sizeof(cb_meta_magic));
	cb_put(slot + 8, meta->kind, 4);
	cb_put(slot + 12, 0, 4);
	memcpy(slot + 16, meta->uuid, CB_SERIES_BYTES);
	cb_put(slot + 32, meta->epoch, 8);
	cb_put(slot + 40, meta->index, 8);
	cb_put(slot + 48, meta->sector, 8);
	cb_put(slot + 56, meta->sequence, 8);
	memset(slot + CB_PAYLOAD_AT + CB_PAYLOAD_BYTES, 0,
	       CB_META_CRC_AT - CB_PAYLOAD_AT - CB_PAYLOAD_BYTES);
	cb_put(slot + CB_META_CRC_AT, cb_crc32c(slot, CB_META_CRC_AT), 4);
}

int cb_meta_open(struct cb_meta *meta, const u8 *slot)
{
	if (memcmp(slot, cb_meta_magic, sizeof(cb_meta_magic)))
		return -ENOENT;
	meta->kind = (u32)cb_get(slot + 8, 4);
	memcpy(meta->uuid, slot + 16, CB_SERIES_BYTES);
	meta->epoch = cb_get(slot + 32, 8);
	meta->index = cb_get(slot + 40, 8);
	meta->sector = cb_get(slot + 48, 8);
	meta->sequence = cb_get(slot + 56, 8);
	if (cb_get(slot + CB_META_CRC_AT, 4) != cb_crc32c(slot, CB_META_CRC_AT))
		return -EBADMSG;
	return 0;
}

bool cb_meta_same_place(const struct cb_meta *a, const struct cb_meta *b)
{
	return a->kind == b->kind && a->index == b->index && a->sector == b->sector &&
	       !memcmp(a->uuid, b->uuid, CB_SERIES_BYTES);
}
