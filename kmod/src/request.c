// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a request for snapshots says: copied from user space and bounded, turned into the
 * set-up of each, with the COW file that was pinned for it or the series that it goes on
 * from.
 */
#include <linux/file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "cowbird.h"

/* Bounds of the time in which writes may be held at T0. */
#define CB_TIMEOUT_MIN_MS 100
#define CB_TIMEOUT_MAX_MS 60000

int cb_setup_copy_extents(struct cb_setup *setup, u64 extents, u32 count)
{
	struct cowbird_extent __user *user = u64_to_user_ptr(extents);
	u32 i;

	if (!count || count > COWBIRD_MAX_EXTENTS)
		return cb_refuse(setup->reason, -EINVAL,
				 "the COW file has %u extents; 1 to %u can be handled", count,
				 COWBIRD_MAX_EXTENTS);
	setup->extents = kvcalloc(count, sizeof(*setup->extents), GFP_KERNEL);
	if (!setup->extents)
		return cb_refuse(setup->reason, -ENOMEM, "not enough memory for %u extents", count);
	setup->extent_count = count;
	for (i = 0; i < count; i++) {
		struct cowbird_extent extent;

		if (copy_from_user(&extent, &user[i], sizeof(extent)))
			return cb_refuse(setup->reason, -EFAULT, "the list of extents is unreadable");
		setup->extents[i].sector = extent.sector;
		setup->extents[i].slots = extent.sectors;
	}
	return 0;
}

static int cb_freeze_get_files(struct cb_freeze_list *list, u64 fds, u32 count, char *reason)
{
	__s32 __user *user = u64_to_user_ptr(fds);
	u32 i;

	if (count > COWBIRD_MAX_FREEZE_FDS)
		return cb_refuse(reason, -EINVAL, "more than %u filesystems to freeze",
				 COWBIRD_MAX_FREEZE_FDS);
	if (!count)
		return 0;
	list->files = kcalloc(count, sizeof(struct file *), GFP_KERNEL);
	if (!list->files)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		s32 fd;

		if (get_user(fd, &user[i]))
			return cb_refuse(reason, -EFAULT, "the list of filesystems is unreadable");
		list->files[i] = fget(fd);
		if (!list->files[i])
			return cb_refuse(reason, -EBADF,
					 "a filesystem's descriptor is not open");
		list->file_count++;
	}
	return 0;
}

static int cb_freeze_get_devices(struct cb_freeze_list *list, u64 devices, u32 count,
				 char *reason)
{
	struct cowbird_freeze_device *copy;

	if (count > COWBIRD_MAX_FREEZE_DEVICES)
		return cb_refuse(reason, -EINVAL, "more than %u devices are stacked on the origin",
				 COWBIRD_MAX_FREEZE_DEVICES);
	if (!count)
		return 0;
	copy = vmemdup_user(u64_to_user_ptr(devices), count * sizeof(*copy));
	if (IS_ERR(copy))
		return cb_refuse(reason, PTR_ERR(copy), "the list of devices is unreadable");
	list->devices = copy;
	list->device_count = count;
	return 0;
}

static void cb_freeze_release(struct cb_freeze_list *list)
{
	while (list->file_count)
		fput(list->files[--list->file_count]);
	kfree(list->files);
	kvfree(list->devices);
}

static int cb_refuse_version(char *reason, u32 abi_version)
{
	return cb_refuse(reason, -EPROTO,
			 "the tool speaks version %u of the interface, the module version %u; install both from one release",
			 abi_version, COWBIRD_ABI_VERSION);
}

int cb_check_bounds(char *reason, u32 minor, u64 cache_bytes)
{
	if (minor >= COWBIRD_MAX_MINORS)
		return cb_refuse(reason, -EINVAL, "minor %u: the minors are 0 to %u", minor,
				 COWBIRD_MAX_MINORS - 1);
	if (cache_bytes < COWBIRD_MIN_CACHE_BYTES || cache_bytes / CB_BLOCK_BYTES > U32_MAX)
		return cb_refuse(reason, -EINVAL, "the cache must have %u bytes to 16 TiB",
				 COWBIRD_MIN_CACHE_BYTES);
	return 0;
}

/* What every request that makes a snapshot says alike. */
int cb_check_request(char *reason, u32 abi_version, u32 minor, u64 cache_bytes, u32 timeout_ms)
{
	if (abi_version != COWBIRD_ABI_VERSION)
		return cb_refuse_version(reason, abi_version);
	if (timeout_ms < CB_TIMEOUT_MIN_MS || timeout_ms > CB_TIMEOUT_MAX_MS)
		return cb_refuse(reason, -EINVAL, "the time limit must be %u to %u ms",
				 CB_TIMEOUT_MIN_MS, CB_TIMEOUT_MAX_MS);
	return cb_check_bounds(reason, minor, cache_bytes);
}

