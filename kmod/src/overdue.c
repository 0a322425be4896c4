// SPDX-License-Identifier: GPL-2.0-only
/*
 * No write waits for ever: when each has arrived, and what is given up once one of them has
 * waited for longer than the limit, the snapshot or the tracking.
 */
#include "cowbird.h"

/*
 * When writes arrived that are not admitted yet. A bio has no room for a time, so
 * the engine notes how many had arrived at intervals; a write waits at least since
 * the first of these notes that counts it.
 */
unsigned long cb_arrivals_time(struct cb_device *dev, u64 number)
{
	const struct cb_arrivals *arrivals = &dev->arrivals;
	u32 i;

	for (i = 0; i < CB_ARRIVAL_NOTES; i++) {
		/* From the oldest on. */
		u32 at = (arrivals->next + i) % CB_ARRIVAL_NOTES;

		if (arrivals->notes[at].enqueued > number)
			return arrivals->notes[at].at;
	}
	return jiffies;
}

/* Takes a note when the last one is old enough for the notes to cover the limit. */
static void cb_arrivals_note(struct cb_device *dev)
{
	struct cb_arrivals *arrivals = &dev->arrivals;
	u32 last = (arrivals->next + CB_ARRIVAL_NOTES - 1) % CB_ARRIVAL_NOTES;
	unsigned long interval = dev->hold_limit_jiffies / (CB_ARRIVAL_NOTES / 2);
	unsigned long flags;
	u64 enqueued;

	spin_lock_irqsave(&dev->lock, flags);
	enqueued = arrivals->enqueued;
	spin_unlock_irqrestore(&dev->lock, flags);
	if (arrivals->notes[last].enqueued == enqueued ||
	    time_before(jiffies, arrivals->notes[last].at + interval))
		return;
	arrivals->notes[arrivals->next].enqueued = enqueued;
	arrivals->notes[arrivals->next].at = jiffies;
	arrivals->next = (arrivals->next + 1) % CB_ARRIVAL_NOTES;
}

/* Since when the write that waits longest does; false where none waits. */
static bool cb_engine_oldest(struct cb_device *dev, unsigned long *since)
{
	struct cb_held *held;
	bool waits = false;
	unsigned long flags;
	u64 next = 0;

	*since = jiffies;
	list_for_each_entry(held, &dev->held, list) {
		if (time_before(held->since, *since))
			*since = held->since;
		waits = true;
	}
	/* They wait since a piece of one of them was admitted. */
	if (!bio_list_empty(&dev->large)) {
		if (time_before(dev->large_since, *since))
			*since = dev->large_since;
		waits = true;
	}
	spin_lock_irqsave(&dev->lock, flags);
	if (dev->arrivals.enqueued != dev->arrivals.popped) {
		next = dev->arrivals.popped;
		waits = true;
	} else {
		next = U64_MAX;
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if (next != U64_MAX && !cb_mutant(age_from_admission)) {
		unsigned long arrived = cb_arrivals_time(dev, next);

		if (time_before(arrived, *since))
			*since = arrived;
	}
	return waits;
}

static bool cb_engine_expired(struct cb_device *dev, unsigned long since)
{
	return time_after(jiffies, since + dev->hold_limit_jiffies);
}

/* Whether a write that has waited too long does so until the COW file knows of the change. */
static bool cb_engine_waits_for_marks(struct cb_device *dev)
{
	struct cb_held *held;

	list_for_each_entry(held, &dev->held, list)
		if (cb_engine_expired(dev, held->since) &&
		    !cb_origin_marked(dev, held->first, held->last))
			return true;
	return false;
}

static void cb_engine_check_oldest(struct cb_device *dev)
{
	unsigned long since;

	if (!cb_engine_oldest(dev, &since) || !cb_engine_expired(dev, since))
		return;
	if (dev->stores_in_flight || dev->marks_in_flight)
		WRITE_ONCE(dev->cow_slow, true);
	/* The tracking can do without the snapshot; without the marks it cannot. */
	if (cb_phase_of(dev) == CB_PHASE_ACTIVE && !cb_engine_waits_for_marks(dev))
		cb_device_invalidate(dev, -ETIMEDOUT,
				     "a write to it waited for more than %u s, because the disk of the COW file is too slow or does not answer",
				     dev->hold_limit_jiffies / HZ);
	else
		cb_device_fail(dev, -ETIMEDOUT,
			       "a write to it waited for more than %u s for its mark in the COW file, whose disk is too slow or does not answer",
			       dev->hold_limit_jiffies / HZ);
}

/* Time limits (I4, the origin first) and changes under our feet (I5, no silent hole). */
void cb_engine_check(struct cb_device *dev)
{
	if (time_before(jiffies, dev->next_check))
		return;
	dev->next_check = jiffies + CB_CHECK_INTERVAL;
	cb_arrivals_note(dev);
	if (!cb_device_tracks(dev))
		return;
	cb_engine_check_oldest(dev);
	cb_device_check_devices(dev);
}
