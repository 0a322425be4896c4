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
 * A write may sleep inside the original call, at queue entry, after we let it
 * pass. A switch of state in that time would let it reach the disk
 * unpreserved. Therefore the original is called inside an SRCU read section,
 * and a switch waits for that section (cb_hook_wait_timeout).
 */
#include <linux/hash.h>
#include <linux/slab.h>

#include "cowbird.h"

static struct srcu_struct cb_hook_srcu[CB_HOOK_DOMAINS];

static struct srcu_struct *cb_hook_domain(struct gendisk *disk)
{
	return &cb_hook_srcu[hash_ptr(disk, ilog2(CB_HOOK_DOMAINS))];
}

void notrace cb_submit_past_hook(struct bio *bio)
{
	submit_bio_noacct(bio);
	/* Keeps this a call: after a jump the return address would not be ours. */
	barrier();
}

/*
 * The snapshot in this slot if the disk concerns it. RCU protects the look;
 * the caller's SRCU section, which is the disk's own, protects what is found.
 */
static struct cb_device *notrace cb_hook_find(unsigned int slot, struct gendisk *disk)
{
	struct cb_device *dev;

	rcu_read_lock();
	dev = rcu_dereference(cb_devices[slot]);
	if (dev && disk != dev->origin_disk && disk != dev->cow_disk)
		dev = NULL;
	rcu_read_unlock();
	return dev;
}

/*
 * Offers a write to the snapshots from the given slot on, and submits it when
 * none of them holds it. A write to a whole disk may concern several.
 */
static void notrace cb_hook_offer(struct bio *bio, unsigned int from, bool may_wait)
{
	struct gendisk *disk = cb_bio_disk(bio);
	struct srcu_struct *domain = cb_hook_domain(disk);
	int index = srcu_read_lock(domain);
	unsigned long used = READ_ONCE(cb_devices_used);
	unsigned int slot = from;

	for_each_set_bit_from(slot, &used, CB_DEVICE_SLOTS) {
		struct cb_device *dev = cb_hook_find(slot, disk);

		if (!dev)
			continue;
		if (disk == dev->cow_disk && cb_origin_guard_cow(dev, bio))
			goto out;
		if (disk == dev->origin_disk && cb_origin_write(dev, bio)) {
			if (may_wait)
				cb_origin_slow_down(dev);
			goto out;
		}
	}
	cb_submit_past_hook(bio);
out:
	srcu_read_unlock(domain, index);
}

void cb_hook_release(struct cb_device *dev, struct bio *bio)
{
	cb_hook_offer(bio, READ_ONCE(dev->slot) + 1, false);
}

static bool cb_is_data_write(const struct bio *bio)
{
	return op_is_write(bio_op(bio)) && bio->bi_iter.bi_size && !cb_mutant_passes(bio) &&
	       !cb_bio_is_own(bio);
}

/* Runs in place of submit_bio_noacct. */
static noinline void notrace cb_submit_hooked(struct bio *bio)
{
	if (!cb_is_data_write(bio)) {
		cb_submit_past_hook(bio);
		return;
	}
	/*
	 * Inside another driver's submission nothing may wait: the bios that
	 * this task has queued on current->bio_list move only on its return.
	 */
	cb_hook_offer(bio, 0, !current->bio_list && !(bio->bi_opf & REQ_NOWAIT));
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

struct cb_hook_barrier {
	struct rcu_head head;
	struct completion done;
	refcount_t users; /* the waiter and the callback */
};

static void cb_hook_barrier_put(struct cb_hook_barrier *wait)
{
	if (refcount_dec_and_test(&wait->users))
		kfree(wait);
}

static void cb_hook_barrier_done(struct rcu_head *head)
{
	struct cb_hook_barrier *wait = container_of(head, struct cb_hook_barrier, head);

	complete(&wait->done);
	cb_hook_barrier_put(wait);
}

int cb_hook_wait_timeout(struct gendisk *disk, unsigned long timeout_jiffies)
{
	struct cb_hook_barrier *wait = kmalloc(sizeof(*wait), GFP_NOIO);
	int ret = 0;

	if (!wait)
		return -ENOMEM;
	init_completion(&wait->done);
	refcount_set(&wait->users, 2);
	call_srcu(cb_hook_domain(disk), &wait->head, cb_hook_barrier_done);
	if (!wait_for_completion_timeout(&wait->done, timeout_jiffies))
		ret = -ETIMEDOUT;
	cb_hook_barrier_put(wait);
	return ret;
}

void cb_hook_wait(struct gendisk *disk)
{
	synchronize_srcu(cb_hook_domain(disk));
}

static void cb_hook_cleanup_domains(int count)
{
	while (count-- > 0) {
		srcu_barrier(&cb_hook_srcu[count]);
		cleanup_srcu_struct(&cb_hook_srcu[count]);
	}
}

/* ftrace_free_filter is not exported everywhere; this frees as much. */
static void cb_hook_reset_filter(void)
{
	ftrace_set_filter(&cb_hook_ops, NULL, 0, 1);
}

int cb_hook_init(void)
{
	static unsigned char function[] = "submit_bio_noacct";
	int ret, i;

	for (i = 0; i < CB_HOOK_DOMAINS; i++) {
		ret = init_srcu_struct(&cb_hook_srcu[i]);
		if (ret)
			goto out_domains;
	}
	ret = ftrace_set_filter(&cb_hook_ops, function, sizeof(function) - 1, 0);
	if (ret) {
		pr_err("this kernel does not let ftrace see submit_bio_noacct (error %d)\n", ret);
		goto out_domains;
	}
	ret = register_ftrace_function(&cb_hook_ops);
	if (ret) {
		pr_err("cannot intercept submit_bio_noacct (error %d)%s\n", ret,
		       ret == -EBUSY ? ": a live patch or another driver has taken it" : "");
		goto out_filter;
	}
	/*
	 * Tasks that were already past the entry of the original when it was
	 * replaced are in no SRCU section. Let them move on before the first
	 * snapshot can rely on the hook.
	 */
	synchronize_rcu_tasks();
	return 0;

out_filter:
	cb_hook_reset_filter();
out_domains:
	cb_hook_cleanup_domains(i);
	return ret;
}

void cb_hook_exit(void)
{
	int i;

	unregister_ftrace_function(&cb_hook_ops);
	/*
	 * A task may be in the replacement before its read section, inside it
	 * or just after. The first wait moves every task of the first kind
	 * into the second, SRCU waits for those, the last for the third.
	 */
	synchronize_rcu_tasks();
	for (i = 0; i < CB_HOOK_DOMAINS; i++)
		synchronize_srcu(&cb_hook_srcu[i]);
	synchronize_rcu_tasks();
	cb_hook_cleanup_domains(CB_HOOK_DOMAINS);
	cb_hook_reset_filter();
}