static int cb_setup_check(struct cb_setup *setup, struct cowbird_ioc_setup *arg)
{
	int ret;

	arg->origin_path[sizeof(arg->origin_path) - 1] = 0;
	arg->cow_path[sizeof(arg->cow_path) - 1] = 0;
	ret = cb_check_request(setup->reason, arg->abi_version, arg->minor, arg->cache_bytes,
			       setup->timeout_ms);
	if (!ret && (arg->flags & ~COWBIRD_SETUP_CONTINUE))
		ret = cb_refuse(setup->reason, -EINVAL, "unknown flags %#x", arg->flags);
	return ret;
}

static void cb_setup_release(struct cb_setup *setup)
{
	cb_freeze_release(&setup->freeze);
	kvfree(setup->extents);
}

/* All that the request says; where to put a reason and the time limit are there already. */
static int cb_setup_fill(struct cb_setup *setup, struct cowbird_ioc_setup *arg)
{
	int ret = cb_setup_check(setup, arg);

	if (ret)
		return ret;
	setup->minor = arg->minor;
	setup->origin = MKDEV(arg->origin_major, arg->origin_minor);
	setup->cache_bytes = arg->cache_bytes;
	setup->epoch = arg->epoch;
	setup->origin_path = arg->origin_path;
	setup->cow_path = arg->cow_path;
	memcpy(setup->uuid, arg->uuid, sizeof(setup->uuid));
	memcpy(setup->boot_id, arg->boot_id, sizeof(setup->boot_id));
	ret = cb_freeze_get_files(&setup->freeze, arg->freeze_fds, arg->freeze_fd_count,
				  setup->reason);
	if (!ret)
		ret = cb_freeze_get_devices(&setup->freeze, arg->freeze_devices,
					    arg->freeze_device_count, setup->reason);
	if (!ret && !(arg->flags & COWBIRD_SETUP_CONTINUE))
		ret = cb_setup_copy_extents(setup, arg->extents, arg->extent_count);
	return ret;
}

/* A pinned file, and the device that it is on. */
int cb_setup_take_pinned(struct cb_control *control, u32 index, struct cb_setup *setup)
{
	struct super_block *sb;

	if (index >= control->pinned_count)
		return cb_refuse(setup->reason, -EINVAL, "no COW file has been pinned for it");
	setup->cow_file = control->pinned[index];
	setup->pin = index;
	sb = file_inode(setup->cow_file)->i_sb;
	if (!sb->s_bdev)
		return cb_refuse(setup->reason, -EOPNOTSUPP,
				 "the COW file is on %s, which has no single block device",
				 sb->s_type->name);
	setup->cow = sb->s_bdev->bd_dev;
	return 0;
}

/* The extents of the COW file that a series has, as cb_extents_init wants them. */
static int cb_setup_copy_series(struct cb_setup *setup, const struct cb_device *before)
{
	u32 i;

	setup->extents = kvcalloc(before->extents.count, sizeof(*setup->extents), GFP_KERNEL);
	if (!setup->extents)
		return cb_refuse(setup->reason, -ENOMEM, "not enough memory for the snapshot");
	setup->extent_count = before->extents.count;
	for (i = 0; i < before->extents.count; i++) {
		const struct cb_extent *piece = &before->extents.list[i];

		setup->extents[i].sector = piece->sector - before->cow_base;
		setup->extents[i].slots = piece->slots << CB_BLOCK_SECTOR_SHIFT;
	}
	setup->cow = before->cow.bdev->bd_dev;
	setup->cow_path = before->cow_path;
	setup->origin = before->origin.bdev->bd_dev;
	setup->origin_path = before->origin_path;
	setup->epoch = before->epoch + 1;
	memcpy(setup->uuid, before->uuid, sizeof(setup->uuid));
	return 0;
}

/* The next snapshot of a series that is tracking, or whose snapshot was lost. */
static int cb_setup_continue(struct cb_setup *setup)
{
	int ret = 0;

	setup->before = cb_device_get(setup->minor);
	if (!setup->before)
		return cb_refuse(setup->reason, -ENOENT,
				 "there is no snapshot with minor %u; cowbirdctl info lists them",
				 setup->minor);
	if (cb_phase_of(setup->before) == CB_PHASE_INVALIDATED)
		ret = cb_device_track(setup->minor, setup->reason);
	if (ret)
		return ret;
	if (cb_phase_of(setup->before) != CB_PHASE_TRACKING)
		return cb_refuse(setup->reason, -EINVAL, "minor %u does not track changes",
				 setup->minor);
	return cb_setup_copy_series(setup, setup->before);
}

/* What each member goes on from: a series, or a file that was pinned for it. */
static int cb_set_resolve(struct cb_control *control, struct cb_set *set,
			  const struct cowbird_ioc_setup *args)
{
	u32 i, pins = 0;
	int ret = 0;

	for (i = 0; !ret && i < set->count; i++) {
		set->blamed = &set->setups[i];
		if (args[i].flags & COWBIRD_SETUP_CONTINUE)
			ret = cb_setup_continue(set->blamed);
		else
			ret = cb_setup_take_pinned(control, pins++, set->blamed);
	}
	if (!ret && pins != control->pinned_count)
		ret = cb_refuse(set->blamed->reason, -EINVAL,
				"%u COW files are pinned, and %u snapshots need one",
				control->pinned_count, pins);
	if (!ret)
		set->blamed = NULL;
	return ret;
}

