/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The stamp: one block of the origin that says to which epoch the origin belongs, and
 * whether writes have gone to it that nobody marked.
 *
 * The COW file cannot say so while its own disk does not answer, and it says nothing of
 * an origin that was restored, reverted or replaced. So a file on a filesystem of the
 * origin has the identity of the epoch, which the epoch header has, too. It is written
 * by the tool, through the filesystem, before T0; the layout is in
 * include/uapi/cowbird.h. Here only its status is ever changed, to LOST, in the place
 * where the stamp was found a moment before.
 *
 * Two identities fit: that of the epoch that goes on should the next one be refused,
 * and that of the next one. Everything lies in the first sector.
 */
#ifndef COWBIRD_CORE_STAMP_H
#define COWBIRD_CORE_STAMP_H

#include "header.h"

#define CB_STAMP_IDS 2

enum cb_stamp_status {
	CB_STAMP_KEPT = 1,
	CB_STAMP_LOST,
};

struct cb_stamp {
	u8 uuid[CB_UUID_BYTES]; /* of the series */
	u64 sector; /* where it lies, from the start of the origin */
	u32 status; /* enum cb_stamp_status */
	u8 ids[CB_STAMP_IDS][CB_UUID_BYTES]; /* of epochs; zeros for none */
};

/* What the origin says of the epoch in a header. */
enum cb_stamped {
	CB_STAMPED_NEEDLESS, /* nothing: the COW file lies on the same disk */
	CB_STAMPED_NOT, /* nothing: the epoch has no stamp */
	CB_STAMPED_FITS,
	CB_STAMPED_LOST,
	CB_STAMPED_OTHER, /* it belongs to another epoch */
	CB_STAMPED_GONE, /* there is no stamp in the place where it must be */
};

/* Writes CB_BLOCK_BYTES. */
void cb_stamp_encode(const struct cb_stamp *stamp, u8 *block);

/* Reads CB_BLOCK_BYTES. -ENOENT where there is no stamp, -EBADMSG where it is not whole. */
int cb_stamp_decode(struct cb_stamp *stamp, const u8 *block);

/* Whether this epoch has a stamp at all; if not, what that means. */
enum cb_stamped cb_stamp_expected(const struct cb_header *header);

/* What the block at header->stamp_sector says of the header's epoch. */
enum cb_stamped cb_stamp_judge(const struct cb_header *header, const u8 *block);

#endif
