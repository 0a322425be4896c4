// SPDX-License-Identifier: GPL-2.0-only
/* /proc/cowbird-info: every snapshot and its counters, as one JSON object. */
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "core/utf8.h"
#include "cowbird.h"

/*
 * A JSON string. Names may hold any bytes, and messages that were cut off the beginning of a
 * character: each byte that is not part of valid UTF-8 is a backslash and three octal digits, as
 * in /proc/self/mountinfo, and so is the backslash itself.
 */
static void cb_info_string(struct seq_file *out, const char *string)
{
	const u8 *text = (const u8 *)string;

	seq_putc(out, '"');
	while (*text) {
		u32 length = cb_utf8_length(text);

		if (!length || *text == '\\') {
			seq_printf(out, "\\\\%03o", *text);
			length = 1;
		} else if (*text == '"') {
			seq_puts(out, "\\\"");
		} else if (*text < 0x20) {
			seq_printf(out, "\\u%04x", *text);
		} else {
			seq_write(out, text, length);
		}
		text += length;
	}
	seq_putc(out, '"');
}

static void cb_info_counters(struct seq_file *out, struct cb_device *dev)
{
	struct cb_stats *stats = &dev->stats;

#define CB_COUNTER(name) seq_printf(out, ", \"" #name "\": %lld", atomic64_read(&stats->name))
	CB_COUNTER(preserved_blocks);
	CB_COUNTER(stored_blocks);
	CB_COUNTER(held_writes);
	CB_COUNTER(passed_writes);
	CB_COUNTER(gated_writes);
	CB_COUNTER(absorbed_discards);
	CB_COUNTER(throttled_writers);
	CB_COUNTER(mark_writes);
	CB_COUNTER(reads_origin_blocks);
	CB_COUNTER(reads_memory_blocks);
	CB_COUNTER(reads_cow_blocks);
	CB_COUNTER(reads_zero_blocks);
	CB_COUNTER(reads_revalidated_blocks);
#undef CB_COUNTER
	seq_printf(out, ", \"memory_peak_blocks\": %d", atomic_read(&stats->memory_peak_blocks));
	seq_printf(out, ", \"freeze_us\": %u, \"gate_us\": %u", stats->freeze_us, stats->gate_us);
	seq_printf(out, ", \"save_hold_ms\": %u", READ_ONCE(stats->save_hold_ms));
}

static const char *cb_info_state(struct cb_device *dev, u32 state)
{
	static const char *const names[] = {
		[COWBIRD_STATE_DORMANT_INCREMENTAL] = "dormant incremental",
		[COWBIRD_STATE_DORMANT_SNAPSHOT] = "dormant snapshot",
		[COWBIRD_STATE_ACTIVE_INCREMENTAL] = "active incremental",
		[COWBIRD_STATE_ACTIVE_SNAPSHOT] = "active snapshot",
		[COWBIRD_STATE_UNVERIFIED_INCREMENTAL] = "unverified incremental",
		[COWBIRD_STATE_UNVERIFIED_SNAPSHOT] = "unverified snapshot",
	};

	if (cb_phase_of(dev) == CB_PHASE_ACTIVE || cb_phase_of(dev) == CB_PHASE_TRACKING)
		return names[state];
	return dev->disk ? "failed snapshot" : "failed incremental";
}

