// SPDX-License-Identifier: GPL-2.0-only
/*
 * Block layer and module events, from Linux 5.10 on, with one object.
 *
 * Tracepoints only: no tracefs, no kprobes, no fentry, hence nothing that a
 * hardened kernel lacks. Those of the block layer are typed by the kernel's
 * BTF, so that fields are read by plain loads, a tenth of the cost of a helper
 * call each. Where kernels declare a tracepoint differently there is one
 * program for each form, and the loader chooses.
 *
 * A kernel that may preempt a program (7.x) skips the same program for another
 * task on that CPU, by its guard against recursion. Without a remedy 0.1 to 1 %
 * of the bios of eight writers are lost there. Hence each event has several
 * programs, attached one after the other, each with a guard of its own. Who
 * records the event leaves a mark; who finds a mark leaves the event alone; the
 * last takes the mark away. As it may be skipped too, one more does the same and
 * nothing else: marks that stay fill their places up. Where programs cannot be preempted only an interrupt
 * can come in between. If they take long, which fingerprints do, the loader attaches two: the first writes down
 * what it records, and the second acts where nothing is written down. Else the first ones are alone.
 *
 * Loss is the misses of the first programs - rescued. An event of an unwanted
 * device may be missed too, which does not matter; at least this many were:
 * the unwanted ones that the second programs saw, less those that the first
 * ones saw.
 */
#include "kernel.h"
#include "event.h"

#define MAX_INFLIGHT 16384
#define MAX_WRITTEN 4096
#define SECTOR_SHIFT 9
#define LAST_CHANCE 3
#define CHANCES (LAST_CHANCE + 1)
#define SWEEP (LAST_CHANCE + 1) /* records nothing */
#define OP_MASK 0xff
#define OP_READ 0
#define OP_WRITE 1
#define SECOND_NS 1000000000ULL

/* Set by the loader. 0 and the full range let everything pass. */
const volatile u32 filter_disk = 0;
const volatile u64 filter_first_sector = 0;
const volatile u64 filter_end_sector = ~0ULL;
const volatile u32 rescue = 0; /* whether there are programs after the first */
const volatile u32 nested = 0; /* whether there is a second program for interrupts */
const volatile u32 fingerprints = 0;
const volatile u64 wake_mask = 0; /* events of a CPU between two wake-ups, less one */
const volatile u64 cpu_rate = 0; /* events of a CPU in a second at most; 0 is no limit */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cbt_counters);
} counters SEC(".maps");

