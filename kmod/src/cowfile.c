// SPDX-License-Identifier: GPL-2.0-only
/*
 * COW files: pinned, so that the filesystem leaves their blocks where they are
 * (I7, fixed extents).
 *
 * S_SWAPFILE is what the kernel itself uses for a file whose extents are written
 * below the filesystem: writes, truncation, renaming over, unlinking and
 * defragmentation are refused with it set. The inode alone is held, so that the
 * filesystem can be unmounted; unmount.c lets go of it in time.
 */
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/pagemap.h>

#include "cowbird.h"

static void cb_cow_inode_release(struct inode *inode)
{
	inode_lock(inode);
	inode->i_flags &= ~S_SWAPFILE;
	inode_unlock(inode);
}

int cb_cow_file_pin(struct file *file, char *reason)
{
	struct inode *inode = file_inode(file);
	int ret = 0;

	if (!S_ISREG(inode->i_mode))
		return cb_refuse(reason, -EINVAL, "the COW file is not a regular file");
	if (!(file->f_mode & FMODE_WRITE))
		return cb_refuse(reason, -EBADF, "the COW file is not open for writing");
	/* Nothing of it could be written back. */
	if (READ_ONCE(inode->i_sb->s_writers.frozen) != SB_UNFROZEN && !cb_mutant(trust_frozen))
		return cb_refuse(reason, -EBUSY,
				 "the COW file's filesystem on %s is frozen; thaw it first, with fsfreeze --unfreeze",
				 inode->i_sb->s_id);
	inode_lock(inode);
	if (IS_SWAPFILE(inode))
		ret = cb_refuse(reason, -EBUSY, "the COW file is in use as a swap or COW file");
	else if (mapping_mapped(inode->i_mapping))
		ret = cb_refuse(reason, -EBUSY, "the COW file is mapped by a process");
	else
		inode->i_flags |= S_SWAPFILE;
	inode_unlock(inode);
	if (ret)
		return ret;
	/* Nothing may be written back to these blocks later. */
	ret = filemap_write_and_wait(inode->i_mapping);
	if (ret) {
		cb_cow_inode_release(inode);
		return cb_refuse(reason, ret, "cannot write back the COW file");
	}
	return 0;
}

void cb_cow_file_unpin(struct file *file)
{
	cb_cow_inode_release(file_inode(file));
	fput(file);
}

void cb_cow_file_give(struct cb_device *dev, struct file *file)
{
	struct inode *inode = file_inode(file);

	lockdep_assert_held(&cb_life_mutex);
	ihold(inode);
	dev->cow_inode = inode;
	dev->cow_ino = inode->i_ino;
	if (cb_unmount_is_noticed())
		fput(file);
	else
		dev->cow_file = file;
}

struct cb_cow_ref cb_cow_file_take(struct cb_device *dev)
{
	struct cb_cow_ref ref = { .inode = dev->cow_inode, .file = dev->cow_file };

	lockdep_assert_held(&cb_life_mutex);
	dev->cow_inode = NULL;
	dev->cow_file = NULL;
	return ref;
}

void cb_cow_file_put(const struct cb_cow_ref *ref)
{
	if (!ref->inode)
		return;
	cb_cow_inode_release(ref->inode);
	iput(ref->inode);
	if (ref->file)
		fput(ref->file);
}

/*
 * The filesystem is kept from ending while the reference is given back. One that is about
 * to end is left to its unmount, which finds the device here (unmount.c).
 */
void cb_cow_file_end(struct cb_device *dev)
{
	struct cb_cow_ref ref;
	struct super_block *sb = NULL;

	mutex_lock(&cb_life_mutex);
	while (dev->cow_inode && !atomic_inc_not_zero(&dev->cow_inode->i_sb->s_active)) {
		mutex_unlock(&cb_life_mutex);
		msleep(1);
		mutex_lock(&cb_life_mutex);
	}
	ref = cb_cow_file_take(dev);
	if (ref.inode)
		sb = ref.inode->i_sb;
	list_del_init(&dev->end_list);
	mutex_unlock(&cb_life_mutex);
	cb_cow_file_put(&ref);
	if (sb)
		deactivate_super(sb);
}

/* As cb_device_init_cow made the list in use. */
static int cb_cow_file_extents(struct cb_device *dev, struct cb_setup *setup,
			       struct cb_extents *extents)
{
	u32 i;

	for (i = 0; i < setup->extent_count; i++)
		setup->extents[i].sector += dev->cow_base;
	return cb_extents_init(extents, setup->extents, setup->extent_count,
			       dev->cow_on_origin ? dev->geom.start : 0,
			       cb_disk_sectors(dev->cow_disk));
}

static bool cb_cow_file_is_same(struct cb_device *dev, struct cb_setup *setup)
{
	struct cb_extents found;
	u32 i;

	if (setup->cow != dev->cow.bdev->bd_dev || cb_cow_file_extents(dev, setup, &found))
		return false;
	if (cb_mutant(verify_trusts_all))
		return true;
	if (found.count != dev->extents.count)
		return false;
	for (i = 0; i < found.count; i++)
		if (found.list[i].sector != dev->extents.list[i].sector ||
		    found.list[i].slots != dev->extents.list[i].slots)
			return false;
	return true;
}

int cb_cow_file_verify(struct cb_device *dev, struct cb_setup *setup)
{
	lockdep_assert_held(&cb_life_mutex);
	if (dev->cow_inode)
		return cb_refuse(setup->reason, -EALREADY, "the COW file of minor %u is known already",
				 dev->minor);
	if (!cb_device_tracks(dev))
		return cb_refuse(setup->reason, -ESTALE, "minor %u has lost track of changes",
				 dev->minor);
	if (cb_known_is_gone(&dev->cow))
		return cb_refuse(setup->reason, -ENODEV,
				 "the device of the COW file of minor %u was removed; what has its name now is another one",
				 dev->minor);
	if (!cb_cow_file_is_same(dev, setup)) {
		cb_device_fail(dev, -ESTALE, "the COW file is not the one that was in use");
		return cb_refuse(setup->reason, -ESTALE,
				 "this is not the COW file of minor %u, or it was moved; destroy that and take a full backup",
				 dev->minor);
	}
	cb_cow_file_give(dev, setup->cow_file);
	setup->cow_file = NULL;
	WRITE_ONCE(dev->verified, true);
	cb_engine_wake(dev);
	return 0;
}
