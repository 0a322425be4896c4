// SPDX-License-Identifier: GPL-2.0-only
/*
 * Freezing the filesystems that write to an origin, before the cut.
 *
 * User space names them in two ways: by open files of those that it can see, and by the
 * numbers of all block devices that may carry one, whoever mounted it in whatever
 * mount namespace. Each is frozen once. A freeze that does nothing is an error, not a success.
 *
 * Freezing is done here and not in user space so that no filesystem stays
 * frozen when the tool is killed.
 */
#include <linux/slab.h>

#include "cowbird.h"

static struct super_block *cb_file_sb(struct file *file)
{
	return file_inode(file)->i_sb;
}

static void cb_frozen_put(struct cb_frozen *frozen)
{
	if (!frozen->found)
		return;
	if (frozen->sb)
		deactivate_super(frozen->sb);
	cb_bdev_unfind(frozen->bdev);
}

void cb_thaw_all(struct cb_set *set)
{
	u32 i;

	for (i = set->frozen_count; i--;) {
		struct cb_frozen *frozen = &set->frozen[i];
		int ret = 0;

		if (!cb_mutant(freeze_nothing))
			ret = cb_thaw(frozen->bdev, frozen->sb);
		if (ret)
			pr_err("cannot thaw the filesystem on %pg (error %d); try fsfreeze --unfreeze\n",
			       frozen->bdev, ret);
	}
	/* Afterwards: what was unmounted meanwhile ends here, which may write to any of the others. */
	while (set->frozen_count)
		cb_frozen_put(&set->frozen[--set->frozen_count]);
}

int cb_freeze_recheck(struct cb_set *set)
{
	u32 i;

	for (i = 0; i < set->frozen_count && !cb_mutant(freeze_nothing); i++) {
		const struct super_block *sb = set->frozen[i].sb;

		if (sb && !sb_rdonly(sb) &&
		    READ_ONCE(sb->s_writers.frozen) != SB_FREEZE_COMPLETE && !cb_mutant(trust_frozen))
			return cb_refuse(set->setups->reason, -EAGAIN,
					 "somebody has thawed the filesystem on %s while the snapshot was taken; try again",
					 sb->s_id);
	}
	return 0;
}

static bool cb_sb_is_frozen(const struct super_block *sb)
{
	return READ_ONCE(sb->s_writers.frozen) != SB_UNFROZEN;
}

static int cb_refuse_frozen(char *reason, const struct super_block *sb)
{
	return cb_refuse(reason, -EBUSY,
			 "the filesystem on %s is frozen already; thaw it first, with fsfreeze --unfreeze",
			 sb->s_id);
}

static int cb_freeze_sb(struct cb_setup *setup, struct super_block *sb)
{
	int ret;

	if (cb_mutant(freeze_nothing))
		return 0;
	if (!sb->s_bdev)
		return cb_refuse(setup->reason, -EOPNOTSUPP,
				 "filesystem %s on %s has no single block device to freeze",
				 sb->s_type->name, sb->s_id);
	/*
	 * Some kernels let a freeze nest, but the thaw of 6.12 at least
	 * then returns an error and keeps the device's count of freezes: later
	 * ones would do nothing.
	 */
	if (cb_sb_is_frozen(sb) && cb_mutant(trust_frozen))
		return 0;
	if (cb_sb_is_frozen(sb))
		return cb_refuse_frozen(setup->reason, sb);
	ret = cb_freeze(sb->s_bdev);
	if (ret)
		return cb_refuse(setup->reason, ret, "cannot freeze the filesystem on %s", sb->s_id);
	if (READ_ONCE(sb->s_writers.frozen) != SB_FREEZE_COMPLETE && !sb_rdonly(sb)) {
		cb_thaw(sb->s_bdev, sb);
		return cb_refuse(setup->reason, -EOPNOTSUPP,
				 "freezing %s on %s had no effect, so no instant can be cut there",
				 sb->s_type->name, sb->s_id);
	}
	return 0;
}

/* One that lies on several origins, or on several of their devices, is named by each of them. */
static bool cb_is_frozen_by(const struct cb_set *set, const void *sb)
{
	u32 i;

	for (i = 0; i < set->frozen_count; i++)
		if (set->frozen[i].sb == sb)
			return true;
	return false;
}

static int cb_freeze_file(struct cb_set *set, struct cb_setup *setup, struct file *file)
{
	struct super_block *sb = cb_file_sb(file);
	int ret;

	if (cb_is_frozen_by(set, sb))
		return 0;
	ret = cb_freeze_sb(setup, sb);
	if (!ret)
		set->frozen[set->frozen_count++] = (struct cb_frozen){
			.bdev = sb->s_bdev,
			.sb = sb,
		};
	return ret;
}

