// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interception of every bio of the machine.
 *
 * submit_bio_noacct is replaced through ftrace (IPMODIFY, as live patches do):
 * no table of the kernel is written and no address computed, and PERMANENT
 * keeps the sysctl that disables ftrace from blinding us. The replacement calls
 * the original; ftrace's callback lets calls from this module through, which
 * is how both that call and the module's own bios avoid being intercepted.
 *
 * Every outermost call registers a passage (passage.c) until the original has
 * returned, reads included: a cut and an unload wait for passages. Snapshots are
 * found and asked under RCU, where nothing sleeps; the original is called
 * outside of it.
 *
 * From 5.16 on a bio that a cgroup's limit has delayed (io.max) goes on by
 * submit_bio_noacct_nocheck, without passing submit_bio_noacct again. It may have
 * passed before the snapshot began and leave its queue at any time after. So
 * whoever dispatches such bios is in a passage, and each write is looked at
 * where it goes on, by a callback: one that some snapshot does not let pass is
 * given to a thread, which offers it as any other, and the function returns at once.
 * On older kernels delayed bios enter submit_bio_noacct again.
 */
#include <linux/hash.h>
#include <linux/kprobes.h>
#include <linux/rculist.h>

#include "cowbird.h"

struct bio *cb_hook_trial;

cb_cookie_t notrace cb_submit_past_hook(struct bio *bio)
{
	struct cb_passage passage;
	bool outermost = !current->bio_list;
	cb_cookie_t cookie;

	/* So that the bios which a driver below makes of it are carried by a passage. */
	if (outermost)
		cb_passage_begin(&passage, NULL);
	cookie = cb_submit_original(bio);
	/* Keeps this a call: after a jump the return address would not be ours. */
	barrier();
	if (outermost)
		cb_passage_end(&passage);
	return cookie;
}

/* Whether a write may touch a COW file; many of them may be on one disk. */
static bool notrace cb_watch_is_near(const struct cb_watch *watch, struct bio *bio)
{
	u64 sector = cb_bio_disk_sector(bio);

	return sector < READ_ONCE(watch->cow_end) &&
	       sector + (bio->bi_iter.bi_size >> SECTOR_SHIFT) > READ_ONCE(watch->cow_first);
}

/*
 * Offers a write to all snapshots but one; a write to a whole disk may concern
 * several. True when one of them took it over. passage: whose task may be made
 * to pause when it has returned, or NULL.
 */
static bool notrace cb_hook_offer(struct bio *bio, struct gendisk *disk,
				  const struct cb_device *except, struct cb_passage *passage)
{
	struct hlist_head *watches = cb_registry_watches(disk);
	struct cb_watch *watch;
	const void *group;
	bool taken = false;

	if (!watches)
		return false;
	/* A bio that was taken over may have ended. */
	group = passage ? cb_lane_group(bio) : NULL;
	rcu_read_lock();
	hlist_for_each_entry_rcu(watch, watches, node) {
		struct cb_device *dev = watch->dev;

		if (watch->disk != disk || dev == except)
			continue;
		taken = cb_watch_is_near(watch, bio) && cb_origin_guard_cow(dev, bio);
		if (!taken && disk == dev->origin_disk)
			taken = cb_origin_write(dev, bio);
		if (taken) {
			cb_origin_ask_pause(dev, passage, group);
			break;
		}
	}
	rcu_read_unlock();
	return taken;
}

/*
 * The other snapshots are asked, whatever their slots: one of them may have begun
 * while this one held the write. It comes back to none that has let it pass and
 * is still of that mind, so this ends.
 */
void cb_hook_release(struct cb_device *dev, struct bio *bio)
{
	struct gendisk *disk = cb_bio_disk(bio);
	struct cb_passage passage;

	cb_passage_begin(&passage, disk);
	if (!cb_hook_offer(bio, disk, dev, NULL)) {
		cb_submit_original(bio);
		barrier();
	}
	cb_passage_end(&passage);
}

static bool notrace cb_is_data_write(const struct bio *bio)
{
	return op_is_write(bio_op(bio)) && bio->bi_iter.bi_size && !cb_mutant_passes(bio) &&
	       !cb_bio_is_own(bio);
}

/* ---- strays ------------------------------------------------------------ */

/*
 * Nested writes without a passage: their outermost call began before the module was
 * loaded. Such a write waits on a list of its task that nobody can see, so it is
 * not put there: a thread submits it instead, as an outermost call of its own. So it
 * does with delayed writes that have to be held.
 *
 * What has to be held is found out first, without sleeping; a disk that makes the
 * thread sleep keeps only what goes on to the disk.
 */
