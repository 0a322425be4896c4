// SPDX-License-Identifier: GPL-2.0-only
/*
 * One thread per snapshot. It loads the T0 content of blocks that held writes
 * wait for, declares them preserved, releases the writes, and stores the blocks
 * in the COW file behind the writers' backs. The thread only decides: whatever it
 * wants submitted goes to a lane (lanes.c), so that no disk can make it sleep and
 * its time limits hold. Each turn runs these steps in this order:
 *
 *   finish   completed loads become preserved, completed stores free memory,
 *            completed marks are stable
 *   release  writes whose blocks are all preserved and marked, in order of arrival
 *   admit    writes that the hook has put on the list
 *   mark     regions that admitted writes wait for (marking.c)
 *   load     blocks that admitted writes wait for, as far as memory goes
 *   store    preserved blocks (storing.c)
 *
 * Invariants 1 and 6 are the order of finish and release: a write leaves only
 * after cb_engine_loaded() has set the bits of all its blocks, and
 * cb_marks_done() those of its regions.
 */
#include <linux/sched.h>
#include <linux/slab.h>

#include "cowbird.h"
#include "cowbird_trace.h"

/* How often an idle engine looks after time limits and the origin's size. */
#define CB_CHECK_INTERVAL HZ
/* Longest wait for the engine to come to rest; the second after one that was in vain. */
#define CB_PARK_LIMIT (10 * HZ)
#define CB_PARK_LIMIT_AGAIN HZ
/* How often the time is looked at while writes wait for somebody to know that tracking is lost. */
#define CB_LOSING_POLL max(HZ / 10, 1)

void cb_engine_wake(struct cb_device *dev)
{
	wake_up(&dev->engine_wait);
}

/* ---- finish ------------------------------------------------------------ */

/* The blocks of a load, which follow each other, can be had without the origin from here on. */
static void cb_engine_preserve(struct cb_device *dev, struct cb_run *run)
{
	struct cb_entry *entry;

	lockdep_assert_held(&dev->lock);
	list_for_each_entry(entry, &run->entries, list)
		entry->state = CB_ENTRY_DIRTY;
	/* Whoever sees the bit sees the content. */
	smp_mb__before_atomic();
	list_for_each_entry(entry, &run->entries, list) {
		set_bit(entry->block, dev->preserved);
		trace_cowbird_preserve_complete(dev, entry->block);
	}
	if (list_empty(&dev->dirty))
		dev->dirty_since = jiffies;
	list_splice_tail_init(&run->entries, &dev->dirty);
	dev->dirty_count += run->count;
}

