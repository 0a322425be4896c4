/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a snapshot begins and ends: its memory and who finds it (device.c), the devices that
 * it is on (disks.c), a set-up (making.c), what a user asks for to end it (retiring.c), and
 * that nobody frees it under its own I/O (ending.c).
 */
#ifndef COWBIRD_LIFE_H
#define COWBIRD_LIFE_H

#include <linux/fs.h>
#include <linux/module.h>
#include <linux/types.h>
#include <linux/workqueue.h>

#include "core/extents.h"
#include "mutants.h"

struct cb_device;
struct cb_setup;

/* ---- device.c ---------------------------------------------------------- */

struct cb_device *cb_device_alloc(struct cb_setup *setup);
void cb_device_free(struct cb_device *dev);
void cb_device_publish(struct cb_device *dev);
/* After this nobody finds the snapshot any more; what it holds is on its way. */
void cb_device_unpublish(struct cb_device *dev);
/* Nobody acts any more on what a look at any snapshot has told before. Sleeps. */
void cb_device_wait_lookers(void);

/* A snapshot's reference to the module. */
static inline bool cb_module_get(void)
{
	return cb_mutant(unload_any_time) || try_module_get(THIS_MODULE);
}

static inline void cb_module_put(void)
{
	if (!cb_mutant(unload_any_time))
		module_put(THIS_MODULE);
}

/* ---- disks.c ----------------------------------------------------------- */

/* Parts of a set-up that a reload shares. */
int cb_device_open_origin(struct cb_device *dev, struct cb_setup *setup);
int cb_device_open_cow(struct cb_device *dev, struct cb_setup *setup);
/* The set-up is over: the devices are not kept open from here on. */
void cb_device_close_devices(struct cb_device *dev);

/*
 * Around I/O to a device that nobody else is known to have open, as the reads of
 * a snapshot. Where the origin's driver needs it, it is open in between. May sleep; not while the
 * engine is parked.
 */
int cb_device_use(struct cb_device *dev);
void cb_device_unuse(struct cb_device *dev);

/* Ends tracking when the origin was resized, be it for a moment. Anybody may call it. */
void cb_device_check_size(struct cb_device *dev);
/* Ends tracking when the origin or the COW file's device is gone, or the origin was resized. For the engine. */
void cb_device_check_devices(struct cb_device *dev);

/* ---- making.c ---------------------------------------------------------- */

/* Steps of a member of a set; see set.c. */
int cb_device_create(struct cb_setup *setup);
void cb_device_abort(struct cb_setup *setup);
void cb_device_rollback(struct cb_setup *setup);
void cb_device_commit(struct cb_setup *setup);

/* Parts of a set-up that a reload shares. */
/* Against all other snapshots, and against one: neither may change the other's image. */
int cb_device_check_others(struct cb_device *dev, struct cb_setup *setup);
int cb_device_check_pair(const struct cb_device *dev, const struct cb_device *other, char *reason);
/* A series goes on only over the same blocks, and only if none was missed. */
int cb_device_check_before(struct cb_device *dev, struct cb_setup *setup);
/* Extents that user space gave, as the COW file's disk has them; on success the list is in use. */
int cb_device_place_extents(struct cb_device *dev, struct cb_setup *setup,
			    struct cb_extents *extents);
int cb_device_init_memory(struct cb_device *dev, struct cb_setup *setup);
int cb_device_start(struct cb_device *dev, struct cb_setup *setup);

/* ---- retiring.c -------------------------------------------------------- */

int cb_device_destroy(unsigned int minor, char *reason);
int cb_device_track(unsigned int minor, char *reason);
int cb_device_suspend(unsigned int minor, char *reason);
/* Frees what only a snapshot needs, when there is none any more. */
void cb_device_drop_preserved(struct cb_device *dev);

/* ---- ending.c ---------------------------------------------------------- */

int cb_ending_init(void);
void cb_ending_exit(void);
int cb_ending_prepare(struct cb_device *dev);
/*
 * The end of a snapshot that is not published, or not any more: everything is freed
 * as soon as its own I/O has ended. The caller waits for that with a limit; false
 * where it has passed, and the rest goes on by itself. Either way the snapshot is
 * not the caller's any more.
 */
bool cb_device_end(struct cb_device *dev);
/* Other work that nobody waits for without a limit, done before the module goes. */
void cb_ending_queue(struct work_struct *work);
/* Whether there are snapshots at their end; a look without a lock. */
bool cb_ending_has_any(void);
/* Lists a snapshot that ends; safe when it is listed. Under cb_life_mutex, before its slot is empty. */
void cb_ending_list(struct cb_device *dev);
/* One that ends and has its COW file on that filesystem, or NULL. Under cb_life_mutex. */
struct cb_device *cb_ending_find(const struct super_block *sb);

#endif
