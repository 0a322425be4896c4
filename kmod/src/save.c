// SPDX-License-Identifier: GPL-2.0-only
/*
 * A clean save: everything that is in memory is written down, so that a reload
 * goes on as if nothing had happened.
 *
 *   ahead   maps and index, as far as they have changed since they were last
 *           written, while writes go on; again, until few slots are left
 *   park    the engine comes to rest; preserved blocks are in the COW file
 *   hold    from here on no write passes: each waits until the disk says that
 *           changes go on, which the engine writes when it runs again
 *   leave   writes that had passed are noted, submitted
 *   drain   and done
 *   rest    the slots that have changed meanwhile, samples of the origin, then the state
 *
 * It may be done at any moment, and holds until the next write. Where the last part
 * does not get done in the time for which writes may be held, there is no clean
 * state, and the series goes on by its region marks, as after a crash.
 */
#include <linux/mm.h>
#include <linux/reboot.h>
#include <linux/sched/mm.h>

#include "cowbird.h"

/* So long where the disk of the COW file has not answered lately. */
#define CB_SAVE_SLOW (2 * HZ)
/* Longest time for all saves at the end of the machine. */
#define CB_SAVE_REBOOT (15 * HZ)
/* So long a disk may take for one of several saves before the others have their turn. */
#define CB_SAVE_TURN (3 * HZ)
/* So long when half of the time for all is over. */
#define CB_SAVE_LAST HZ
/* Writes are not held for less. */
#define CB_SAVE_HOLD_LEAST max(HZ / 5, 1)
/* So many slots may be left for the time in which writes are held: two bios. */
#define CB_SAVE_FEW (2 * CB_RUN_BLOCKS)
/* A part of the time in which writes are held, in which samples of the origin are begun. */
#define CB_SAVE_SAMPLES 4
/* The same while writes go on: then its disk has them at hand. */
#define CB_SAVE_SAMPLES_AHEAD HZ
/* How often the map is gone through until so few are left. */
#define CB_SAVE_ROUNDS 8
/* Longest time that preserved blocks in memory are waited for, and how often it is looked. */
#define CB_SAVE_STORE_LIMIT (2 * HZ)

/* ---- while writes go on ------------------------------------------------ */

static int cb_save_ahead(struct cb_device *dev, struct cb_meta_pool *pool,
			 struct cb_samples_work *work, unsigned long deadline)
{
	int ret = 0, error, round;
	u32 head_crc;

	cb_meta_pool_limit(pool, deadline);
	/* No other state is written before that of this save: the one on disk is not clean. */
	if (!dev->on_disk.since)
		dev->on_disk.since = dev->state_sequence + 1;
	if (dev->changes && !dev->on_disk.changes)
		ret = cb_save_changes(dev, pool, deadline);
	for (round = 0; ret >= 0 && round < CB_SAVE_ROUNDS; round++) {
		ret = cb_save_tracked(dev, pool, deadline);
		error = cb_meta_flush(pool);
		if (error)
			return error;
		if (ret < 0)
			return ret;
		dev->on_disk.all_seen = true;
		if (ret <= CB_SAVE_FEW)
			break;
	}
	if (ret < 0)
		return ret;
	cb_storing_drain(dev, CB_SAVE_STORE_LIMIT);
	ret = 0;
	if (cb_phase_of(dev) == CB_PHASE_ACTIVE && READ_ONCE(dev->verified))
		ret = cb_save_index_ahead(dev, pool, deadline);
	error = cb_meta_flush(pool);
	if (!ret && !error)
		error = cb_meta_head_crc(cb_meta_pool_single(pool), &head_crc, work->head);
	if (!ret && !error)
		cb_samples_take(work, jiffies + CB_SAVE_SAMPLES_AHEAD);
	/* So that the flushes before the state have little to do. */
	return ret ?: error ?: cb_meta_sync(pool) ?: cb_meta_sync_origin(cb_meta_pool_single(pool));
}

/* ---- while they are held ----------------------------------------------- */

