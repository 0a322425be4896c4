// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a snapshot is made: whether it may be, beside those that there are; everything that
 * can fail before a write is touched; and, once its epoch has begun, what it takes over from
 * the one before.
 */
#include "cowbird.h"

/* Longest wait for the epoch header of an epoch that was refused, and for the one before to be back. */
#define CB_RESTORE_LIMIT (5 * HZ)

/* ---- beside others ----------------------------------------------------- */

int cb_device_check_before(struct cb_device *dev, struct cb_setup *setup)
{
	const struct cb_device *before = setup->before;

	if (!before)
		return 0;
	if (cb_phase_of(before) != CB_PHASE_TRACKING &&
	    cb_phase_of(before) != CB_PHASE_INVALIDATED)
		return cb_refuse(setup->reason, -ESTALE,
				 "changes were not tracked to the end; destroy minor %u and take a full backup",
				 before->minor);
	if (cb_known_is_gone(&before->origin))
		return cb_refuse(setup->reason, -ESTALE,
				 "the origin was removed; destroy minor %u and take a full backup",
				 before->minor);
	if (before->geom.start != dev->geom.start || before->geom.sectors != dev->geom.sectors ||
	    smp_load_acquire(&before->resized))
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

/* ---- the COW file ------------------------------------------------------ */

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

/* ---- all of it --------------------------------------------------------- */

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
void cb_device_rollback(struct cb_setup *setup)
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
		cb_device_fail(dev, ret,
			       "the previous epoch could not be closed; its changes are incomplete");
	/* Since it was asked whether that may go on. */
	if (smp_load_acquire(&before->resized)) {
		WRITE_ONCE(dev->resized_to, READ_ONCE(before->resized_to));
		smp_store_release(&dev->resized, true);
	}
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
int cb_device_create(struct cb_setup *setup)
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
		cb_device_abort(setup);
	return ret;
}

/*
 * Ends a snapshot that nobody has found, or finds any more; safe when there is none.
 * Its file goes with it: what is under way may still be written there.
 */
void cb_device_abort(struct cb_setup *setup)
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
void cb_device_commit(struct cb_setup *setup)
{
	struct cb_device *dev = setup->dev;

	cb_meta_io_free(dev->cut_io);
	dev->cut_io = NULL;
	WRITE_ONCE(dev->committed, true);
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
