/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What user space asks for: the control device (control.c), the requests for snapshots
 * (request.c), and the report (info.c).
 */
#ifndef COWBIRD_CONTROL_H
#define COWBIRD_CONTROL_H

#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/types.h>

#include "include/uapi/cowbird.h"

struct cb_setup;

/* ---- control.c --------------------------------------------------------- */

/* What an open control device owns: pinned COW files, in the order of pinning. */
struct cb_control {
	struct mutex lock;
	struct file *pinned[COWBIRD_MAX_MINORS];
	u32 pinned_count;
};

int cb_control_init(void);
void cb_control_exit(void);
/* Takes cb_control_mutex; -EINTR where the caller is killed meanwhile. */
int cb_control_lock(void);

/* ---- request.c --------------------------------------------------------- */

/* Requests, as an ioctl carries them. */
int cb_ioctl_setup(struct cb_control *control, struct cowbird_ioc_setup *arg);
int cb_ioctl_setup_set(struct cb_control *control, struct cowbird_ioc_setup_set *arg);
int cb_ioctl_check_frozen(struct cowbird_ioc_check_frozen *arg);

/* Parts that other requests share; each refuses with a reason. */
/* What every request that makes a snapshot says alike. */
int cb_check_request(char *reason, u32 abi_version, u32 minor, u64 cache_bytes, u32 timeout_ms);
int cb_check_bounds(char *reason, u32 minor, u64 cache_bytes);
/* The list of extents from user space; setup->extents is the caller's to free. */
int cb_setup_copy_extents(struct cb_setup *setup, u64 extents, u32 count);
/* A pinned file, and the device that it is on. */
int cb_setup_take_pinned(struct cb_control *control, u32 index, struct cb_setup *setup);

/* ---- info.c ------------------------------------------------------------ */

int cb_info_init(void);
void cb_info_exit(void);

#endif
