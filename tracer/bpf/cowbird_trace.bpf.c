// SPDX-License-Identifier: GPL-2.0-only
/*
 * Block layer and module events, from Linux 5.10 on, with one object.
 *
 * Everything is a raw tracepoint: no tracefs, no kprobes, no fentry, hence
 * nothing that a hardened kernel lacks. A raw tracepoint hands over the
 * arguments of the tracepoint as the kernel declares them, which differ: where
 * they do, there is one program for each form and the loader chooses by the
 * kernel's BTF.
 *
 * A kernel with lazy preemption may preempt a program, and its guard against
 * recursion then skips the same program for another task on that CPU. Without
 * a remedy 0.1 to 1 % of the bios of eight writers are lost on 7.3. Hence each
 * block event has several programs, attached one after the other, each with a
 * guard of its own. Who records the event leaves a mark; who finds a mark
 * leaves the event alone; the last takes the mark away. The last ones seldom
 * do more than one lookup.
 *
 * Loss is the misses of the first programs - rescued. An event of an unwanted
 * device may be missed too, which does not matter; at least this many were:
 * the unwanted ones that the second programs saw, less those that the first
 * ones saw. A mark that stays because the last program was skipped can only
 * prevent a rescue, so the sum stays right. To make that rare, marks name the
 * thread and the sector too: requests are few and soon used again. The
 * recorder sweeps away old marks.
 */
#include "kernel.h"
#include "event.h"

#define MAX_INFLIGHT 16384
#define MAX_MARKS 8192
#define SECTOR_SHIFT 9
#define LAST_CHANCE 3

/* Set by the loader. 0 and the full range let everything pass. */
const volatile u32 filter_disk = 0;
const volatile u64 filter_first_sector = 0;
const volatile u64 filter_end_sector = ~0ULL;

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

struct place {
	u64 sector;
	u32 bytes;
	u32 opf;
};

/* Where a bio was queued: its iterator is used up when it completes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_INFLIGHT);
	__type(key, u64);
	__type(value, struct place);
} inflight SEC(".maps");

struct mark_key {
	u64 object;
	u64 sector;
	u32 tid;
	u32 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_MARKS);
	__type(key, struct mark_key);
	__type(value, u64); /* when it was made, for the sweep */
} seen SEC(".maps");

/* What a program has found out before it reserves room for the event. */
struct found {
	u64 object;
	u64 parent;
	u64 sector;
	u64 mark_sector; /* as it stands in the object, at each of its programs */
	u32 bytes;
	u32 opf;
	u32 disk;
	u32 bdev;
	s32 status;
	u8 kind;
	u8 marks;
};

#define READ(found, to, from) read_field(found, &(to), sizeof(to), &(from))

static __always_inline void read_field(struct found *found, void *to, u32 size, const void *from)
{
	if (bpf_probe_read_kernel(to, size, from))
		found->marks |= CBT_READ_FAULT;
}

