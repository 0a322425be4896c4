// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hibernation.
 *
 * The image of memory is made first and written afterwards, also into a swap file
 * or partition of an origin. The kernel that the image restores has our state of
 * before these writes: it would show them as if they had been there all the time,
 * and not know of them as changes. So what is tracked is lost before the image is
 * made, and nothing new is tracked before the machine has come back. Only the
 * kernel knows where it will write, so this concerns every origin.
 *
 * Sleep that keeps memory changes nothing here.
 */
#include <linux/suspend.h>

#include "cowbird.h"

/* Under cb_control_mutex. */
static bool cb_hibernating;

static void cb_hibernate_begin(void)
{
	unsigned int minor;

	/* Also waits for a snapshot that just begins. */
	mutex_lock(&cb_control_mutex);
	cb_hibernating = true;
	for (minor = 0; minor < COWBIRD_MAX_MINORS; minor++) {
		struct cb_device *dev = cb_device_get(minor);

		if (dev && cb_device_tracks(dev))
			cb_device_fail(dev, -ESHUTDOWN, "the machine hibernates");
	}
	mutex_unlock(&cb_control_mutex);
}

static void cb_hibernate_end(void)
{
	mutex_lock(&cb_control_mutex);
	cb_hibernating = false;
	mutex_unlock(&cb_control_mutex);
}

static int cb_hibernate_notified(struct notifier_block *block, unsigned long event, void *data)
{
	if (cb_mutant(hibernate_blindly))
		return NOTIFY_DONE;
	if (event == PM_HIBERNATION_PREPARE)
		cb_hibernate_begin();
	else if (event == PM_POST_HIBERNATION)
		cb_hibernate_end();
	return NOTIFY_DONE;
}

static struct notifier_block cb_hibernate_block = {
	.notifier_call = cb_hibernate_notified,
};

int cb_hibernate_check(char *reason)
{
	lockdep_assert_held(&cb_control_mutex);
	return cb_hibernating ? cb_refuse(reason, -EBUSY, "the machine hibernates") : 0;
}

int cb_hibernate_init(void)
{
	return register_pm_notifier(&cb_hibernate_block);
}

void cb_hibernate_exit(void)
{
	unregister_pm_notifier(&cb_hibernate_block);
}
