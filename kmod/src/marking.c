// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the engine tells the disk before it lets a write go (I6, the map is true).
 *
 *   marks   one FUA write per slot of the region map, with all regions that
 *           held writes wait for by then; one per slot at a time
 *   state   DIRTY, before the first write after a clean save; LOST, once
 *           tracking is given up
 *
 * A write is held until the marks of all of its regions are stable and the state
 * on disk is not clean. When one of these writes fails, tracking is lost, and the
 * origin goes on when the COW file says so (losing.c).
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "cowbird.h"
#include "cowbird_trace.h"

void cb_mark_end_io(struct bio *bio)
{
	struct cb_mark *mark = bio->bi_private;
	struct cb_device *dev = mark->dev;

	mark->status = bio->bi_status;
	bio_put(bio);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (llist_add(&mark->done, &dev->marks_done))
		cb_engine_wake(dev);
	rcu_read_unlock();
}

/* Begins to read or write the mark's page. */
static void cb_mark_send(struct cb_mark *mark, unsigned int opf, u64 sector)
{
	struct cb_device *dev = mark->dev;
	struct bio *bio = cb_bio_alloc(dev->cow.bdev, 1, opf, &dev->mark_bios);

	bio->bi_iter.bi_sector = sector - dev->cow_base;
	bio->bi_private = mark;
	bio->bi_end_io = cb_mark_end_io;
	WARN_ON_ONCE(bio_add_page(bio, mark->page, CB_BLOCK_BYTES, 0) != CB_BLOCK_BYTES);
	mark->in_flight = true;
	dev->marks_in_flight++;
	cb_lane_add(dev, CB_LANE_COW, bio);
}

/* Writes the mark's page, whose payload is in place. */
static void cb_mark_submit(struct cb_mark *mark, enum cb_meta_kind kind, u64 index, u64 sequence)
{
	struct cb_device *dev = mark->dev;
	struct cb_meta meta = cb_meta_of(dev, kind, index, dev->epoch, sequence);
	void *slot = cb_kmap(mark->page);

	cb_meta_seal(&meta, slot);
	cb_kunmap(slot);
	atomic64_inc(&dev->stats.mark_writes);
	cb_mark_send(mark, REQ_OP_WRITE | REQ_SYNC | (cb_mutant(mark_in_cache) ? 0 : REQ_FUA),
		     meta.sector);
}

/* ---- finish ------------------------------------------------------------ */

static void cb_marking_write_state(struct cb_device *dev, enum cb_status status);

/* Where a mark is to be written, or the next state. */
static struct cb_meta cb_marking_place(struct cb_device *dev, const struct cb_mark *mark)
{
	u64 copy = (dev->state_sequence + 1) % CB_STATE_COPIES;

	if (mark == &dev->state_write)
		return cb_meta_of(dev, CB_META_STATE, copy, 0, 0);
	return cb_meta_of(dev, CB_META_REGIONS,
			  cb_layout_regions_of(&dev->layout, dev->epoch) + mark->index, 0, 0);
}

/* What was read is that place, and ours. */
static bool cb_marking_is_ours(struct cb_device *dev, struct cb_mark *mark)
{
	struct cb_meta expected = cb_marking_place(dev, mark), found = {};
	u8 *slot = cb_kmap(mark->page);
	bool ours = cb_meta_open(&found, slot) != -ENOENT && cb_meta_same_place(&found, &expected);

	cb_kunmap(slot);
	return ours;
}

/*
 * What may be somebody else's by now is looked at first. The hook sees who writes there, but
 * not if that goes by a device below that of the COW file, or by another machine.
 */
static bool cb_marking_must_look(struct cb_device *dev)
{
	return !READ_ONCE(dev->verified) && !cb_mutant(marks_unlooked);
}

static void cb_marking_look(struct cb_device *dev, struct cb_mark *mark)
{
	mark->looks = true;
	cb_mark_send(mark, REQ_OP_READ | REQ_SYNC, cb_marking_place(dev, mark).sector);
}

static void cb_marking_is_lost(struct cb_device *dev)
{
	if (cb_device_tracks(dev))
		cb_device_fail(dev, -ESTALE, "the COW file was overwritten by somebody else");
}

/*
 * A state that somebody has given up may land yet, on the copy before this one. So the
 * next try goes to the same copy again.
 */
