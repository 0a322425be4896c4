/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which slots of the fine maps hold something.
 *
 * A slot of a fine map stands for 125 MiB of the origin, and that of a large origin
 * has many that stand for nothing that was written. A clean save writes only groups
 * of slots of which one holds something, and names them in the state that completes
 * it: one bit per group, for the map of the epoch and for that of the one before.
 *
 *   state payload   96  groups of the epoch's map, CB_GROUPS_BYTES
 *                 2048  groups of the map of the epoch before
 *
 * What is named counts; what is not named is empty, whatever lies there. A group is
 * one slot up to an origin of 1.86 TiB, and 64 slots, a single bio, at 119 TiB.
 */
#ifndef COWBIRD_CORE_GROUPS_H
#define COWBIRD_CORE_GROUPS_H

#include "layout.h"

#define CB_GROUPS_AT 96u
#define CB_GROUPS_BYTES ((CB_PAYLOAD_BYTES - CB_GROUPS_AT) / 2)
#define CB_GROUPS_MAX (CB_GROUPS_BYTES * 8)

enum cb_fine_map {
	CB_FINE_TRACKED, /* of the epoch */
	CB_FINE_CHANGES, /* of the one before */
	CB_FINE_MAPS,
};

struct cb_groups {
	u8 of[CB_FINE_MAPS][CB_GROUPS_BYTES];
};

/* A group has 1 << this many slots, the last one fewer. */
static inline u32 cb_group_shift(const struct cb_layout *layout)
{
	u32 shift = 0;

	while (((layout->fine_slots - 1) >> shift) >= CB_GROUPS_MAX)
		shift++;
	return shift;
}

static inline bool cb_group_has(const u8 *groups, u64 group)
{
	return groups[group / 8] >> (group % 8) & 1;
}

static inline void cb_group_add(u8 *groups, u64 group)
{
	groups[group / 8] |= (u8)(1u << (group % 8));
}

#endif
