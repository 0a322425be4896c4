/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every difference between kernels, in one place: the headers compat_*.h, each with a
 * subject, and here what belongs to none of these. The HAVE_ macros come from the compile
 * probes; a kernel that fits none of the known forms stops the build there, with a message,
 * rather than somewhere else.
 */
#ifndef COWBIRD_COMPAT_H
#define COWBIRD_COMPAT_H

#include <linux/ftrace.h>
#include <linux/highmem.h>
#include <linux/list_sort.h>

#include "compat_bdev.h"
#include "compat_bio.h"
#include "compat_disk.h"
#include "compat_known.h"
#include "cowbird_config.h"

/* ---- memory and lists -------------------------------------------------- */

#ifdef HAVE_KMAP_LOCAL
#define cb_kmap(page) kmap_local_page(page)
#define cb_kunmap(address) kunmap_local(address)
#else
#define cb_kmap(page) kmap_atomic(page)
#define cb_kunmap(address) kunmap_atomic(address)
#endif

/* What list_sort gives its comparison. */
#ifdef HAVE_LIST_SORT_CONST
typedef const struct list_head *cb_list_sort_arg;
#else
typedef struct list_head *cb_list_sort_arg;
#endif

/* ---- interception ------------------------------------------------------ */

#ifdef HAVE_FTRACE_REGS
#define CB_FTRACE_REGS struct ftrace_regs
#define cb_ftrace_pt_regs(fregs) ftrace_get_regs(fregs)
#else
#define CB_FTRACE_REGS struct pt_regs
#define cb_ftrace_pt_regs(fregs) (fregs)
#endif

/*
 * The callbacks keep no state, so that they may nest; they must not be skipped
 * by ftrace's recursion guard either: a skipped callback is a missed write.
 */
#ifdef HAVE_FTRACE_RECURSION_SAFE
#define CB_FTRACE_WATCH_FLAGS                                                                     \
	(FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_PERMANENT | FTRACE_OPS_FL_RECURSION_SAFE)
#else
#define CB_FTRACE_WATCH_FLAGS (FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_PERMANENT)
#endif
#define CB_FTRACE_REPLACE_FLAGS (CB_FTRACE_WATCH_FLAGS | FTRACE_OPS_FL_IPMODIFY)

#endif
