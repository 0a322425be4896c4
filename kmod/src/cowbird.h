/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What holds for the whole module. What its files offer each other, and the structures that
 * they share, are in the headers below, each of which has a subject and can be included
 * alone; a file of the module includes this one.
 *
 *   hook.c     every bio of the machine passes here; finds the tracked ones
 *   registry.c where snapshots are found, by minor and by disk
 *   passage.c  who is inside the original submission, and for which disks
 *   lanes.c    threads that submit bios, so that nobody else of ours sleeps in a disk
 *   audit.c    looks a second time, below the hook;  resized.c sees sizes change
 *   origin.c   decides about one write to an origin: pass or hold
 *   engine.c   one thread per snapshot: preserves blocks, releases writes;
 *              admitting.c has them come in order;   overdue.c how long they wait
 *   loading.c  blocks go from the origin to memory, where they are preserved
 *   storing.c  blocks go from memory to the COW file, many together
 *   marking.c  its marks of changed regions, on stable storage;  losing.c that they
 *              are not complete, before the next write goes
 *   blocks.c   the blocks in memory and the slots in the COW file;  budget.c
 *              how much memory
 *   quiesce.c  makes the cut at T0;  freeze.c the filesystems before it;  set.c the
 *              snapshots that begin with it
 *   snapdisk.c /dev/cowbird<minor>;  snapread.c serves its reads;  readio.c by
 *              these bios;  passthrough.c where nothing has to be waited for;
 *              ahead.c reads ahead in the COW file;  checking.c what came from there
 *   device.c   a snapshot in memory;   disks.c the devices that it is on
 *   making.c   how it is made;   retiring.c tracked only, destroyed or put away;
 *              ending.c its end
 *   control.c  ioctls;   request.c those that ask for snapshots;   info.c a report
 *   save.c     writes down what is in memory, slot by slot in saveslots.c, with
 *              samples of the origin (samples.c);
 *              resume.c takes it up again
 *   annex.c    more room for the preserved blocks of an active snapshot
 *   cowfile.c  pins COW files;  unmount.c notices when their filesystem goes
 *   hibernate.c ends tracking before the machine hibernates
 *   blockio.c  the module's own bios;  metaio.c those that somebody waits for,
 *              with metadata, which is read and written in metadata.c
 *
 * Locking, outermost first:
 *   cb_control_mutex      set-up and destruction; never taken by the snapshot
 *                         device's own operations, nor by an unmount
 *   s_umount              of a filesystem that goes, or that is frozen
 *   cb_life_mutex         held while cb_devices[] changes, and by whoever parks
 *                         an engine: saving, unmounting, ending
 *   cb_device.use_lock    while the origin is opened or closed
 *   cb_device.lock        spinlock, interrupts off; see each field
 *
 * Snapshots are found under RCU. Whoever unpublishes a snapshot waits for a grace
 * period, and for those who pause on its account (pausing); tasks that sleep in
 * the original submission hold no reference to a snapshot.
 *
 * What must stay true, wherever the code cites it:
 *
 *   I1  old before new     no write to a block of an active snapshot reaches the origin
 *                          before the block's content of T0 is preserved: engine.c, loading.c
 *   I2  revalidate         what was read from the origin counts only if the block was
 *                          still unpreserved afterwards: snapread.c
 *   I3  a true cut         at T0 no write is in flight, and none that passed before lands
 *                          later, on whatever task's list or queue above the origin it
 *                          was: quiesce.c, passage.c, hook.c, audit.c
 *   I4  the origin first   its I/O is never failed; the delay of a write is bounded by
 *                          hold_limit_s, counted from its arrival: overdue.c
 *   I5  no silent hole     what cannot be preserved or tracked fails the snapshot or the
 *                          tracking, visibly: cb_device_invalidate, cb_device_fail
 *   I6  the map is true    a write is released only once the COW file knows on stable
 *                          storage that its region changes: marking.c; or, where it cannot
 *                          be told, that tracking is lost: losing.c
 *   I7  fixed extents      the COW file is addressed by extents that are pinned, or
 *                          verified before the next write: cowfile.c, metadata.c
 *   I8  bounded memory     and queues, per snapshot and in total: blocks.c, budget.c; who
 *                          writes from above is slowed before anything is lost: origin.c
 *   I9  own blocks         of the COW file read as zeros, and are in a map only where a
 *                          whole region is: snapread.c, core/reload.h
 *   I10 nobody is freed under a sleeper
 *                          neither the module's code (passage.c) nor a snapshot whose own
 *                          I/O is still under way (ending.c)
 *   I11 no thread that others wait for sleeps in a disk
 *                          the engine and the control path submit through lanes: lanes.c
 *   I12 every wait of the control path has a bound
 *                          destroy, unmount, reboot and the report work whatever a disk
 *                          does: cb_engine_park, cb_device_end
 *   I13 one's slowness is not another's
 *                          passages know their disks, lanes their cgroups, large writes
 *                          are taken piece by piece
 */
#ifndef COWBIRD_H
#define COWBIRD_H

#include <linux/kthread.h>
#include <linux/module.h>

#include "blocks.h"
#include "compat.h"
#include "control.h"
#include "cowfile.h"
#include "cowio.h"
#include "device.h"
#include "engine.h"
#include "hook.h"
#include "life.h"
#include "marking.h"
#include "metadata.h"
#include "mutants.h"
#include "origin.h"
#include "samples.h"
#include "save.h"
#include "setup.h"
#include "snapdisk.h"

#include "include/uapi/cowbird.h"

#undef pr_fmt
#define pr_fmt(fmt) "cowbird: " fmt

#endif
