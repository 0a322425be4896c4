/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Identity of a metadata slot.
 *
 * Every metadata slot but the epoch header says what it is, of which series,
 * and at which sector of the disk it belongs: a copy of the COW file at another
 * place, one of an older series, and somebody else's data are told apart from
 * it. Little endian:
 *
 *    0  magic "COWBMTA\x01"          40  index within its kind
 *    8  kind                         48  sector, from the start of the disk
 *   12  reserved                     56  sequence
 *   16  uuid of the series           64  payload, 4000 bytes
 *   32  epoch                        ... 4092 crc32c of bytes 0..4092
 *
 * sequence: of a state, its own number; of what a clean save wrote, that of the
 * state that was to complete the save (later saves leave alone what is as it was);
 * otherwise 0. The identity lies in the first
 * sector, and all of it but epoch and sequence never changes: it survives a
 * write that was torn.
 */
#ifndef COWBIRD_CORE_META_H
#define COWBIRD_CORE_META_H

#include "layout.h"

#define CB_SERIES_BYTES 16
#define CB_PAYLOAD_AT 64

struct cb_meta {
	u8 uuid[CB_SERIES_BYTES];
	u64 epoch;
	u64 index;
	u64 sector;
	u64 sequence;
	u32 kind;
};

/* Completes a slot whose payload is in place. */
void cb_meta_seal(const struct cb_meta *meta, u8 *slot);

/*
 * Reads the identity. -ENOENT where there is no metadata; -EBADMSG for a wrong
 * checksum, with the identity filled in as it stands.
 */
int cb_meta_open(struct cb_meta *meta, const u8 *slot);

/* Whether both name the same place of the same series, whatever is written there. */
bool cb_meta_same_place(const struct cb_meta *a, const struct cb_meta *b);

#endif
