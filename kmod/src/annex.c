// SPDX-License-Identifier: GPL-2.0-only
/*
 * Annexes: room for preserved blocks that an active snapshot gets in addition to
 * its COW file. Each is a pinned file of its own, on the filesystem of the COW
 * file, whose slots follow those that there were.
 *
 * It holds preserved blocks of this epoch and no metadata: what the disk knows of
 * the series stays as it is, and no save covers what lies here. The file is kept
 * open, so that its filesystem cannot end before it, and let go when the snapshot
 * ends. It may not lie on the origin of any snapshot: there is no knowing what its
 * blocks held at T0, and the module's own writes are not preserved from.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "cowbird.h"

u64 cb_annex_slots(const struct cb_device *dev)
{
	u32 i, count = smp_load_acquire(&dev->annex_count);
	u64 slots = 0;

	for (i = 0; i < count; i++)
		slots += dev->annexes[i].extents.slots;
	return slots;
}

int cb_data_slot(const struct cb_device *dev, u64 slot, u64 *sector, u64 *run)
{
	u32 i, count = smp_load_acquire(&dev->annex_count);

	if (slot < dev->extents.slots)
		return cb_extents_slot(&dev->extents, slot, sector, run);
	for (i = 0; i < count; i++) {
		const struct cb_annex *annex = &dev->annexes[i];

		if (slot - annex->first_slot < annex->extents.slots)
			return cb_extents_slot(&annex->extents, slot - annex->first_slot, sector,
					       run);
	}
	return -ERANGE;
}

bool cb_annex_touch(const struct cb_device *dev, u64 sector, u64 sectors)
{
	u32 i, count = smp_load_acquire(&dev->annex_count);

	for (i = 0; i < count; i++)
		if (cb_extents_touch(&dev->annexes[i].extents, sector, sectors))
			return true;
	return false;
}

bool cb_annex_is_used(const struct cb_device *dev)
{
	return dev->slots_used > dev->extents.slots;
}

static int cb_annex_check(struct cb_device *dev, struct cb_setup *setup)
{
	if (cb_phase_of(dev) != CB_PHASE_ACTIVE)
		return cb_refuse(setup->reason, -EINVAL, "minor %u is not an active snapshot",
				 dev->minor);
	if (!READ_ONCE(dev->verified))
		return cb_refuse(setup->reason, -EBUSY,
				 "the COW file was not seen since its filesystem was unmounted; run `cowbirdctl verify %u`",
				 dev->minor);
	if (dev->annex_count == CB_ANNEXES)
		return cb_refuse(setup->reason, -ENOSPC, "minor %u was expanded %u times already",
				 dev->minor, CB_ANNEXES);
	if (setup->cow != dev->cow.bdev->bd_dev)
		return cb_refuse(setup->reason, -EINVAL,
				 "the file is not on the filesystem of the COW file");
	return 0;
}

/* Nobody's T0 content may be there. */
static int cb_annex_check_place(struct cb_device *dev, const struct cb_extents *extents,
				char *reason)
{
	unsigned int i;

	for (i = 0; i < COWBIRD_MAX_MINORS; i++) {
		const struct cb_device *other = cb_device_get(i);

		if (other && dev->cow_disk == other->origin_disk && !cb_mutant(expand_on_origin) &&
		    cb_extents_lie_on(extents, &other->geom))
			return cb_refuse(reason, -EOPNOTSUPP,
					 "the COW file lies on %s, where free blocks may have held data when the snapshot of minor %u was taken; put it on another volume",
					 other->origin_path, other->minor);
	}
	return 0;
}

/* Longest time that writes go on while what is in memory is stored. */
#define CB_ANNEX_STORE_LIMIT (5 * HZ)
/* Slots that are copied to a larger map under one lock. */
#define CB_ANNEX_LOCKED 64u
/* So many may be left for when the engine rests. */
#define CB_ANNEX_FEW 4096u

/* A map with room for so many slots more; it takes over what is known when it is put in place. */
static int cb_annex_alloc_map(struct cb_device *dev, u64 more, struct cb_slotmap *map)
{
	u32 capacity = min_t(u64, dev->slotmap.capacity + more, CB_SLOTMAP_MAX_SLOTS);
	u64 available;

	if (!cb_memory_fits(cb_slotmap_bytes(capacity), &available))
		return -ENOMEM;
	return cb_blocks_alloc_slotmap(dev, map, capacity);
}

