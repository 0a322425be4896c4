// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/cowbird-control: checks what user space asks for, and pins COW files.
 *
 * Nothing that comes from user space is used before it has been copied and
 * bounded, here or in request.c.
 */
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "cowbird.h"

/* Who waits for another request can be killed. */
int cb_control_lock(void)
{
	return mutex_lock_killable(&cb_control_mutex) ? -EINTR : 0;
}

/* ---- pin --------------------------------------------------------------- */

static int cb_ioctl_pin(struct cb_control *control, struct cowbird_ioc_pin *arg)
{
	struct file *file;
	int ret;

	memset(arg->reason, 0, sizeof(arg->reason));
	file = fget(arg->cow_fd);
	if (!file)
		return cb_refuse(arg->reason, -EBADF, "the COW file's descriptor is not open");
	mutex_lock(&control->lock);
	if (control->pinned_count == COWBIRD_MAX_MINORS)
		ret = cb_refuse(arg->reason, -EBUSY, "this control device holds %u COW files already",
				COWBIRD_MAX_MINORS);
	else
		ret = cb_cow_file_pin(file, arg->reason);
	if (!ret)
		control->pinned[control->pinned_count++] = get_file(file);
	mutex_unlock(&control->lock);
	fput(file);
	return ret;
}

/* ---- reload, verify and expand ----------------------------------------- */

static int cb_reload_check(struct cowbird_ioc_reload *arg)
{
	int ret;

	arg->origin_path[sizeof(arg->origin_path) - 1] = 0;
	arg->cow_path[sizeof(arg->cow_path) - 1] = 0;
	ret = cb_check_request(arg->reason, arg->abi_version, arg->minor, arg->cache_bytes,
			       arg->timeout_ms);
	if (!ret && (arg->flags & ~(COWBIRD_RELOAD_SNAPSHOT | COWBIRD_RELOAD_FINAL)))
		ret = cb_refuse(arg->reason, -EINVAL, "unknown flags %#x", arg->flags);
	return ret;
}

static int cb_ioctl_reload(struct cowbird_ioc_reload *arg)
{
	struct cb_setup setup = {};
	int ret;

	memset(arg->reason, 0, sizeof(arg->reason));
	ret = cb_reload_check(arg);
	if (!ret) {
		setup.reason = arg->reason;
		setup.minor = arg->minor;
		setup.origin = MKDEV(arg->origin_major, arg->origin_minor);
		setup.cow = MKDEV(arg->cow_major, arg->cow_minor);
		setup.cow_sector = arg->cow_sector;
		setup.cache_bytes = arg->cache_bytes;
		setup.timeout_ms = arg->timeout_ms;
		setup.want_snapshot = arg->flags & COWBIRD_RELOAD_SNAPSHOT;
		setup.final = arg->flags & COWBIRD_RELOAD_FINAL;
		setup.origin_path = arg->origin_path;
		setup.cow_path = arg->cow_path;
		memcpy(setup.boot_id, arg->boot_id, sizeof(setup.boot_id));
		memcpy(setup.uuid, arg->uuid, sizeof(setup.uuid));
		ret = cb_control_lock();
		if (ret)
			return ret;
		ret = cb_resume(&setup, &arg->state);
		mutex_unlock(&cb_control_mutex);
	}
	return ret;
}

static int cb_verify_device(struct cb_device *dev, struct cb_setup *setup)
{
	int ret;

	mutex_lock(&cb_life_mutex);
	ret = cb_cow_file_verify(dev, setup);
	mutex_unlock(&cb_life_mutex);
	return ret;
}

typedef int (*cb_file_act)(struct cb_device *dev, struct cb_setup *setup);

static int cb_file_run(struct cb_control *control, struct cb_setup *setup, cb_file_act act)
{
	struct cb_device *dev;
	int ret = cb_setup_take_pinned(control, 0, setup);

	if (!ret && control->pinned_count > 1)
		ret = cb_refuse(setup->reason, -EINVAL, "more than one COW file is pinned");
	if (ret)
		return ret;
	ret = cb_control_lock();
	if (ret)
		return ret;
	dev = cb_device_get(setup->minor);
	if (dev)
		ret = act(dev, setup);
	else
		ret = cb_refuse(setup->reason, -ENOENT,
				"there is no snapshot with minor %u; cowbirdctl info lists them",
				setup->minor);
	mutex_unlock(&cb_control_mutex);
	if (!ret)
		control->pinned_count = 0;
	return ret;
}

