/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Marks, by which the programs of one event agree who records it.
 *
 * A thread has two places for each kind of event: one for itself and one for
 * an interrupt that comes between two of its programs. A place belongs to its
 * thread, so plain loads and stores do. Two threads share a place if their
 * numbers are alike modulo MARK_THREADS; should both be in the same tracepoint
 * at the same time, the one that comes second counts the event of the first as
 * one that may be there twice.
 *
 * A mark stays behind where the last program and the sweeper were skipped. It
 * can only prevent a rescue, which then counts as a loss.
 */
#ifndef COWBIRD_BPF_MARKS_H
#define COWBIRD_BPF_MARKS_H

#define MARK_THREADS 8192
#define MARK_KINDS 32

/*
 * The object's address is only ever stored and compared: to the verifier it is
 * a pointer, with which nothing else may be done.
 */
struct mark {
	u64 object;
	u64 tag; /* thread and sector */
};

struct mark_places {
	struct mark own;
	struct mark interrupt;
};

/* The loader makes it this large only where it is needed. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct mark_places);
} marks SEC(".maps");

static __always_inline u64 mark_tag(u32 tid, u64 sector)
{
	return (u64)tid << 32 | (u32)sector;
}

static __always_inline int mark_is(const struct mark *place, u64 object, u64 tag)
{
	return place->object == object && place->tag == tag;
}

static __always_inline struct mark_places *mark_places(u8 kind, u32 tid)
{
	u32 at = (u32)kind * MARK_THREADS + (tid & (MARK_THREADS - 1));

	return bpf_map_lookup_elem(&marks, &at);
}

/* Says whether an earlier program has recorded the event; the last takes the mark away. */
static __always_inline int mark_found(u8 kind, u32 tid, u64 object, u64 tag, int last)
{
	struct mark_places *places = mark_places(kind, tid);

	if (!places)
		return 0;
	if (mark_is(&places->own, object, tag)) {
		if (last)
			places->own.object = 0;
		return 1;
	}
	if (mark_is(&places->interrupt, object, tag)) {
		if (last)
			places->interrupt.object = 0;
		return 1;
	}
	return 0;
}

/* Returns 0 if another event's mark had to go. */
static __always_inline int mark_leave(u8 kind, u32 tid, u64 object, u64 tag)
{
	struct mark_places *places = mark_places(kind, tid);
	int free;

	if (!places)
		return 1;
	if (!places->own.object || mark_is(&places->own, object, tag)) {
		places->own.object = object;
		places->own.tag = tag;
		return 1;
	}
	free = !places->interrupt.object;
	places->interrupt.object = object;
	places->interrupt.tag = tag;
	return free;
}

#endif
