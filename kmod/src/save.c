// SPDX-License-Identifier: GPL-2.0-only
/*
 * A clean save: everything that is in memory is written down, so that a reload
 * goes on as if nothing had happened.
 *
 *   park    the engine comes to rest; preserved blocks are in the COW file
 *   hold    from here on no write passes: each waits until the disk says that
 *           changes go on, which the engine writes when it runs again
 *   leave   writes that had passed are noted, submitted
 *   drain   and done
 *   write   maps and index, then the state
 *
 * It may be done at any moment, and holds until the next write.
 */
#include <linux/reboot.h>
#include <linux/sched/mm.h>

#include "cowbird.h"

/* Bound of the time in which writes may be held by a save. */
#define CB_SAVE_TIMEOUT (10 * HZ)

static void cb_save_words(const unsigned long *bitmap, u64 bits, u64 slot, u8 *payload)
{
	u64 first = slot * CB_PAYLOAD_WORDS, words = cb_words(bits);

	/* Little-endian longs of 64 bits; see cb_changes_copy. */
	if (first < words)
		memcpy(payload, bitmap + first,
		       min_t(u64, words - first, CB_PAYLOAD_WORDS) * sizeof(u64));
}

static void cb_save_fill_tracked(struct cb_device *dev, u64 index, u8 *payload)
{
	if (cb_mutant(save_empty_map))
		return;
	cb_save_words(dev->preserved, dev->block_count, index % dev->layout.fine_slots, payload);
}

static void cb_save_fill_changes(struct cb_device *dev, u64 index, u8 *payload)
{
	cb_save_words(dev->changes, dev->block_count, index % dev->layout.fine_slots, payload);
}

static void cb_save_fill_index(struct cb_device *dev, u64 index, u8 *payload)
{
	u64 slot = index * CB_PAYLOAD_WORDS;
	u32 i;

	for (i = 0; i < CB_PAYLOAD_WORDS && slot + i < dev->slots_used; i++) {
		__le64 block = cpu_to_le64(dev->slotmap.block_of[slot + i]);

		memcpy(payload + i * sizeof(block), &block, sizeof(block));
	}
}

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
static int cb_save_maps(struct cb_device *dev, struct cb_meta_io *io, struct cb_state *state)
{
	u64 sequence = dev->state_sequence + 1;
	int ret;

	state->mode = CB_MODE_INCREMENTAL;
	if (cb_phase_of(dev) == CB_PHASE_ACTIVE && !dev->dirty_count && !cb_annex_is_used(dev))
		state->mode = CB_MODE_SNAPSHOT;
	state->changes_from = dev->changes ? dev->changes_from_epoch : 0;
	ret = cb_meta_write(io, CB_META_FINE, cb_layout_fine_of(&dev->layout, dev->epoch),
			    dev->layout.fine_slots, dev->epoch, sequence, cb_save_fill_tracked);
	if (!ret && dev->changes)
		ret = cb_meta_write(io, CB_META_FINE,
				    cb_layout_fine_of(&dev->layout, dev->epoch - 1),
				    dev->layout.fine_slots, dev->epoch - 1, sequence,
				    cb_save_fill_changes);
	if (!ret && state->mode == CB_MODE_SNAPSHOT) {
		state->slots_used = dev->slots_used;
		ret = cb_meta_write(io, CB_META_INDEX, 0,
				    DIV_ROUND_UP(dev->slots_used, CB_PAYLOAD_WORDS), dev->epoch,
				    sequence, cb_save_fill_index);
	}
	return ret;
}

/* Nothing passes and nothing is in flight. *begun: the state on disk may be clean. */
static int cb_save_write(struct cb_device *dev, struct cb_meta_io *io, bool *begun)
{
	struct cb_state state = cb_meta_state(dev, CB_STATUS_CLEAN);
	int ret = cb_save_maps(dev, io, &state);

	if (!ret)
		ret = cb_meta_head_crc(io, &state.head_crc);
	if (ret)
		return ret;
	if (!cb_device_tracks(dev))
		return -ESTALE;
	state.written_sectors = cb_known_written(&dev->origin) + cb_save_own_sectors(dev);
	*begun = true;
	return cb_meta_write_state(io, &state);
}

int cb_save(struct cb_device *dev)
{
	unsigned long deadline;
	struct cb_meta_io *io;
	unsigned int noio;
	bool begun = false;
	int ret;

	lockdep_assert_held(&cb_life_mutex);
	if (!cb_device_tracks(dev) || !dev->owns_state)
		return -ESTALE;
	if (READ_ONCE(dev->saved))
		return 0;
	/* The head of the origin is read; before the engine is parked. */
	ret = cb_device_use(dev);
	if (ret)
		return ret;
	io = cb_meta_io_alloc(dev);
	if (!io) {
		cb_device_unuse(dev);
		return -ENOMEM;
	}
	/* Memory that held writes could free must not be waited for. */
	noio = memalloc_noio_save();
	ret = cb_engine_park(dev);
	if (ret)
		goto out;
	deadline = jiffies + CB_SAVE_TIMEOUT;
	cb_meta_io_limit(io, deadline);
	WRITE_ONCE(dev->saved, true);
	ret = cb_passage_wait(dev->origin_disk, deadline);
	if (!ret)
		ret = cb_drain(dev, deadline);
	if (!ret)
		ret = cb_save_write(dev, io, &begun);
	/* The state that failed may be on disk: then the engine overwrites it before the next write. */
	if (!begun)
		WRITE_ONCE(dev->saved, false);
	cb_engine_unpark(dev);
out:
	memalloc_noio_restore(noio);
	cb_meta_io_free(io);
	cb_device_unuse(dev);
	if (ret)
		pr_err("snapshot %u of %s: cannot be saved (error %d); after a reboot its changes are known by region only\n",
		       dev->minor, dev->origin_path, ret);
	return ret;
}

int cb_save_status(struct cb_device *dev, struct cb_meta_io *io, enum cb_status status)
{
	struct cb_state state = cb_meta_state(dev, status);
	int ret;

	lockdep_assert_held(&cb_life_mutex);
	/* Writes are held meanwhile, maybe those of swapping: the memory was asked for before. */
	ret = cb_meta_write_state(io, &state);
	if (ret)
		pr_warn("snapshot %u of %s: the state in the COW file is out of date (error %d)\n",
			dev->minor, dev->origin_path, ret);
	return ret;
}

/* ---- reboot ------------------------------------------------------------ */

static int cb_save_reboot(struct notifier_block *block, unsigned long event, void *unused)
{
	unsigned int slot;

	mutex_lock(&cb_life_mutex);
	for (slot = 0; slot < COWBIRD_MAX_MINORS; slot++) {
		struct cb_device *dev = rcu_dereference_protected(
			cb_devices[slot], lockdep_is_held(&cb_life_mutex));

		if (dev && cb_device_tracks(dev))
			cb_save(dev);
	}
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