static void cb_engine_loaded(struct cb_device *dev, struct cb_run *run)
{
	struct cb_entry *entry, *next;
	bool good = run->status == BLK_STS_OK || cb_mutant(ignore_load_errors);
	unsigned long flags;

	if (!good)
		cb_device_spoil(dev, blk_status_to_errno(run->status),
			       "cannot read block %llu of the origin",
			       (unsigned long long)list_first_entry(&run->entries, struct cb_entry,
								    list)->block);
	spin_lock_irqsave(&dev->lock, flags);
	if (good)
		cb_engine_preserve(dev, run);
	list_for_each_entry_safe(entry, next, &run->entries, list) {
		list_del_init(&entry->list);
		cb_blocks_forget(dev, entry);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if (good)
		atomic64_add(run->count, &dev->stats.preserved_blocks);
	dev->loads_in_flight--;
}

static bool cb_engine_finish(struct cb_device *dev)
{
	struct llist_node *done = llist_reverse_order(llist_del_all(&dev->done));
	struct cb_run *run, *next;

	llist_for_each_entry_safe(run, next, done, done) {
		if (run->store)
			cb_storing_stored(dev, run);
		else
			cb_engine_loaded(dev, run);
		list_add(&run->free, &dev->runs_free);
	}
	return cb_marking_finish(dev) || done;
}

/* ---- release ----------------------------------------------------------- */

/* One held write less. */
static void cb_engine_uncount(struct cb_device *dev)
{
	unsigned long flags;
	bool wake;

	spin_lock_irqsave(&dev->lock, flags);
	dev->held_count--;
	wake = dev->held_count == CB_HELD_SLOW || !dev->held_count;
	spin_unlock_irqrestore(&dev->lock, flags);
	if (wake)
		wake_up_all(&dev->slow_wait);
}

void cb_engine_released(struct cb_device *dev)
{
	cb_engine_uncount(dev);
	/* The engine waits for the last one before it rests. */
	if (atomic_dec_and_test(&dev->releasing))
		cb_engine_wake(dev);
}

/*
 * fail-held and drop-held: what a snapshot that has failed still held is not written.
 * drop-some-held: a part of what any snapshot held is not.
 */
static bool cb_mutant_ends_held(struct cb_device *dev, struct bio *bio)
{
	if (cb_mutant(drop_some_held) &&
	    cb_bio_disk_sector(bio) / CB_BLOCK_SECTORS % CB_MUTANT_NTH == 0)
		return true;
	if ((!cb_mutant(fail_held) && !cb_mutant(drop_held)) ||
	    (cb_phase_of(dev) != CB_PHASE_SPOILT && cb_phase_of(dev) != CB_PHASE_FAILED))
		return false;
	if (cb_mutant(fail_held))
		bio->bi_status = BLK_STS_IOERR;
	return true;
}

static void cb_engine_let_go(struct cb_device *dev, struct bio *bio)
{
	trace_cowbird_release(dev, cb_bio_disk_sector(bio), bio->bi_iter.bi_size >> SECTOR_SHIFT,
			      cb_bio_opf(bio));
	if (cb_mutant_ends_held(dev, bio)) {
		bio_endio(bio);
		cb_engine_uncount(dev);
		return;
	}
	atomic_inc(&dev->releasing);
	cb_lane_release(dev, bio);
}

/* Whether our own writes to blocks that somebody else has now must end first. */
static bool cb_engine_must_drain(struct cb_device *dev)
{
	if (!smp_load_acquire(&dev->cow_gone) || READ_ONCE(dev->cow_left))
		return false;
	/* The state LOST is tried, now or in a moment. */
	if (cb_phase_of(dev) == CB_PHASE_LOSING)
		return true;
	if (time_after(jiffies, READ_ONCE(dev->gone_since) + dev->hold_limit_jiffies))
		return false;
	return dev->stores_in_flight || dev->marks_in_flight || cb_marking_wants_state(dev) ||
	       atomic_read(&dev->meta_in_flight) || READ_ONCE(dev->header_bio);
}

static void cb_engine_leave_cow(struct cb_device *dev)
{
	/* Not before it was tried to say there that tracking is lost. */
	if (READ_ONCE(dev->cow_gone) && cb_device_passes_all(dev) && !cb_engine_must_drain(dev))
		WRITE_ONCE(dev->cow_left, true);
}

/*
 * Whether a held write may go. Once tracking is lost every write may, but one
 * into the COW file's extents not before our own writes there have ended.
 */
static bool cb_engine_may_go(struct cb_device *dev, struct cb_held *held)
{
	switch (cb_phase_of(dev)) {
	case CB_PHASE_ACTIVE:
		held->ready = cb_next_unpreserved(dev, held->ready, held->last);
		if (cb_mutant(full_skips_cow) && dev->slots_reserved >= dev->slotmap.capacity)
			held->ready = held->last + 1;
		return held->ready > held->last && cb_origin_marked(dev, held->first, held->last);
	case CB_PHASE_SPOILT:
	case CB_PHASE_TRACKING:
		return cb_origin_marked(dev, held->first, held->last);
	default:
		return cb_device_passes_all(dev) && !cb_engine_must_drain(dev);
	}
}

static bool cb_engine_release(struct cb_device *dev)
{
	struct cb_held *held, *next;
	bool progress = false;

	list_for_each_entry_safe(held, next, &dev->held, list) {
		if (!cb_engine_may_go(dev, held))
			continue;
		/* While tracking: what is before ready was preserved, and so is noted. */
		cb_origin_note(dev, held->ready, held->last);
		list_move_tail(&held->list, &dev->held_free);
		dev->pieces_held -= held->piece;
		if (cb_mutant_loses(held->first))
			continue;
		if (cb_mutant(read_after_write) && !held->bio)
			cb_engine_uncount(dev);
		else
			cb_engine_let_go(dev, held->bio);
		progress = true;
	}
	return progress;
}

/* ---- admit ------------------------------------------------------------- */

static unsigned long cb_arrivals_time(struct cb_device *dev, u64 number);

/* The next write in order of arrival; *arrived: its number. */
static struct bio *cb_engine_pop(struct cb_device *dev, u64 *arrived)
{
	unsigned long flags;
	struct bio *bio = NULL;

	spin_lock_irqsave(&dev->lock, flags);
	/* While the cut is being made nothing moves. */
	if (dev->phase != CB_PHASE_HOLDING)
		bio = bio_list_pop(&dev->incoming);
	if (bio)
		*arrived = dev->arrivals.popped++;
	spin_unlock_irqrestore(&dev->lock, flags);
	return bio;
}

/*
 * Large writes are admitted piece by piece, and few pieces of them at once, so that
 * one write-zeroes of gigabytes neither takes all memory nor keeps small writes
 * from theirs. Each piece is a write of its own to the time limit.
 */
static bool cb_engine_is_large(struct cb_device *dev, struct bio *bio,
			       const struct cb_blocks *touched)
{
	return touched->last - touched->first >= CB_HELD_BLOCKS && cb_bio_may_split(bio) &&
	       cb_phase_of(dev) == CB_PHASE_ACTIVE && !cb_mutant(hold_whole) &&
	       !cb_mutant(remainder_only);
}

/* A piece that was split off, in the memory of its bio set. */
static struct cb_piece *cb_piece_of(struct bio *bio)
{
	return container_of(bio, struct cb_piece, bio);
}

/* Its memory is the snapshot's, which stays until the last piece has ended. */
static void cb_piece_end_io(struct bio *bio)
{
	struct bio *whole = cb_piece_of(bio)->whole;
	struct cb_device *dev = cb_piece_of(bio)->dev;

	if (bio->bi_status && !whole->bi_status)
		whole->bi_status = bio->bi_status;
	bio_put(bio);
	bio_endio(whole);
	/* As in cb_run_end_io: the device outlives this section. */
	rcu_read_lock();
	if (atomic_dec_and_test(&dev->pieces_in_flight))
		wake_up_all(&dev->reads_wait);
	rcu_read_unlock();
}

/*
 * The first piece of a large write, which shrinks to the rest; the whole where it
 * cannot be split at this moment. Nothing is waited for: what pieces are made from
 * may be in the hands of writes that wait for this thread.
 */
static struct bio *cb_engine_split(struct cb_device *dev, struct bio *bio,
				   struct cb_blocks *touched)
{
	u64 sector = cb_bio_disk_sector(bio), end;
	struct bio *piece;

	end = cb_geom_block_start(&dev->geom, touched->first + CB_HELD_BLOCKS);
	piece = cb_bio_split(bio, end - sector, &dev->split_bios);
	if (!piece)
		return bio;
	cb_piece_of(piece)->whole = bio;
	cb_piece_of(piece)->dev = dev;
	piece->bi_end_io = cb_piece_end_io;
	bio_inc_remaining(bio);
	atomic_inc(&dev->pieces_in_flight);
	touched->last = touched->first + CB_HELD_BLOCKS - 1;
	return piece;
}

static void cb_engine_admit_one(struct cb_device *dev, struct bio *bio,
				const struct cb_blocks *touched, unsigned long since, bool piece)
{
	struct cb_held *held;

	/* A discard that the gate had held. */
	if (cb_origin_decide(dev, bio, touched) == CB_WRITE_ABSORB) {
		cb_origin_absorb(dev, bio);
		cb_engine_uncount(dev);
		return;
	}
	held = list_first_entry(&dev->held_free, struct cb_held, list);
	held->bio = bio;
	held->first = touched->first;
	held->ready = touched->first;
	held->issued = touched->first;
	held->last = touched->last;
	if (cb_mutant(remainder_only) && touched->last - touched->first >= CB_RUN_BLOCKS)
		held->ready = held->issued = touched->first + CB_RUN_BLOCKS;
	held->since = since;
	held->piece = piece;
	dev->pieces_held += piece;
	list_move_tail(&held->list, &dev->held);
	cb_marks_want(&dev->marks, touched->first, touched->last);
}

/* Whether another large write, or a piece of one, can be admitted or let go. */
static bool cb_engine_may_admit_large(struct cb_device *dev)
{
	if (bio_list_empty(&dev->large))
		return false;
	if (cb_device_passes_all(dev))
		return !cb_engine_must_drain(dev);
	return dev->pieces_held < CB_PIECES && !list_empty(&dev->held_free);
}

static void cb_engine_admit_piece(struct cb_device *dev, struct bio *bio)
{
	struct cb_blocks touched;
	struct bio *piece = bio;

	/* It touched the origin when it was put on the list. */
	WARN_ON_ONCE(!cb_geom_touched(&dev->geom, cb_bio_disk_sector(bio),
				      bio->bi_iter.bi_size >> SECTOR_SHIFT, &touched));
	if (cb_engine_is_large(dev, bio, &touched))
		piece = cb_engine_split(dev, bio, &touched);
	if (piece != bio) {
		unsigned long flags;

		bio_list_add(&dev->large, bio);
		dev->large_since = jiffies;
		spin_lock_irqsave(&dev->lock, flags);
		dev->held_count++;
		spin_unlock_irqrestore(&dev->lock, flags);
	}
	cb_engine_admit_one(dev, piece, &touched, jiffies, true);
}

static void cb_engine_add_large(struct cb_device *dev, struct bio *bio)
{
	if (bio_list_empty(&dev->large))
		dev->large_since = jiffies;
	bio_list_add(&dev->large, bio);
}

static bool cb_engine_admit_large(struct cb_device *dev)
{
	bool progress = false;

	while (cb_engine_may_admit_large(dev)) {
		struct bio *bio = bio_list_pop(&dev->large);

		if (cb_device_passes_all(dev))
			cb_engine_let_go(dev, bio);
		else
			cb_engine_admit_piece(dev, bio);
		progress = true;
	}
	return progress;
}

static bool cb_engine_admit(struct cb_device *dev)
{
	/* Before small writes, which may come without end, have taken all room. */
	bool progress = cb_engine_admit_large(dev);
	struct bio *bio;

	while (!cb_engine_must_drain(dev)) {
		bool all = cb_device_passes_all(dev);
		struct cb_blocks touched;
		u64 arrived;

		if (!all && list_empty(&dev->held_free))
			break;
		bio = cb_engine_pop(dev, &arrived);
		if (!bio)
			break;
		progress = true;
		if (all || cb_mutant_forgets_gated(dev) ||
		    !cb_geom_touched(&dev->geom, cb_bio_disk_sector(bio),
				     bio->bi_iter.bi_size >> SECTOR_SHIFT, &touched))
			cb_engine_let_go(dev, bio);
		else if (cb_engine_is_large(dev, bio, &touched))
			cb_engine_add_large(dev, bio);
		else
			cb_engine_admit_one(dev, bio, cb_mutant_touched(&touched),
					    cb_mutant(age_from_admission) ?
						    jiffies :
						    cb_arrivals_time(dev, arrived),
					    false);
	}
	return cb_engine_admit_large(dev) || progress;
}

/* ---- load -------------------------------------------------------------- */

struct cb_run *cb_engine_new_run(struct cb_device *dev, bool store)
{
	struct cb_run *run = list_first_entry(&dev->runs_free, struct cb_run, free);

	list_del(&run->free);
	run->store = store;
	run->count = 0;
	run->status = BLK_STS_OK;
	INIT_LIST_HEAD(&run->entries);
	return run;
}

/*
 * Takes the next block for a load; false when the run must end before it:
 * preserved, already being loaded, or no memory or slot for it.
 */
static bool cb_engine_take(struct cb_device *dev, struct cb_run *run, u64 block, bool *stuck,
			   bool *full)
{
	struct cb_entry *entry = NULL;

	lockdep_assert_held(&dev->lock);
	if (test_bit(block, dev->preserved) || cb_blocks_find(dev, block))
		return false;
	*full = dev->slots_reserved >= dev->slotmap.capacity;
	if (!*full)
		entry = cb_blocks_take(dev, block);
	if (!entry) {
		*stuck = true;
		/* Under the lock, so that whoever gives memory back sees it. */
		if (!*full)
			WRITE_ONCE(dev->stuck, true);
		return false;
	}
	dev->slots_reserved++;
	if (cb_mutant(preserved_before_read))
		set_bit(block, dev->preserved);
	list_add_tail(&entry->list, &run->entries);
	run->count++;
	return true;
}

/* Takes as many blocks from held->issued on as fit one run. */
static void cb_engine_fill_load(struct cb_device *dev, struct cb_run *run, struct cb_held *held,
				bool *stuck)
{
	unsigned long flags;
	bool full = false;

	spin_lock_irqsave(&dev->lock, flags);
	while (held->issued <= held->last && run->count < CB_RUN_BLOCKS &&
	       cb_next_unpreserved(dev, held->issued, held->issued) == held->issued &&
	       cb_engine_take(dev, run, held->issued, stuck, &full))
		held->issued++;
	spin_unlock_irqrestore(&dev->lock, flags);
	if (full && !cb_mutant(full_skips_cow)) {
		trace_cowbird_overflow(dev, dev->slots_reserved, dev->slotmap.capacity);
		cb_device_spoil(dev, -ENOSPC, "the COW file is full (%u blocks)",
				dev->slotmap.capacity);
	}
}

/* Loads the next stretch that one write waits for. True when it may be asked again. */
static bool cb_engine_load_one(struct cb_device *dev, struct cb_held *held, bool *stuck)
{
	struct cb_run *run;

	held->issued = cb_next_unpreserved(dev, held->issued, held->last);
	if (held->issued > held->last || list_empty(&dev->runs_free))
		return false;
	run = cb_engine_new_run(dev, false);
	cb_engine_fill_load(dev, run, held, stuck);
	if (!run->count) {
		list_add(&run->free, &dev->runs_free);
		if (*stuck)
			return false;
		/* Somebody else's load brings this block. */
		held->issued++;
		return true;
	}
	trace_cowbird_preserve_begin(dev, list_first_entry(&run->entries, struct cb_entry,
							   list)->block, run->count);
	dev->loads_in_flight++;
	if (cb_mutant(read_after_write) && held->bio) {
		cb_hook_release(dev, held->bio);
		held->bio = NULL;
	}
	cb_run_submit_load(run);
	return true;
}

/* Whether all memory has what is not stored, so that nothing but a store frees any. */
static bool cb_engine_memory_is_full(struct cb_device *dev)
{
	unsigned long flags;
	bool full;

	spin_lock_irqsave(&dev->lock, flags);
	full = !cb_blocks_has_room(dev) && !dev->reading_count;
	spin_unlock_irqrestore(&dev->lock, flags);
	return full;
}

static bool cb_engine_load(struct cb_device *dev)
{
	bool stuck = false, progress = false;
	struct cb_held *held;

	WRITE_ONCE(dev->stuck, false);
	list_for_each_entry(held, &dev->held, list) {
		while (!stuck && cb_phase_of(dev) == CB_PHASE_ACTIVE &&
		       cb_engine_load_one(dev, held, &stuck))
			progress = true;
		if (stuck || list_empty(&dev->runs_free))
			break;
	}
	/* What may not be stored frees no memory; what is being read does in a moment. */
	if (stuck && !progress && !READ_ONCE(dev->verified) && !dev->stores_in_flight &&
	    cb_engine_memory_is_full(dev) && cb_phase_of(dev) == CB_PHASE_ACTIVE)
		cb_device_spoil(dev, -ENOSPC,
				"the memory is full, and the COW file was not verified in time");
	return progress;
}

/* ---- check ------------------------------------------------------------- */

/*
 * When writes arrived that are not admitted yet. A bio has no room for a time, so
 * the engine notes how many had arrived at intervals; a write waits at least since
 * the first of these notes that counts it.
 */
static unsigned long cb_arrivals_time(struct cb_device *dev, u64 number)
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
		cb_device_spoil(dev, -ETIMEDOUT,
				"a write to it waited for more than %u s, because the disk of the COW file is too slow or does not answer",
				dev->hold_limit_jiffies / HZ);
	else
		cb_device_fail(dev, -ETIMEDOUT,
			       "a write to it waited for more than %u s for its mark in the COW file, whose disk is too slow or does not answer",
			       dev->hold_limit_jiffies / HZ);
}