/* One with an external journal here, whose own device is elsewhere; or one that comes or goes. */
static int cb_freeze_unseen(struct cb_set *set, struct cb_setup *setup, struct cb_frozen *frozen)
{
	int ret;

	if (cb_mutant(freeze_nothing) || cb_is_frozen_by(set, READ_ONCE(frozen->bdev->bd_holder)))
		return 1;
	ret = cb_freeze(frozen->bdev);
	/* It is not there any more, and what it wrote at its end passes the gate as any write. */
	if (ret == -EINVAL)
		return 1;
	if (ret)
		cb_refuse(setup->reason, ret, "cannot freeze the filesystem that uses %pg",
			  frozen->bdev);
	return ret;
}

static void cb_note_claim(const struct cb_setup *setup, const struct cowbird_freeze_device *device,
			  struct block_device *bdev)
{
	if (READ_ONCE(bdev->bd_holder) && !(device->flags & COWBIRD_FREEZE_HARMLESS))
		pr_info("snapshot %u of %s: device %u:%u is held by a user that cannot be frozen (swap, a database); its unwritten data is not in the snapshot\n",
			setup->minor, setup->origin_path, device->major, device->minor);
}

/* 1: there is nothing to freeze, or it is frozen already by us. */
static int cb_freeze_found(struct cb_set *set, struct cb_setup *setup,
			   const struct cowbird_freeze_device *device, struct cb_frozen *frozen)
{
	bool freezes;

	frozen->sb = cb_bdev_get_super(frozen->bdev, &freezes);
	if (frozen->sb)
		return cb_is_frozen_by(set, frozen->sb) ? 1 : cb_freeze_sb(setup, frozen->sb);
	if (freezes)
		return cb_freeze_unseen(set, setup, frozen);
	cb_note_claim(setup, device, frozen->bdev);
	return 1;
}

static int cb_freeze_device(struct cb_set *set, struct cb_setup *setup,
			    const struct cowbird_freeze_device *device)
{
	struct cb_frozen frozen = {
		.bdev = cb_bdev_find(MKDEV(device->major, device->minor)),
		.found = true,
	};
	int ret;

	/* Nobody has it open. */
	if (!frozen.bdev)
		return 0;
	ret = cb_freeze_found(set, setup, device, &frozen);
	if (ret)
		cb_frozen_put(&frozen);
	else
		set->frozen[set->frozen_count++] = frozen;
	return min(ret, 0);
}

static int cb_freeze_for(struct cb_set *set, struct cb_setup *setup)
{
	const struct cb_freeze_list *list = &setup->freeze;
	int ret = 0;
	u32 i;

	for (i = 0; !ret && i < list->file_count; i++)
		ret = cb_freeze_file(set, setup, list->files[i]);
	for (i = 0; !ret && i < list->device_count && !cb_mutant(freeze_visible); i++)
		ret = cb_freeze_device(set, setup, &list->devices[i]);
	return ret;
}

int cb_freeze_all(struct cb_set *set)
{
	struct cb_setup *setup;

	for (setup = set->setups; setup < set->setups + set->count; setup++) {
		int ret = cb_freeze_for(set, setup);

		if (ret) {
			set->blamed = setup;
			cb_thaw_all(set);
			return ret;
		}
	}
	return 0;
}

static int cb_freeze_check_device(const struct cowbird_freeze_device *device, char *reason)
{
	struct block_device *bdev = cb_bdev_find(MKDEV(device->major, device->minor));
	struct super_block *sb;
	bool freezes;
	int ret = 0;

	if (!bdev)
		return 0;
	sb = cb_bdev_get_super(bdev, &freezes);
	if (sb && cb_sb_is_frozen(sb))
		ret = cb_refuse_frozen(reason, sb);
	if (sb)
		deactivate_super(sb);
	cb_bdev_unfind(bdev);
	return ret;
}

int cb_freeze_check(const struct cb_freeze_list *list, char *reason)
{
	int ret = 0;
	u32 i;

	if (cb_mutant(trust_frozen))
		return 0;
	for (i = 0; !ret && i < list->file_count; i++)
		if (cb_sb_is_frozen(cb_file_sb(list->files[i])))
			ret = cb_refuse_frozen(reason, cb_file_sb(list->files[i]));
	for (i = 0; !ret && i < list->device_count; i++)
		ret = cb_freeze_check_device(&list->devices[i], reason);
	return ret;
}