static void cb_marking_keep_copy(struct cb_device *dev)
{
	int own = READ_ONCE(dev->lose_opening);
	unsigned long flags;

	if (atomic_read(&dev->meta_in_flight) <= own)
		return;
	spin_lock_irqsave(&dev->lock, flags);
	dev->state_sequence++;
	spin_unlock_irqrestore(&dev->lock, flags);
}

static void cb_marking_state_done(struct cb_device *dev, int error)
{
	bool looked = dev->state_write.looks;

	if (looked && !error && cb_marking_is_ours(dev, &dev->state_write)) {
		cb_marking_write_state(dev, cb_phase_is_lost(cb_phase_of(dev)) ?
						    CB_STATUS_LOST : CB_STATUS_DIRTY);
	} else if (looked && !error) {
		/* Somebody else has the blocks. */
		WRITE_ONCE(dev->cow_left, true);
		cb_marking_is_lost(dev);
	} else if (looked ? cb_phase_is_lost(cb_phase_of(dev)) :
			    dev->state_status == CB_STATUS_LOST) {
		if (!looked && error)
			cb_marking_keep_copy(dev);
		cb_losing_cow_done(dev, error);
	} else if (error) {
		cb_device_fail(dev, error, "cannot update the tracking state in the COW file");
	} else {
		WRITE_ONCE(dev->saved, false);
	}
	/* After the write that follows has begun: see cb_losing_is_at_rest. */
	if (looked)
		smp_store_release(&dev->state_write.looks, false);
}

static void cb_marking_write_mark(struct cb_device *dev, struct cb_mark *mark)
{
	u8 *page = cb_kmap(mark->page);

	memset(page, 0, CB_BLOCK_BYTES);
	cb_marks_issue(&dev->marks, mark->index, page + CB_PAYLOAD_AT);
	cb_kunmap(page);
	trace_cowbird_mark(dev, mark->index);
	cb_mark_submit(mark, CB_META_REGIONS,
		       cb_layout_regions_of(&dev->layout, dev->epoch) + mark->index, 0);
}

/* A place for marks was looked at. */
static void cb_marking_looked(struct cb_device *dev, struct cb_mark *mark, int error)
{
	mark->looks = false;
	if (!cb_device_tracks(dev) || READ_ONCE(dev->cow_gone) || READ_ONCE(dev->cow_left))
		return;
	if (error)
		cb_device_fail(dev, error, "cannot read the marks of changed regions in the COW file");
	else if (cb_marking_is_ours(dev, mark))
		cb_marking_write_mark(dev, mark);
	else
		/* Where the state is still ours, it says so. */
		cb_marking_is_lost(dev);
}

static void cb_marking_done(struct cb_device *dev, struct cb_mark *mark)
{
	int error = blk_status_to_errno(mark->status);

	mark->in_flight = false;
	dev->marks_in_flight--;
	WRITE_ONCE(dev->cow_slow, false);
	if (mark == &dev->state_write) {
		cb_marking_state_done(dev, error);
		wake_up_all(&dev->park_wait);
		return;
	}
	if (mark->looks)
		cb_marking_looked(dev, mark, error);
	else if (error)
		cb_device_fail(dev, error, "cannot mark changed regions in the COW file");
	else
		cb_marks_done(&dev->marks, mark->index);
}

bool cb_marking_finish(struct cb_device *dev)
{
	struct llist_node *done = llist_del_all(&dev->marks_done);
	struct cb_mark *mark, *next;

	llist_for_each_entry_safe(mark, next, done, done)
		cb_marking_done(dev, mark);
	return done;
}

/* ---- start ------------------------------------------------------------- */

static void cb_marking_write_state(struct cb_device *dev, enum cb_status status)
{
	struct cb_state state = cb_meta_state(dev, status);
	u8 *slot = cb_kmap(dev->state_write.page);
	unsigned long flags;
	u64 sequence;

	cb_state_encode(&state, slot + CB_PAYLOAD_AT);
	cb_kunmap(slot);
	dev->state_status = status;
	spin_lock_irqsave(&dev->lock, flags);
	sequence = ++dev->state_sequence;
	spin_unlock_irqrestore(&dev->lock, flags);
	cb_mark_submit(&dev->state_write, CB_META_STATE, sequence % CB_STATE_COPIES, sequence);
}

