// SPDX-License-Identifier: GPL-2.0-only
/* Memory for preserved blocks: what each snapshot may have, and all of them together. */
#include "cowbird.h"

/* Bound of preserved blocks in memory, all snapshots together. */
static unsigned int total_cache_mb = 2048;
module_param(total_cache_mb, uint, 0644);
MODULE_PARM_DESC(total_cache_mb, "Memory for preserved blocks of all snapshots, in MiB (default 2048)");

/* A snapshot that ends gives its share back from a thread of its own. */
static DEFINE_SPINLOCK(cb_total_lock);
static u64 cb_total_cache_bytes; /* cb_total_lock */

/* Another share of the memory for all snapshots; 0 is none. */
static int cb_device_claim_bytes(struct cb_device *dev, u64 bytes, char *reason)
{
	u64 limit = (u64)total_cache_mb << 20, others;
	bool fits;

	lockdep_assert_held(&cb_control_mutex);
	spin_lock(&cb_total_lock);
	others = cb_total_cache_bytes - dev->cache_bytes;
	fits = bytes <= dev->cache_bytes || (bytes <= limit && others <= limit - bytes);
	if (fits)
		cb_total_cache_bytes = others + bytes;
	spin_unlock(&cb_total_lock);
	if (!fits)
		return cb_refuse(reason, -ENOMEM,
				 "a cache of %llu MiB would exceed the limit of %u MiB for all snapshots (parameter total_cache_mb)",
				 (unsigned long long)bytes >> 20, total_cache_mb);
	dev->cache_bytes = bytes;
	return 0;
}

int cb_device_claim_memory(struct cb_device *dev, struct cb_setup *setup)
{
	return cb_device_claim_bytes(dev, setup->cache_bytes, setup->reason);
}

void cb_device_unclaim_memory(struct cb_device *dev)
{
	spin_lock(&cb_total_lock);
	cb_total_cache_bytes -= dev->cache_bytes;
	spin_unlock(&cb_total_lock);
	dev->cache_bytes = 0;
}

int cb_device_reconfigure(unsigned int minor, u64 cache_bytes, char *reason)
{
	struct cb_device *dev = cb_device_get(minor);
	u64 before, kept;
	int ret;

	if (!dev)
		return cb_refuse(reason, -ENOENT, "there is no snapshot with minor %u", minor);
	if (cb_phase_of(dev) != CB_PHASE_ACTIVE)
		return cb_refuse(reason, -EINVAL,
				 "minor %u is not an active snapshot, and has no memory to bound", minor);
	before = dev->cache_bytes;
	ret = cb_device_claim_bytes(dev, max(cache_bytes, before), reason);
	if (ret)
		return ret;
	ret = cb_blocks_set_limit(dev, cache_bytes / CB_BLOCK_BYTES);
	/* What is there is what counts. */
	kept = (u64)READ_ONCE(dev->entry_limit) * CB_BLOCK_BYTES;
	spin_lock(&cb_total_lock);
	cb_total_cache_bytes = cb_total_cache_bytes - dev->cache_bytes + kept;
	spin_unlock(&cb_total_lock);
	dev->cache_bytes = kept;
	if (ret == -EBUSY)
		cb_refuse(reason, ret,
			  "%llu MiB of preserved blocks could not be stored in time; the bound is now that",
			  (unsigned long long)kept >> 20);
	else if (ret)
		cb_refuse(reason, ret, "not enough memory for a cache of %llu MiB",
			  (unsigned long long)cache_bytes >> 20);
	return ret;
}
