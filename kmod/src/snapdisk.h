/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The snapshot device: its disk (snapdisk.c) and the reads of it (snapread.c). What is known
 * only to those who serve a read is in snapread.h.
 */
#ifndef COWBIRD_SNAPDISK_H
#define COWBIRD_SNAPDISK_H

#include <linux/bio.h>
#include <linux/list.h>
#include <linux/types.h>

struct cb_device;
struct cb_read;

/* Largest read of the snapshot device that is handled at once, in sectors. */
#define CB_READ_MAX_SECTORS 2048
/* Pages that are kept for reads of a snapshot while it is open: 512 KiB. */
#define CB_READ_SPARES 128

/* A bio reads so many slots ahead at most (1 MiB), for so many reads; bios at a time. */
#define CB_AHEAD_BLOCKS 256
#define CB_AHEAD_READS 4
#define CB_AHEADS 4

/* Slots of the COW file that follow each other and are being read to memory. */
struct cb_ahead {
	struct cb_device *dev;
	bool busy; /* L */
	u32 slot, count; /* L: these slots, without those that are there already */
	struct list_head entries; /* L: their entries, in this order */
	u32 read_count; /* L */
	struct cb_read *reads[CB_AHEAD_READS]; /* L: each has it in pending once */
	struct work_struct work; /* its end, where that is more than a completion may do */
};

int cb_snapdisk_init(void);
void cb_snapdisk_exit(void);
int cb_snapdisk_create(struct cb_device *dev);
/* Nobody has it open, or will: its name is free afterwards. Safe when there is none. */
void cb_snapdisk_remove(struct cb_device *dev);
/* Waits for the last of its reads, then frees it. */
void cb_snapdisk_destroy(struct cb_device *dev);
/* Adds the disk, which nobody can open yet; then it can be. */
int cb_snapdisk_publish(struct cb_device *dev);
void cb_snapdisk_open_up(struct cb_device *dev);

/* What reads need; cb_snapread_free is safe without it, and comes when no read is under way. */
int cb_snapread_init(struct cb_device *dev);
void cb_snapread_free(struct cb_device *dev);
/* Nobody has the snapshot open any more. */
void cb_snapread_free_spares(struct cb_device *dev);
void cb_snapread_submit(struct cb_device *dev, struct bio *bio);

#endif
