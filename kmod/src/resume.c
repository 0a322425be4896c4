// SPDX-License-Identifier: GPL-2.0-only
/*
 * Taking a series up again from its COW file, before or after its filesystem is
 * mounted. What the slots are worth is decided in core/reload.c; here they are
 * read:
 *
 *   load      maps and index, several slots at once, while writes go on
 *   hold      every write from here on, and wait for those in flight
 *   confirm   that nothing was written since the series was left, and that the
 *             state on disk is still the one that was loaded
 *   track     from here on
 *
 * So writes are held for a few reads, however large the origin is, and none is
 * missed between the look and the first note. A write that comes before the gate
 * ends the series, as it did before it was loaded.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "cowbird.h"

/*
 * Longest time for maps and index; regions stand in for what was not read by then.
 * Those of 64 TiB, all of it written to, are 2.1 GiB each.
 */
#define CB_RESUME_LOAD (60 * HZ)

/* Longest time for telling the COW file that it was refused. */
#define CB_RESUME_TELL (3 * HZ)

struct cb_resume {
	struct cb_reload reload;
	struct cb_meta_pool *pool;
	struct cb_meta_io *io;
	u64 *older; /* for cb_reload_before */
	struct cb_device *dev;
	struct cb_setup *setup;
};

static int cb_resume_read(void *context, u64 sector, u8 *slot)
{
	struct cb_resume *resume = context;

	return cb_meta_read(resume->io, sector, slot);
}

static int cb_resume_scan(void *context, struct cb_reload *reload, struct cb_scan *scan)
{
	struct cb_resume *resume = context;

	if (cb_mutant(reload_skips_group) && scan->kind == CB_META_FINE && scan->groups &&
	    reload->mode == CB_MODE_INCREMENTAL) {
		while (scan->next < scan->count &&
		       !cb_group_has(scan->groups, scan->next >> scan->group_shift))
			scan->next++;
		scan->next += 1 << scan->group_shift;
	}
	return cb_meta_scan(resume->pool, reload, scan);
}

/* The core's reason, in the tool's words. */
static int cb_resume_refuse(struct cb_resume *resume, int error)
{
	const char *why = resume->reload.reason ?: "the COW file's metadata cannot be used";

	if (error != -ESTALE)
		return cb_refuse(resume->setup->reason, error,
				 "%s (error %d); mend the COW disk and reload in this boot, before the origin is written to, or take a full backup",
				 why, error);
	return cb_refuse(resume->setup->reason, error, "tracking cannot go on: %s; take a full backup",
			 why);
}

/* ---- header and extents ------------------------------------------------ */

static int cb_resume_open(struct cb_resume *resume)
{
	struct cb_reload *reload = &resume->reload;
	struct cb_device *dev = resume->dev;
	int ret;

	resume->pool = cb_meta_pool_alloc(dev);
	reload->slot = kmalloc(CB_BLOCK_BYTES, GFP_KERNEL);
	reload->groups = kmalloc(sizeof(*reload->groups), GFP_KERNEL);
	if (!resume->pool || !reload->slot || !reload->groups)
		return -ENOMEM;
	resume->io = cb_meta_pool_single(resume->pool);
	reload->reader.read = cb_resume_read;
	reload->reader.scan = cb_resume_scan;
	reload->reader.context = resume;
	reload->disk_sectors = cb_disk_sectors(dev->cow_disk);
	if (memchr_inv(resume->setup->uuid, 0, sizeof(resume->setup->uuid)) &&
	    !cb_mutant(reload_any_series))
		reload->series = resume->setup->uuid;
	ret = cb_reload_header(reload, resume->setup->cow_sector + dev->cow_base);
	if (ret)
		return cb_resume_refuse(resume, ret);
	if (reload->header.origin_start != dev->geom.start ||
	    reload->header.origin_sectors != dev->geom.sectors ||
	    !!(reload->header.flags & CB_HEADER_COW_ON_ORIGIN) != dev->cow_on_origin) {
		reload->reason = "the COW file belongs to another origin, or that was moved or resized";
		return cb_resume_refuse(resume, -ESTALE);
	}
	if (reload->header.extent_count > COWBIRD_MAX_EXTENTS)
		return cb_resume_refuse(resume, -E2BIG);
	dev->extents.list = kvcalloc(reload->header.extent_count, sizeof(*dev->extents.list),
				     GFP_KERNEL);
	if (!dev->extents.list)
		return -ENOMEM;
	ret = cb_reload_extents(reload, dev->extents.list);
	if (ret)
		return cb_resume_refuse(resume, ret);
	dev->extents = reload->extents;
	dev->layout = reload->layout;
	dev->epoch = reload->header.epoch;
	dev->before_epoch = reload->header.before_epoch;
	memcpy(dev->uuid, reload->header.uuid, sizeof(dev->uuid));
	return 0;
}