#define CB_STRAY_LISTS 256

enum cb_stray_stage {
	CB_STRAY_OFFER,
	CB_STRAY_SUBMIT,
	CB_STRAY_STAGES,
};

struct cb_stray_list {
	raw_spinlock_t lock; /* also taken in callbacks, where nothing sleeps */
	struct bio_list bios;
	struct work_struct work;
};

static struct cb_stray_list cb_strays[CB_STRAY_STAGES][CB_STRAY_LISTS];

static struct workqueue_struct *cb_stray_queues[CB_STRAY_STAGES];

static void cb_stray_add(struct bio *bio, struct gendisk *disk, enum cb_stray_stage stage)
{
	struct cb_stray_list *list = &cb_strays[stage][hash_ptr(disk, ilog2(CB_STRAY_LISTS))];
	unsigned long flags;

	raw_spin_lock_irqsave(&list->lock, flags);
	bio_list_add(&list->bios, bio);
	raw_spin_unlock_irqrestore(&list->lock, flags);
	queue_work(cb_stray_queues[stage], &list->work);
}

static struct bio *cb_stray_pop(struct cb_stray_list *list)
{
	struct bio *bio;

	raw_spin_lock_irq(&list->lock);
	bio = bio_list_pop(&list->bios);
	raw_spin_unlock_irq(&list->lock);
	return bio;
}

static void cb_stray_offer_work(struct work_struct *work)
{
	struct cb_stray_list *list = container_of(work, struct cb_stray_list, work);
	struct bio *bio;

	while ((bio = cb_stray_pop(list))) {
		struct gendisk *disk = cb_bio_disk(bio);
		struct cb_passage passage;
		bool taken;

		cb_passage_begin(&passage, disk);
		taken = cb_hook_offer(bio, disk, NULL, NULL);
		cb_passage_end(&passage);
		if (!taken)
			cb_stray_add(bio, disk, CB_STRAY_SUBMIT);
	}
}

static void cb_stray_submit_work(struct work_struct *work)
{
	struct cb_stray_list *list = container_of(work, struct cb_stray_list, work);
	struct bio *bio;

	while ((bio = cb_stray_pop(list)))
		cb_hook_release(NULL, bio);
}

static void cb_stray_take(struct bio *bio, struct gendisk *disk)
{
	/* As in cb_origin_enqueue. */
	bio->bi_opf &= ~(CB_REQ_POLLED | REQ_NOWAIT);
	cb_stray_add(bio, disk, CB_STRAY_OFFER);
}

static void cb_stray_exit(void)
{
	int stage;

	/* In the order in which they hand on. */
	for (stage = 0; stage < CB_STRAY_STAGES; stage++)
		if (cb_stray_queues[stage])
			destroy_workqueue(cb_stray_queues[stage]);
}