static void cb_info_device(struct seq_file *out, struct cb_device *dev)
{
	char error_text[COWBIRD_REASON_BYTES];
	const char *state_name;
	unsigned long flags;
	int error;
	bool tracks;
	u32 state;
	u32 held;
	u32 in_memory;
	u64 slots = dev->extents.slots + cb_annex_slots(dev), slots_used, cow_sector = 0;

	/* Slot 0 exists. */
	WARN_ON_ONCE(cb_cow_sector(dev, 0, &cow_sector));
	/* Of one instant: a failure may come between two reads. */
	spin_lock_irqsave(&dev->lock, flags);
	error = dev->error;
	memcpy(error_text, dev->error_text, sizeof(error_text));
	state = cb_device_state(dev);
	state_name = cb_info_state(dev, state);
	tracks = cb_device_tracks(dev);
	held = dev->held_count;
	in_memory = cb_blocks_in_use(dev);
	slots_used = dev->slotmap.used + dev->layout.data_first;
	spin_unlock_irqrestore(&dev->lock, flags);

	seq_printf(out, "{\"minor\": %u, \"cow_file\": ", dev->minor);
	cb_info_string(out, dev->cow_path);
	seq_puts(out, ", \"block_device\": ");
	cb_info_string(out, dev->origin_path);
	seq_printf(out, ", \"max_cache\": %llu, \"fallocate\": %llu, \"seq_id\": %llu",
		   dev->cache_bytes, slots * CB_BLOCK_BYTES, dev->epoch);
	seq_printf(out, ", \"uuid\": \"%*phN\", \"error\": %d, \"state\": %d", COWBIRD_UUID_BYTES,
		   dev->uuid, error, state);
	seq_printf(out, ", \"version\": %d, \"state_name\": \"%s\"", COWBIRD_HEADER_VERSION,
		   state_name);
	seq_printf(out, ", \"origin_device\": \"%u:%u\", \"changes_from_epoch\": %llu",
		   MAJOR(dev->origin.bdev->bd_dev), MINOR(dev->origin.bdev->bd_dev),
		   dev->changes_from_epoch);
	seq_printf(out, ", \"origin_sectors\": %llu, \"cow_slots\": %llu, \"cow_slots_used\": %llu",
		   dev->geom.sectors, slots, slots_used);
	seq_printf(out, ", \"cow_own_blocks\": %llu, \"cow_inode\": %lu, \"held_bios\": %u",
		   dev->own_blocks, dev->cow_ino, held);
	seq_printf(out, ", \"cow_device\": \"%u:%u\", \"cow_sector\": %llu, \"cow_is_pinned\": %s",
		   MAJOR(dev->cow.bdev->bd_dev), MINOR(dev->cow.bdev->bd_dev), cow_sector,
		   READ_ONCE(dev->cow_inode) ? "true" : "false");
	seq_printf(out, ", \"tracked_from_epoch\": %llu, \"tracks\": %s, \"saved\": %s",
		   dev->tracked_from, tracks ? "true" : "false",
		   READ_ONCE(dev->saved) ? "true" : "false");
	seq_printf(out, ", \"memory_blocks\": %u, \"expansions\": %u, \"map_bytes\": %llu",
		   in_memory, smp_load_acquire(&dev->annex_count), cb_device_map_bytes(dev));
	cb_info_counters(out, dev);
	seq_puts(out, ", \"error_text\": ");
	cb_info_string(out, error_text);
	seq_putc(out, '}');
}

static int cb_info_show(struct seq_file *out, void *unused)
{
	bool first = true;
	unsigned int i;

	seq_puts(out, "{\"version\": \"" COWBIRD_VERSION "\", \"mutant\": ");
#ifdef COWBIRD_MUTANT
	cb_info_string(out, COWBIRD_MUTANT_NAME);
#else
	seq_puts(out, "null");
#endif
	seq_puts(out, ", \"devices\": [");
	/* No lock: this must work also while somebody holds it who waits for a disk. */
	rcu_read_lock();
	for (i = 0; i < COWBIRD_MAX_MINORS; i++) {
		struct cb_device *dev = rcu_dereference(cb_devices[i]);

		/* One that is still being made may yet be refused. */
		if (!dev || !READ_ONCE(dev->committed))
			continue;
		seq_puts(out, first ? "" : ", ");
		cb_info_device(out, dev);
		first = false;
	}
	rcu_read_unlock();
	seq_puts(out, "]}\n");
	return 0;
}

int cb_info_init(void)
{
	return proc_create_single(COWBIRD_PROC_NAME, 0444, NULL, cb_info_show) ? 0 : -ENOMEM;
}

void cb_info_exit(void)
{
	remove_proc_entry(COWBIRD_PROC_NAME, NULL);
}
