// SPDX-License-Identifier: GPL-2.0-only
/*
 * Snapshots that begin at one instant: all of them, or none. A single one is a
 * set of one.
 *
 *   create    each member, up to where a write would be touched
 *   publish   the hook finds all of them
 *   cut       quiesce.c: none is let go before all of them are at rest
 *   commit    each takes over its series, or its COW file
 *
 * Nothing can fail any more when they commit. What fails before undoes all of
 * it: nobody finds the new snapshots again, and series go on as they were.
 */
#include <linux/delay.h>

#include "cowbird.h"

/* Members must not be in each other's way. */
static int cb_set_check_members(struct cb_set *set, struct cb_setup *setup)
{
	const struct cb_setup *other;
	int ret;

	for (other = set->setups; other < setup; other++) {
		ret = cb_device_check_pair(setup->dev, other->dev, setup->reason);
		if (ret)
			return ret;
	}
	return 0;
}

static int cb_set_check_minors(struct cb_set *set)
{
	DECLARE_BITMAP(seen, COWBIRD_MAX_MINORS);
	struct cb_setup *setup;

	bitmap_zero(seen, COWBIRD_MAX_MINORS);
	for (setup = set->setups; setup < set->setups + set->count; setup++) {
		if (!__test_and_set_bit(setup->minor, seen))
			continue;
		set->blamed = setup;
		return cb_refuse(setup->reason, -EINVAL, "minor %u is named twice", setup->minor);
	}
	return 0;
}

static int cb_set_make_members(struct cb_set *set)
{
	struct cb_setup *setup;
	int ret = cb_hibernate_check(set->setups->reason);

	if (!ret)
		ret = cb_set_check_minors(set);

	for (setup = set->setups; !ret && setup < set->setups + set->count; setup++) {
		ret = cb_freeze_check(&setup->freeze, setup->reason);
		if (!ret)
			ret = cb_device_create(setup);
		if (!ret)
			ret = cb_set_check_members(set, setup);
		if (ret)
			set->blamed = setup;
	}
	return ret;
}

static int cb_set_add_disks(struct cb_set *set)
{
	struct cb_setup *setup;
	int ret = 0;

	for (setup = set->setups; !ret && setup < set->setups + set->count; setup++) {
		ret = cb_device_check_before(setup->dev, setup);
		if (!ret && cb_snapdisk_publish(setup->dev))
			ret = cb_refuse(setup->reason, -ENOMEM, "cannot add the snapshot device");
		if (ret)
			set->blamed = setup;
	}
	return ret;
}

static int cb_set_begin(struct cb_set *set)
{
	struct cb_setup *setup, *end = set->setups + set->count;
	int ret;

	for (setup = set->setups; setup < end; setup++)
		cb_device_publish(setup->dev);
	if (cb_mutant(switch_too_early))
		msleep(CB_MUTANT_SWITCH_MS);
	ret = cb_quiesce_and_begin(set);
	if (!ret)
		ret = cb_set_add_disks(set);
	for (setup = set->setups; setup < end; setup++) {
		if (ret)
			cb_device_rollback(setup);
		else
			cb_snapdisk_open_up(setup->dev);
	}
	return ret;
}

int cb_set_create(struct cb_set *set)
{
	struct cb_setup *setup, *end = set->setups + set->count;
	int ret;

	lockdep_assert_held(&cb_control_mutex);
	ret = cb_set_make_members(set);
	if (!ret)
		ret = cb_set_begin(set);
	for (setup = set->setups; setup < end; setup++) {
		if (ret)
			cb_device_abort(setup);
		else
			cb_device_commit(setup);
	}
	return ret;
}