/* Time limits and changes under our feet (invariants 4 and 5). */
static void cb_engine_check(struct cb_device *dev)
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

/* ---- the thread -------------------------------------------------------- */

/* Released writes count until they have been submitted: until then nothing else knows of them. */
static bool cb_engine_is_idle(struct cb_device *dev)
{
	return !dev->loads_in_flight && !dev->stores_in_flight && !dev->marks_in_flight &&
	       !atomic_read(&dev->releasing);
}

/* Whether what is still counted as held is on its lane. */
static bool cb_engine_has_released_all(struct cb_device *dev)
{
	return list_empty(&dev->held) && bio_list_empty(&dev->incoming) &&
	       bio_list_empty(&dev->large);
}

static bool cb_engine_has_work(struct cb_device *dev)
{
	if (!llist_empty(&dev->done) || !llist_empty(&dev->marks_done))
		return true;
	if (READ_ONCE(dev->park) ? cb_engine_is_idle(dev) :
				   cb_phase_is_lost(cb_phase_of(dev)) &&
					   cb_marking_wants_state(dev))
		return true;
	if (cb_phase_of(dev) == CB_PHASE_LOSING && READ_ONCE(dev->lost_in_cow))
		return true;
	if (cb_storing_has_work(dev))
		return true;
	/* A reader has given memory back. */
	if (dev->stuck && !READ_ONCE(dev->park) && cb_blocks_has_room(dev))
		return true;
	if (!READ_ONCE(dev->held_count))
		return false;
	return (cb_device_passes_all(dev) && !cb_engine_must_drain(dev) &&
		!cb_engine_has_released_all(dev)) ||
	       cb_engine_may_admit_large(dev) ||
	       (cb_phase_of(dev) != CB_PHASE_HOLDING && !cb_engine_must_drain(dev) &&
		!bio_list_empty(&dev->incoming) && !list_empty(&dev->held_free));
}