/* ---- maps -------------------------------------------------------------- */

static int cb_resume_now(struct cb_resume *resume, struct cb_now *now)
{
	struct cb_device *dev = resume->dev;
	struct request_queue *queue = dev->origin_disk->queue;
	int ret;

	/* Others that do not count cannot be drained either, and were refused for that. */
	now->uncounted = queue_is_mq(queue) && !blk_queue_io_stat(queue);
	memcpy(now->boot_id, dev->boot_id, sizeof(now->boot_id));
	ret = cb_meta_head_crc(resume->io, &now->head_crc, NULL);
	now->written_sectors = cb_bdev_written(dev->origin.bdev);
	if (ret)
		return cb_refuse(resume->setup->reason, ret, "cannot read %s", dev->origin_path);
	return 0;
}

/* Asks about the state, at first and once more. */
static int cb_resume_ask(struct cb_resume *resume,
			 int (*ask)(struct cb_reload *reload, const struct cb_now *now))
{
	struct cb_reload *reload = &resume->reload;
	struct cb_now now = {};
	int ret = cb_resume_now(resume, &now);

	if (ret)
		return ret;
	ret = ask(reload, &now);
	if (ret && cb_mutant(reload_trusts_all)) {
		memcpy(now.boot_id, reload->state.boot_id, sizeof(now.boot_id));
		now.written_sectors = reload->state.written_sectors;
		now.head_crc = reload->state.head_crc;
		ret = ask(reload, &now);
	}
	return ret ? cb_resume_refuse(resume, ret) : 0;
}

/*
 * Writes have passed that no map names, and in the next boot nothing will show it: the
 * COW file says so. Of a file that is not ours any more nothing is overwritten.
 */
static void cb_resume_tell(struct cb_resume *resume)
{
	struct cb_reload *reload = &resume->reload;
	struct cb_device *dev = resume->dev;
	struct cb_state lost;
	int ret;

	if (!resume->setup->final || !reload->overtaken || cb_mutant(refusal_is_not_told))
		return;
	lost = cb_meta_state(dev, CB_STATUS_LOST);
	lost.mode = reload->mode;
	dev->state_sequence = reload->state_sequence;
	cb_meta_io_limit(resume->io, jiffies + CB_RESUME_TELL);
	WRITE_ONCE(dev->tells_refusal, true);
	ret = cb_meta_write_state(resume->io, &lost, NULL);
	WRITE_ONCE(dev->tells_refusal, false);
	if (ret)
		pr_err("%s: changes may be missing, and the COW file cannot be updated to say so (error %d); delete /etc/cowbird/<series>.json, rebuild the initramfs, and take a full backup\n",
		       dev->origin_path, ret);
}

/* Of what the head does not tell: the origin must be as it was left. */
static int cb_resume_compare(struct cb_resume *resume)
{
	struct cb_samples *samples = kzalloc(sizeof(*samples), GFP_KERNEL);
	char *reason = resume->setup->reason;
	u64 sector = 0;
	int ret;

	if (!samples)
		return cb_refuse(reason, -ENOMEM, "not enough memory for the snapshot");
	ret = cb_reload_samples(&resume->reload, samples);
	if (ret)
		ret = cb_resume_refuse(resume, ret);
	else if (!cb_mutant_believes_samples())
		ret = cb_samples_compare(resume->pool, samples, &sector);
	if (ret == -ESTALE && !resume->reload.reason)
		cb_refuse(reason, ret,
			  "tracking cannot go on: what was at sector %llu of the origin changed since tracking was saved; take a full backup",
			  (unsigned long long)sector);
	else if (ret == -EIO && !resume->reload.reason)
		cb_refuse(reason, ret, "cannot read sector %llu of %s", (unsigned long long)sector,
			  resume->dev->origin_path);
	kfree(samples);
	return ret;
}

