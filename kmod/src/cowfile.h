/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The COW file as a file: its extents, which are pinned or verified (cowfile.c), more of
 * them for an active snapshot (annex.c), and the end of the filesystem that it is on
 * (unmount.c).
 */
#ifndef COWBIRD_COWFILE_H
#define COWBIRD_COWFILE_H

#include <linux/fs.h>
#include <linux/types.h>

#include "core/extents.h"

struct cb_device;
struct cb_setup;

/* ---- cowfile.c, unmount.c ---------------------------------------------- */

/* Fixes the extents of a file; the caller's reference stays the caller's. */
int cb_cow_file_pin(struct file *file, char *reason);
/* Undoes it and drops a reference. */
void cb_cow_file_unpin(struct file *file);
/* A device takes a pinned file over, with the caller's reference. */
void cb_cow_file_give(struct cb_device *dev, struct file *file);
/* What a device has of its COW file; inode is NULL where it has none. */
struct cb_cow_ref {
	struct inode *inode;
	struct file *file; /* where the end of its filesystem is not noticed, else NULL */
};

/* Takes that away from the device, under cb_life_mutex; safe when there is none. */
struct cb_cow_ref cb_cow_file_take(struct cb_device *dev);
/*
 * Lets go of it. Not under the mutex: the last reference can mean to wait for the filesystem,
 * because a time that was only in memory (lazytime) goes to the journal, and its disk may
 * not answer.
 */
void cb_cow_file_put(const struct cb_cow_ref *ref);
/* Both, for a device that has ended; takes it off the list of those. May sleep for long. */
void cb_cow_file_end(struct cb_device *dev);
/* Compares a pinned file with the extents in use, and takes it over when it is the same. */
int cb_cow_file_verify(struct cb_device *dev, struct cb_setup *setup);

int cb_unmount_init(void);
void cb_unmount_exit(void);
/* Whether the end of a filesystem is noticed, so that its files need not be held open. */
bool cb_unmount_is_noticed(void);

/* ---- annex.c ----------------------------------------------------------- */

/* Times that the COW file of a snapshot can be expanded. */
#define CB_ANNEXES 16

/* More slots for an active snapshot; see annex.c. Constant once it is counted. */
struct cb_annex {
	struct cb_extents extents;
	u64 first_slot; /* of the snapshot */
	struct file *file; /* pinned */
};

/* The setup's pinned file becomes an annex. */
int cb_annex_add(struct cb_device *dev, struct cb_setup *setup);
/* Lets go of so many annexes, which nobody finds any more. */
void cb_annex_free_all(struct cb_device *dev, u32 count);
u64 cb_annex_slots(const struct cb_device *dev);
bool cb_annex_touch(const struct cb_device *dev, u64 sector, u64 sectors);
/* Whether preserved blocks lie in an annex, where no save finds them. With the engine at rest. */
bool cb_annex_is_used(const struct cb_device *dev);
/* As cb_extents_slot, for every slot that may keep a preserved block. */
int cb_data_slot(const struct cb_device *dev, u64 slot, u64 *sector, u64 *run);

#endif