/* Hands a pinned file to a minor. These requests have the same form. */
static int cb_ioctl_with_file(struct cb_control *control, struct cowbird_ioc_verify *arg,
			      cb_file_act act)
{
	struct cb_setup setup = {};
	int ret;

	BUILD_BUG_ON(sizeof(struct cowbird_ioc_expand) != sizeof(*arg));
	BUILD_BUG_ON(offsetof(struct cowbird_ioc_expand, extents) != offsetof(typeof(*arg), extents));
	BUILD_BUG_ON(offsetof(struct cowbird_ioc_expand, reason) != offsetof(typeof(*arg), reason));
	memset(arg->reason, 0, sizeof(arg->reason));
	setup.reason = arg->reason;
	setup.minor = arg->minor;
	if (arg->minor >= COWBIRD_MAX_MINORS)
		ret = cb_refuse(arg->reason, -EINVAL, "minor %u: the minors are 0 to %u",
				arg->minor, COWBIRD_MAX_MINORS - 1);
	else
		ret = cb_setup_copy_extents(&setup, arg->extents, arg->extent_count);
	if (!ret) {
		mutex_lock(&control->lock);
		ret = cb_file_run(control, &setup, act);
		mutex_unlock(&control->lock);
	}
	kvfree(setup.extents);
	return ret;
}

/* ---- track, suspend and destroy ---------------------------------------- */

/* These requests have the same form; the header asserts their sizes. */
static int cb_ioctl_on_minor(struct cowbird_ioc_destroy *arg,
			     int (*act)(unsigned int minor, char *reason))
{
	int ret;

	BUILD_BUG_ON(sizeof(struct cowbird_ioc_track) != sizeof(*arg));
	BUILD_BUG_ON(offsetof(struct cowbird_ioc_track, reason) != offsetof(typeof(*arg), reason));
	BUILD_BUG_ON(sizeof(struct cowbird_ioc_suspend) != sizeof(*arg));
	BUILD_BUG_ON(offsetof(struct cowbird_ioc_suspend, reason) != offsetof(typeof(*arg), reason));
	memset(arg->reason, 0, sizeof(arg->reason));
	if (arg->minor >= COWBIRD_MAX_MINORS) {
		ret = cb_refuse(arg->reason, -EINVAL, "minor %u: the minors are 0 to %u",
				arg->minor, COWBIRD_MAX_MINORS - 1);
	} else {
		ret = cb_control_lock();
		if (ret)
			return ret;
		ret = act(arg->minor, arg->reason);
		mutex_unlock(&cb_control_mutex);
	}
	return ret;
}

/* ---- reconfigure ------------------------------------------------------- */

static int cb_ioctl_reconfigure(struct cowbird_ioc_reconfigure *arg)
{
	int ret;

	memset(arg->reason, 0, sizeof(arg->reason));
	ret = cb_check_bounds(arg->reason, arg->minor, arg->cache_bytes);
	if (ret)
		return ret;
	ret = cb_control_lock();
	if (ret)
		return ret;
	ret = cb_device_reconfigure(arg->minor, arg->cache_bytes, arg->reason);
	mutex_unlock(&cb_control_mutex);
	return ret;
}

/* ---- changes ----------------------------------------------------------- */

static int cb_changes_copy(struct cb_device *dev, struct cowbird_ioc_changes *arg)
{
	u64 total = DIV_ROUND_UP(dev->block_count, 64), count;

	memcpy(arg->uuid, dev->uuid, sizeof(arg->uuid));
	arg->from_epoch = dev->changes_from_epoch;
	arg->to_epoch = dev->epoch;
	arg->block_count = dev->block_count;
	count = arg->first_word < total ? min(arg->word_count, total - arg->first_word) : 0;
	arg->word_count = count;
	/* Longs of 64 bits, least significant byte first, are the map as it is. */
#if BITS_PER_LONG != 64 || !defined(__LITTLE_ENDIAN)
#error "cowbird: the change map has to be converted on this architecture"
#endif
	if (copy_to_user(u64_to_user_ptr(arg->words),
			 (cb_mutant(map_of_this_epoch) ? dev->preserved : dev->changes) +
				 arg->first_word,
			 count * 8))
		return cb_refuse(arg->reason, -EFAULT, "the room for the map is unwritable");
	return 0;
}