/* Room for the map of the epoch before, where there is one. */
static int cb_resume_alloc_changes(struct cb_resume *resume)
{
	struct cb_device *dev = resume->dev;
	u64 available;

	if (!resume->reload.changes_from)
		return 0;
	if (cb_memory_fits(cb_map_bytes(dev), &available))
		dev->changes = cb_map_alloc(cb_map_bytes(dev));
	if (dev->changes)
		return 0;
	return cb_refuse(resume->setup->reason, -ENOMEM,
			 "not enough memory: the change map of %llu GiB takes %llu MiB, and of the %llu MiB that are available a quarter must stay",
			 (unsigned long long)dev->geom.sectors >> 21,
			 (unsigned long long)cb_map_bytes(dev) >> 20,
			 (unsigned long long)available >> 20);
}

static int cb_resume_load_maps(struct cb_resume *resume)
{
	struct cb_reload *reload = &resume->reload;
	struct cb_device *dev = resume->dev;
	int ret = cb_reload_tracked(reload, (u64 *)dev->preserved, dev->marks.stable,
				    resume->older);

	if (!ret && reload->changes_from)
		ret = cb_reload_before(reload, (u64 *)dev->changes, resume->older);
	if (!ret && reload->snapshot && resume->setup->want_snapshot)
		ret = cb_reload_index(reload, &dev->slotmap);
	if (ret)
		return cb_resume_refuse(resume, ret);
	cb_reload_settle(reload, (u64 *)dev->preserved, (u64 *)dev->changes);
	return 0;
}

/* All that is known, while writes go on. */
static int cb_resume_load(struct cb_resume *resume)
{
	struct cb_reload *reload = &resume->reload;
	struct cb_device *dev = resume->dev;
	u32 word;
	int ret;

	cb_meta_pool_limit(resume->pool, jiffies + CB_RESUME_LOAD);
	ret = cb_resume_ask(resume, cb_reload_state);
	if (!ret)
		ret = cb_resume_compare(resume);
	if (!ret)
		ret = cb_resume_alloc_changes(resume);
	if (!ret)
		ret = cb_resume_load_maps(resume);
	/* To be tried again at once is only what took too long while writes were held. */
	if (ret)
		return ret == -ETIMEDOUT ? -EIO : ret;
	for (word = 0; word < cb_words(dev->layout.region_count); word++)
		dev->marks.issued[word] = dev->marks.stable[word];
	dev->tracked_from = reload->tracked_from;
	dev->changes_from_epoch = reload->changes_from;
	dev->state_sequence = reload->state_sequence;
	dev->state_status = reload->state.status;
	dev->owns_state = true;
	dev->saved = reload->clean;
	dev->saved_known = reload->clean;
	dev->saved_mode = reload->mode;
	if (reload->snapshot && resume->setup->want_snapshot) {
		dev->slots_used = reload->state.slots_used;
		dev->slots_reserved = dev->slots_used;
	}
	return 0;
}

static bool cb_resume_has_snapshot(const struct cb_resume *resume)
{
	return resume->setup->want_snapshot && resume->reload.snapshot;
}

/* From the gate to the first write that is tracked. */
static int cb_resume_go(struct cb_resume *resume)
{
	struct cb_device *dev = resume->dev;
	struct cb_set set = { .setups = resume->setup, .count = 1 };
	unsigned long deadline = jiffies + msecs_to_jiffies(resume->setup->timeout_ms);
	unsigned int noio = memalloc_noio_save();
	int ret;

	cb_meta_pool_limit(resume->pool, deadline);
	ret = cb_gate_and_drain(&set, deadline);
	if (!ret)
		ret = cb_resume_ask(resume, cb_reload_confirm);
	if (!ret)
		ret = cb_device_event(dev, cb_resume_has_snapshot(resume) ? CB_EVENT_BEGIN :
									    CB_EVENT_TRACK);
	if (ret)
		cb_device_event(dev, CB_EVENT_CLOSE);
	cb_engine_wake(dev);
	memalloc_noio_restore(noio);
	return ret;
}

/* ---- the whole --------------------------------------------------------- */