/* What our own write of the state will add to the origin's write counter. */
static u64 cb_save_own_sectors(struct cb_device *dev)
{
	u64 copy = (dev->state_sequence + 1) % CB_STATE_COPIES;
	struct cb_meta meta = cb_meta_of(dev, CB_META_STATE, copy, 0, 0);
	struct cb_blocks touched;

	return dev->cow_on_origin &&
			       cb_geom_touched(&dev->geom, meta.sector, CB_BLOCK_SECTORS, &touched) ?
		       CB_BLOCK_SECTORS :
		       0;
}

/* All but the state. The snapshot is saved too where all of it is in the COW file. */
static int cb_save_maps(struct cb_device *dev, struct cb_meta_pool *pool,
			const struct cb_samples *samples, struct cb_state *state,
			unsigned long deadline)
{
	int ret, error;

	state->mode = CB_MODE_INCREMENTAL;
	if (cb_phase_of(dev) == CB_PHASE_ACTIVE && !dev->dirty_count && !cb_annex_is_used(dev))
		state->mode = CB_MODE_SNAPSHOT;
	state->changes_from = dev->changes ? dev->changes_from_epoch : 0;
	state->fine_rule = CB_FINE_GROUPS;
	state->fine_since = dev->on_disk.since;
	ret = cb_save_tracked(dev, pool, deadline);
	if (ret >= 0 && state->mode == CB_MODE_SNAPSHOT) {
		u64 first = cb_save_index_first(dev);
		u64 end = DIV_ROUND_UP(dev->slots_used, CB_PAYLOAD_WORDS);

		state->slots_used = dev->slots_used;
		ret = end > first ? cb_meta_write(pool, CB_META_INDEX, first, end - first,
						  dev->epoch, dev->state_sequence + 1,
						  cb_save_fill_index) :
				    0;
	}
	if (ret >= 0)
		ret = cb_samples_put(pool, samples);
	error = cb_meta_flush(pool);
	return ret < 0 ? ret : error;
}

/* Nothing passes and nothing is in flight. *begun: the state on disk may be clean. */
static int cb_save_write(struct cb_device *dev, struct cb_meta_pool *pool,
			 struct cb_samples_work *work, bool *begun, unsigned long deadline)
{
	struct cb_state state = cb_meta_state(dev, CB_STATUS_CLEAN);
	struct cb_meta_io *io = cb_meta_pool_single(pool);
	int ret;

	cb_samples_take(work, jiffies + cb_time_left(deadline) / CB_SAVE_SAMPLES);
	ret = cb_save_maps(dev, pool, &work->samples, &state, deadline);
	/* When this has been read, what was written before has been counted. */
	if (!ret)
		ret = cb_meta_head_crc(io, &state.head_crc, NULL);
	/* What is saved must be what the origin has after a power cut. */
	if (!ret)
		ret = cb_meta_sync_origin(io);
	if (ret)
		return ret;
	if (!cb_device_tracks(dev))
		return -ESTALE;
	state.written_sectors = cb_known_written(&dev->origin) + cb_save_own_sectors(dev);
	*begun = true;
	dev->saved_mode = state.mode;
	return cb_meta_write_state(io, &state, dev->on_disk.groups);
}

static int cb_save_rest(struct cb_device *dev, struct cb_meta_pool *pool,
			struct cb_samples_work *work, unsigned long hold)
{
	unsigned long since = jiffies, deadline = since + hold;
	bool begun = false, was_saved = dev->saved;
	int ret;

	cb_meta_pool_limit(pool, deadline);
	ret = cb_engine_park_for(dev, hold);
	if (ret)
		return ret;
	dev->saved_known = false;
	WRITE_ONCE(dev->saved, true);
	ret = cb_passage_wait(dev->origin_disk, deadline);
	if (!ret)
		ret = cb_drain(dev, deadline);
	if (!ret)
		ret = cb_save_write(dev, pool, work, &begun, deadline);
	/*
	 * The state that failed may be on disk, and so may one that an earlier save has
	 * written: then the engine overwrites it before the next write.
	 */
	if (!begun && !was_saved)
		WRITE_ONCE(dev->saved, false);
	dev->saved_known = !ret;
	cb_engine_unpark(dev);
	dev->stats.save_hold_ms = jiffies_to_msecs(jiffies - since);
	return ret;
}

