/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Samples of an origin: pieces of it whose checksums a clean save keeps, so that a reload in
 * a later boot sees whether somebody else has written meanwhile.
 *
 * Whoever uses a filesystem or a database writes its superblock, journal or log again and
 * again, wherever that lies: it is among the blocks that were written last. Besides these
 * there are the heads of the partitions that a table in the origin's head names, and the
 * end of the origin, where a GPT has its copy. The head itself is in the state (state.h).
 *
 * They lie in the payload of a slot of their own, one for each copy of the state, with the
 * sequence of the state that completed the save; 16 bytes each, little endian:
 *
 *    0  sector, from the start of the origin
 *    8  sectors, 8 to 128, a multiple of 8
 *   12  crc32c of these
 *
 * An entry of 0 sectors is the end of the list.
 */
#ifndef COWBIRD_CORE_SAMPLES_H
#define COWBIRD_CORE_SAMPLES_H

#include "layout.h"

/* Blocks that were written last. */
#define CB_SAMPLES_LAST 64u
/* Partitions of which the head is looked at. */
#define CB_SAMPLES_PARTITIONS 16u
#define CB_SAMPLES_MAX (CB_SAMPLES_LAST + CB_SAMPLES_PARTITIONS + 1)
/* Of a partition's head, and of the end of the origin. */
#define CB_SAMPLE_SECTORS 128u

struct cb_sample {
	u64 sector;
	u32 sectors;
	u32 crc;
};

/* The list in the order in which it is worth most: what was written last comes first. */
struct cb_samples {
	u32 count;
	struct cb_sample list[CB_SAMPLES_MAX];
};

/* What samples are chosen by. */
struct cb_samples_of {
	u64 origin_sectors;
	const u64 *written; /* blocks, the last one first; CB_NO_BLOCK is none */
	u32 written_count; /* CB_SAMPLES_LAST at most */
	const u8 *head; /* first bytes of the origin, with its partition table */
	u32 head_bytes;
	/* Whether we write there ourselves: sectors from the start of the origin. */
	bool (*own)(void *context, u64 sector, u32 sectors);
	void *context;
};

#define CB_NO_BLOCK (~(u64)0)

/* Chooses what is to be looked at; checksums are the caller's. */
void cb_samples_choose(struct cb_samples *samples, const struct cb_samples_of *of);

/*
 * The checksum of the blocks before, and this one. What a boot loader writes in place at
 * each boot is left out: a GRUB environment block, which is known by how it begins. Those
 * are in every change map.
 */
u32 cb_sample_crc(u32 crc, const u8 *block);

void cb_samples_encode(const struct cb_samples *samples, u8 *payload);
/* False for a list that makes no sense for an origin of that size. */
bool cb_samples_decode(struct cb_samples *samples, const u8 *payload, u64 origin_sectors);

#endif
