/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where every bio of the machine is seen: by the hook (hook.c), which finds the snapshots
 * that a disk concerns (registry.c), knows who is inside the original submission
 * (passage.c), and has how writes end looked at a second time (audit.c).
 */
#ifndef COWBIRD_HOOK_H
#define COWBIRD_HOOK_H

#include <linux/bio.h>
#include <linux/irq_work.h>
#include <linux/list.h>
#include <linux/sched.h>
#include <linux/types.h>

#include "compat.h"
#include "core/extents.h"
#include "core/geom.h"

struct cb_device;

/* ---- hook.c ------------------------------------------------------------ */

int cb_hook_init(void);
void cb_hook_exit(void);

/* A bio that is to be seen by the hook, by which it is then set to NULL; see quiesce.c. */
extern struct bio *cb_hook_trial;

/* Submits one of the module's own bios, past the hook. */
cb_cookie_t cb_submit_past_hook(struct bio *bio);

/* Lets go of a write that dev held, or nobody did; the other snapshots are asked. May sleep. */
void cb_hook_release(struct cb_device *dev, struct bio *bio);

/* ---- registry.c -------------------------------------------------------- */

/* A disk whose writes concern a snapshot; see registry.c. */
struct cb_watch {
	struct hlist_node node; /* changed under cb_life_mutex, read under RCU */
	struct gendisk *disk;
	struct cb_device *dev;
	/* All of the COW file on this disk lies in between, sectors; they only move apart. */
	u64 cow_first;
	u64 cow_end;
};

/* Under cb_life_mutex, as the two below: who looks from now on finds the snapshot, or nobody, there. */
void cb_registry_place(unsigned int slot, struct cb_device *dev);
/* The hook finds the snapshot by its disks, or does not any more. */
void cb_registry_watch(struct cb_device *dev);
void cb_registry_unwatch(struct cb_device *dev);
/* There is more of the COW file on its disk; before the first write to it. */
void cb_registry_extend(struct cb_device *dev, const struct cb_extents *extents);
/* What may concern a disk, others among it; under RCU. NULL where there is no snapshot at all. */
struct hlist_head *cb_registry_watches(const struct gendisk *disk);

/* ---- passage.c --------------------------------------------------------- */

/* Disks that a passage knows by name; with more it counts for all. */
#define CB_PASSAGE_DISKS 4

/* A task inside the original submission, on its own stack; see passage.c. */
struct cb_passage {
	struct hlist_node node;
	struct task_struct *task;
	unsigned long began; /* jiffies */
	struct cb_device *pause; /* on whose account it has to pause, or NULL */
	const void *group; /* then: of the write that is held; only to be compared */
	/* Disks to which it carries writes, and whether there are more; its bucket's lock. */
	struct gendisk *disks[CB_PASSAGE_DISKS];
	u32 disk_count;
	bool many;
	bool nowait;
	bool dispatch; /* of bios that a cgroup's limit had delayed */
	bool may_pause; /* its task asks afterwards whether it has to */
};

void cb_passage_init(void);

/* disk: to which the task carries a write; or NULL. */
void cb_passage_begin(struct cb_passage *passage, struct gendisk *disk);
void cb_passage_end(struct cb_passage *passage);
/* Adds a disk, or NULL, to the passage of the current task; NULL where it has none. */
struct cb_passage *cb_passage_extend(struct gendisk *disk);
/* It carries no write any more, and goes on to keep the module. */
void cb_passage_unload(struct cb_passage *passage);

/*
 * Waits until no task carries a write to a disk that had entered the hook by now.
 * -ETIMEDOUT past a deadline in jiffies.
 */
int cb_passage_wait(struct gendisk *disk, unsigned long deadline);
/* Waits until there is no passage at all; without a limit, but it says for whom it waits. */
void cb_passage_wait_all(void);

/* ---- resized.c --------------------------------------------------------- */

/* Watches sizes of disks, where the kernel can be watched. */
void cb_resized_init(void);
void cb_resized_exit(void);

/* ---- audit.c ----------------------------------------------------------- */

/* Bits of what. */
enum cb_found_bits {
	CB_FOUND_UNPRESERVED = 1, /* a write was done whose block was not preserved ... */
	CB_FOUND_INVALIDATES = 2, /* ... which is noted */
	CB_FOUND_UNMARKED = 4, /* and one whose blocks were not marked */
	CB_FOUND_FAILS = 8,
};

/* What the look at ends found where it can take no lock; audit.c. */
struct cb_found {
	atomic_t what; /* readers see it at once */
	u64 unpreserved; /* before INVALIDATES */
	struct cb_blocks unmarked; /* before FAILS */
	struct irq_work work;
};

void cb_audit_init(struct cb_device *dev);
/* Watches how writes to a snapshot's origin end; until the snapshot is freed. */
int cb_audit_watch_ends(struct cb_device *dev);
void cb_audit_unwatch_ends(struct cb_device *dev);
/* Whether a write has ended while writes are held, since it was asked last. */
bool cb_audit_take_escaped(struct cb_device *dev);

#endif
