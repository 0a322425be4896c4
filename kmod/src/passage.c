// SPDX-License-Identifier: GPL-2.0-only
/*
 * Passages: who is inside the original submit_bio_noacct, and for which disks.
 *
 * A task may sleep in the original for long: for a free request, at a frozen
 * queue, under a cgroup's limit, in a suspended device-mapper table. A write that
 * it carries has passed our decision by then, and reaches its disk later. So
 *
 *   a cut      waits until no task carries a write to the origin that passed
 *              before the gate closed;
 *   an unload  waits until no task has our replacement on its stack
 *              (I10, nobody is freed under a sleeper).
 *
 * The outermost call of a task registers a passage, on its own stack, before it
 * decides anything, and removes it after the original has returned. A call from
 * inside another driver's submission (current->bio_list is set) only appends its
 * bio to the list that the outermost call works off; the outermost passage
 * carries it from then on, and is told its disk. A read-side section around the
 * nested call alone would end long before the bio is dispatched.
 *
 * A passage knows its disks, so that a task asleep at one disk delays nobody who
 * waits for another (I13, one's slowness is not another's).
 *
 * Ordering: a passage is inserted under its bucket's lock before its task looks
 * at any snapshot's phase. Who changes a phase and then looks through the
 * buckets finds every passage whose task may have seen the old one.
 */
#include <linux/delay.h>
#include <linux/hash.h>
#include <linux/sched.h>

#include "cowbird.h"

#define CB_PASSAGE_BITS 8

/* How often the end of passages is looked for: at first, and after a while. */
#define CB_PASSAGE_POLL_US 100
#define CB_PASSAGE_SPINS 20
#define CB_PASSAGE_POLL_MS 5

/* How often an unload says for whom it waits. */
#define CB_PASSAGE_REPORT (10 * HZ)

struct cb_passage_bucket {
	raw_spinlock_t lock;
	struct hlist_head passages;
} ____cacheline_aligned_in_smp;

static struct cb_passage_bucket cb_passages[1 << CB_PASSAGE_BITS];

static struct cb_passage_bucket *notrace cb_passage_bucket(const struct task_struct *task)
{
	return &cb_passages[hash_ptr((void *)task, CB_PASSAGE_BITS)];
}

static void notrace cb_passage_add_disk(struct cb_passage *passage, struct gendisk *disk)
{
	u32 i;

	for (i = 0; i < passage->disk_count; i++)
		if (passage->disks[i] == disk)
			return;
	if (passage->disk_count < CB_PASSAGE_DISKS)
		passage->disks[passage->disk_count++] = disk;
	else
		passage->many = true;
}

void notrace cb_passage_begin(struct cb_passage *passage, struct gendisk *disk)
{
	struct cb_passage_bucket *bucket = cb_passage_bucket(current);
	unsigned long flags;

	passage->task = current;
	passage->began = jiffies;
	passage->pause = NULL;
	passage->group = NULL;
	passage->disk_count = 0;
	passage->many = false;
	passage->nowait = false;
	passage->dispatch = false;
	passage->may_pause = false;
	if (disk)
		cb_passage_add_disk(passage, disk);
	raw_spin_lock_irqsave(&bucket->lock, flags);
	hlist_add_head(&passage->node, &bucket->passages);
	raw_spin_unlock_irqrestore(&bucket->lock, flags);
}

void notrace cb_passage_end(struct cb_passage *passage)
{
	struct cb_passage_bucket *bucket = cb_passage_bucket(current);
	unsigned long flags;

	raw_spin_lock_irqsave(&bucket->lock, flags);
	hlist_del(&passage->node);
	raw_spin_unlock_irqrestore(&bucket->lock, flags);
}

void cb_passage_unload(struct cb_passage *passage)
{
	struct cb_passage_bucket *bucket = cb_passage_bucket(current);
	unsigned long flags;

	raw_spin_lock_irqsave(&bucket->lock, flags);
	passage->disk_count = 0;
	passage->many = false;
	raw_spin_unlock_irqrestore(&bucket->lock, flags);
}