/*
 * One turn. When it is to be parked, no I/O is begun but stores; writes that may
 * go still go, and time limits hold, because a COW disk that hangs can make the
 * rest be long in coming.
 */
static bool cb_engine_turn(struct cb_device *dev, bool parking)
{
	struct blk_plug plug;
	bool progress;

	/* What one turn submits reaches the driver together. */
	blk_start_plug(&plug);
	progress = cb_engine_finish(dev);
	progress |= cb_losing_act(dev);
	cb_engine_leave_cow(dev);
	progress |= cb_engine_release(dev);
	progress |= cb_engine_admit(dev);
	if (!parking) {
		progress |= cb_marking_start(dev);
		progress |= cb_engine_load(dev);
	}
	progress |= cb_storing_start(dev);
	blk_finish_plug(&plug);
	cb_engine_check(dev);
	return progress;
}

/* Stays here for as long as somebody wants the engine to rest. */
static void cb_engine_rest(struct cb_device *dev)
{
	WRITE_ONCE(dev->parked, true);
	wake_up_all(&dev->park_wait);
	wait_event_interruptible(dev->engine_wait, !READ_ONCE(dev->park));
	WRITE_ONCE(dev->parked, false);
	/* What was lost meanwhile could not be told. */
	dev->lose_since = jiffies;
	wake_up_all(&dev->park_wait);
}