/*
 * Whether all is on disk and nothing has been written since. That the state may be
 * clean is not enough, and a snapshot that can be saved by now must be.
 */
static bool cb_save_is_done(const struct cb_device *dev)
{
	return READ_ONCE(dev->saved) && dev->saved_known &&
	       (cb_phase_of(dev) != CB_PHASE_ACTIVE || dev->saved_mode == CB_MODE_SNAPSHOT ||
		(dev->dirty_count && !READ_ONCE(dev->verified)) || cb_annex_is_used(dev));
}

/*
 * What a save has given up may land later, and must then count as older than whatever
 * is written from here on.
 */
static void cb_save_skip_sequence(struct cb_device *dev)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	dev->state_sequence += CB_STATE_COPIES;
	spin_unlock_irqrestore(&dev->lock, flags);
}

static int cb_save_out_of_time(struct cb_device *dev)
{
	pr_warn("snapshot %u of %s: not saved: the disk of this or an earlier COW file did not answer in time. Change tracking continues; if the machine stops before the next save, changes are known only in units of 1 MiB or more\n",
		dev->minor, dev->origin_path);
	return -ETIMEDOUT;
}

int cb_save(struct cb_device *dev, unsigned long deadline, unsigned long hold)
{
	struct cb_samples_work *work;
	struct cb_meta_pool *pool;
	unsigned int noio;
	int ret;

	lockdep_assert_held(&cb_life_mutex);
	/* A size that was another one for a moment, which the engine has not looked at yet. */
	cb_device_check_size(dev);
	if (!cb_device_tracks(dev) || !dev->owns_state)
		return -ESTALE;
	if (cb_save_is_done(dev))
		return 0;
	if (time_after_eq(jiffies, deadline))
		return cb_save_out_of_time(dev);
	if (READ_ONCE(dev->cow_slow) && time_after(deadline, jiffies + CB_SAVE_SLOW))
		deadline = jiffies + CB_SAVE_SLOW;
	hold = min(hold, deadline - jiffies);
	/* What an earlier one has given up must not land on top of this one. */
	if (!wait_event_timeout(dev->reads_wait, !atomic_read(&dev->meta_in_flight), hold))
		return cb_save_out_of_time(dev);
	/* The origin is read; before the engine is parked. */
	ret = cb_device_use(dev);
	if (ret)
		return ret;
	pool = cb_meta_pool_alloc(dev);
	work = kvzalloc(sizeof(*work), GFP_KERNEL);
	if (work)
		work->pool = cb_meta_pool_alloc(dev);
	if (!pool || !work || !work->pool) {
		cb_meta_pool_free(work ? work->pool : NULL);
		cb_meta_pool_free(pool);
		kvfree(work);
		cb_device_unuse(dev);
		pr_err("snapshot %u of %s: cannot be saved, because there is not enough memory; after a reboot, changes are known only in units of 1 MiB or more\n",
		       dev->minor, dev->origin_path);
		return -ENOMEM;
	}
	/* Memory that held writes could free must not be waited for. */
	noio = memalloc_noio_save();
	ret = cb_mutant(neighbour_saves_all) ? 0 : cb_save_ahead(dev, pool, work, deadline);
	/* A hold too short for the engine to rest in is none. */
	hold = min(hold, cb_time_left(deadline));
	if (!ret && hold < CB_SAVE_HOLD_LEAST)
		ret = -ETIMEDOUT;
	if (!ret)
		ret = cb_save_rest(dev, pool, work,
				   cb_mutant(neighbour_saves_all) ? CB_SAVE_HOLD_ALONE : hold);
	if (ret) {
		cb_save_forget(dev);
		cb_save_skip_sequence(dev);
	}
	cb_storing_relax(dev);
	memalloc_noio_restore(noio);
	cb_meta_pool_free(work->pool);
	cb_meta_pool_free(pool);
	kvfree(work);
	cb_device_unuse(dev);
	if (ret == -ETIMEDOUT)
		pr_warn("snapshot %u of %s: not saved, because writes would have been held for too long. Change tracking continues; if the machine stops before the next save, changes are known only in units of 1 MiB or more\n",
			dev->minor, dev->origin_path);
	else if (ret)
		pr_err("snapshot %u of %s: cannot be saved (error %d); after a reboot, changes are known only in units of 1 MiB or more\n",
		       dev->minor, dev->origin_path, ret);
	return ret;
}