static __always_inline struct cbt_counters *this_cpu_counters(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline u32 dev_of_disk(struct found *found, struct gendisk *disk)
{
	u32 major = 0, minor = 0;

	if (!disk)
		return 0;
	READ(found, major, disk->major);
	READ(found, minor, disk->first_minor);
	return major << 20 | minor;
}

static __always_inline void device_of_bio(struct found *found, struct bio *bio)
{
	struct bio___with_disk *old = (void *)bio;
	struct block_device *bdev = 0;
	struct gendisk *disk = 0;

	if (field_exists(bio->bi_bdev)) {
		READ(found, bdev, bio->bi_bdev);
		if (!bdev)
			return;
		READ(found, found->bdev, bdev->bd_dev);
		READ(found, disk, bdev->bd_disk);
	} else {
		READ(found, disk, old->bi_disk);
	}
	found->disk = dev_of_disk(found, disk);
}

static __always_inline void device_of_request(struct found *found, struct request *rq)
{
	struct request___with_disk *old = (void *)rq;
	struct request_queue *queue = 0;
	struct gendisk *disk = 0;

	if (field_exists(old->rq_disk)) {
		READ(found, disk, old->rq_disk);
	} else {
		READ(found, queue, rq->q);
		if (queue)
			READ(found, disk, queue->disk);
	}
	found->disk = dev_of_disk(found, disk);
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

static __always_inline struct mark_key mark_of(const struct found *found)
{
	struct mark_key key = {
		.object = found->object,
		.sector = found->mark_sector,
		.tid = (u32)bpf_get_current_pid_tgid(),
		.kind = found->kind,
	};

	return key;
}

/* Says whether an earlier program has recorded the event. */
static __always_inline int handled(const struct found *found, int chance)
{
	struct mark_key key;

	if (chance == 0)
		return 0;
	key = mark_of(found);
	if (chance < LAST_CHANCE)
		return bpf_map_lookup_elem(&seen, &key) != 0;
	return bpf_map_delete_elem(&seen, &key) != -2 /* ENOENT */;
}

/* Tells the later programs that this one records the event. */
static __always_inline void claim(struct found *found, int chance)
{
	struct mark_key key = mark_of(found);
	struct cbt_counters *count = this_cpu_counters();
	u64 now = bpf_ktime_get_ns();

	if (!count)
		return;
	if (chance < LAST_CHANCE && bpf_map_update_elem(&seen, &key, &now, BPF_ANY))
		__sync_fetch_and_add(&count->mark_failures, 1);
	if (chance > 0) {
		found->marks |= CBT_RESCUED;
		__sync_fetch_and_add(&count->rescued, 1);
	}
}

/*
 * Reserves room for an event, or counts it as dropped. The counters are shared
 * with programs that may interrupt this one, so they are changed atomically.
 * No wake-up: the reader polls, which is several times cheaper.
 */
static __always_inline struct cbt_event *begin(u8 kind, u8 marks)
{
	struct cbt_counters *count = this_cpu_counters();
	struct cbt_event *event;
	u64 task;

	if (!count)
		return 0;
	__sync_fetch_and_add(&count->produced, 1);
	if (marks & CBT_READ_FAULT)
		__sync_fetch_and_add(&count->read_faults, 1);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&count->dropped, 1);
		return 0;
	}
	event->time_ns = bpf_ktime_get_ns();
	task = bpf_get_current_pid_tgid();
	event->tgid = task >> 32;
	event->tid = (u32)task;
	event->cpu = bpf_get_smp_processor_id();
	event->kind = kind;
	event->marks = marks;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	return event;
}