/* Longest time that the engine sleeps when it has nothing to do. */
static unsigned long cb_engine_patience(struct cb_device *dev)
{
	unsigned long patience =
		cb_phase_of(dev) == CB_PHASE_LOSING ? CB_LOSING_POLL : CB_CHECK_INTERVAL;

	return min(patience, cb_storing_wait(dev));
}

static int cb_engine_main(void *data)
{
	struct cb_device *dev = data;

	while (!kthread_should_stop() || READ_ONCE(dev->held_count) || !cb_engine_is_idle(dev)) {
		bool parking = READ_ONCE(dev->park);
		bool progress = cb_engine_turn(dev, parking);

		/* Writers that come without end must not put the rest off. */
		if (parking && cb_engine_is_idle(dev)) {
			cb_engine_rest(dev);
			continue;
		}
		if (progress) {
			cond_resched();
			continue;
		}
		wait_event_interruptible_timeout(dev->engine_wait,
						 cb_engine_has_work(dev) || kthread_should_stop(),
						 cb_engine_patience(dev));
		if (kthread_should_stop() && !cb_engine_has_work(dev))
			schedule_timeout_uninterruptible(1);
	}
	return 0;
}

int cb_engine_park(struct cb_device *dev)
{
	return cb_engine_park_for(dev, CB_PARK_LIMIT);
}