struct cb_passage *notrace cb_passage_extend(struct gendisk *disk)
{
	struct cb_passage_bucket *bucket = cb_passage_bucket(current);
	struct cb_passage *passage, *found = NULL;
	unsigned long flags;

	raw_spin_lock_irqsave(&bucket->lock, flags);
	hlist_for_each_entry(passage, &bucket->passages, node) {
		if (passage->task != current)
			continue;
		if (disk && !cb_mutant(forget_nested))
			cb_passage_add_disk(passage, disk);
		found = passage;
		break;
	}
	raw_spin_unlock_irqrestore(&bucket->lock, flags);
	return found;
}

/* ---- waiting ----------------------------------------------------------- */

static bool cb_passage_carries(const struct cb_passage *passage, const struct gendisk *disk)
{
	u32 i;

	if (!disk || passage->many)
		return true;
	for (i = 0; i < passage->disk_count; i++)
		if (passage->disks[i] == disk)
			return true;
	return false;
}

/* What is told of a passage that is waited for; the task may be gone by then. */
struct cb_passage_sight {
	char comm[TASK_COMM_LEN];
	pid_t pid;
	u32 count;
};

/*
 * Looks for passages that began no later than a time in jiffies and carry a
 * write to a disk; for NULL, for all.
 */
static bool cb_passage_look(const struct gendisk *disk, unsigned long until,
			    struct cb_passage_sight *sight)
{
	u32 i;

	sight->count = 0;
	for (i = 0; i < ARRAY_SIZE(cb_passages); i++) {
		struct cb_passage_bucket *bucket = &cb_passages[i];
		struct cb_passage *passage;
		unsigned long flags;

		/* Not looked at without the lock: it orders our look behind the change of phase. */
		raw_spin_lock_irqsave(&bucket->lock, flags);
		hlist_for_each_entry(passage, &bucket->passages, node) {
			if (time_after(passage->began, until) ||
			    !cb_passage_carries(passage, disk))
				continue;
			/* It is on its task's stack, so the task is there. */
			memcpy(sight->comm, passage->task->comm, sizeof(sight->comm));
			sight->pid = passage->task->pid;
			sight->count++;
		}
		raw_spin_unlock_irqrestore(&bucket->lock, flags);
	}
	sight->comm[sizeof(sight->comm) - 1] = 0;
	return sight->count;
}

static void cb_passage_sleep(u32 round)
{
	if (round < CB_PASSAGE_SPINS)
		usleep_range(CB_PASSAGE_POLL_US, 2 * CB_PASSAGE_POLL_US);
	else
		schedule_timeout_uninterruptible(max(msecs_to_jiffies(CB_PASSAGE_POLL_MS), 1ul));
}

int cb_passage_wait(struct gendisk *disk, unsigned long deadline)
{
	struct cb_passage_sight sight;
	unsigned long until;
	u32 round;

	/* Who does not see what was written before this begins no earlier than now. */
	smp_mb();
	until = jiffies;
	for (round = 0; cb_passage_look(disk, until, &sight); round++) {
		if (time_after_eq(jiffies, deadline)) {
			pr_warn("%u tasks are still submitting writes to %s, among them %s (process %d)\n",
				sight.count, disk->disk_name, sight.comm, sight.pid);
			return -ETIMEDOUT;
		}
		cb_passage_sleep(round);
	}
	return 0;
}

void cb_passage_wait_all(void)
{
	unsigned long report = jiffies + CB_PASSAGE_REPORT;
	struct cb_passage_sight sight;
	u32 round;

	for (round = 0; cb_passage_look(NULL, jiffies, &sight); round++) {
		if (time_after(jiffies, report)) {
			pr_warn("unloading waits for %u tasks that sleep while they submit I/O, among them %s (process %d); it ends when their disks answer\n",
				sight.count, sight.comm, sight.pid);
			report = jiffies + CB_PASSAGE_REPORT;
		}
		cb_passage_sleep(round);
	}
}

void cb_passage_init(void)
{
	u32 i;

	for (i = 0; i < ARRAY_SIZE(cb_passages); i++)
		raw_spin_lock_init(&cb_passages[i].lock);
}
