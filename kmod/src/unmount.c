// SPDX-License-Identifier: GPL-2.0-only
/*
 * The end of filesystems.
 *
 * generic_shutdown_super is replaced as submit_bio_noacct is. It runs at the real
 * end of a super block, whatever mount namespace or lazy unmount has led there.
 * Before it, the COW file's inode is let go of; after it, when all that the
 * filesystem wrote has passed our hook, what is in memory is saved. Nothing
 * depends on the order of the two, or on nobody writing later: what was saved
 * counts until the next write, and that one waits until the disk says so.
 *
 * Two ends concern a snapshot: that of the COW file's filesystem, after which the
 * file is not ours to write preserved blocks to, and its device may go; and that of
 * a filesystem on all of the origin, which nobody writes to afterwards. A filesystem
 * on a part of the origin is a neighbour: its writes were tracked, those of the others
 * go on, and a save would be over with the next of them.
 */
#include <linux/srcu.h>

#include "cowbird.h"

static struct srcu_struct cb_unmount_srcu;
static bool cb_unmount_registered;

static bool cb_unmount_has_cow(struct cb_device *dev, struct super_block *sb)
{
	return dev->cow.bdev->bd_dev == sb->s_bdev->bd_dev;
}

/*
 * Snapshots whose COW file, or all of whose origin, lies on the super block's
 * device. All of this is constant once a snapshot is published.
 */
static bool cb_unmount_concerns(struct cb_device *dev, struct super_block *sb)
{
	struct block_device *bdev = sb->s_bdev;
	u64 start = get_start_sect(bdev), end = start + cb_bdev_sectors(bdev);

	if (cb_mutant(neighbour_saves_all) && dev->origin_disk == bdev->bd_disk)
		return true;
	return cb_unmount_has_cow(dev, sb) ||
	       (dev->origin_disk == bdev->bd_disk && start <= dev->geom.start &&
		end >= dev->geom.start + dev->geom.sectors);
}

/* Without a lock: the end of any other filesystem must not wait for a snapshot. */
static bool cb_unmount_concerns_any(struct super_block *sb)
{
	bool concerned = false;
	unsigned int slot;

	if (!sb->s_bdev)
		return false;
	rcu_read_lock();
	for (slot = 0; slot < CB_DEVICE_SLOTS; slot++) {
		struct cb_device *dev = rcu_dereference(cb_devices[slot]);

		concerned |= dev && cb_unmount_concerns(dev, sb);
	}
	rcu_read_unlock();
	/* One that ends is listed before its slot is empty. */
	smp_rmb();
	return concerned || cb_ending_has_any();
}

static struct cb_device *cb_unmount_find(const struct super_block *sb)
{
	unsigned int slot;

	for (slot = 0; slot < CB_DEVICE_SLOTS; slot++) {
		struct cb_device *dev = rcu_dereference_protected(
			cb_devices[slot], lockdep_is_held(&cb_life_mutex));

		if (dev && dev->cow_inode && dev->cow_inode->i_sb == sb)
			return dev;
	}
	return cb_ending_find(sb);
}

/* Nobody but this unmount waits for a filesystem whose disk does not answer. */
static void cb_unmount_before(struct super_block *sb)
{
	struct cb_cow_ref ref;
	struct cb_device *dev;

	do {
		mutex_lock(&cb_life_mutex);
		dev = cb_unmount_find(sb);
		if (dev)
			ref = cb_cow_file_take(dev);
		mutex_unlock(&cb_life_mutex);
		if (dev)
			cb_cow_file_put(&ref);
	} while (dev);
}

static void cb_unmount_after(struct super_block *sb)
{
	unsigned long deadline;
	unsigned int slot;

	/* Not every filesystem does so itself before its super block ends. */
	sync_blockdev(sb->s_bdev);
	mutex_lock(&cb_life_mutex);
	cb_save_all(cb_unmount_concerns, sb, CB_SAVE_LIMIT, CB_SAVE_HOLD);
	deadline = jiffies + CB_LOSING_WAIT;
	for (slot = 0; slot < COWBIRD_MAX_MINORS; slot++) {
		struct cb_device *dev = rcu_dereference_protected(
			cb_devices[slot], lockdep_is_held(&cb_life_mutex));

		if (!dev || !cb_unmount_concerns(dev, sb))
			continue;
		if (cb_phase_is_lost(cb_phase_of(dev)))
			cb_losing_wait(dev, deadline);
		/* From now on anybody may mount it, and move or remove the file. */
		if (!dev->cow_inode && cb_unmount_has_cow(dev, sb))
			WRITE_ONCE(dev->verified, false);
	}
	mutex_unlock(&cb_life_mutex);
}

static void notrace cb_unmount_original(struct super_block *sb)
{
	generic_shutdown_super(sb);
	/* Keeps this a call; see cb_submit_past_hook. */
	barrier();
}

/* Runs in place of generic_shutdown_super. */
static noinline void notrace cb_unmount_hooked(struct super_block *sb)
{
	int index = srcu_read_lock(&cb_unmount_srcu);
	bool concerned = cb_unmount_concerns_any(sb);

	if (concerned)
		cb_unmount_before(sb);
	cb_unmount_original(sb);
	if (concerned)
		cb_unmount_after(sb);
	srcu_read_unlock(&cb_unmount_srcu, index);
}

static void notrace cb_unmount_callback(unsigned long ip, unsigned long parent_ip,
					struct ftrace_ops *ops, CB_FTRACE_REGS *fregs)
{
	struct pt_regs *regs = cb_ftrace_pt_regs(fregs);

	if (regs && !within_module(parent_ip, THIS_MODULE))
		regs->ip = (unsigned long)cb_unmount_hooked;
}

static struct ftrace_ops cb_unmount_ops = {
	.func = cb_unmount_callback,
	.flags = CB_FTRACE_REPLACE_FLAGS,
};

bool cb_unmount_is_noticed(void)
{
	return cb_unmount_registered;
}

int cb_unmount_init(void)
{
	static unsigned char function[] = "generic_shutdown_super";
	int ret = init_srcu_struct(&cb_unmount_srcu);

	if (ret)
		return ret;
	ret = ftrace_set_filter(&cb_unmount_ops, function, sizeof(function) - 1, 0);
	if (!ret)
		ret = register_ftrace_function(&cb_unmount_ops);
	cb_unmount_registered = !ret;
	if (ret) {
		pr_warn("cannot intercept generic_shutdown_super (error %d; a live patch or another driver?); a filesystem with a COW file in use cannot be unmounted\n",
			ret);
		ftrace_set_filter(&cb_unmount_ops, NULL, 0, 1);
	}
	return 0;
}

void cb_unmount_exit(void)
{
	if (cb_unmount_registered) {
		unregister_ftrace_function(&cb_unmount_ops);
		/* As in cb_hook_exit. */
		synchronize_rcu_tasks();
		synchronize_srcu(&cb_unmount_srcu);
		synchronize_rcu_tasks();
		ftrace_set_filter(&cb_unmount_ops, NULL, 0, 1);
	}
	cleanup_srcu_struct(&cb_unmount_srcu);
}
