// SPDX-License-Identifier: GPL-2.0-only
/* Life of a snapshot: made, found by the hook, failed, destroyed. */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "cowbird.h"
#include "cowbird_trace.h"

/* Longest time that a write may be held before its snapshot is given up. */
static unsigned int hold_limit_s = 30;
module_param(hold_limit_s, uint, 0644);
MODULE_PARM_DESC(hold_limit_s, "Seconds after which a held write ends its snapshot (default 30)");

/* Checks in a row that must not find a device before it counts as removed. */
#define CB_MISSED_CHECKS 3
/* Longest wait for a device to be opened. */
#define CB_OPEN_LIMIT (5 * HZ)
/* Longest wait for the epoch header of an epoch that was refused, and for the one before to be back. */
#define CB_RESTORE_LIMIT (5 * HZ)

/* Bios of what somebody waits for: a pool of metadata, its looker, the header and a probe. */
#define CB_META_BIOS 16

DEFINE_MUTEX(cb_control_mutex);
DEFINE_MUTEX(cb_life_mutex);

int cb_refuse(char *reason, int error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vscnprintf(reason, COWBIRD_REASON_BYTES, fmt, args);
	va_end(args);
	return error;
}

int cb_device_event(struct cb_device *dev, enum cb_event event)
{
	unsigned long flags;
	int next, old;
	bool begins;

	spin_lock_irqsave(&dev->lock, flags);
	old = dev->phase;
	next = cb_phase_next(old, event);
	begins = old == CB_PHASE_HOLDING && event != CB_EVENT_FAIL && event != CB_EVENT_CLOSE;
	if (next >= 0) {
		WRITE_ONCE(dev->phase, next);
		/* Pairs with the one in cb_audit_escaped. */
		smp_mb();
		/* The epoch would begin with a write in it that came after its instant. */
		if (begins && READ_ONCE(dev->escaped)) {
			WRITE_ONCE(dev->phase, old);
			next = -EAGAIN;
		}
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if (next < 0)
		return next;
	trace_cowbird_state(dev, old, next);
	return 0;
}

/* Moves the phase and keeps the reason; false where the event has no meaning. */
static bool cb_device_give_up(struct cb_device *dev, enum cb_event event, int error,
			      const char *fmt, va_list args)
{
	unsigned long flags;
	int next;

	spin_lock_irqsave(&dev->lock, flags);
	next = cb_phase_next(dev->phase, event);
	if (next >= 0) {
		vscnprintf(dev->error_text, sizeof(dev->error_text), fmt, args);
		WRITE_ONCE(dev->error, error);
		dev->lose_since = dev->lose_next = jiffies;
		/* A reader looks at the phase last. */
		WRITE_ONCE(dev->phase, next);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if (next < 0)
		return false;
	trace_cowbird_error(dev, error);
	return true;
}

static void cb_device_given_up(struct cb_device *dev)
{
	cb_engine_wake(dev);
	wake_up_all(&dev->slow_wait);
}

void cb_device_fail(struct cb_device *dev, int error, const char *fmt, ...)
{
	va_list args;
	bool first;

	va_start(args, fmt);
	first = cb_device_give_up(dev, CB_EVENT_FAIL, error, fmt, args);
	va_end(args);
	if (!first)
		return;
	pr_err("snapshot %u of %s has failed and cannot be used, a full backup is needed: %s (error %d)\n",
	       dev->minor, dev->origin_path, dev->error_text, error);
	cb_device_given_up(dev);
}

/* A snapshot whose epoch does not begin; who asked for it is told the reason. */
static bool cb_device_abandon_as(struct cb_device *dev, int error, const char *fmt, ...)
{
	va_list args;
	bool first;

	va_start(args, fmt);
	first = cb_device_give_up(dev, CB_EVENT_FAIL, error, fmt, args);
	va_end(args);
	return first;
}

void cb_device_abandon(struct cb_device *dev, int error)
{
	if (!cb_device_abandon_as(dev, error, "the snapshot could not be taken"))
		return;
	/* Nobody takes up an epoch that has not begun: nothing waits for a disk to know. */
	if (cb_phase_of(dev) == CB_PHASE_LOSING)
		cb_device_event(dev, CB_EVENT_TOLD);
	pr_info("snapshot %u of %s: not taken (error %d)\n", dev->minor, dev->origin_path, error);
	cb_device_given_up(dev);
}

void cb_device_spoil(struct cb_device *dev, int error, const char *fmt, ...)
{
	va_list args;
	bool first;

	va_start(args, fmt);
	first = cb_device_give_up(dev, CB_EVENT_SPOIL, error, fmt, args);
	va_end(args);
	if (!first)
		return;
	pr_err("snapshot %u of %s has failed and cannot be used; change tracking continues: %s (error %d)\n",
	       dev->minor, dev->origin_path, dev->error_text, error);
	cb_device_given_up(dev);
}

struct cb_device *cb_device_get(unsigned int minor)
{
	return rcu_dereference_protected(cb_devices[minor], lockdep_is_held(&cb_control_mutex));
}

u32 cb_device_state(const struct cb_device *dev)
{
	bool snapshot = dev->disk;

	if (READ_ONCE(dev->verified))
		return snapshot ? COWBIRD_STATE_ACTIVE_SNAPSHOT : COWBIRD_STATE_ACTIVE_INCREMENTAL;
	if (READ_ONCE(dev->saved))
		return snapshot ? COWBIRD_STATE_DORMANT_SNAPSHOT : COWBIRD_STATE_DORMANT_INCREMENTAL;
	return snapshot ? COWBIRD_STATE_UNVERIFIED_SNAPSHOT : COWBIRD_STATE_UNVERIFIED_INCREMENTAL;
}

/* ---- set-up ------------------------------------------------------------ */

struct cb_device *cb_device_alloc(struct cb_setup *setup)
{
	struct cb_device *dev = kvzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	dev->minor = setup->minor;
	dev->slot = setup->before ? setup->minor + COWBIRD_MAX_MINORS : setup->minor;
	dev->phase = CB_PHASE_NEW;
	dev->epoch = setup->epoch;
	dev->hold_limit_jiffies = max(hold_limit_s, 1u) * HZ;
	dev->tracked_from = setup->epoch;
	memcpy(dev->uuid, setup->uuid, sizeof(dev->uuid));
	memcpy(dev->boot_id, setup->boot_id, sizeof(dev->boot_id));
	strscpy(dev->origin_path, setup->origin_path, sizeof(dev->origin_path));
	strscpy(dev->cow_path, setup->cow_path, sizeof(dev->cow_path));
	mutex_init(&dev->use_lock);
	spin_lock_init(&dev->lock);
	spin_lock_init(&dev->spare_lock);
	bio_list_init(&dev->incoming);
	init_waitqueue_head(&dev->slow_wait);
	init_waitqueue_head(&dev->engine_wait);
	init_waitqueue_head(&dev->reads_wait);
	init_waitqueue_head(&dev->park_wait);
	INIT_LIST_HEAD(&dev->end_list);
	bio_list_init(&dev->large);
	init_llist_head(&dev->done);
	INIT_LIST_HEAD(&dev->held);
	INIT_LIST_HEAD(&dev->held_free);
	INIT_LIST_HEAD(&dev->entries_all);
	INIT_LIST_HEAD(&dev->entries_free);
	INIT_LIST_HEAD(&dev->stored);
	INIT_LIST_HEAD(&dev->dirty);
	INIT_LIST_HEAD(&dev->batch);
	INIT_LIST_HEAD(&dev->runs_free);
	if (!cb_ending_prepare(dev))
		return dev;
	kvfree(dev);
	return NULL;
}

int cb_device_open_origin(struct cb_device *dev, struct cb_setup *setup)
{
	struct block_device *bdev;
	int ret = cb_known_open(&dev->origin, setup->origin);

	if (ret)
		return cb_refuse(setup->reason, ret, "cannot open %s", setup->origin_path);
	dev->users = 1;
	bdev = dev->origin.bdev;
	dev->origin_disk = bdev->bd_disk;
	if (bdev_is_zoned(bdev))
		return cb_refuse(setup->reason, -EOPNOTSUPP, "%s is a zoned device",
				 setup->origin_path);
	if (blk_queue_dax(dev->origin_disk->queue) && !cb_mutant(allow_dax))
		return cb_refuse(setup->reason, -EOPNOTSUPP,
				 "%s has DAX: a filesystem may write to it without any bio",
				 setup->origin_path);
	if (bdev_logical_block_size(bdev) > CB_BLOCK_BYTES)
		return cb_refuse(setup->reason, -EOPNOTSUPP,
				 "%s has logical blocks of more than 4096 bytes", setup->origin_path);
	ret = cb_geom_init(&dev->geom, get_start_sect(bdev), cb_bdev_sectors(bdev));
	if (ret)
		return cb_refuse(setup->reason, ret, "%s is empty", setup->origin_path);
	dev->block_count = cb_geom_block_count(&dev->geom);
	return 0;
}

int cb_device_open_cow(struct cb_device *dev, struct cb_setup *setup)
{
	int ret = bioset_init(&dev->run_bios, CB_RUNS, 0, BIOSET_NEED_BVECS);

	if (!ret)
		ret = bioset_init(&dev->meta_bios, CB_META_BIOS, 0, BIOSET_NEED_BVECS);
	if (!ret)
		ret = bioset_init(&dev->split_bios, CB_PIECES, offsetof(struct cb_piece, bio), 0);
	if (!ret)
		ret = cb_lanes_init(dev);
	if (ret)
		return cb_refuse(setup->reason, ret, "not enough memory for the snapshot");
	ret = cb_known_open(&dev->cow, setup->cow);
	if (ret)
		return cb_refuse(setup->reason, ret,
				 "cannot open the device of the COW file's filesystem");
	dev->cow_disk = dev->cow.bdev->bd_disk;
	dev->cow_base = get_start_sect(dev->cow.bdev);
	dev->cow_on_origin = dev->cow_disk == dev->origin_disk;
	return 0;
}

/*
 * A COW file's metadata is written at times when its filesystem is not mounted. On
 * another device than the origin that needs an opener of its own.
 */
static bool cb_device_keeps_cow_open(const struct cb_device *dev)
{
	return dev->cow.needs_opener && dev->cow.bdev->bd_dev != dev->origin.bdev->bd_dev;
}

void cb_device_close_devices(struct cb_device *dev)
{
	if (!cb_device_keeps_cow_open(dev) && !cb_mutant(keep_open))
		cb_known_close(&dev->cow);
	cb_device_unuse(dev);
}

/* A device that is being opened by a worker. */
struct cb_opening {
	struct work_struct work;
	struct completion done;
	refcount_t users; /* who waits, and the worker */
	struct cb_known_bdev known; /* a copy of what is to be opened */
	struct cb_device *dev; /* whose that is; until meta_in_flight is given back */
	int ret;
};

static void cb_opening_put(struct cb_opening *opening)
{
	if (!refcount_dec_and_test(&opening->users))
		return;
	/* Nobody has taken it over. */
	cb_known_close(&opening->known);
	kfree(opening);
}

static void cb_opening_run(struct work_struct *work)
{
	struct cb_opening *opening = container_of(work, struct cb_opening, work);

	struct cb_device *dev = opening->dev;

	opening->ret = cb_known_reopen(&opening->known);
	complete(&opening->done);
	cb_opening_put(opening);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->meta_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

/*
 * Opens it in a context of its own: who asks holds the lock of another disk, or of a
 * super block on another disk. Those are taken after a disk's lock elsewhere. And an
 * open can take its time, which nobody waits for without a limit.
 */
static int cb_device_reopen(struct cb_device *dev, struct cb_known_bdev *known)
{
	struct cb_opening *opening = kzalloc(sizeof(*opening), GFP_NOIO);
	int ret = -ETIMEDOUT;

	if (!opening)
		return -ENOMEM;
	opening->known = *known;
	opening->dev = dev;
	atomic_inc(&dev->meta_in_flight);
	refcount_set(&opening->users, 2);
	INIT_WORK(&opening->work, cb_opening_run);
	init_completion(&opening->done);
	cb_ending_queue(&opening->work);
	if (wait_for_completion_timeout(&opening->done, CB_OPEN_LIMIT)) {
		ret = opening->ret;
		known->open = opening->known.open;
		known->is_open = opening->known.is_open;
		opening->known.is_open = false;
	}
	cb_opening_put(opening);
	return ret;
}

int cb_device_use(struct cb_device *dev)
{
	int ret = 0;

	mutex_lock(&dev->use_lock);
	if (!dev->origin.is_open && dev->origin.needs_opener)
		ret = cb_device_reopen(dev, &dev->origin);
	if (!ret)
		dev->users++;
	mutex_unlock(&dev->use_lock);
	return ret;
}

void cb_device_unuse(struct cb_device *dev)
{
	mutex_lock(&dev->use_lock);
	if (!--dev->users && !cb_mutant(keep_open))
		cb_known_close(&dev->origin);
	mutex_unlock(&dev->use_lock);
}

/*
 * Without its device, or with less of it, the state LOST can be written nowhere, and a
 * driver that needs an opener may have none.
 */
static void cb_device_lose_state(struct cb_device *dev)
{
	if (cb_known_is_gone(&dev->cow) ||
	    (dev->cow.needs_opener && !cb_device_keeps_cow_open(dev)))
		dev->owns_state = false;
	/* It may be plugged in again. */
	if (cb_known_is_gone(&dev->cow) && !dev->cow_on_origin)
		cb_losing_say_unknown(dev);
}

/* While a disk's table is read anew its partitions are gone for a moment. */
static bool cb_device_is_gone(struct cb_device *dev, const struct cb_known_bdev *known)
{
	if (cb_mutant(ignore_removal) || !cb_known_is_gone(known))
		return false;
	return cb_known_disk_is_gone(known) || ++dev->missed_checks >= CB_MISSED_CHECKS;
}

static const char *cb_device_gone(struct cb_device *dev)
{
	u32 missed = dev->missed_checks;

	if (cb_device_is_gone(dev, &dev->origin))
		return "the origin was removed, or made anew in another place";
	if (cb_device_is_gone(dev, &dev->cow))
		return "the device of the COW file was removed, or made anew in another place";
	if (dev->missed_checks == missed)
		dev->missed_checks = 0;
	return NULL;
}

void cb_device_check_devices(struct cb_device *dev)
{
	const char *gone = cb_device_gone(dev);
	u64 sectors;

	if (gone) {
		cb_device_lose_state(dev);
		cb_device_fail(dev, -ENODEV, "%s", gone);
		return;
	}
	sectors = cb_known_sectors(&dev->origin);
	if (sectors == dev->geom.sectors || cb_mutant(ignore_size))
		return;
	cb_device_lose_state(dev);
	if (sectors)
		cb_device_fail(dev, -ESTALE, "the origin changed its size from %llu to %llu sectors",
			       (unsigned long long)dev->geom.sectors, (unsigned long long)sectors);
	else
		cb_device_fail(dev, -ENODEV, "the origin was detached or has lost its medium");
}

int cb_device_check_before(struct cb_device *dev, struct cb_setup *setup)
{
	const struct cb_device *before = setup->before;

	if (!before)
		return 0;
	if (cb_phase_of(before) != CB_PHASE_TRACKING && cb_phase_of(before) != CB_PHASE_SPOILT)
		return cb_refuse(setup->reason, -ESTALE,
				 "changes were not tracked to the end; destroy minor %u and take a full backup",
				 before->minor);
	if (cb_known_is_gone(&before->origin))
		return cb_refuse(setup->reason, -ESTALE,
				 "the origin was removed; destroy minor %u and take a full backup",
				 before->minor);
	if (before->geom.start != dev->geom.start || before->geom.sectors != dev->geom.sectors)
		return cb_refuse(setup->reason, -ESTALE,
				 "the origin was resized; destroy minor %u and take a full backup",
				 before->minor);
	return 0;
}

/* Whether some of the snapshot's COW file lies on the other's origin. */
static bool cb_device_cow_lies_on(const struct cb_device *dev, const struct cb_device *other)
{
	u32 i;

	if (dev->cow_disk != other->origin_disk)
		return false;
	for (i = 0; i < dev->annex_count; i++)
		if (cb_extents_lie_on(&dev->annexes[i].extents, &other->geom))
			return true;
	return cb_extents_lie_on(&dev->extents, &other->geom);
}

/*
 * One snapshot at a time of any part of a disk. And the module's own writes pass
 * by every snapshot: a COW file on another one's origin would change that image.
 */
int cb_device_check_pair(const struct cb_device *dev, const struct cb_device *other, char *reason)
{
	struct cb_blocks touched;

	if (other->origin_disk == dev->origin_disk && !cb_mutant(allow_second) &&
	    cb_geom_touched(&other->geom, dev->geom.start, dev->geom.sectors, &touched))
		return cb_refuse(reason, -EBUSY, "%s has a snapshot already: minor %u of %s",
				 dev->origin_path, other->minor, other->origin_path);
	if (cb_device_cow_lies_on(dev, other))
		return cb_refuse(reason, -EBUSY,
				 "the COW file of minor %u lies on %s, of which minor %u is a snapshot; choose another place",
				 dev->minor, other->origin_path, other->minor);
	if (cb_device_cow_lies_on(other, dev))
		return cb_refuse(reason, -EBUSY,
				 "the COW file of minor %u lies on %s, which therefore cannot be snapshot; move it elsewhere",
				 other->minor, dev->origin_path);
	return 0;
}

int cb_device_check_others(struct cb_device *dev, struct cb_setup *setup)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < COWBIRD_MAX_MINORS; i++) {
		struct cb_device *other = cb_device_get(i);

		if (other && other != setup->before)
			ret = cb_device_check_pair(dev, other, setup->reason);
	}
	return ret;
}

int cb_device_place_extents(struct cb_device *dev, struct cb_setup *setup,
			    struct cb_extents *extents)
{
	u64 grid = dev->cow_on_origin ? dev->geom.start : 0;
	u32 i;
	int ret;

	for (i = 0; i < setup->extent_count; i++) {
		struct cb_extent *extent = &setup->extents[i];

		if (extent->sector > cb_bdev_sectors(dev->cow.bdev) ||
		    extent->slots > cb_bdev_sectors(dev->cow.bdev) - extent->sector)
			return cb_refuse(setup->reason, -EINVAL,
					 "the COW file has an extent outside of its filesystem's device");
		extent->sector += dev->cow_base;
	}
	ret = cb_extents_init(extents, setup->extents, setup->extent_count, grid,
			      cb_disk_sectors(dev->cow_disk));
	if (ret)
		return cb_refuse(setup->reason, ret, "the COW file's extents cannot be used");
	return 0;
}

static int cb_device_init_cow(struct cb_device *dev, struct cb_setup *setup)
{
	int ret = cb_device_place_extents(dev, setup, &dev->extents);

	if (ret)
		return ret;
	/* Not the caller's any more: they may be in use for longer than the caller is there. */
	setup->extents = NULL;
	ret = cb_layout_init(&dev->layout, dev->block_count, dev->extents.slots,
			     dev->extents.count);
	if (ret)
		return cb_refuse(setup->reason, ret,
				 "the COW file is too small: %llu KiB of it are needed besides preserved blocks",
				 (unsigned long long)dev->layout.data_first * (CB_BLOCK_BYTES / 1024));
	return 0;
}

/* What it takes to flush the origin at T0, where the header's flush goes to another disk. */
static int cb_device_prepare_flush(struct cb_device *dev, struct cb_setup *setup)
{
	if (dev->cow_on_origin)
		return 0;
	dev->cut_io = cb_meta_io_alloc(dev);
	if (!dev->cut_io)
		return cb_refuse(setup->reason, -ENOMEM, "not enough memory for the snapshot");
	return 0;
}

/* A new series begins with empty metadata; one that goes on has its own. */
static int cb_device_format_cow(struct cb_device *dev, struct cb_setup *setup)
{
	const struct cb_device *before = setup->before;
	int ret = 0;

	if (before && !READ_ONCE(before->verified))
		return cb_refuse(setup->reason, -EBUSY,
				 "the COW file was not seen since its filesystem was unmounted; mount it and run `cowbirdctl verify %u`",
				 before->minor);
	if (before) {
		dev->before_epoch = before->epoch;
		dev->verified = before->verified;
	} else {
		dev->owns_state = true;
		dev->verified = true;
		ret = cb_meta_format(dev);
	}
	if (!ret)
		ret = cb_header_prepare(dev);
	if (ret)
		return cb_refuse(setup->reason, ret, "cannot write the COW file's metadata");
	return 0;
}

int cb_device_init_memory(struct cb_device *dev, struct cb_setup *setup)
{
	int ret = cb_device_check_memory(dev, setup);

	if (ret)
		return ret;
	ret = cb_snapread_init(dev);
	if (!ret)
		ret = cb_blocks_init(dev);
	if (!ret)
		ret = cb_marking_init(dev);
	if (ret)
		return cb_refuse(setup->reason, ret, "not enough memory for the snapshot");
	return 0;
}

/* Frees what there is; everything that could still use it has ended. */
void cb_device_free(struct cb_device *dev)
{
	cb_lanes_free(dev);
	/* Completions that have handed over their result but not yet returned. */
	wait_event(dev->reads_wait, !atomic_read(&dev->meta_in_flight));
	wait_event(dev->reads_wait, !atomic_read(&dev->pieces_in_flight));
	synchronize_rcu();
	cb_audit_unwatch_ends(dev);
	cb_meta_io_free(dev->cut_io);
	cb_header_free(dev);
	cb_marking_free(dev);
	cb_blocks_free(dev);
	cb_annex_free_all(dev, dev->annex_count);
	kvfree(dev->extents.list);
	cb_snapread_free(dev);
	bioset_exit(&dev->run_bios);
	bioset_exit(&dev->meta_bios);
	bioset_exit(&dev->split_bios);
	cb_known_forget(&dev->cow);
	cb_known_forget(&dev->origin);
	kvfree(dev);
}

void cb_device_publish(struct cb_device *dev)
{
	mutex_lock(&cb_life_mutex);
	cb_registry_place(dev->slot, dev);
	cb_registry_watch(dev);
	mutex_unlock(&cb_life_mutex);
}

/*
 * Waits until nobody acts any more on what a look at any snapshot told before. Who
 * found it does not sleep until the write is held, noted or let through; what was
 * let through needs no snapshot any more.
 */
static void cb_device_wait_lookers(void)
{
	synchronize_rcu();
}

void cb_device_unpublish(struct cb_device *dev)
{
	cb_device_event(dev, CB_EVENT_CLOSE);
	wake_up_all(&dev->slow_wait);
	cb_engine_wake(dev);
	mutex_lock(&cb_life_mutex);
	cb_registry_place(dev->slot, NULL);
	cb_registry_unwatch(dev);
	mutex_unlock(&cb_life_mutex);
	cb_device_wait_lookers();
}

int cb_device_start(struct cb_device *dev, struct cb_setup *setup)
{
	int ret = 0;

	if (!queue_is_mq(dev->origin_disk->queue))
		ret = cb_audit_watch_ends(dev);
	if (ret)
		return cb_refuse(setup->reason, ret, "cannot watch how writes to %s end",
				 setup->origin_path);
	ret = cb_snapdisk_create(dev);
	if (ret)
		return cb_refuse(setup->reason, ret, "cannot make the snapshot device");
	ret = cb_engine_start(dev);
	if (ret)
		return cb_refuse(setup->reason, ret, "cannot start the snapshot's thread");
	return 0;
}

/* Everything that can fail without a write having been touched. */
static int cb_device_prepare(struct cb_device *dev, struct cb_setup *setup)
{
	int ret;

	ret = cb_device_open_origin(dev, setup);
	if (!ret)
		ret = cb_device_check_before(dev, setup);
	if (!ret)
		ret = cb_device_open_cow(dev, setup);
	if (!ret)
		ret = cb_device_init_cow(dev, setup);
	if (!ret)
		ret = cb_device_check_others(dev, setup);
	if (!ret)
		ret = cb_device_init_memory(dev, setup);
	if (!ret)
		ret = cb_check_drainable(dev, setup);
	if (!ret)
		ret = cb_device_prepare_flush(dev, setup);
	if (!ret)
		ret = cb_device_format_cow(dev, setup);
	if (!ret)
		ret = cb_device_start(dev, setup);
	return ret;
}

/*
 * The new epoch was refused, but its header may be on disk, where it would
 * divide the changes of the epoch that goes on.
 */
static void cb_device_restore_header(struct cb_device *dev, struct cb_device *before)
{
	int ret;

	if (!before || !dev->header_sent)
		return;
	ret = cb_header_wait(dev, CB_RESTORE_LIMIT);
	if (!ret)
		ret = cb_header_write(before, CB_RESTORE_LIMIT);
	if (ret)
		cb_device_fail(before, ret, "cannot write the epoch header back");
}

/* The cut was not made: nobody finds the new snapshot any more, and the old one goes on. */
void cb_device_withdraw(struct cb_setup *setup)
{
	cb_device_unpublish(setup->dev);
	cb_snapdisk_remove(setup->dev);
	cb_device_restore_header(setup->dev, setup->before);
}

/*
 * The new snapshot takes the minor, the COW file and the changes of the one
 * that was tracking until now. Writes were noted there until the gate of the
 * new one closed, and a few afterwards: the map is a superset.
 */
static void cb_device_take_over(struct cb_device *dev, struct cb_device *before)
{
	unsigned int temporary = dev->slot;
	int ret;

	/*
	 * The hook finds both until the old one holds nothing; what it lets go of
	 * is offered to the new one.
	 */
	mutex_lock(&cb_life_mutex);
	cb_registry_place(dev->minor, dev);
	dev->cow_inode = before->cow_inode;
	dev->cow_file = before->cow_file;
	dev->cow_ino = before->cow_ino;
	before->cow_inode = NULL;
	before->cow_file = NULL;
	WRITE_ONCE(dev->verified, before->verified);
	mutex_unlock(&cb_life_mutex);
	cb_device_wait_lookers();
	cb_device_event(before, CB_EVENT_CLOSE);
	wake_up_all(&before->slow_wait);
	cb_engine_wake(before);
	/* Who still decides by the phase before looks at its map, which goes to the new one. */
	cb_device_wait_lookers();
	mutex_lock(&cb_life_mutex);
	ret = cb_engine_park(before);
	WRITE_ONCE(dev->slot, dev->minor);
	cb_registry_place(temporary, NULL);
	cb_registry_unwatch(before);
	/* At rest it notes nothing any more. */
	if (!ret) {
		dev->changes = before->preserved;
		dev->changes_from_epoch = before->tracked_from;
		before->preserved = NULL;
		cb_engine_unpark(before);
	}
	/* What was given up of the old one counts as older, should it land yet. */
	dev->state_sequence = before->state_sequence + CB_STATE_COPIES;
	dev->state_status = before->state_status;
	/* After the sequence that it goes on from. */
	smp_store_release(&dev->owns_state, true);
	mutex_unlock(&cb_life_mutex);
	if (ret)
		cb_device_fail(dev, ret, "the epoch before it did not come to an end");
	cb_engine_wake(dev);
	cb_device_wait_lookers();
	cb_device_end(before);
}

static void cb_device_take_file(struct cb_device *dev, struct cb_setup *setup)
{
	mutex_lock(&cb_life_mutex);
	cb_cow_file_give(dev, setup->cow_file);
	mutex_unlock(&cb_life_mutex);
	setup->cow_file = NULL;
}

/* Everything up to where a write would be touched. */
int cb_device_make(struct cb_setup *setup)
{
	int ret;

	lockdep_assert_held(&cb_control_mutex);
	if (!setup->before && rcu_access_pointer(cb_devices[setup->minor]))
		return cb_refuse(setup->reason, -EBUSY, "minor %u is in use", setup->minor);
	if (!cb_module_get())
		return cb_refuse(setup->reason, -ENODEV, "the module is being unloaded");
	setup->dev = cb_device_alloc(setup);
	if (!setup->dev) {
		cb_module_put();
		return cb_refuse(setup->reason, -ENOMEM, "not enough memory for the snapshot");
	}
	ret = cb_device_claim_memory(setup->dev, setup);
	if (!ret)
		ret = cb_device_prepare(setup->dev, setup);
	if (ret)
		cb_device_unmake(setup);
	return ret;
}

/*
 * Ends a snapshot that nobody has found, or finds any more; safe when there is none.
 * Its file goes with it: what is under way may still be written there.
 */
void cb_device_unmake(struct cb_setup *setup)
{
	struct cb_device *dev = setup->dev;

	if (!dev)
		return;
	setup->dev = NULL;
	if (setup->cow_file && !setup->before) {
		cb_device_take_file(dev, setup);
		setup->file_taken = true;
	}
	cb_device_end(dev);
}

/* The epoch has begun: the snapshot owns from here on what the caller brought. */
void cb_device_settle(struct cb_setup *setup)
{
	struct cb_device *dev = setup->dev;

	cb_meta_io_free(dev->cut_io);
	dev->cut_io = NULL;
	WRITE_ONCE(dev->settled, true);
	if (setup->before)
		cb_device_take_over(dev, setup->before);
	else
		cb_device_take_file(dev, setup);
	WRITE_ONCE(dev->taken_over, true);
	cb_device_close_devices(dev);
	pr_info("snapshot %u of %s: epoch %llu, %llu blocks, COW file of %llu blocks\n", dev->minor,
		dev->origin_path, (unsigned long long)dev->epoch,
		(unsigned long long)dev->block_count, (unsigned long long)dev->extents.slots);
}

/* ---- the end of a snapshot --------------------------------------------- */

/* Keeps others from opening the snapshot device. */
static int cb_device_claim_disk(struct cb_device *dev, char *reason)
{
	if (!dev->disk || atomic_cmpxchg(&dev->open_count, 0, -1) == 0)
		return 0;
	return cb_refuse(reason, -EBUSY,
			 "/dev/" COWBIRD_DISK_PREFIX "%u is open or mounted; close it first",
			 dev->minor);
}

/*
 * The snapshot's part is freed while the engine rests, which goes on to mark
 * regions afterwards.
 */
void cb_device_drop_preserved(struct cb_device *dev)
{
	u32 annexes = dev->annex_count;
	int ret;

	mutex_lock(&cb_life_mutex);
	ret = cb_engine_park(dev);
	if (!ret) {
		cb_blocks_free_preserved(dev);
		WRITE_ONCE(dev->annex_count, 0);
		cb_engine_unpark(dev);
	}
	mutex_unlock(&cb_life_mutex);
	/* Some of it is under way to a disk that does not answer: it goes when the epoch ends. */
	if (ret)
		return;
	cb_device_unclaim_memory(dev);
	/* Writes to their blocks are nobody's business any more; the filesystem gives them out anew. */
	if (annexes)
		cb_device_wait_lookers();
	cb_annex_free_all(dev, annexes);
}

/* So that the next reload neither counts the epoch before nor brings the snapshot back. */
static void cb_device_tell_tracking(struct cb_device *dev)
{
	struct cb_meta_io *io = cb_meta_io_alloc(dev);

	if (!io || cb_device_use(dev)) {
		cb_meta_io_free(io);
		return;
	}
	mutex_lock(&cb_life_mutex);
	if (!cb_engine_park(dev)) {
		if (cb_phase_of(dev) == CB_PHASE_TRACKING &&
		    !cb_save_status(dev, io, CB_STATUS_DIRTY))
			WRITE_ONCE(dev->saved, false);
		cb_engine_unpark(dev);
	}
	mutex_unlock(&cb_life_mutex);
	cb_meta_io_free(io);
	cb_device_unuse(dev);
}

int cb_device_track(unsigned int minor, char *reason)
{
	struct cb_device *dev = cb_device_get(minor);
	int ret;

	lockdep_assert_held(&cb_control_mutex);
	if (!dev)
		return cb_refuse(reason, -ENOENT, "there is no snapshot with minor %u", minor);
	if (cb_phase_of(dev) != CB_PHASE_ACTIVE && cb_phase_of(dev) != CB_PHASE_SPOILT)
		return cb_refuse(reason, -EINVAL, "minor %u is not an active snapshot", minor);
	ret = cb_device_claim_disk(dev, reason);
	if (ret)
		return ret;
	ret = cb_device_event(dev, CB_EVENT_TRACK);
	if (ret) {
		atomic_set(&dev->open_count, 0);
		return cb_refuse(reason, ret, "the snapshot failed meanwhile");
	}
	wake_up_all(&dev->slow_wait);
	cb_engine_wake(dev);
	cb_snapdisk_remove(dev);
	cb_snapdisk_destroy(dev);
	/* Nobody decides any more as if the snapshot were there; then it can go. */
	cb_device_wait_lookers();
	cb_device_drop_preserved(dev);
	if (cb_mutant(forget_at_transition))
		bitmap_zero(dev->preserved, dev->block_count);
	cb_device_tell_tracking(dev);
	WRITE_ONCE(dev->error, 0);
	pr_info("snapshot %u of %s: given up, changes since epoch %llu are tracked\n", dev->minor,
		dev->origin_path, (unsigned long long)dev->epoch);
	return 0;
}

int cb_device_destroy(unsigned int minor, char *reason)
{
	struct cb_device *dev = cb_device_get(minor);
	struct cb_meta_io *io;
	bool rested, used, gone;
	int ret;

	lockdep_assert_held(&cb_control_mutex);
	if (!dev)
		return cb_refuse(reason, -ENOENT, "there is no snapshot with minor %u", minor);
	ret = cb_device_claim_disk(dev, reason);
	if (ret)
		return ret;
	io = cb_meta_io_alloc(dev);
	used = !cb_device_use(dev);
	mutex_lock(&cb_life_mutex);
	/* Nobody will read what is not stored yet. */
	WRITE_ONCE(dev->store_none, true);
	rested = !cb_engine_park(dev);
	/* Where it has gone, or is somebody else's, there is nothing to be written. */
	gone = READ_ONCE(dev->cow_gone) || cb_known_is_gone(&dev->cow);
	if (!gone && rested && io)
		cb_save_status(dev, io, CB_STATUS_ENDED);
	else if (!gone)
		pr_warn("snapshot %u of %s: its COW file still says that changes are tracked; remove the file before the next boot\n",
			dev->minor, dev->origin_path);
	/* A state of ours must not follow. */
	dev->owns_state = false;
	if (rested)
		cb_engine_unpark(dev);
	mutex_unlock(&cb_life_mutex);
	cb_meta_io_free(io);
	if (used)
		cb_device_unuse(dev);
	pr_info("snapshot %u of %s: destroyed\n", dev->minor, dev->origin_path);
	cb_device_unpublish(dev);
	cb_device_end(dev);
	return 0;
}

/*
 * Puts a series away: saved, and no longer in memory. Nothing would see writes
 * from here on, so nobody may have the origin in use.
 */
int cb_device_suspend(unsigned int minor, char *reason)
{
	struct cb_device *dev = cb_device_get(minor);
	struct cb_bdev claim;
	int ret;

	lockdep_assert_held(&cb_control_mutex);
	if (!dev)
		return cb_refuse(reason, -ENOENT, "there is no snapshot with minor %u", minor);
	ret = cb_device_claim_disk(dev, reason);
	if (ret)
		return ret;
	ret = cb_bdev_open(&claim, dev->origin.bdev->bd_dev, dev);
	if (ret) {
		cb_refuse(reason, ret, "%s is in use; unmount its filesystems first",
			  dev->origin_path);
		goto out_disk;
	}
	if (!cb_known_is_same(&dev->origin, claim.bdev)) {
		ret = cb_refuse(reason, -ENODEV,
				"%s is not the device that was tracked, which is gone; destroy minor %u",
				dev->origin_path, minor);
		goto out_claim;
	}
	mutex_lock(&cb_life_mutex);
	/* Nobody has the origin in use. */
	ret = cb_save(dev, jiffies + CB_SAVE_LIMIT, CB_SAVE_HOLD_ALONE);
	if (!ret && cb_phase_of(dev) == CB_PHASE_ACTIVE && dev->dirty_count)
		ret = -EBUSY;
	else if (!ret && cb_phase_of(dev) == CB_PHASE_ACTIVE && cb_annex_is_used(dev))
		ret = -EFBIG;
	mutex_unlock(&cb_life_mutex);
	if (ret) {
		cb_refuse(reason, ret,
			  ret == -EBUSY ?
				  "preserved blocks of minor %u are in memory only; verify its COW file first" :
			  ret == -EFBIG ?
				  "the COW file of minor %u was expanded, and no save covers that; turn it to incremental first" :
				  "minor %u cannot be saved",
			  minor);
		goto out_claim;
	}
	pr_info("snapshot %u of %s: suspended\n", dev->minor, dev->origin_path);
	cb_device_unpublish(dev);
	cb_device_end(dev);
	cb_bdev_close(&claim);
	return 0;

out_claim:
	cb_bdev_close(&claim);
out_disk:
	if (dev->disk)
		atomic_set(&dev->open_count, 0);
	return ret;
}
