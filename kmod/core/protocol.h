/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The protocol between writers, snapshot readers and the switch at T0, as pure
 * decisions. The kernel code asks here and then does the I/O.
 *
 * Phases of a snapshot:
 *
 *   NEW --gate--> HOLDING --begin--> ACTIVE ---------track--------> TRACKING
 *                    |                  |                             |  ^
 *                    |                  +--invalidate--> INVALIDATED --track
 *                    |                  |                     |       |
 *                    |                  +-------- fail -------+-------+--> LOSING --told--+
 *                    +------ fail --------------------------------------------------------+--> FAILED
 *
 * NEW      tracked, but every write passes; nobody can read the snapshot
 * HOLDING  every write to the origin is held: the cut is being made
 * ACTIVE   a write passes once all of its blocks are preserved
 * INVALIDATED the snapshot is lost and its reads fail; otherwise as TRACKING
 * TRACKING a write passes once all of its blocks are noted as changed; there is
 *          no snapshot to read
 * LOSING   tracking is lost, which no disk knows yet: every write is held until one
 *          does, or for a short time; every snapshot read fails
 * FAILED   tracking is lost: every write passes, every snapshot read fails
 * CLOSING  as FAILED, while it is taken apart; from any phase
 *
 * In ACTIVE, INVALIDATED and TRACKING a write passes only when the disk knows of it:
 * the regions that it touches are marked on stable storage, and the state there
 * is not clean (I6, the map is true).
 *
 * A series that was saved is taken up again from HOLDING too, by begin or track.
 */
#ifndef COWBIRD_CORE_PROTOCOL_H
#define COWBIRD_CORE_PROTOCOL_H

#include "platform.h"

enum cb_phase {
	CB_PHASE_NEW,
	CB_PHASE_HOLDING,
	CB_PHASE_ACTIVE,
	CB_PHASE_TRACKING,
	CB_PHASE_FAILED,
	CB_PHASE_CLOSING,
	CB_PHASE_INVALIDATED,
	CB_PHASE_LOSING,
	CB_PHASE_COUNT,
};

enum cb_event {
	CB_EVENT_GATE, /* start to hold writes */
	CB_EVENT_BEGIN, /* nothing in flight, header on disk: the epoch begins */
	CB_EVENT_TRACK, /* no snapshot any more, changes go on to be noted */
	CB_EVENT_FAIL, /* changes can no longer be tracked */
	CB_EVENT_CLOSE,
	CB_EVENT_INVALIDATE, /* the snapshot can no longer be kept */
	CB_EVENT_TOLD, /* a disk knows that tracking is lost, or writes cannot wait for it any longer */
	CB_EVENT_COUNT,
};

/* The phase after an event, or -EINVAL where the event has no meaning. */
int cb_phase_next(enum cb_phase phase, enum cb_event event);

enum cb_write_action {
	CB_WRITE_PASS, /* submit it now */
	CB_WRITE_HOLD, /* keep it until the engine says that it may pass */
	CB_WRITE_NOTE, /* note its blocks as changed, then submit it */
	CB_WRITE_ABSORB, /* complete it with success, without doing it */
};

/*
 * What to do with a write. preserved: all blocks that it touches are, or are
 * noted as changed, which is the same bit: within an epoch a block is preserved
 * because it was written. marked: the disk knows of the write, as above.
 * advisory: a discard, which a device is free to ignore; preserving what it
 * touches would cost COW space for all of a filesystem's free blocks, so it is
 * ignored while the snapshot needs any of them. Write-zeroes and secure erase
 * are not advisory.
 */
enum cb_write_action cb_write_decide(enum cb_phase phase, bool preserved, bool marked,
				     bool advisory);

enum cb_read_source {
	CB_READ_ORIGIN, /* provisional: cb_read_confirm decides afterwards */
	CB_READ_MEMORY,
	CB_READ_COW,
	CB_READ_ZERO,
	CB_READ_FAIL,
};

/*
 * Where the T0 content of one block is found. own: the block belongs to the
 * COW file; preserved: its content is readable without the origin; in_memory:
 * it waits in memory to be stored.
 */
enum cb_read_source cb_read_decide(enum cb_phase phase, bool own, bool preserved, bool in_memory);

/*
 * Whether a block that was read from the origin may be returned. preserved and
 * phase must have been sampled after the read of the origin completed: a write
 * to the block is released only once the block is preserved, so a block that
 * is still unpreserved then cannot have been overtaken.
 */
bool cb_read_confirm(enum cb_phase phase, bool preserved);

#endif