static int cb_ioctl_changes(struct cowbird_ioc_changes *arg)
{
	struct cb_device *dev = NULL;
	int ret;

	memset(arg->reason, 0, sizeof(arg->reason));
	ret = cb_control_lock();
	if (ret)
		return ret;
	if (arg->minor < COWBIRD_MAX_MINORS)
		dev = cb_device_get(arg->minor);
	if (!dev)
		ret = cb_refuse(arg->reason, -ENOENT, "there is no snapshot with minor %u",
				arg->minor);
	else if (cb_phase_of(dev) != CB_PHASE_ACTIVE)
		ret = cb_refuse(arg->reason, -EINVAL, "minor %u is not an active snapshot",
				arg->minor);
	else if (!dev->changes)
		ret = cb_refuse(arg->reason, -ENODATA,
				"epoch %llu is the first of its series; take a full backup",
				(unsigned long long)dev->epoch);
	else
		ret = cb_changes_copy(dev, arg);
	mutex_unlock(&cb_control_mutex);
	return ret;
}

/* ---- the device -------------------------------------------------------- */

static int cb_control_open(struct inode *inode, struct file *file)
{
	struct cb_control *control;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	control = kzalloc(sizeof(*control), GFP_KERNEL);
	if (!control)
		return -ENOMEM;
	mutex_init(&control->lock);
	file->private_data = control;
	return 0;
}

static int cb_control_release(struct inode *inode, struct file *file)
{
	struct cb_control *control = file->private_data;

	while (control->pinned_count)
		cb_cow_file_unpin(control->pinned[--control->pinned_count]);
	kfree(control);
	return 0;
}

/* The size of arg is part of the command's number. */
static int cb_control_act(struct cb_control *control, unsigned int command, void *arg)
{
	switch (command) {
	case COWBIRD_IOC_PIN:
		return cb_ioctl_pin(control, arg);
	case COWBIRD_IOC_SETUP:
		return cb_ioctl_setup(control, arg);
	case COWBIRD_IOC_SETUP_SET:
		return cb_ioctl_setup_set(control, arg);
	case COWBIRD_IOC_RECONFIGURE:
		return cb_ioctl_reconfigure(arg);
	case COWBIRD_IOC_DESTROY:
		return cb_ioctl_on_minor(arg, cb_device_destroy);
	case COWBIRD_IOC_TRACK:
		return cb_ioctl_on_minor(arg, cb_device_track);
	case COWBIRD_IOC_CHANGES:
		return cb_ioctl_changes(arg);
	case COWBIRD_IOC_RELOAD:
		return cb_ioctl_reload(arg);
	case COWBIRD_IOC_VERIFY:
		return cb_ioctl_with_file(control, arg, cb_verify_device);
	case COWBIRD_IOC_EXPAND:
		return cb_ioctl_with_file(control, arg, cb_annex_add);
	case COWBIRD_IOC_CHECK_FROZEN:
		return cb_ioctl_check_frozen(arg);
	case COWBIRD_IOC_SUSPEND:
		return cb_ioctl_on_minor(arg, cb_device_suspend);
	default:
		return -ENOTTY;
	}
}

static long cb_control_ioctl(struct file *file, unsigned int command, unsigned long user)
{
	void *arg;
	int ret;

	if (_IOC_TYPE(command) != COWBIRD_IOC_MAGIC)
		return -ENOTTY;
	arg = memdup_user((void __user *)user, _IOC_SIZE(command));
	if (IS_ERR(arg))
		return PTR_ERR(arg);
	ret = cb_control_act(file->private_data, command, arg);
	/* With the reason, where it was refused. */
	if (ret != -ENOTTY && copy_to_user((void __user *)user, arg, _IOC_SIZE(command)))
		ret = ret ?: -EFAULT;
	kfree(arg);
	return ret;
}

static const struct file_operations cb_control_fops = {
	.owner = THIS_MODULE,
	.open = cb_control_open,
	.release = cb_control_release,
	.unlocked_ioctl = cb_control_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice cb_control_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = COWBIRD_CONTROL_NAME,
	.fops = &cb_control_fops,
	.mode = 0600,
};

int cb_control_init(void)
{
	return misc_register(&cb_control_device);
}

void cb_control_exit(void)
{
	misc_deregister(&cb_control_device);
}