/* Longest time in which the engine rests for the state alone. */
#define CB_STATUS_LIMIT (2 * HZ)

int cb_save_status(struct cb_device *dev, struct cb_meta_io *io, enum cb_status status)
{
	struct cb_state state = cb_meta_state(dev, status);
	int ret;

	lockdep_assert_held(&cb_life_mutex);
	/* Writes are held meanwhile, maybe those of swapping: the memory was asked for before. */
	cb_meta_io_limit(io, jiffies + CB_STATUS_LIMIT);
	ret = cb_meta_write_state(io, &state, NULL);
	if (ret)
		pr_warn("snapshot %u of %s: cannot write the tracking state to the COW file (error %d)\n",
			dev->minor, dev->origin_path, ret);
	return ret;
}

/* ---- several ----------------------------------------------------------- */

static struct cb_device *cb_save_device(unsigned int slot)
{
	return rcu_dereference_protected(cb_devices[slot], lockdep_is_held(&cb_life_mutex));
}

/* The disk of a COW file does not answer soon: all that are on it come later. */
static void cb_save_defer(struct gendisk *disk)
{
	unsigned int slot;

	for (slot = 0; slot < COWBIRD_MAX_MINORS; slot++) {
		struct cb_device *dev = cb_save_device(slot);

		if (dev && dev->cow_disk == disk)
			dev->save_deferred = true;
	}
}

void cb_save_all(bool (*concerns)(struct cb_device *dev, struct super_block *sb),
		 struct super_block *sb, unsigned long limit, unsigned long hold)
{
	unsigned long deadline = jiffies + limit;
	struct cb_device *dev;
	unsigned int slot;

	lockdep_assert_held(&cb_life_mutex);
	for (slot = 0; slot < COWBIRD_MAX_MINORS; slot++) {
		/* What is left when time is up is still tried: most disks take no time. */
		unsigned long turn = time_before(jiffies, deadline - limit / 2) ? CB_SAVE_TURN :
										  CB_SAVE_LAST;

		dev = cb_save_device(slot);
		if (!dev || !cb_device_tracks(dev) || (concerns && !concerns(dev, sb)) ||
		    dev->save_deferred)
			continue;
		if (cb_save(dev, jiffies + turn, hold) == -ETIMEDOUT)
			cb_save_defer(dev->cow_disk);
	}
	for (slot = 0; slot < COWBIRD_MAX_MINORS; slot++) {
		dev = cb_save_device(slot);
		if (!dev || !dev->save_deferred)
			continue;
		dev->save_deferred = false;
		if (cb_device_tracks(dev) && (!concerns || concerns(dev, sb)))
			cb_save(dev, deadline, hold);
	}
}

/* ---- reboot ------------------------------------------------------------ */

static int cb_save_reboot(struct notifier_block *block, unsigned long event, void *unused)
{
	unsigned long deadline = jiffies + CB_LOSING_WAIT;
	unsigned int slot;

	mutex_lock(&cb_life_mutex);
	for (slot = 0; slot < COWBIRD_MAX_MINORS; slot++) {
		struct cb_device *dev = cb_save_device(slot);

		if (dev && cb_phase_is_lost(cb_phase_of(dev)))
			cb_losing_wait(dev, deadline);
	}
	cb_save_all(NULL, NULL, CB_SAVE_REBOOT, CB_SAVE_HOLD_ALONE);
	mutex_unlock(&cb_life_mutex);
	return NOTIFY_DONE;
}

static struct notifier_block cb_save_notifier = {
	.notifier_call = cb_save_reboot,
};

int cb_save_init(void)
{
	return register_reboot_notifier(&cb_save_notifier);
}

void cb_save_exit(void)
{
	unregister_reboot_notifier(&cb_save_notifier);
}
