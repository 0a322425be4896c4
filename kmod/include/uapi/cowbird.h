/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The one source of Cowbird's user-space ABI and of its on-disk format.
 *
 * Rules: fixed-width types only, explicit padding, pointers as __u64, every
 * structure's size asserted at the end of this file. The Rust bindings in
 * abi/ are generated from here; a difference between the two fails the tests.
 */
#ifndef _UAPI_COWBIRD_H
#define _UAPI_COWBIRD_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Raised with every incompatible change of a structure below. */
#define COWBIRD_ABI_VERSION 4

#define COWBIRD_VERSION "0.1.0"

/* Control device, and the name that numbered snapshot devices start with. */
#define COWBIRD_CONTROL_NAME "cowbird-control"
#define COWBIRD_DISK_PREFIX "cowbird"
#define COWBIRD_PROC_NAME "cowbird-info"

/* The unit of preservation and of every verdict. */
#define COWBIRD_BLOCK_BYTES 4096
#define COWBIRD_SECTOR_BYTES 512

/* Snapshot devices are /dev/cowbird0 to /dev/cowbird<COWBIRD_MAX_MINORS - 1>. */
#define COWBIRD_MAX_MINORS 256

/* Bounds of one setup request. */
#define COWBIRD_MAX_EXTENTS (1024 * 1024)
#define COWBIRD_MAX_FREEZE_FDS 64
#define COWBIRD_MAX_FREEZE_DEVICES 4096
#define COWBIRD_MIN_CACHE_BYTES (1024 * 1024)
#define COWBIRD_UUID_BYTES 16
#define COWBIRD_PATH_BYTES 512
#define COWBIRD_REASON_BYTES 192

/*
 * One physical piece of the COW file.
 * Units: 512-byte sectors, relative to the start of the block device that
 * carries the COW file's filesystem.
 */
struct cowbird_extent {
	__u64 sector;
	__u64 sectors;
};

/*
 * COWBIRD_IOC_PIN: fixes the extents of a COW file.
 *
 * The inode is marked as a swap file is, so that the filesystem refuses to
 * write, truncate, move or unlink it. The pin belongs to the control device's
 * open file: closing that without a successful COWBIRD_IOC_SETUP undoes it. As many
 * files may be pinned through it as there are snapshots in one set.
 * Only after the pin may user space ask the filesystem for the extents.
 */
