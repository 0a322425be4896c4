/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a set-up or a reload needs, and how one is refused; and the instant at which the
 * snapshots of a set begin: their filesystems are frozen (freeze.c) and the cut is made
 * (quiesce.c), for all of them or none (set.c).
 */
#ifndef COWBIRD_SETUP_H
#define COWBIRD_SETUP_H

#include <linux/compiler.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/types.h>

#include "core/extents.h"
#include "include/uapi/cowbird.h"

struct cb_device;

/* What is to be frozen, as user space names it: files of filesystems, and block devices. */
struct cb_freeze_list {
	struct file **files;
	u32 file_count;
	struct cowbird_freeze_device *devices;
	u32 device_count;
};

/* A filesystem that is frozen: all of it, through one of its devices. */
struct cb_frozen {
	struct block_device *bdev;
	struct super_block *sb; /* NULL where it is known by its device alone */
	bool found; /* bdev is for cb_bdev_unfind; sb, if any, for deactivate_super */
};

/* What a set-up or a reload needs, checked and copied from user space. */
struct cb_setup {
	unsigned int minor;
	dev_t origin;
	dev_t cow; /* device of the COW file's filesystem */
	u64 cow_sector; /* reload: where slot 0 lies on it */
	u64 cache_bytes;
	struct cb_extent *extents; /* NULL once they are taken over */
	u32 extent_count;
	struct file *cow_file; /* taken over; NULL unless it is a new series */
	u32 pin; /* its place among the control device's pinned files */
	bool file_taken; /* by a snapshot that was not taken, for as long as that may write there */
	struct cb_device *before; /* the series goes on from this one, else NULL */
	struct cb_freeze_list freeze;
	u8 uuid[COWBIRD_UUID_BYTES];
	u8 boot_id[COWBIRD_UUID_BYTES];
	u64 epoch;
	u32 timeout_ms;
	bool want_snapshot; /* reload */
	bool final; /* reload: what is refused for good is told to the COW file */
	const char *origin_path;
	const char *cow_path;
	char *reason; /* COWBIRD_REASON_BYTES, out */
	struct cb_device *dev; /* the new snapshot, until it is committed */
};

/* Snapshots that begin at one instant: all of them, or none. */
struct cb_set {
	struct cb_setup *setups;
	u32 count;
	u32 timeout_ms; /* of the whole cut */
	struct cb_setup *blamed; /* out: why it was refused, if one member was the reason */
	struct cb_frozen *frozen; /* room for every filesystem that is named */
	u32 frozen_count;
};

/* Writes a refusal's reason for user space and returns the error. */
__printf(3, 4) int cb_refuse(char *reason, int error, const char *fmt, ...);

/* ---- set.c ------------------------------------------------------------- */

/* Takes the snapshots; the setups are complete but for what comes out. */
int cb_set_create(struct cb_set *set);

/* ---- freeze.c ---------------------------------------------------------- */

/* Refuses when one of the filesystems is frozen already, before anything waits for it. */
int cb_freeze_check(const struct cb_freeze_list *list, char *reason);

/* Freezes the filesystems of all members, or none. */
int cb_freeze_all(struct cb_set *set);
void cb_thaw_all(struct cb_set *set);
/* Whether all that was frozen is so still; -EAGAIN with a reason. */
int cb_freeze_recheck(struct cb_set *set);

/* ---- quiesce.c --------------------------------------------------------- */

int cb_check_drainable(struct cb_device *dev, struct cb_setup *setup);

/* Makes the cut: on success the epochs have begun and the devices are ACTIVE. */
int cb_quiesce_and_begin(struct cb_set *set);

/* Holds every write from here on, and waits until none is in flight. */
int cb_gate_and_drain(struct cb_set *set, unsigned long deadline);

/* Waits until nothing is in flight on the origin, where nothing can enter. */
int cb_drain(struct cb_device *dev, unsigned long deadline);

static inline unsigned long cb_time_left(unsigned long deadline)
{
	return time_before(jiffies, deadline) ? deadline - jiffies : 1;
}

#endif
