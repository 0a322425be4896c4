/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * State of a series on disk: what the tracking that lies there is worth.
 *
 *   CLEAN  maps and index were saved, and nothing was written since
 *   DIRTY  writes go on; the region marks name all that were released
 *   LOST   changes passed, or may have passed, that are not marked: a full backup
 *          is needed
 *   ENDED  the series was destroyed
 *
 * CLEAN holds only until the next write, which waits until DIRTY is on disk.
 * Two copies are written in turn, by the parity of their sequence: a torn write
 * leaves the other one.
 */
#ifndef COWBIRD_CORE_STATE_H
#define COWBIRD_CORE_STATE_H

#include "meta.h"

#define CB_BOOT_ID_BYTES 16
/* Bytes at the start of the origin that are compared: superblocks of the usual filesystems. */
#define CB_HEAD_BYTES 65536u

enum cb_status {
	CB_STATUS_CLEAN = 1,
	CB_STATUS_DIRTY,
	CB_STATUS_LOST,
	CB_STATUS_ENDED,
};

enum cb_mode {
	CB_MODE_SNAPSHOT = 1, /* preserved blocks belong to it */
	CB_MODE_INCREMENTAL, /* only changes are tracked */
};

/* Which slots of the fine maps a clean save has written; see groups.h. */
enum cb_fine_rule {
	CB_FINE_ALL, /* all of them, with the sequence of the state */
	CB_FINE_GROUPS, /* those of the groups that the state names */
};

struct cb_state {
	u32 status; /* enum cb_status */
	u32 mode; /* enum cb_mode */
	u8 boot_id[CB_BOOT_ID_BYTES]; /* of the boot that wrote it */
	u64 written_sectors; /* CLEAN: the origin's write counter in that boot */
	u32 head_crc; /* CLEAN: of the origin's first CB_HEAD_BYTES */
	u32 fine_rule; /* CLEAN: enum cb_fine_rule */
	u64 slots_used; /* CLEAN: slots that the index names, metadata included */
	u64 tracked_from; /* CLEAN: epoch since which the fine map names all changes */
	u64 changes_from; /* CLEAN: as tracked_from, of the map in the other area; 0 for none */
	u64 fine_since; /* CLEAN, by groups: a slot of an earlier sequence does not count */
};

void cb_state_encode(const struct cb_state *state, u8 *payload);
void cb_state_decode(struct cb_state *state, const u8 *payload);

/* What a reload knows of the present. */
struct cb_now {
	u8 boot_id[CB_BOOT_ID_BYTES];
	u64 written_sectors; /* the origin's write counter: since boot */
	u32 head_crc;
	bool uncounted; /* nobody counts what is written, so the counter says nothing */
};

/* Whether a reload that knows nothing against it goes on from this state. */
bool cb_state_is_live(const struct cb_state *state);

/*
 * Whether tracking may go on from this state, which belongs to state_epoch,
 * under a header of header_epoch. 0 with *clean, or -ESTALE with the reason.
 *
 * The epoch header is written at T0 and the state only later, so a state of
 * another epoch than the header's is one that T0 has overtaken: dirty.
 */
int cb_state_judge(const struct cb_state *state, u64 state_epoch, u64 header_epoch,
		   const struct cb_now *now, bool *clean, const char **reason);

#endif