static int cb_resume_prepare(struct cb_resume *resume)
{
	struct cb_device *dev = resume->dev;
	struct cb_setup *setup = resume->setup;
	int ret;

	ret = cb_device_open_origin(dev, setup);
	if (!ret)
		ret = cb_device_open_cow(dev, setup);
	if (ret)
		return ret;
	ret = cb_resume_open(resume);
	if (ret == -ENOMEM)
		return cb_refuse(setup->reason, ret, "not enough memory for the snapshot");
	if (!ret)
		ret = cb_device_check_others(dev, setup);
	if (!ret)
		ret = cb_device_init_memory(dev, setup);
	if (ret)
		return ret;
	/* Allocated now: while writes are held nothing may be. */
	resume->older = vzalloc(cb_words(dev->layout.region_count) * sizeof(u64));
	if (!resume->older || cb_header_prepare(dev))
		return cb_refuse(setup->reason, -ENOMEM, "not enough memory for the snapshot");
	ret = cb_check_drainable(dev, setup);
	if (!ret)
		ret = cb_resume_load(resume);
	if (!ret)
		ret = cb_device_start(dev, setup);
	return ret;
}

static int cb_resume_publish(struct cb_resume *resume)
{
	struct cb_device *dev = resume->dev;
	int ret;

	cb_device_publish(dev);
	ret = cb_resume_go(resume);
	if (!ret && cb_phase_of(dev) == CB_PHASE_ACTIVE) {
		ret = cb_snapdisk_publish(dev);
		if (ret)
			cb_refuse(resume->setup->reason, ret, "cannot add the snapshot device");
	}
	if (ret) {
		cb_device_unpublish(dev);
		return ret;
	}
	if (dev->disk_added) {
		cb_snapdisk_open_up(dev);
	} else {
		/* Only changes are tracked. A device that stayed would say that the snapshot goes on. */
		cb_snapdisk_destroy(dev);
		cb_device_drop_preserved(dev);
	}
	return 0;
}

static void cb_resume_free(struct cb_resume *resume)
{
	cb_meta_pool_free(resume->pool);
	kfree(resume->reload.slot);
	kfree(resume->reload.groups);
	vfree(resume->older);
}

/* In words, how much is known. */
static const char *cb_resume_precision(const struct cb_resume *resume)
{
	if (!resume->reload.clean)
		return "changes are known only in units of 1 MiB or more";
	if (resume->setup->want_snapshot && resume->reload.mode == CB_MODE_SNAPSHOT &&
	    !cb_reload_has_sums(&resume->reload))
		return "as it was saved, without its snapshot, whose preserved blocks have no checksums";
	if (resume->reload.unusable)
		return "as it was saved, but a part of its maps could not be read: there, changes are known only in units of 1 MiB or more";
	return "as it was saved";
}

int cb_resume(struct cb_setup *setup, u32 *state)
{
	struct cb_resume resume = { .setup = setup };
	struct cb_device *dev;
	int ret;

	lockdep_assert_held(&cb_control_mutex);
	ret = cb_hibernate_check(setup->reason);
	if (ret)
		return ret;
	if (cb_device_get(setup->minor))
		return cb_refuse(setup->reason, -EBUSY, "minor %u is in use", setup->minor);
	if (!cb_module_get())
		return cb_refuse(setup->reason, -ENODEV, "the module is being unloaded");
	dev = resume.dev = setup->dev = cb_device_alloc(setup);
	if (!dev) {
		cb_module_put();
		return cb_refuse(setup->reason, -ENOMEM, "not enough memory for the snapshot");
	}
	ret = cb_device_claim_memory(dev, setup);
	if (!ret)
		ret = cb_resume_prepare(&resume);
	if (!ret)
		ret = cb_resume_publish(&resume);
	if (ret)
		goto out;
	WRITE_ONCE(dev->committed, true);
	WRITE_ONCE(dev->taken_over, true);
	cb_device_close_devices(dev);
	*state = cb_device_state(dev);
	pr_info("snapshot %u of %s: taken up again in epoch %llu, %s\n", dev->minor,
		dev->origin_path, (unsigned long long)dev->epoch,
		cb_resume_precision(&resume));
out:
	if (ret)
		cb_resume_tell(&resume);
	cb_resume_free(&resume);
	if (ret)
		cb_device_end(dev);
	return ret;
}
