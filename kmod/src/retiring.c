// SPDX-License-Identifier: GPL-2.0-only
/*
 * A snapshot that a user has no more use for: it is given up and its changes are tracked, it
 * is destroyed, or its series is put away until it is taken up again.
 */
#include <linux/bitmap.h>

#include "cowbird.h"

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
	if (cb_phase_of(dev) != CB_PHASE_ACTIVE && cb_phase_of(dev) != CB_PHASE_INVALIDATED)
		return cb_refuse(reason, -EINVAL, "minor %u is not an active snapshot", minor);
	ret = cb_device_claim_disk(dev, reason);
	if (ret)
		return ret;
	ret = cb_device_event(dev, CB_EVENT_TRACK);
	if (ret) {
		atomic_set(&dev->open_count, 0);
		return cb_refuse(reason, ret, "the snapshot failed meanwhile");
	}
	cb_device_clear_error(dev);
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
	pr_info("snapshot %u of %s: dropped; tracking changes since epoch %llu\n", dev->minor,
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
				  "the COW file of minor %u was expanded, and an expanded snapshot cannot be saved; run cowbirdctl transition-to-incremental first" :
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
