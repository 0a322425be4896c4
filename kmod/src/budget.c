// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory for preserved blocks: what each snapshot may have, and all of them together
 * (I8, bounded memory).
 * And for its maps, which follow from the size of the origin and of the COW file: they
 * are counted before the first of them is asked for.
 */
#include <linux/mm.h>

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

/* Maps that have the size of the origin, that of the COW file, or of their metadata. */
static u64 cb_device_other_bytes(const struct cb_device *dev)
{
	return cb_words(dev->layout.region_count) * 3 * sizeof(u64) +
	       dev->layout.region_slots * PAGE_SIZE + dev->layout.fine_slots * sizeof(u16);
}

u64 cb_device_map_bytes(const struct cb_device *dev)
{
	return cb_map_bytes(dev) * (dev->changes ? 2 : 1) + cb_device_other_bytes(dev) +
	       (READ_ONCE(dev->slotmap.words) ? cb_slotmap_bytes(dev->slotmap.capacity) : 0);
}

/*
 * A quarter of what is available stays for others. Plain allocation of what is not there
 * does not fail: it has the kernel kill processes, and panic when none is left.
 */
bool cb_memory_fits(u64 bytes, u64 *available)
{
	*available = (u64)max(si_mem_available(), 0L) << PAGE_SHIFT;
	return bytes <= *available - *available / 4 || cb_mutant(maps_at_any_cost);
}

int cb_device_check_memory(struct cb_device *dev, struct cb_setup *setup)
{
	u64 of_origin = cb_map_bytes(dev) + cb_device_other_bytes(dev), available;
	u64 of_cow = cb_slotmap_bytes(dev->extents.slots);

	if (cb_memory_fits(of_origin + of_cow, &available))
		return 0;
	return cb_refuse(setup->reason, -ENOMEM,
			 "not enough memory: the maps of %llu GiB take %llu MiB, those of a COW file of %llu MiB take %llu MiB, and of the %llu MiB that are available a quarter must stay",
			 (unsigned long long)dev->geom.sectors >> 21,
			 (unsigned long long)DIV_ROUND_UP(of_origin, 1 << 20),
			 (unsigned long long)dev->extents.slots >> 8,
			 (unsigned long long)DIV_ROUND_UP(of_cow, 1 << 20),
			 (unsigned long long)available >> 20);
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
