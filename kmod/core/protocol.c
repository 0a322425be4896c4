// SPDX-License-Identifier: GPL-2.0-only
#include "protocol.h"

int cb_phase_next(enum cb_phase phase, enum cb_event event)
{
	switch (event) {
	case CB_EVENT_GATE:
		return phase == CB_PHASE_NEW ? CB_PHASE_HOLDING : -EINVAL;
	case CB_EVENT_BEGIN:
		return phase == CB_PHASE_HOLDING ? CB_PHASE_ACTIVE : -EINVAL;
	case CB_EVENT_TRACK:
		return phase == CB_PHASE_HOLDING || phase == CB_PHASE_ACTIVE ||
				       phase == CB_PHASE_INVALIDATED ?
			       CB_PHASE_TRACKING :
			       -EINVAL;
	case CB_EVENT_INVALIDATE:
		return phase == CB_PHASE_ACTIVE ? CB_PHASE_INVALIDATED : -EINVAL;
	case CB_EVENT_FAIL:
		/* Before it begins there is nothing that a disk could say wrongly. */
		if (phase == CB_PHASE_HOLDING)
			return CB_PHASE_FAILED;
		return phase == CB_PHASE_ACTIVE || phase == CB_PHASE_INVALIDATED ||
				       phase == CB_PHASE_TRACKING ?
			       CB_PHASE_LOSING :
			       -EINVAL;
	case CB_EVENT_TOLD:
		return phase == CB_PHASE_LOSING ? CB_PHASE_FAILED : -EINVAL;
	case CB_EVENT_CLOSE:
		return phase == CB_PHASE_CLOSING ? -EINVAL : CB_PHASE_CLOSING;
	default:
		return -EINVAL;
	}
}

enum cb_write_action cb_write_decide(enum cb_phase phase, bool preserved, bool marked,
				     bool advisory)
{
	switch (phase) {
	case CB_PHASE_HOLDING:
	case CB_PHASE_LOSING:
		return CB_WRITE_HOLD;
	case CB_PHASE_ACTIVE:
		if (!preserved && advisory)
			return CB_WRITE_ABSORB;
		return preserved && marked ? CB_WRITE_PASS : CB_WRITE_HOLD;
	case CB_PHASE_INVALIDATED:
	case CB_PHASE_TRACKING:
		if (!marked)
			return CB_WRITE_HOLD;
		return preserved ? CB_WRITE_PASS : CB_WRITE_NOTE;
	default:
		return CB_WRITE_PASS;
	}
}

enum cb_read_source cb_read_decide(enum cb_phase phase, bool own, bool preserved, bool in_memory)
{
	if (phase != CB_PHASE_ACTIVE)
		return CB_READ_FAIL;
	if (own)
		return CB_READ_ZERO;
	if (!preserved)
		return CB_READ_ORIGIN;
	return in_memory ? CB_READ_MEMORY : CB_READ_COW;
}

bool cb_read_confirm(enum cb_phase phase, bool preserved)
{
	return phase == CB_PHASE_ACTIVE && !preserved;
}
