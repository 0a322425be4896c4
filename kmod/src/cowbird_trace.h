/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Trace events of every COW action. Their layout is part of the module's
 * interface and described in tracer/EVENTS.md: fields are only ever added at
 * the end. Blocks are counted from the start of the origin.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM cowbird

#if !defined(COWBIRD_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define COWBIRD_TRACE_H

#include <linux/tracepoint.h>

#include "cowbird.h"

#ifndef COWBIRD_TRACE_ENUMS
#define COWBIRD_TRACE_ENUMS
enum cb_epoch_step {
	CB_EPOCH_FROZEN,
	CB_EPOCH_GATED,
	CB_EPOCH_DRAINED,
	CB_EPOCH_BEGUN,
};
#endif

/* A write that must wait: blocks first..last, both included. */
TRACE_EVENT(cowbird_intercept,
	TP_PROTO(struct cb_device *dev, u64 first, u64 last, u32 opf),
	TP_ARGS(dev, first, last, opf),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, opf)
		__field(u64, first)
		__field(u64, last)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->opf = opf;
		__entry->first = first;
		__entry->last = last;
	),
	TP_printk("minor=%u first=%llu last=%llu opf=%#x", __entry->minor, __entry->first,
		  __entry->last, __entry->opf)
);

/* A load of T0 content from the origin begins: count blocks from first. */
TRACE_EVENT(cowbird_preserve_begin,
	TP_PROTO(struct cb_device *dev, u64 first, u32 count),
	TP_ARGS(dev, first, count),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, count)
		__field(u64, first)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->count = count;
		__entry->first = first;
	),
	TP_printk("minor=%u first=%llu count=%u", __entry->minor, __entry->first, __entry->count)
);

/* A block is preserved: its writers may go on. */
TRACE_EVENT(cowbird_preserve_complete,
	TP_PROTO(struct cb_device *dev, u64 block),
	TP_ARGS(dev, block),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, reserved)
		__field(u64, block)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->reserved = 0;
		__entry->block = block;
	),
	TP_printk("minor=%u block=%llu", __entry->minor, __entry->block)
);

/* A preserved block is about to be written to its slot of the COW file. */
TRACE_EVENT(cowbird_preserve_store,
	TP_PROTO(struct cb_device *dev, u64 block, u32 slot),
	TP_ARGS(dev, block, slot),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, slot)
		__field(u64, block)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->slot = slot;
		__entry->block = block;
	),
	TP_printk("minor=%u block=%llu slot=%u", __entry->minor, __entry->block, __entry->slot)
);

/* A held write goes on; place and length in sectors of the whole disk. */
TRACE_EVENT(cowbird_release,
	TP_PROTO(struct cb_device *dev, u64 sector, u32 sectors, u32 opf),
	TP_ARGS(dev, sector, sectors, opf),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, opf)
		__field(u64, sector)
		__field(u32, sectors)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->opf = opf;
		__entry->sector = sector;
		__entry->sectors = sectors;
	),
	TP_printk("minor=%u sector=%llu sectors=%u opf=%#x", __entry->minor, __entry->sector,
		  __entry->sectors, __entry->opf)
);

/*
 * Where a snapshot read finds a block. An overtaken one had been read from the
 * origin, was preserved meanwhile, and is fetched again from where this says.
 */
TRACE_EVENT(cowbird_snapshot_read,
	TP_PROTO(struct cb_device *dev, u64 block, u32 source, u32 overtaken),
	TP_ARGS(dev, block, source, overtaken),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, source)
		__field(u64, block)
		__field(u32, overtaken)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->source = source;
		__entry->block = block;
		__entry->overtaken = overtaken;
	),
	TP_printk("minor=%u block=%llu source=%s overtaken=%u", __entry->minor, __entry->block,
		  __print_symbolic(__entry->source, { 0, "origin" }, { 1, "memory" },
				   { 2, "cow" }, { 3, "zero" }, { 4, "fail" }),
		  __entry->overtaken)
);

/*
 * Blocks first..last are in the change map, and one of them was not before. A
 * block that is preserved is in the map too, without this event.
 */
TRACE_EVENT(cowbird_change,
	TP_PROTO(struct cb_device *dev, u64 first, u64 last),
	TP_ARGS(dev, first, last),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, reserved)
		__field(u64, first)
		__field(u64, last)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->reserved = 0;
		__entry->first = first;
		__entry->last = last;
	),
	TP_printk("minor=%u first=%llu last=%llu", __entry->minor, __entry->first, __entry->last)
);

TRACE_EVENT(cowbird_epoch,
	TP_PROTO(struct cb_device *dev, u64 epoch, u32 step),
	TP_ARGS(dev, epoch, step),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, step)
		__field(u64, epoch)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->step = step;
		__entry->epoch = epoch;
	),
	TP_printk("minor=%u epoch=%llu step=%s", __entry->minor, __entry->epoch,
		  __print_symbolic(__entry->step, { 0, "frozen" }, { 1, "gated" },
				   { 2, "drained" }, { 3, "begun" }))
);

/* The snapshot's phase changes; enum cb_phase in core/protocol.h. */
TRACE_EVENT(cowbird_state,
	TP_PROTO(struct cb_device *dev, u32 from, u32 to),
	TP_ARGS(dev, from, to),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, from)
		__field(u32, to)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->from = from;
		__entry->to = to;
	),
	TP_printk("minor=%u from=%u to=%u", __entry->minor, __entry->from, __entry->to)
);

/* A bound was reached: held writes, or slots of the COW file. */
TRACE_EVENT(cowbird_overflow,
	TP_PROTO(struct cb_device *dev, u64 value, u64 bound),
	TP_ARGS(dev, value, bound),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, reserved)
		__field(u64, value)
		__field(u64, bound)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->reserved = 0;
		__entry->value = value;
		__entry->bound = bound;
	),
	TP_printk("minor=%u value=%llu bound=%llu", __entry->minor, __entry->value,
		  __entry->bound)
);

/* A slot of the region map is written to stable storage. */
TRACE_EVENT(cowbird_mark,
	TP_PROTO(struct cb_device *dev, u32 slot),
	TP_ARGS(dev, slot),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(u32, slot)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->slot = slot;
	),
	TP_printk("minor=%u slot=%u", __entry->minor, __entry->slot)
);

/* The snapshot has failed with this negative errno. */
TRACE_EVENT(cowbird_error,
	TP_PROTO(struct cb_device *dev, s32 error),
	TP_ARGS(dev, error),
	TP_STRUCT__entry(
		__field(u32, minor)
		__field(s32, error)
	),
	TP_fast_assign(
		__entry->minor = dev->minor;
		__entry->error = error;
	),
	TP_printk("minor=%u error=%d", __entry->minor, __entry->error)
);

#endif

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE cowbird_trace
#include <trace/define_trace.h>