struct cowbird_ioc_pin {
	__s32 cow_fd;
	__u32 reserved;
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * A block device that may carry a filesystem with writes to the origin, whoever has mounted
 * it: the origin, its partitions, and what is stacked on them.
 */
struct cowbird_freeze_device {
	__u32 major;
	__u32 minor;
	__u32 flags; /* COWBIRD_FREEZE_* */
	__u32 reserved;
};

/*
 * Who has claimed the device is known, and need not be frozen: devices stacked on it, which are
 * named themselves; users of its partitions; swap.
 */
#define COWBIRD_FREEZE_HARMLESS 1

/*
 * COWBIRD_IOC_CHECK_FROZEN: EBUSY if one of these filesystems is frozen already. To be asked
 * before a file is made on one of them, which would wait for the thaw.
 */
struct cowbird_ioc_check_frozen {
	__u32 abi_version;
	__u32 freeze_fd_count;
	__u64 freeze_fds; /* as in a set-up */
	__u64 freeze_devices; /* as in a set-up */
	__u32 freeze_device_count;
	__u32 reserved;
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * COWBIRD_IOC_SETUP: takes a snapshot of one origin, using the pinned COW file.
 *
 * Every filesystem named by freeze_fds, or mounted from one of freeze_devices, is frozen,
 * which is verified, before the origin is drained and the epoch begins; all are thawed before return.
 * EBUSY if one is frozen already.
 */
struct cowbird_ioc_setup {
	__u32 abi_version;
	__u32 minor;
	__u32 origin_major; /* device number of the origin */
	__u32 origin_minor;
	__u64 cache_bytes; /* bound of preserved blocks in memory */
	__u64 extents; /* pointer to struct cowbird_extent[] */
	__u32 extent_count;
	__u32 freeze_fd_count;
	__u64 freeze_fds; /* pointer to __s32[]: any file of each filesystem */
	__u64 freeze_devices; /* pointer to struct cowbird_freeze_device[] */
	__u32 freeze_device_count;
	__u32 reserved;
	__u8 uuid[COWBIRD_UUID_BYTES]; /* of the series */
	__u64 epoch;
	__u32 timeout_ms; /* bound of the time in which writes are held at T0 */
	__u32 flags; /* COWBIRD_SETUP_* */
	__u8 boot_id[COWBIRD_UUID_BYTES]; /* /proc/sys/kernel/random/boot_id */
	char origin_path[COWBIRD_PATH_BYTES]; /* for display only */
	char cow_path[COWBIRD_PATH_BYTES]; /* for display only */
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * The minor is in state "active incremental": its series goes on with a new
 * snapshot and the same COW file. No file is pinned, extents are not given,
 * and uuid and epoch follow from the series.
 */
#define COWBIRD_SETUP_CONTINUE 1

/*
 * COWBIRD_IOC_SETUP_SET: takes snapshots of several origins at one instant. Writes
 * to all of them are held at the same time and none is in flight: what was written
 * after another write had completed is in an image only if that other one is.
 *
 * Either all of them are taken, or none. Members that begin a series take the files
 * that were pinned through this control device, in the order of pinning. Instead of
 * the members' timeout_ms and reason, those below count.
 */
struct cowbird_ioc_setup_set {
	__u32 abi_version;
	__u32 count; /* 1 to COWBIRD_MAX_MINORS */
	__u64 setups; /* pointer to struct cowbird_ioc_setup[] */
	__u32 timeout_ms; /* bound of the time in which writes are held, all members together */
	__u32 blamed; /* out: index of the member that was refused; or count */
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * COWBIRD_IOC_TRACK: gives a snapshot up, and goes on to note which blocks
 * change ("active incremental"). Refused with EBUSY while it is open.
 */
struct cowbird_ioc_track {
	__u32 minor;
	__u32 reserved;
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * COWBIRD_IOC_CHANGES: the blocks that were written between the epoch before
 * and the epoch of an active snapshot, as a bitmap: bit n % 64 of word n / 64
 * (little endian words) is block n. A superset of the blocks that differ.
 * ENODATA when there is no earlier epoch: a full backup is needed.
 */
struct cowbird_ioc_changes {
	__u32 minor;
	__u32 reserved;
	__u64 first_word; /* where to start, in 64-bit words */
	__u64 word_count; /* in: room at words; out: words copied */
	__u64 words; /* pointer to __u64[] */
	__u8 uuid[COWBIRD_UUID_BYTES]; /* out: of the series */
	__u64 from_epoch; /* out */
	__u64 to_epoch; /* out */
	__u64 block_count; /* out: of the origin */
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * COWBIRD_IOC_RELOAD: takes a series up again from its COW file, which need not
 * be mounted. It is found from the place of its first slot alone, and believed
 * only where it is what the module has left there. ESTALE: tracking is lost, and
 * a full backup needed.
 *
 * Until COWBIRD_IOC_VERIFY nothing but metadata is written to the COW file.
 */
struct cowbird_ioc_reload {
	__u32 abi_version;
	__u32 minor;
	__u32 origin_major; /* device number of the origin */
	__u32 origin_minor;
	__u32 cow_major; /* device number of the COW file's filesystem */
	__u32 cow_minor;
	__u64 cow_sector; /* of the COW file's first slot, on that device */
	__u64 cache_bytes; /* bound of preserved blocks in memory */
	__u32 timeout_ms; /* bound of the time in which writes are held */
	__u32 flags; /* COWBIRD_RELOAD_* */
	__u8 boot_id[COWBIRD_UUID_BYTES]; /* /proc/sys/kernel/random/boot_id */
	__u8 uuid[COWBIRD_UUID_BYTES]; /* of the series that it must be; all zeros for any */
	__u32 state; /* out: COWBIRD_STATE_* */
	__u32 reserved;
	char origin_path[COWBIRD_PATH_BYTES]; /* for display only */
	char cow_path[COWBIRD_PATH_BYTES]; /* for display only */
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * The snapshot goes on where it was saved. Otherwise, and without this flag, only
 * changes go on to be tracked; state tells which.
 */
#define COWBIRD_RELOAD_SNAPSHOT 1

/*
 * The origin is known to be that of the series. If it was written to while nothing was
 * tracked, the COW file says from then on that tracking is lost, for no later boot can
 * see that any more.
 */
#define COWBIRD_RELOAD_FINAL 2

/*
 * COWBIRD_IOC_VERIFY: the pinned file is the COW file of a series that was taken
 * up again, or whose filesystem was unmounted. Its extents must be those in use;
 * otherwise the series ends, and ESTALE says so.
 */
struct cowbird_ioc_verify {
	__u32 minor;
	__u32 extent_count;
	__u64 extents; /* pointer to struct cowbird_extent[] */
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * COWBIRD_IOC_EXPAND: the pinned file is more room for the preserved blocks of an
 * active snapshot, until that ends. It must be on the COW file's filesystem, and not
 * on the origin of any snapshot. Nobody but the module needs its name.
 */
struct cowbird_ioc_expand {
	__u32 minor;
	__u32 extent_count;
	__u64 extents; /* pointer to struct cowbird_extent[] */
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * COWBIRD_IOC_SUSPEND: saves a series and removes it from memory, so that the
 * module can be unloaded. Refused with EBUSY while the origin is mounted.
 */
struct cowbird_ioc_suspend {
	__u32 minor;
	__u32 reserved;
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/*
 * COWBIRD_IOC_RECONFIGURE: another bound of preserved blocks in memory for an
 * active snapshot. A smaller one is kept when this returns; EBUSY when blocks could
 * not be stored in time, and then the bound is what is left.
 */
struct cowbird_ioc_reconfigure {
	__u32 minor;
	__u32 reserved;
	__u64 cache_bytes;
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

/* COWBIRD_IOC_DESTROY: ends a snapshot; refused with EBUSY while it is open. */
struct cowbird_ioc_destroy {
	__u32 minor;
	__u32 reserved;
	char reason[COWBIRD_REASON_BYTES]; /* out: why it was refused */
};

#define COWBIRD_IOC_MAGIC 0xCB
#define COWBIRD_IOC_PIN_NR 1
#define COWBIRD_IOC_SETUP_NR 2
#define COWBIRD_IOC_DESTROY_NR 3
#define COWBIRD_IOC_TRACK_NR 4
#define COWBIRD_IOC_CHANGES_NR 5
#define COWBIRD_IOC_RELOAD_NR 6
#define COWBIRD_IOC_VERIFY_NR 7
#define COWBIRD_IOC_SUSPEND_NR 8
#define COWBIRD_IOC_SETUP_SET_NR 9
#define COWBIRD_IOC_RECONFIGURE_NR 10
#define COWBIRD_IOC_EXPAND_NR 11
#define COWBIRD_IOC_CHECK_FROZEN_NR 12
#define COWBIRD_IOC_PIN _IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_PIN_NR, struct cowbird_ioc_pin)
#define COWBIRD_IOC_SETUP _IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_SETUP_NR, struct cowbird_ioc_setup)
#define COWBIRD_IOC_SETUP_SET                                                                     \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_SETUP_SET_NR, struct cowbird_ioc_setup_set)
#define COWBIRD_IOC_RECONFIGURE                                                                   \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_RECONFIGURE_NR, struct cowbird_ioc_reconfigure)
#define COWBIRD_IOC_DESTROY                                                                       \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_DESTROY_NR, struct cowbird_ioc_destroy)
#define COWBIRD_IOC_TRACK _IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_TRACK_NR, struct cowbird_ioc_track)
#define COWBIRD_IOC_CHANGES                                                                       \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_CHANGES_NR, struct cowbird_ioc_changes)

#define COWBIRD_IOC_RELOAD                                                                        \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_RELOAD_NR, struct cowbird_ioc_reload)
#define COWBIRD_IOC_VERIFY                                                                        \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_VERIFY_NR, struct cowbird_ioc_verify)
#define COWBIRD_IOC_EXPAND                                                                        \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_EXPAND_NR, struct cowbird_ioc_expand)
#define COWBIRD_IOC_SUSPEND                                                                       \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_SUSPEND_NR, struct cowbird_ioc_suspend)
#define COWBIRD_IOC_CHECK_FROZEN                                                                  \
	_IOWR(COWBIRD_IOC_MAGIC, COWBIRD_IOC_CHECK_FROZEN_NR, struct cowbird_ioc_check_frozen)

/*
 * The state field of /proc/cowbird-info. Dormant: saved, and nothing was written
 * since; its COW file is not pinned. Unverified: as that, but written.
 */
#define COWBIRD_STATE_DORMANT_INCREMENTAL 0
#define COWBIRD_STATE_DORMANT_SNAPSHOT 1
#define COWBIRD_STATE_ACTIVE_INCREMENTAL 2
#define COWBIRD_STATE_ACTIVE_SNAPSHOT 3
#define COWBIRD_STATE_UNVERIFIED_INCREMENTAL 4
#define COWBIRD_STATE_UNVERIFIED_SNAPSHOT 5

/*
 * Epoch header: the first 4096-byte slot of the COW file, little endian.
 *
 *   0  magic "COWBIRD\x01"        64  origin_start, sectors of its disk
 *   8  format_version             72  before_epoch: whose marks are kept; or 0
 *  12  header_bytes (4096)        80  sector of this header on its disk
 *  16  uuid of the series         88  extents_sector: of the slot behind it
 *  32  epoch                      96  data_first: slots of metadata
 *  40  origin_sectors (512 B)    104  region_shift: blocks of a region, log2
 *  48  cow_slots, all of them    108  reserved, zeros
 *  56  flags                     508  crc32c of bytes 0..508
 *  60  extent_count              512  zeros ... 4092 crc32c of bytes 0..4092
 *
 * It is written with FUA while the origin is quiet, so that its place in a log
 * of the disk's writes is the snapshot instant. The other metadata slots are
 * described in core/layout.h and core/meta.h.
 */
#define COWBIRD_HEADER_MAGIC "COWBIRD\x01"
#define COWBIRD_HEADER_MAGIC_BYTES 8
#define COWBIRD_HEADER_VERSION 3
#define COWBIRD_HEADER_BYTES 4096

/* Flag of a header: the COW file lies on the disk of the origin. */
#define COWBIRD_HEADER_COW_ON_ORIGIN 1
/* Flag of a header: each block that this epoch preserves has a checksum in the index. 2 is not used. */
#define COWBIRD_HEADER_SUMS 4

struct cowbird_header {
	__u8 magic[COWBIRD_HEADER_MAGIC_BYTES];
	__le32 format_version;
	__le32 header_bytes;
	__u8 uuid[COWBIRD_UUID_BYTES];
	__le64 epoch;
	__le64 origin_sectors;
	__le64 cow_slots;
	__le32 flags;
	__le32 extent_count;
	__le64 origin_start;
	__le64 before_epoch;
	__le64 sector;
	__le64 extents_sector;
	__le64 data_first;
	__le32 region_shift;
	__u8 reserved[400];
	__le32 sector_crc32c;
	__u8 zeros[3580];
	__le32 crc32c;
};

_Static_assert(sizeof(struct cowbird_extent) == 16, "ABI: cowbird_extent");
_Static_assert(sizeof(struct cowbird_ioc_pin) == 200, "ABI: cowbird_ioc_pin");
_Static_assert(sizeof(struct cowbird_freeze_device) == 16, "ABI: cowbird_freeze_device");
_Static_assert(sizeof(struct cowbird_ioc_check_frozen) == 224, "ABI: cowbird_ioc_check_frozen");
_Static_assert(sizeof(struct cowbird_ioc_setup) == 1328, "ABI: cowbird_ioc_setup");
_Static_assert(sizeof(struct cowbird_ioc_setup_set) == 216, "ABI: cowbird_ioc_setup_set");
_Static_assert(sizeof(struct cowbird_ioc_reconfigure) == 208, "ABI: cowbird_ioc_reconfigure");
_Static_assert(sizeof(struct cowbird_ioc_destroy) == 200, "ABI: cowbird_ioc_destroy");
_Static_assert(sizeof(struct cowbird_ioc_track) == 200, "ABI: cowbird_ioc_track");
_Static_assert(sizeof(struct cowbird_ioc_changes) == 264, "ABI: cowbird_ioc_changes");
_Static_assert(sizeof(struct cowbird_ioc_reload) == 1304, "ABI: cowbird_ioc_reload");
_Static_assert(sizeof(struct cowbird_ioc_verify) == 208, "ABI: cowbird_ioc_verify");
_Static_assert(sizeof(struct cowbird_ioc_expand) == 208, "ABI: cowbird_ioc_expand");
_Static_assert(sizeof(struct cowbird_ioc_suspend) == 200, "ABI: cowbird_ioc_suspend");
_Static_assert(sizeof(struct cowbird_header) == COWBIRD_HEADER_BYTES, "format: cowbird_header");

#endif /* _UAPI_COWBIRD_H */
