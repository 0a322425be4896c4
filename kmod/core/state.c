// SPDX-License-Identifier: GPL-2.0-only
#include "bytes.h"
#include "state.h"

void cb_state_encode(const struct cb_state *state, u8 *payload)
{
	memset(payload, 0, CB_PAYLOAD_BYTES);
	cb_put(payload, state->status, 4);
	cb_put(payload + 4, state->mode, 4);
	memcpy(payload + 8, state->boot_id, CB_BOOT_ID_BYTES);
	cb_put(payload + 24, state->written_sectors, 8);
	cb_put(payload + 32, state->head_crc, 4);
	cb_put(payload + 36, state->fine_rule, 4);
	cb_put(payload + 40, state->slots_used, 8);
	cb_put(payload + 48, state->tracked_from, 8);
	cb_put(payload + 56, state->changes_from, 8);
	cb_put(payload + 64, state->fine_since, 8);
}

void cb_state_decode(struct cb_state *state, const u8 *payload)
{
	state->status = (u32)cb_get(payload, 4);
	state->mode = (u32)cb_get(payload + 4, 4);
	memcpy(state->boot_id, payload + 8, CB_BOOT_ID_BYTES);
	state->written_sectors = cb_get(payload + 24, 8);
	state->head_crc = (u32)cb_get(payload + 32, 4);
	state->fine_rule = (u32)cb_get(payload + 36, 4);
	state->slots_used = cb_get(payload + 40, 8);
	state->tracked_from = cb_get(payload + 48, 8);
	state->changes_from = cb_get(payload + 56, 8);
	state->fine_since = cb_get(payload + 64, 8);
}

bool cb_state_is_live(const struct cb_state *state)
{
	return state->status == CB_STATUS_CLEAN || state->status == CB_STATUS_DIRTY;
}

int cb_state_judge(const struct cb_state *state, u64 state_epoch, u64 header_epoch,
		   const struct cb_now *now, bool *clean, const char **reason)
{
	bool same_boot = !memcmp(state->boot_id, now->boot_id, CB_BOOT_ID_BYTES);

	*clean = state->status == CB_STATUS_CLEAN && state_epoch == header_epoch;
	*reason = NULL;
	if (state->status == CB_STATUS_ENDED)
		*reason = "the series was ended";
	else if (state->status == CB_STATUS_LOST)
		*reason = "tracking was lost before, and what changed since is not known";
	else if (!cb_state_is_live(state))
		*reason = "the state in the COW file is unknown";
	else if (same_boot && !*clean)
		*reason = "tracking ended in this boot without having been saved";
	else if (now->uncounted)
		*reason = "the kernel does not count what is written to the origin (queue/iostats is 0)";
	else if (same_boot && now->written_sectors != state->written_sectors)
		*reason = "the origin was written to while nothing was tracked";
	else if (!same_boot && now->written_sectors)
		*reason = "the origin was written to in this boot before tracking went on";
	else if (*clean && now->head_crc != state->head_crc)
		*reason = "the first 64 KiB of the origin changed since tracking was saved";
	return *reason ? -ESTALE : 0;
}