static __always_inline struct cbt_counters *this_cpu_counters(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline int within_rate(struct cbt_counters *count)
{
	u64 now = bpf_ktime_get_ns();

	if (now - count->second_ns >= SECOND_NS) {
		count->second_ns = now;
		count->second_events = 0;
	}
	__sync_fetch_and_add(&count->second_events, 1);
	return count->second_events <= cpu_rate;
}

/*
 * Reserves room for an event, or counts it as dropped. The counters are shared
 * with programs that may interrupt this one, so they are changed atomically.
 * They are looked up once an event: each look is a call.
 */
static __always_inline void *reserve(struct cbt_counters *count, u32 bytes)
{
	void *event;

	__sync_fetch_and_add(&count->produced, 1);
	if (cpu_rate && !within_rate(count)) {
		__sync_fetch_and_add(&count->limited, 1);
		return 0;
	}
	event = bpf_ringbuf_reserve(&events, bytes, 0);
	if (!event)
		__sync_fetch_and_add(&count->dropped, 1);
	return event;
}

/*
 * The reader sleeps until some hundred events are there or its own time limit
 * has passed: a wake-up costs more than the event. If an interrupt makes this
 * one miss its turn, the next one has it.
 */
static __always_inline void submit(struct cbt_counters *count, void *event)
{
	if (!(count->produced & wake_mask))
		bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
	else
		bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

static __always_inline void count_read_fault(void)
{
	struct cbt_counters *count = this_cpu_counters();

	if (count)
		__sync_fetch_and_add(&count->read_faults, 1);
}

/* What a program has found out before it reserves room for the event. */
struct found {
	u64 object;
	u64 parent;
	u64 sector;
	u64 tag;
	u64 print;
	u32 bytes;
	u32 opf;
	u32 disk;
	u32 bdev;
	u32 tgid;
	u32 tid;
	s32 status;
	u8 kind;
	u8 marks;
};

#include "marks.h"
#include "layout.h"
#include "prints.h"

/* Where a bio was queued: its iterator is used up when it completes. */
struct place {
	u64 sector;
	u32 bytes;
	u32 opf;
	u32 index;
	u32 done;
};

/* Of bio-based devices only: others complete requests. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_INFLIGHT);
	__type(key, u64);
	__type(value, struct place);
} inflight SEC(".maps");

/*
 * Events that a first program records and whose second program has not come yet. What stays here because an
 * interrupt came during the second one is written over when the object is used again.
 */
struct written {
	u64 object;
	u64 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WRITTEN);
	__type(key, struct written);
	__type(value, u8);
} written_down SEC(".maps");

static __always_inline u32 dev_of_disk(struct gendisk *disk)
{
	return disk ? (u32)disk->major << 20 | disk->first_minor : 0;
}

static __always_inline struct gendisk *disk_of_bio(struct found *found, struct bio *bio)
{
	struct bio___with_disk *old = (void *)bio;
	struct block_device *bdev;

	if (!field_exists(bio->bi_bdev))
		return old->bi_disk;
	bdev = bio->bi_bdev;
	if (!bdev)
		return 0;
	found->bdev = bdev->bd_dev;
	return bdev->bd_disk;
}

static __always_inline struct gendisk *disk_of_request(struct request *rq)
{
	struct request___with_disk *old = (void *)rq;
	struct request_queue *queue;

	if (field_exists(old->rq_disk))
		return old->rq_disk;
	queue = rq->q;
	return queue ? queue->disk : 0;
}

static __always_inline int passes(const struct found *found)
{
	u64 end = found->sector + (found->bytes >> SECTOR_SHIFT);

	if (!filter_disk)
		return 1;
	if (found->disk != filter_disk)
		return 0;
	if (!found->bytes) /* a flush belongs to every partition */
		return 1;
	return found->sector < filter_end_sector && end > filter_first_sector;
}

static __always_inline int wanted(const struct found *found, int chance)
{
	struct cbt_counters *count;

	if (passes(found))
		return 1;
	count = chance < 2 ? this_cpu_counters() : 0;
	if (count)
		__sync_fetch_and_add(chance ? &count->skipped_second : &count->skipped_first, 1);
	return 0;
}

/* Says whether an earlier program has recorded the event. */
static __always_inline int handled(struct found *found, u64 sector, int chance)
{
	struct written written = { .object = found->object, .kind = found->kind };

	if (nested && chance)
		return !bpf_map_delete_elem(&written_down, &written);
	if (!rescue)
		return chance == SWEEP;
	found->tid = (u32)bpf_get_current_pid_tgid();
	/* The idle threads of all CPUs have number 0, and do not leave their CPU. */
	if (!found->tid)
		found->tid = ~bpf_get_smp_processor_id();
	found->tag = mark_tag(found->tid, sector);
	if (chance == 0)
		return 0;
	return mark_found(found->kind, found->tid, found->object, found->tag,
			  chance >= LAST_CHANCE) ||
	       chance == SWEEP;
}

/* Tells the later programs that this one records the event. */
static __always_inline void claim(struct found *found, int chance)
{
	struct written written = { .object = found->object, .kind = found->kind };
	struct cbt_counters *count = rescue || nested ? this_cpu_counters() : 0;
	u8 one = 1;

	if (!count)
		return;
	if (nested && !chance && bpf_map_update_elem(&written_down, &written, &one, BPF_ANY))
		__sync_fetch_and_add(&count->mark_failures, 1);
	if (rescue && chance < LAST_CHANCE &&
	    !mark_leave(found->kind, found->tid, found->object, found->tag))
		__sync_fetch_and_add(&count->mark_failures, 1);
	if (chance > 0) {
		found->marks |= CBT_RESCUED;
		__sync_fetch_and_add(&count->rescued, 1);
	}
}

static __always_inline struct cbt_event *begin(struct cbt_counters *count, u8 kind, u8 marks)
{
	struct cbt_event *event = reserve(count, sizeof(*event));

	if (!event)
		return 0;
	event->time_ns = bpf_ktime_get_ns();
	event->cpu = bpf_get_smp_processor_id();
	event->kind = kind;
	event->marks = marks;
	return event;
}

static __always_inline void name_task(struct cbt_event *event)
{
	u64 task = bpf_get_current_pid_tgid();

	event->tgid = task >> 32;
	event->tid = (u32)task;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

/* The reader knows the name from the thread's bios. */
static __always_inline void number_task(struct cbt_event *event, int known)
{
	u64 task = known ? bpf_get_current_pid_tgid() : 0;

	event->tgid = task >> 32;
	event->tid = (u32)task;
	__builtin_memset(event->comm, 0, sizeof(event->comm));
}

static __always_inline void emit(struct found *found)
{
	struct cbt_counters *count = this_cpu_counters();
	struct cbt_event *event = count ? begin(count, found->kind, found->marks) : 0;

	if (!event)
		return;
	event->object = found->object;
	event->parent = found->parent;
	event->first = found->sector;
	event->second = found->print;
	event->amount = found->bytes;
	event->opf = found->opf;
	event->disk = found->disk;
	event->bdev = found->bdev;
	event->status = found->status;
	if (found->kind == CBT_BIO_QUEUE)
		name_task(event);
	else
		number_task(event, found->kind == CBT_RQ_ISSUE);
	submit(count, event);
}

/* Emits the event with the fingerprints of content that `g` has been led to. */
static __always_inline void emit_with_prints(struct found *found, struct gathering *g, u32 slot)
{
	int good;

	if (!g) {
		found->marks |= CBT_READ_FAULT;
		count_read_fault();
		emit(found);
		return;
	}
	/* Before its fingerprints, or, if there is only one, with it. */
	if (!g->keep)
		emit(found);
	good = gather_all(g, slot);
	if (!good)
		count_read_fault();
	if (g->keep) {
		found->print = g->out.hash[0];
		found->marks |= good ? CBT_PRINTED : CBT_READ_FAULT;
		emit(found);
	}
	gather_end(g);
}

static __always_inline int bio_queue(struct bio *bio, int chance)
{
	struct found found = { .object = (u64)bio, .kind = CBT_BIO_QUEUE };
	struct gendisk *disk;

	found.sector = bio->bi_iter.bi_sector;
	if (handled(&found, found.sector, chance))
		return 0;
	disk = disk_of_bio(&found, bio);
	found.disk = dev_of_disk(disk);
	found.bytes = bio->bi_iter.bi_size;
	if (!wanted(&found, chance)) {
		/* The bio's memory may have served a wanted one before. */
		if (found.disk == filter_disk)
			bpf_map_delete_elem(&inflight, &found.object);
		return 0;
	}
	claim(&found, chance);
	found.opf = bio->bi_opf;
	if (disk && disk->fops && disk->fops->submit_bio) {
		struct place place = {
			.sector = found.sector,
			.bytes = found.bytes,
			.opf = found.opf,
			.index = bio->bi_iter.bi_idx,
			.done = bytes_done(bio),
		};
		bpf_map_update_elem(&inflight, &found.object, &place, BPF_ANY);
	}
	if (fingerprints && found.bytes && (found.opf & OP_MASK) == OP_WRITE) {
		u32 slot = GATHER_QUEUE * CHANCES + chance;
		struct gathering *g = gather_begin(&slot, chance, &found);

		if (g)
			gather_bio(g, bio);
		emit_with_prints(&found, g, slot);
		return 0;
	}
	emit(&found);
	return 0;
}

static __always_inline int bio_complete(struct bio *bio, int chance)
{
	struct found found = { .object = (u64)bio, .kind = CBT_BIO_COMPLETE };
	u32 index = bio->bi_iter.bi_idx, done = 0;
	u64 sector = bio->bi_iter.bi_sector;
	struct place *place;

	if (handled(&found, sector, chance))
		return 0;
	found.disk = dev_of_disk(disk_of_bio(&found, bio));
	place = bpf_map_lookup_elem(&inflight, &found.object);
	if (place) {
		found.sector = place->sector;
		found.bytes = place->bytes;
		found.opf = place->opf;
		found.marks |= CBT_FROM_QUEUE;
		index = place->index;
		done = place->done;
	} else {
		found.sector = sector;
		found.bytes = bio->bi_iter.bi_size;
		found.opf = bio->bi_opf;
	}
	if (!wanted(&found, chance))
		return 0;
	claim(&found, chance);
	found.status = bio->bi_status;
	/* Without its place at the start there is no telling where its content is. */
	if (fingerprints && place && found.bytes && (found.opf & OP_MASK) == OP_READ &&
	    !found.status) {
		u32 slot = GATHER_BIO * CHANCES + chance;
		struct gathering *g = gather_begin(&slot, chance, &found);

		if (g) {
			gather_from(g, bio, index, done);
			g->bio_left = found.bytes;
		}
		emit_with_prints(&found, g, slot);
		return 0;
	}
	emit(&found);
	return 0;
}

/* Returns 0 if the event is not for this program to record. */
static __always_inline int look_at_request(struct found *found, struct request *rq, int chance)
{
	found->sector = rq->__sector;
	if (handled(found, found->sector, chance))
		return 0;
	found->disk = dev_of_disk(disk_of_request(rq));
	if (found->sector == ~0ULL) /* a request without a place, such as a flush */
		found->sector = 0;
	if (found->kind == CBT_RQ_ISSUE)
		found->bytes = rq->__data_len;
	if (!wanted(found, chance))
		return 0;
	claim(found, chance);
	found->opf = rq->cmd_flags;
	found->parent = (u64)rq->bio;
	return 1;
}

static __always_inline int rq_issue(struct request *rq, int chance)
{
	struct found found = { .object = (u64)rq, .kind = CBT_RQ_ISSUE };

	if (look_at_request(&found, rq, chance))
		emit(&found);
	return 0;
}

static __always_inline int rq_complete(struct request *rq, s32 status, u32 bytes, int chance)
{
	struct found found = {
		.object = (u64)rq,
		.kind = CBT_RQ_COMPLETE,
		.status = status,
		.bytes = bytes,
	};

	if (!look_at_request(&found, rq, chance))
		return 0;
	/* Only the low byte of a blk_status_t is the argument; an errno has it too. */
	if (fingerprints && found.bytes && (found.opf & OP_MASK) == OP_READ &&
	    !(found.status & 0xff) && found.parent) {
		u32 slot = GATHER_REQUEST * CHANCES + chance;
		struct gathering *g = gather_begin(&slot, chance, &found);

		if (g)
			gather_bio(g, (struct bio *)found.parent);
		emit_with_prints(&found, g, slot);
		return 0;
	}
	emit(&found);
	return 0;
}

/* The programs of one tracepoint: name_0, name_1 and so on up to the sweeper. */
#define BLOCK_PROGRAM_AT(name, number, call)                                                       \
	SEC("tp_btf") int name(u64 *args)                                                          \
	{                                                                                          \
		const int chance = number;                                                         \
		return call;                                                                       \
	}
#define BLOCK_PROGRAM(name, call)                                                                  \
	BLOCK_PROGRAM_AT(name##_0, 0, call)                                                        \
	BLOCK_PROGRAM_AT(name##_1, 1, call)                                                        \
	BLOCK_PROGRAM_AT(name##_2, 2, call)                                                        \
	BLOCK_PROGRAM_AT(name##_3, LAST_CHANCE, call)                                              \
	BLOCK_PROGRAM_AT(name##_4, SWEEP, call)

/* Up to 5.10: (queue, bio) and (queue, request); from 5.11 on without the queue. */
BLOCK_PROGRAM(bio_queue_arg0, bio_queue((void *)args[0], chance))
BLOCK_PROGRAM(bio_queue_arg1, bio_queue((void *)args[1], chance))
BLOCK_PROGRAM(rq_issue_arg0, rq_issue((void *)args[0], chance))
BLOCK_PROGRAM(rq_issue_arg1, rq_issue((void *)args[1], chance))
BLOCK_PROGRAM(rq_complete_arg0, rq_complete((void *)args[0], (s32)args[1], (u32)args[2], chance))
BLOCK_PROGRAM(bio_complete_arg1, bio_complete((void *)args[1], chance))

/*
 * The module's events. The first argument is its device, whose first field is
 * the minor; the module carries no BTF on most kernels, so this is read by
 * place. The others are integers. Two programs each, and a sweeper, are enough: the events that
 * come from preemptible context are few.
 */
struct module_event {
	u64 first;
	u64 second;
	u32 amount;
	u32 opf;
	u32 bdev;
	s32 status;
};

static __always_inline int module_event(u64 device, u8 kind, const struct module_event *values,
					int chance)
{
	/* A thread is in one such tracepoint at a time, so the device says enough. */
	struct found found = { .object = device, .kind = kind };
	struct cbt_counters *count = this_cpu_counters();
	struct cbt_event *event;
	u32 minor = 0;

	if (handled(&found, values->first, chance))
		return 0;
	claim(&found, chance);
	if (PEEK(minor, *(u32 *)device)) {
		found.marks |= CBT_READ_FAULT;
		count_read_fault();
	}
	event = count ? begin(count, kind, found.marks) : 0;
	if (!event)
		return 0;
	event->object = 0;
	event->parent = 0;
	event->first = values->first;
	event->second = values->second;
	event->amount = values->amount;
	event->opf = values->opf;
	event->disk = minor;
	event->bdev = values->bdev;
	event->status = values->status;
	name_task(event);
	submit(count, event);
	return 0;
}

#define MODULE_PROGRAM_AT(name, kind, chance, ...)                                                 \
	SEC("raw_tp") int name(struct bpf_raw_tracepoint_args *ctx)                                \
	{                                                                                          \
		u64 *args = ctx->args;                                                             \
		const struct module_event values = { __VA_ARGS__ };                                \
		return module_event(args[0], kind, &values, chance);                               \
	}
#define MODULE_PROGRAM(name, kind, ...)                                                            \
	MODULE_PROGRAM_AT(name##_0, kind, 0, __VA_ARGS__)                                          \
	MODULE_PROGRAM_AT(name##_3, kind, LAST_CHANCE, __VA_ARGS__)                                \
	MODULE_PROGRAM_AT(name##_4, kind, SWEEP, __VA_ARGS__)

MODULE_PROGRAM(cowbird_intercept, CBT_INTERCEPT, .first = args[1], .second = args[2],
	       .opf = (u32)args[3])
MODULE_PROGRAM(cowbird_preserve_begin, CBT_PRESERVE_BEGIN, .first = args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_preserve_complete, CBT_PRESERVE_COMPLETE, .first = args[1])
MODULE_PROGRAM(cowbird_preserve_store, CBT_PRESERVE_STORE, .first = args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_release, CBT_RELEASE, .first = args[1],
	       .amount = (u32)args[2] << SECTOR_SHIFT, .opf = (u32)args[3])
MODULE_PROGRAM(cowbird_snapshot_read, CBT_SNAPSHOT_READ, .first = args[1], .amount = (u32)args[2],
	       .bdev = (u32)args[3])
MODULE_PROGRAM(cowbird_epoch, CBT_EPOCH, .first = args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_state, CBT_STATE, .bdev = (u32)args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_overflow, CBT_OVERFLOW, .first = args[1], .second = args[2])
MODULE_PROGRAM(cowbird_error, CBT_ERROR, .status = (s32)args[1])
MODULE_PROGRAM(cowbird_change, CBT_CHANGE, .first = args[1], .second = args[2])

char cbt_license[] SEC("license") = "GPL";
