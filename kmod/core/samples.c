// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "crc.h"
#include "samples.h"
#include "state.h"

#define CB_SAMPLE_BYTES 16u
_Static_assert(CB_SAMPLES_MAX * CB_SAMPLE_BYTES <= CB_PAYLOAD_BYTES, "a slot has room for them");

/* ---- which ------------------------------------------------------------- */

static void cb_samples_add(struct cb_samples *samples, const struct cb_samples_of *of, u64 sector,
			   u32 sectors)
{
	struct cb_sample *next = &samples->list[samples->count];
	u32 i;

	if (samples->count == CB_SAMPLES_MAX || sector > of->origin_sectors ||
	    sectors > of->origin_sectors - sector)
		return;
	/* The head of the origin is in the state. */
	if (sector + sectors <= CB_HEAD_BYTES / CB_SECTOR_BYTES)
		return;
	for (i = 0; i < samples->count; i++)
		if (samples->list[i].sector == sector && samples->list[i].sectors == sectors)
			return;
	if (of->own && of->own(of->context, sector, sectors))
		return;
	*next = (struct cb_sample){ .sector = sector, .sectors = sectors };
	samples->count++;
}

/* lba in units of so many sectors; 0 is no place of a partition. */
static void cb_samples_add_partition(struct cb_samples *samples, const struct cb_samples_of *of,
				     u64 lba, u32 unit)
{
	if (lba && lba <= of->origin_sectors / unit)
		cb_samples_add(samples, of, lba * unit, CB_SAMPLE_SECTORS);
}

#define CB_GPT_ENTRY_BYTES 128u

/* False where there is no GPT for logical blocks of this size. */
static bool cb_samples_add_gpt(struct cb_samples *samples, const struct cb_samples_of *of,
			       u32 unit)
{
	const u8 *header = of->head + unit * CB_SECTOR_BYTES;
	u32 size, count, i, found = 0;
	u64 lba, at;

	if (of->head_bytes < 2 * unit * CB_SECTOR_BYTES || memcmp(header, "EFI PART", 8))
		return false;
	lba = cb_get(header + 72, 8);
	count = (u32)cb_get(header + 80, 4);
	size = (u32)cb_get(header + 84, 4);
	if (size < CB_GPT_ENTRY_BYTES || size > CB_BLOCK_BYTES || lba > of->head_bytes)
		return true;
	at = lba * unit * CB_SECTOR_BYTES;
	for (i = 0; i < count && found < CB_SAMPLES_PARTITIONS; i++, at += size) {
		if (at + size > of->head_bytes)
			break;
		/* One without a type is not in use. */
		if (!cb_get64(of->head + at) && !cb_get64(of->head + at + 8))
			continue;
		cb_samples_add_partition(samples, of, cb_get64(of->head + at + 32), unit);
		found++;
	}
	return true;
}

#define CB_MBR_BYTES 512u
#define CB_MBR_PARTITIONS 4

/*
 * The boot sector of a filesystem looks like one, too: then there are samples of places that
 * mean nothing, which does no harm.
 */
static void cb_samples_add_mbr(struct cb_samples *samples, const struct cb_samples_of *of)
{
	const u8 *entry;
	u32 i;

	if (of->head_bytes < CB_MBR_BYTES || cb_get(of->head + 510, 2) != 0xAA55)
		return;
	for (i = 0; i < CB_MBR_PARTITIONS; i++) {
		entry = of->head + 446 + i * 16;
		if (entry[4])
			cb_samples_add_partition(samples, of, cb_get(entry + 8, 4), 1);
	}
}

void cb_samples_choose(struct cb_samples *samples, const struct cb_samples_of *of)
{
	u32 i;

	samples->count = 0;
	for (i = 0; i < of->written_count && i < CB_SAMPLES_LAST; i++)
		if (of->written[i] < of->origin_sectors / CB_BLOCK_SECTORS)
			cb_samples_add(samples, of, of->written[i] * CB_BLOCK_SECTORS,
				       CB_BLOCK_SECTORS);
	/* A short last block is in this one only. */
	if (of->origin_sectors >= CB_SAMPLE_SECTORS)
		cb_samples_add(samples, of, of->origin_sectors - CB_SAMPLE_SECTORS,
			       CB_SAMPLE_SECTORS);
	if (!of->head)
		return;
	if (!cb_samples_add_gpt(samples, of, 1) &&
	    !cb_samples_add_gpt(samples, of, CB_BLOCK_SECTORS))
		cb_samples_add_mbr(samples, of);
}

/* ---- what they hold ---------------------------------------------------- */

/* An environment block has so many bytes, and its file begins a block of some filesystem. */
#define CB_GRUB_BYTES 1024u

static const u8 cb_grub_begins[] = "# GRUB Environment Block\n";

u32 cb_sample_crc(u32 crc, const u8 *block)
{
	const u8 *end = block + CB_BLOCK_BYTES;

	for (; block < end; block += CB_GRUB_BYTES) {
		bool grub = !memcmp(block, cb_grub_begins, sizeof(cb_grub_begins) - 1);

		crc = cb_crc32c_more(crc, block,
				     grub ? sizeof(cb_grub_begins) - 1 : CB_GRUB_BYTES);
	}
	return crc;
}

/* ---- on disk ----------------------------------------------------------- */

void cb_samples_encode(const struct cb_samples *samples, u8 *payload)
{
	u32 i;

	memset(payload, 0, CB_PAYLOAD_BYTES);
	for (i = 0; i < samples->count; i++, payload += CB_SAMPLE_BYTES) {
		cb_put(payload, samples->list[i].sector, 8);
		cb_put(payload + 8, samples->list[i].sectors, 4);
		cb_put(payload + 12, samples->list[i].crc, 4);
	}
}

bool cb_samples_decode(struct cb_samples *samples, const u8 *payload, u64 origin_sectors)
{
	for (samples->count = 0; samples->count < CB_SAMPLES_MAX; payload += CB_SAMPLE_BYTES) {
		struct cb_sample *sample = &samples->list[samples->count];

		sample->sector = cb_get(payload, 8);
		sample->sectors = (u32)cb_get(payload + 8, 4);
		sample->crc = (u32)cb_get(payload + 12, 4);
		if (!sample->sectors)
			break;
		if (sample->sectors > CB_SAMPLE_SECTORS || sample->sectors % CB_BLOCK_SECTORS ||
		    sample->sector > origin_sectors ||
		    sample->sectors > origin_sectors - sample->sector)
			return false;
		samples->count++;
	}
	return true;
}
