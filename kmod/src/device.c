// SPDX-License-Identifier: GPL-2.0-only
/* A snapshot in memory: its phases and how it fails; allocated, found by others, freed. */
#include <linux/mm.h>
#include <linux/slab.h>

#include "cowbird.h"
#include "cowbird_trace.h"

/* Longest time that a write may be held before its snapshot is given up. */
static unsigned int hold_limit_s = 30;
module_param(hold_limit_s, uint, 0644);
MODULE_PARM_DESC(hold_limit_s, "Seconds after which a held write ends its snapshot (default 30)");

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
		dev->error = error;
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

/* Why a snapshot was invalidated is of no interest once it is dropped. What has failed since keeps its reason. */
void cb_device_clear_error(struct cb_device *dev)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	if (dev->phase == CB_PHASE_TRACKING) {
		dev->error = 0;
		dev->error_text[0] = '\0';
	}
	spin_unlock_irqrestore(&dev->lock, flags);
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

void cb_device_invalidate(struct cb_device *dev, int error, const char *fmt, ...)
{
	va_list args;
	bool first;

	va_start(args, fmt);
	first = cb_device_give_up(dev, CB_EVENT_INVALIDATE, error, fmt, args);
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

/* ---- in memory --------------------------------------------------------- */

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
	cb_written_init(&dev->written);
	mutex_init(&dev->use_lock);
	spin_lock_init(&dev->lock);
	spin_lock_init(&dev->spare_lock);
	cb_audit_init(dev);
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
void cb_device_wait_lookers(void)
{
	synchronize_rcu();
}

void cb_device_unpublish(struct cb_device *dev)
{
	cb_device_event(dev, CB_EVENT_CLOSE);
	wake_up_all(&dev->slow_wait);
	cb_engine_wake(dev);
	mutex_lock(&cb_life_mutex);
	/* It has its COW file until it has ended: an unmount finds it here or there. */
	cb_ending_list(dev);
	cb_registry_place(dev->slot, NULL);
	cb_registry_unwatch(dev);
	mutex_unlock(&cb_life_mutex);
	cb_device_wait_lookers();
}