/*
 * Copies what slots from *next on keep, up to the first one that keeps nothing yet, and
 * moves *next there. What a slot keeps never changes, so the engine goes on meanwhile.
 */
static int cb_annex_copy(struct cb_device *dev, struct cb_slotmap *map, u64 *next)
{
	bool more = true;
	int ret = 0;

	while (!ret && more) {
		u64 end = min_t(u64, READ_ONCE(dev->slots_used), *next + CB_ANNEX_LOCKED);
		unsigned long flags;

		spin_lock_irqsave(&dev->lock, flags);
		ret = cb_slotmap_copy(map, &dev->slotmap, next, end);
		spin_unlock_irqrestore(&dev->lock, flags);
		more = *next == end && end < READ_ONCE(dev->slots_used);
		cond_resched();
	}
	return ret;
}

/* Until few are left that the engine has to rest for; it gives out slots more slowly than this copies. */
static int cb_annex_copy_ahead(struct cb_device *dev, struct cb_slotmap *map, u64 *next)
{
	u64 before;
	int ret;

	do {
		before = *next;
		ret = cb_annex_copy(dev, map, next);
	} while (!ret && *next != before && READ_ONCE(dev->slots_used) - *next > CB_ANNEX_FEW);
	return ret;
}

/* With the engine at rest nothing enters the map; readers look at it under the lock. */
static int cb_annex_put_in_place(struct cb_device *dev, const struct cb_annex *annex,
				 struct cb_slotmap *map)
{
	u64 next = dev->layout.data_first;
	unsigned long flags;
	int ret;

	mutex_lock(&cb_life_mutex);
	cb_storing_drain(dev, CB_ANNEX_STORE_LIMIT);
	ret = cb_annex_copy_ahead(dev, map, &next);
	if (!ret)
		ret = cb_engine_park(dev);
	if (ret)
		goto out;
	ret = cb_annex_copy(dev, map, &next);
	/* A slot whose store failed keeps nothing, and its snapshot has failed. */
	if (!ret && next != dev->slots_used && cb_phase_of(dev) == CB_PHASE_ACTIVE)
		ret = -EIO;
	if (!ret) {
		dev->annexes[dev->annex_count] = *annex;
		cb_registry_extend(dev, &annex->extents);
		smp_store_release(&dev->annex_count, dev->annex_count + 1);
		spin_lock_irqsave(&dev->lock, flags);
		swap(dev->slotmap, *map);
		spin_unlock_irqrestore(&dev->lock, flags);
	}
	cb_engine_unpark(dev);
out:
	cb_storing_relax(dev);
	mutex_unlock(&cb_life_mutex);
	vfree(map->buckets);
	vfree(map->words);
	return ret;
}

int cb_annex_add(struct cb_device *dev, struct cb_setup *setup)
{
	struct cb_annex annex = { .file = setup->cow_file };
	struct cb_slotmap map;
	int ret;

	lockdep_assert_held(&cb_control_mutex);
	ret = cb_annex_check(dev, setup);
	if (!ret)
		ret = cb_device_place_extents(dev, setup, &annex.extents);
	if (!ret)
		ret = cb_annex_check_place(dev, &annex.extents, setup->reason);
	if (ret)
		return ret;
	annex.first_slot = dev->extents.slots + cb_annex_slots(dev);
	ret = cb_annex_alloc_map(dev, annex.extents.slots, &map);
	if (!ret)
		ret = cb_annex_put_in_place(dev, &annex, &map);
	if (ret)
		return cb_refuse(setup->reason, ret, "not enough memory for a larger COW file");
	setup->extents = NULL;
	setup->cow_file = NULL;
	pr_info("snapshot %u of %s: %llu more blocks for its COW file\n", dev->minor,
		dev->origin_path, (unsigned long long)annex.extents.slots);
	return 0;
}

void cb_annex_free_all(struct cb_device *dev, u32 count)
{
	while (count--) {
		cb_cow_file_unpin(dev->annexes[count].file);
		kvfree(dev->annexes[count].extents.list);
	}
}