int cb_engine_park_for(struct cb_device *dev, unsigned long limit)
{
	lockdep_assert_held(&cb_life_mutex);
	/* A disk that has kept one caller waiting is not waited for as long by the next. */
	if (READ_ONCE(dev->cow_slow))
		limit = min_t(unsigned long, limit, CB_PARK_LIMIT_AGAIN);
	WRITE_ONCE(dev->park, true);
	cb_engine_wake(dev);
	if (wait_event_timeout(dev->park_wait, READ_ONCE(dev->parked), limit))
		return 0;
	WRITE_ONCE(dev->cow_slow, true);
	cb_engine_unpark(dev);
	pr_warn("snapshot %u of %s: its own I/O has not ended within %lu s; the disk of the COW file or of the origin does not answer\n",
		dev->minor, dev->origin_path, limit / HZ);
	return -ETIMEDOUT;
}

void cb_engine_unpark(struct cb_device *dev)
{
	WRITE_ONCE(dev->park, false);
	cb_engine_wake(dev);
	/* The thread sleeps nowhere but in wait for us. */
	wait_event(dev->park_wait, !READ_ONCE(dev->parked));
}

int cb_engine_start(struct cb_device *dev)
{
	u32 i;

	dev->held_array = kvcalloc(CB_HELD, sizeof(*dev->held_array), GFP_KERNEL);
	dev->runs = kvcalloc(CB_RUNS, sizeof(*dev->runs), GFP_KERNEL);
	if (!dev->held_array || !dev->runs)
		return -ENOMEM;
	for (i = 0; i < CB_HELD; i++)
		list_add_tail(&dev->held_array[i].list, &dev->held_free);
	for (i = 0; i < CB_RUNS; i++) {
		dev->runs[i].dev = dev;
		list_add_tail(&dev->runs[i].free, &dev->runs_free);
	}
	dev->next_check = jiffies + CB_CHECK_INTERVAL;
	dev->engine = kthread_run(cb_engine_main, dev, "cowbird/%u", dev->minor);
	if (IS_ERR(dev->engine)) {
		int ret = PTR_ERR(dev->engine);

		dev->engine = NULL;
		return ret;
	}
	return 0;
}

void cb_engine_stop(struct cb_device *dev)
{
	WRITE_ONCE(dev->park, false);
	if (dev->engine)
		kthread_stop(dev->engine);
	dev->engine = NULL;
	kvfree(dev->held_array);
	kvfree(dev->runs);
	dev->held_array = NULL;
	dev->runs = NULL;
}
