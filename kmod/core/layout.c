// SPDX-License-Identifier: GPL-2.0-only
#include "layout.h"

static u64 cb_slots_for(u64 items, u64 items_per_slot)
{
	return (items + items_per_slot - 1) / items_per_slot;
}

int cb_layout_init(struct cb_layout *layout, u64 block_count, u64 cow_slots, u32 extent_count)
{
	u64 next = 1;

	layout->block_count = block_count;
	layout->region_shift = CB_REGION_SHIFT_MIN;
	for (;;) {
		layout->region_count = ((block_count - 1) >> layout->region_shift) + 1;
		layout->region_slots = cb_slots_for(layout->region_count, CB_PAYLOAD_BITS);
		if (layout->region_slots <= CB_REGION_SLOTS_MAX)
			break;
		layout->region_shift++;
	}
	layout->extent_slots = cb_slots_for(extent_count, CB_PAYLOAD_EXTENTS);
	layout->fine_slots = cb_slots_for(block_count, CB_PAYLOAD_BITS);
	layout->index_slots = cb_slots_for(cow_slots, CB_PAYLOAD_WORDS);

	layout->extents_first = next;
	next += layout->extent_slots;
	layout->state_first = next;
	next += CB_STATE_COPIES;
	layout->samples_first = next;
	next += CB_STATE_COPIES;
	layout->regions_first = next;
	next += CB_AREAS * layout->region_slots;
	layout->fine_first = next;
	next += CB_AREAS * layout->fine_slots;
	layout->index_first = next;
	next += layout->index_slots;
	layout->data_first = next;
	return next < cow_slots ? 0 : -ENOSPC;
}

u64 cb_layout_first(const struct cb_layout *layout, enum cb_meta_kind kind)
{
	switch (kind) {
	case CB_META_EXTENTS:
		return layout->extents_first;
	case CB_META_STATE:
		return layout->state_first;
	case CB_META_REGIONS:
		return layout->regions_first;
	case CB_META_FINE:
		return layout->fine_first;
	case CB_META_INDEX:
		return layout->index_first;
	case CB_META_SAMPLES:
		return layout->samples_first;
	}
	return 0;
}