static void cb_marking_write_lost(struct cb_device *dev)
{
	dev->state_write.in_flight = true;
	/* Pairs with cb_losing_work. */
	smp_mb();
	if (!cb_losing_is_open(dev)) {
		dev->state_write.in_flight = false;
		wake_up_all(&dev->park_wait);
		return;
	}
	if (READ_ONCE(dev->verified) && !READ_ONCE(dev->cow_gone)) {
		cb_marking_write_state(dev, CB_STATUS_LOST);
		return;
	}
	cb_marking_look(dev, &dev->state_write);
}

/* Which state the disk lacks; 0 for none. */
static u32 cb_marking_state_wanted(struct cb_device *dev)
{
	if (dev->state_write.in_flight || !smp_load_acquire(&dev->owns_state) ||
	    READ_ONCE(dev->cow_left))
		return 0;
	if (cb_phase_is_lost(cb_phase_of(dev)))
		return cb_losing_wants_cow(dev) ? CB_STATUS_LOST : 0;
	if (READ_ONCE(dev->cow_gone))
		return 0;
	if (cb_device_tracks(dev) && READ_ONCE(dev->saved) && !list_empty(&dev->held))
		return CB_STATUS_DIRTY;
	return 0;
}

bool cb_marking_wants_state(struct cb_device *dev)
{
	return cb_marking_state_wanted(dev);
}

static bool cb_marking_start_slots(struct cb_device *dev)
{
	u64 wanted = dev->marks.wanted_slots;
	bool progress = false;
	u32 slot;

	for (slot = 0; slot < dev->layout.region_slots; slot++) {
		struct cb_mark *mark = &dev->mark_slots[slot];

		if (!(wanted >> slot & 1) || mark->in_flight)
			continue;
		if (cb_marking_must_look(dev))
			cb_marking_look(dev, mark);
		else
			cb_marking_write_mark(dev, mark);
		progress = true;
	}
	return progress;
}

bool cb_marking_start(struct cb_device *dev)
{
	u32 status = cb_marking_state_wanted(dev);

	if (status == CB_STATUS_LOST)
		cb_marking_write_lost(dev);
	else if (status && cb_marking_must_look(dev))
		cb_marking_look(dev, &dev->state_write);
	else if (status)
		cb_marking_write_state(dev, status);
	if (!cb_device_tracks(dev) || READ_ONCE(dev->cow_gone) || !dev->marks.wanted_slots)
		return status;
	return cb_marking_start_slots(dev) || status;
}

/* ---- memory ------------------------------------------------------------ */

static int cb_mark_init(struct cb_device *dev, struct cb_mark *mark, u32 index)
{
	mark->dev = dev;
	mark->index = index;
	mark->page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	return mark->page ? 0 : -ENOMEM;
}

int cb_marking_init(struct cb_device *dev)
{
	u64 words = cb_words(dev->layout.region_count);
	u32 i;

	init_llist_head(&dev->marks_done);
	if (bioset_init(&dev->mark_bios, dev->layout.region_slots + 1, 0, BIOSET_NEED_BVECS))
		return -ENOMEM;
	dev->mark_words = vzalloc(array3_size(words, 3, sizeof(u64)));
	dev->mark_slots = kvcalloc(dev->layout.region_slots, sizeof(*dev->mark_slots), GFP_KERNEL);
	if (!dev->mark_words || !dev->mark_slots)
		return -ENOMEM;
	cb_marks_init(&dev->marks, &dev->layout, dev->mark_words, dev->mark_words + words,
		      dev->mark_words + 2 * words);
	for (i = 0; i < dev->layout.region_slots; i++)
		if (cb_mark_init(dev, &dev->mark_slots[i], i))
			return -ENOMEM;
	return cb_mark_init(dev, &dev->state_write, 0);
}

void cb_marking_free(struct cb_device *dev)
{
	u32 i;

	for (i = 0; dev->mark_slots && i < dev->layout.region_slots; i++)
		if (dev->mark_slots[i].page)
			__free_page(dev->mark_slots[i].page);
	if (dev->state_write.page)
		__free_page(dev->state_write.page);
	kvfree(dev->mark_slots);
	vfree(dev->mark_words);
	bioset_exit(&dev->mark_bios);
}