static __always_inline void emit(struct found *found)
{
	struct cbt_event *event = begin(found->kind, found->marks);

	if (!event)
		return;
	event->object = found->object;
	event->parent = found->parent;
	event->first = found->sector;
	event->second = 0;
	event->amount = found->bytes;
	event->opf = found->opf;
	event->disk = found->disk;
	event->bdev = found->bdev;
	event->status = found->status;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

static __always_inline int bio_queue(struct bio *bio, int chance)
{
	struct found found = { .object = (u64)bio, .kind = CBT_BIO_QUEUE };
	struct place place = {};

	READ(&found, found.sector, bio->bi_iter.bi_sector);
	found.mark_sector = found.sector;
	if (handled(&found, chance))
		return 0;
	device_of_bio(&found, bio);
	READ(&found, found.bytes, bio->bi_iter.bi_size);
	if (!wanted(&found, chance)) {
		/* The bio's memory may have served a wanted one before. */
		if (found.disk == filter_disk)
			bpf_map_delete_elem(&inflight, &found.object);
		return 0;
	}
	claim(&found, chance);
	READ(&found, found.opf, bio->bi_opf);
	place.sector = found.sector;
	place.bytes = found.bytes;
	place.opf = found.opf;
	bpf_map_update_elem(&inflight, &found.object, &place, BPF_ANY);
	emit(&found);
	return 0;
}

static __always_inline int bio_complete(struct bio *bio, int chance)
{
	struct found found = { .object = (u64)bio, .kind = CBT_BIO_COMPLETE };
	struct place *place;
	u8 status = 0;

	READ(&found, found.mark_sector, bio->bi_iter.bi_sector);
	if (handled(&found, chance))
		return 0;
	device_of_bio(&found, bio);
	place = bpf_map_lookup_elem(&inflight, &found.object);
	if (place) {
		found.sector = place->sector;
		found.bytes = place->bytes;
		found.opf = place->opf;
		found.marks |= CBT_FROM_QUEUE;
	} else {
		found.sector = found.mark_sector;
		READ(&found, found.bytes, bio->bi_iter.bi_size);
		READ(&found, found.opf, bio->bi_opf);
	}
	if (!wanted(&found, chance))
		return 0;
	claim(&found, chance);
	READ(&found, status, bio->bi_status);
	found.status = status;
	emit(&found);
	return 0;
}

/* Returns 0 if the event is not for this program to record. */
static __always_inline int look_at_request(struct found *found, struct request *rq, int chance)
{
	struct bio *bio = 0;

	READ(found, found->sector, rq->__sector);
	found->mark_sector = found->sector;
	if (handled(found, chance))
		return 0;
	device_of_request(found, rq);
	if (found->sector == ~0ULL) /* a request without a place, such as a flush */
		found->sector = 0;
	if (found->kind == CBT_RQ_ISSUE)
		READ(found, found->bytes, rq->__data_len);
	if (!wanted(found, chance))
		return 0;
	claim(found, chance);
	READ(found, found->opf, rq->cmd_flags);
	READ(found, bio, rq->bio);
	found->parent = (u64)bio;
	return 1;
}

static __always_inline int rq_issue(struct request *rq, int chance)
{
	struct found found = { .object = (u64)rq, .kind = CBT_RQ_ISSUE };

	if (look_at_request(&found, rq, chance))
		emit(&found);
	return 0;
}

static __always_inline int rq_complete(u64 *args, int chance)
{
	struct request *rq = (void *)args[0];
	struct found found = {
		.object = (u64)rq,
		.kind = CBT_RQ_COMPLETE,
		.status = (s32)args[1],
		.bytes = (u32)args[2],
	};

	if (look_at_request(&found, rq, chance))
		emit(&found);
	return 0;
}

/* The programs of one tracepoint: name, name_1 and so on up to the last chance. */
#define BLOCK_PROGRAM_AT(name, number, call)                                                       \
	SEC("raw_tp") int name(struct bpf_raw_tracepoint_args *ctx)                                \
	{                                                                                          \
		const int chance = number;                                                         \
		return call;                                                                       \
	}
#define BLOCK_PROGRAM(name, call)                                                                  \
	BLOCK_PROGRAM_AT(name##_0, 0, call)                                                        \
	BLOCK_PROGRAM_AT(name##_1, 1, call)                                                        \
	BLOCK_PROGRAM_AT(name##_2, 2, call)                                                        \
	BLOCK_PROGRAM_AT(name##_3, LAST_CHANCE, call)

/* Up to 5.10: (queue, bio) and (queue, request); from 5.11 on without the queue. */
BLOCK_PROGRAM(bio_queue_arg0, bio_queue((void *)ctx->args[0], chance))
BLOCK_PROGRAM(bio_queue_arg1, bio_queue((void *)ctx->args[1], chance))
BLOCK_PROGRAM(rq_issue_arg0, rq_issue((void *)ctx->args[0], chance))
BLOCK_PROGRAM(rq_issue_arg1, rq_issue((void *)ctx->args[1], chance))
BLOCK_PROGRAM(rq_complete_arg0, rq_complete(ctx->args, chance))
BLOCK_PROGRAM(bio_complete_arg1, bio_complete((void *)ctx->args[1], chance))

/*
 * The module's events. The first argument is its device, whose first field is
 * the minor; the module carries no BTF on most kernels, so this is read by
 * place. The others are integers.
 */
struct module_event {
	u64 first;
	u64 second;
	u32 amount;
	u32 opf;
	u32 bdev;
	s32 status;
};

static __always_inline int module_event(u64 device, u8 kind, const struct module_event *values)
{
	struct cbt_event *event;
	struct found found = {};
	u32 minor = 0;

	read_field(&found, &minor, sizeof(minor), (void *)device);
	event = begin(kind, found.marks);
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
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

#define MODULE_PROGRAM(name, kind, ...)                                                            \
	SEC("raw_tp") int name(struct bpf_raw_tracepoint_args *ctx)                                \
	{                                                                                          \
		u64 *args = ctx->args;                                                             \
		const struct module_event values = { __VA_ARGS__ };                                \
		return module_event(args[0], kind, &values);                                       \
	}

MODULE_PROGRAM(cowbird_intercept, CBT_INTERCEPT, .first = args[1], .second = args[2],
	       .opf = (u32)args[3])
MODULE_PROGRAM(cowbird_preserve_begin, CBT_PRESERVE_BEGIN, .first = args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_preserve_complete, CBT_PRESERVE_COMPLETE, .first = args[1])
MODULE_PROGRAM(cowbird_preserve_store, CBT_PRESERVE_STORE, .first = args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_release, CBT_RELEASE, .first = args[1],
	       .amount = (u32)args[2] << SECTOR_SHIFT, .opf = (u32)args[3])
MODULE_PROGRAM(cowbird_snapshot_read, CBT_SNAPSHOT_READ, .first = args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_epoch, CBT_EPOCH, .first = args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_state, CBT_STATE, .bdev = (u32)args[1], .amount = (u32)args[2])
MODULE_PROGRAM(cowbird_overflow, CBT_OVERFLOW, .first = args[1], .second = args[2])
MODULE_PROGRAM(cowbird_error, CBT_ERROR, .status = (s32)args[1])

char cbt_license[] SEC("license") = "GPL";