/* The pins that snapshots have taken with them although they were not taken are not ours. */
static void cb_control_forget_taken(struct cb_control *control, const struct cb_set *set)
{
	u32 i, kept = 0;

	for (i = 0; i < set->count; i++)
		if (set->setups[i].file_taken)
			control->pinned[set->setups[i].pin] = NULL;
	for (i = 0; i < control->pinned_count; i++)
		if (control->pinned[i])
			control->pinned[kept++] = control->pinned[i];
	control->pinned_count = kept;
}

static int cb_set_run(struct cb_control *control, struct cb_set *set,
		      const struct cowbird_ioc_setup *args)
{
	int ret;

	mutex_lock(&control->lock);
	ret = cb_control_lock();
	if (ret)
		goto out;
	ret = cb_set_resolve(control, set, args);
	if (!ret)
		ret = cb_set_create(set);
	mutex_unlock(&cb_control_mutex);
	/* On success the snapshots own the pins, otherwise we still do. */
	if (!ret)
		control->pinned_count = 0;
	else
		cb_control_forget_taken(control, set);
out:
	mutex_unlock(&control->lock);
	return ret;
}

static int cb_set_fill(struct cb_set *set, struct cowbird_ioc_setup *args, char *reason)
{
	u32 i, filesystems = 0;

	for (i = 0; i < set->count; i++) {
		struct cb_setup *setup = &set->setups[i];
		int ret;

		setup->reason = reason;
		setup->timeout_ms = set->timeout_ms;
		ret = cb_setup_fill(setup, &args[i]);
		if (ret) {
			set->blamed = setup;
			return ret;
		}
		filesystems += setup->freeze.file_count + setup->freeze.device_count;
	}
	set->frozen = kvcalloc(max(filesystems, 1u), sizeof(*set->frozen), GFP_KERNEL);
	return set->frozen ? 0 : -ENOMEM;
}

/* The snapshots that args ask for. blamed: which of them was refused, or count. */
static int cb_setup_all(struct cb_control *control, struct cowbird_ioc_setup *args, u32 count,
			u32 timeout_ms, char *reason, u32 *blamed)
{
	struct cb_set set = { .count = count, .timeout_ms = timeout_ms };
	int ret = -ENOMEM;
	u32 i;

	memset(reason, 0, COWBIRD_REASON_BYTES);
	*blamed = count;
	set.setups = kcalloc(count, sizeof(*set.setups), GFP_KERNEL);
	if (!set.setups)
		return ret;
	ret = cb_set_fill(&set, args, reason);
	if (!ret)
		ret = cb_set_run(control, &set, args);
	if (set.blamed)
		*blamed = set.blamed - set.setups;
	for (i = 0; i < count; i++)
		cb_setup_release(&set.setups[i]);
	kvfree(set.frozen);
	kfree(set.setups);
	return ret;
}

int cb_ioctl_setup(struct cb_control *control, struct cowbird_ioc_setup *arg)
{
	u32 blamed;

	return cb_setup_all(control, arg, 1, arg->timeout_ms, arg->reason, &blamed);
}

int cb_ioctl_setup_set(struct cb_control *control, struct cowbird_ioc_setup_set *arg)
{
	struct cowbird_ioc_setup *args;
	int ret;

	memset(arg->reason, 0, sizeof(arg->reason));
	arg->blamed = arg->count;
	if (arg->abi_version != COWBIRD_ABI_VERSION)
		return cb_refuse_version(arg->reason, arg->abi_version);
	if (!arg->count || arg->count > COWBIRD_MAX_MINORS)
		return cb_refuse(arg->reason, -EINVAL, "a set has 1 to %u snapshots",
				 COWBIRD_MAX_MINORS);
	args = vmemdup_user(u64_to_user_ptr(arg->setups), arg->count * sizeof(*args));
	if (IS_ERR(args))
		return cb_refuse(arg->reason, PTR_ERR(args), "the list of snapshots is unreadable");
	ret = cb_setup_all(control, args, arg->count, arg->timeout_ms, arg->reason, &arg->blamed);
	kvfree(args);
	return ret;
}

int cb_ioctl_check_frozen(struct cowbird_ioc_check_frozen *arg)
{
	struct cb_freeze_list list = {};
	int ret;

	memset(arg->reason, 0, sizeof(arg->reason));
	if (arg->abi_version != COWBIRD_ABI_VERSION)
		return cb_refuse_version(arg->reason, arg->abi_version);
	ret = cb_freeze_get_files(&list, arg->freeze_fds, arg->freeze_fd_count, arg->reason);
	if (!ret)
		ret = cb_freeze_get_devices(&list, arg->freeze_devices, arg->freeze_device_count,
					    arg->reason);
	if (!ret)
		ret = cb_freeze_check(&list, arg->reason);
	cb_freeze_release(&list);
	return ret;
}