static int cb_stray_init(void)
{
	static const char *const names[] = { "cowbird_stray", "cowbird_go_on" };
	int stage, i;

	for (stage = 0; stage < CB_STRAY_STAGES; stage++) {
		for (i = 0; i < CB_STRAY_LISTS; i++) {
			struct cb_stray_list *list = &cb_strays[stage][i];

			raw_spin_lock_init(&list->lock);
			bio_list_init(&list->bios);
			INIT_WORK(&list->work, stage == CB_STRAY_OFFER ? cb_stray_offer_work :
									 cb_stray_submit_work);
		}
		cb_stray_queues[stage] =
			alloc_workqueue(names[stage], WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
		if (!cb_stray_queues[stage]) {
			cb_stray_exit();
			return -ENOMEM;
		}
	}
	return 0;
}

/* ---- the replacement --------------------------------------------------- */

/* Inside another driver's submission: the bio joins the list of the outermost call. */
static cb_cookie_t notrace cb_submit_nested(struct bio *bio)
{
	bool writes = cb_is_data_write(bio);
	struct gendisk *disk = cb_bio_disk(bio);
	struct cb_passage *passage = cb_passage_extend(writes ? disk : NULL), own;
	cb_cookie_t cookie;

	if (writes && !passage && !cb_mutant(forget_nested)) {
		cb_stray_take(bio, disk);
		return CB_NO_COOKIE;
	}
	if (writes && cb_hook_offer(bio, disk, NULL, passage))
		return CB_NO_COOKIE;
	/* What keeps the module loaded until the original has returned. */
	if (!passage)
		cb_passage_begin(&own, NULL);
	cookie = cb_submit_original(bio);
	barrier();
	if (!passage)
		cb_passage_end(&own);
	return cookie;
}

/* Runs in place of submit_bio_noacct. */
static noinline cb_cookie_t notrace cb_submit_hooked(struct bio *bio)
{
	struct cb_passage passage;
	struct gendisk *disk;
	cb_cookie_t cookie = CB_NO_COOKIE;

	if (unlikely(READ_ONCE(cb_hook_trial) == bio))
		WRITE_ONCE(cb_hook_trial, NULL);
	if (current->bio_list)
		return cb_submit_nested(bio);
	disk = cb_is_data_write(bio) ? cb_bio_disk(bio) : NULL;
	cb_passage_begin(&passage, disk);
	passage.may_pause = true;
	passage.nowait = bio->bi_opf & REQ_NOWAIT;
	if (!disk || !cb_hook_offer(bio, disk, NULL, &passage)) {
		cookie = cb_submit_original(bio);
		barrier();
	}
	/* Counted until it has paused, by which the module stays loaded. */
	if (unlikely(passage.pause))
		cb_origin_pause(&passage);
	cb_passage_end(&passage);
	return cookie;
}

static void notrace cb_hook_callback(unsigned long ip, unsigned long parent_ip,
				     struct ftrace_ops *ops, CB_FTRACE_REGS *fregs)
{
	struct pt_regs *regs = cb_ftrace_pt_regs(fregs);

	if (regs && !within_module(parent_ip, THIS_MODULE))
		regs->ip = (unsigned long)cb_submit_hooked;
}

static struct ftrace_ops cb_hook_ops = {
	.func = cb_hook_callback,
	.flags = CB_FTRACE_REPLACE_FLAGS,
};

/* ---- delayed writes ---------------------------------------------------- */

#ifdef HAVE_SUBMIT_BIO_VOID

/* Disks whose delayed bios are dispatched at one time. */
#define CB_DISPATCHERS 256

static bool cb_delayed_registered, cb_dispatch_registered;

/* Whether some snapshot does not let a write pass. What must be noted of it is. */
static bool notrace cb_hook_stops(struct bio *bio, struct gendisk *disk)
{
	struct hlist_head *watches = cb_registry_watches(disk);
	struct cb_watch *watch;
	bool stops = false;

	if (!watches)
		return false;
	rcu_read_lock();
	hlist_for_each_entry_rcu(watch, watches, node) {
		if (watch->disk != disk)
			continue;
		stops = cb_watch_is_near(watch, bio) && cb_origin_guards_cow(watch->dev, bio);
		if (!stops && disk == watch->dev->origin_disk)
			stops = cb_origin_stops(watch->dev, bio);
		if (stops)
			break;
	}
	rcu_read_unlock();
	return stops;
}

/* Runs in place of submit_bio_noacct_nocheck where a thread submits the write. */
static noinline void notrace cb_submit_taken(struct bio *bio)
{
	barrier();
}

/*
 * A write goes on whose task is in no passage, though it dispatches: the probe has no
 * room for so many, or is switched off. No snapshot of its disk begins then.
 */
static void notrace cb_delayed_unseen(struct gendisk *disk)
{
	struct hlist_head *watches = cb_registry_watches(disk);
	struct cb_watch *watch;

	if (!watches)
		return;
	rcu_read_lock();
	hlist_for_each_entry_rcu(watch, watches, node)
		if (watch->disk == disk)
			WRITE_ONCE(watch->dev->unseen, true);
	rcu_read_unlock();
}

static void notrace cb_delayed_callback(unsigned long ip, unsigned long parent_ip,
					struct ftrace_ops *ops, CB_FTRACE_REGS *fregs)
{
	struct pt_regs *regs = cb_ftrace_pt_regs(fregs);
	struct cb_passage *passage;
	struct gendisk *disk;
	struct bio *bio;

	/* Without a snapshot only workers matter, who may still be at it when there is one. */
	if (!regs || cb_mutant_closes_audit() ||
	    (!READ_ONCE(cb_device_count) && !(current->flags & PF_WQ_WORKER)))
		return;
	bio = (struct bio *)regs_get_kernel_argument(regs, 0);
	if (!cb_is_data_write(bio))
		return;
	disk = cb_bio_disk(bio);
	passage = cb_passage_extend(disk);
	/* It was offered before the original was called. */
	if (passage && !passage->dispatch)
		return;
	if (!passage)
		cb_delayed_unseen(disk);
	if (!cb_hook_stops(bio, disk))
		return;
	cb_stray_take(bio, disk);
	regs->ip = (unsigned long)cb_submit_taken;
}

static struct ftrace_ops cb_delayed_ops = {
	.func = cb_delayed_callback,
	.flags = CB_FTRACE_REPLACE_FLAGS,
};

static int cb_dispatch_enter(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct cb_passage *passage = (void *)instance->data;

	cb_passage_begin(passage, NULL);
	passage->dispatch = true;
	return 0;
}

static int cb_dispatch_leave(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	cb_passage_end((void *)instance->data);
	return 0;
}
NOKPROBE_SYMBOL(cb_dispatch_enter);
NOKPROBE_SYMBOL(cb_dispatch_leave);

static struct kretprobe cb_dispatch_probe = {
	.kp.symbol_name = "blk_throtl_dispatch_work_fn",
	.entry_handler = cb_dispatch_enter,
	.handler = cb_dispatch_leave,
	.data_size = sizeof(struct cb_passage),
	.maxactive = CB_DISPATCHERS,
};

static int cb_delayed_init(void)
{
	static unsigned char function[] = "submit_bio_noacct_nocheck";
	int ret = register_kretprobe(&cb_dispatch_probe);

	/* A kernel without limits delays nothing. */
	if (ret && ret != -ENOENT) {
		pr_err("cannot see how the kernel dispatches delayed writes (error %d)\n", ret);
		return ret;
	}
	cb_dispatch_registered = !ret;
	ret = ftrace_set_filter(&cb_delayed_ops, function, sizeof(function) - 1, 0);
	if (!ret) {
		ret = register_ftrace_function(&cb_delayed_ops);
		if (ret)
			ftrace_set_filter(&cb_delayed_ops, NULL, 0, 1);
	}
	cb_delayed_registered = !ret;
	if (ret)
		pr_err("cannot intercept submit_bio_noacct_nocheck (error %d)%s\n", ret,
		       ret == -EBUSY ? ": a live patch or another driver has taken it" : "");
	return ret;
}

/* From here on nobody begins to dispatch in a passage; those who do still end theirs. */
static void cb_delayed_stop(void)
{
	if (cb_delayed_registered) {
		unregister_ftrace_function(&cb_delayed_ops);
		ftrace_set_filter(&cb_delayed_ops, NULL, 0, 1);
	}
	if (cb_dispatch_registered)
		disable_kretprobe(&cb_dispatch_probe);
}

/* When no passage is left. */
static void cb_delayed_exit(void)
{
	if (cb_dispatch_registered)
		unregister_kretprobe(&cb_dispatch_probe);
}

#else

static int cb_delayed_init(void)
{
	return 0;
}

static void cb_delayed_stop(void)
{
}

static void cb_delayed_exit(void)
{
}

#endif

/* ftrace_free_filter is not exported everywhere; this frees as much. */
static void cb_hook_reset_filter(void)
{
	ftrace_set_filter(&cb_hook_ops, NULL, 0, 1);
}

int cb_hook_init(void)
{
	static unsigned char function[] = "submit_bio_noacct";
	int ret;

	cb_passage_init();
	ret = cb_stray_init();
	if (ret)
		return ret;
	ret = ftrace_set_filter(&cb_hook_ops, function, sizeof(function) - 1, 0);
	if (ret) {
		pr_err("this kernel does not let ftrace see submit_bio_noacct (error %d)\n", ret);
		goto out_strays;
	}
	ret = register_ftrace_function(&cb_hook_ops);
	if (ret) {
		pr_err("cannot intercept submit_bio_noacct (error %d)%s\n", ret,
		       ret == -EBUSY ? ": a live patch or another driver has taken it" : "");
		goto out_filter;
	}
	/*
	 * Tasks that had entered the original before it was replaced are in no
	 * passage. This waits for those that run; what the others submit while
	 * they sleep below enters nested, as strays.
	 */
	synchronize_rcu_tasks();
	ret = cb_delayed_init();
	if (ret)
		cb_hook_exit();
	return ret;

out_filter:
	cb_hook_reset_filter();
out_strays:
	cb_stray_exit();
	return ret;
}

void cb_hook_exit(void)
{
	cb_delayed_stop();
	unregister_ftrace_function(&cb_hook_ops);
	/*
	 * A task may be in the replacement before its passage begins, inside it
	 * or just after. The first wait moves every task of the first kind into
	 * the second; the last is for the third. Tasks of the second kind may
	 * sleep, for as long as their disk makes them, which no RCU waits for.
	 */
	synchronize_rcu_tasks();
	if (!cb_mutant(unload_under_sleepers))
		cb_passage_wait_all();
	cb_delayed_exit();
	cb_stray_exit();
	synchronize_rcu_tasks();
	cb_hook_reset_filter();
}
