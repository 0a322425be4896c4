/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The few parts of kernel structures that the programs read, and the helpers
 * that they call. Every access is relocated by the loader against the running
 * kernel's BTF (CO-RE), so the layout here means nothing: only names count.
 * A structure with a suffix of three underscores is another kernel's version
 * of the structure without it.
 */
#ifndef COWBIRD_BPF_KERNEL_H
#define COWBIRD_BPF_KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;

/* Values from include/uapi/linux/bpf.h. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_ANY = 0,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
};

struct bpf_raw_tracepoint_args {
	u64 args[0];
};

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))

/* A helper is called by its number; the compiler only needs its signature. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value,
				   u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*bpf_get_current_comm)(void *buffer, u32 size) = (void *)16;
static u64 (*bpf_get_current_task)(void) = (void *)35;
static long (*bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static void *(*bpf_ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct block_device_operations {
	void *submit_bio;
};

struct gendisk {
	int major;
	int first_minor;
	const struct block_device_operations *fops;
};

struct block_device {
	u32 bd_dev;
	struct gendisk *bd_disk;
};

struct bvec_iter {
	u64 bi_sector;
	u32 bi_size;
	u32 bi_idx;
	u32 bi_bvec_done;
};

/* From 7.3 on. */
struct bvec_iter___offset {
	u32 bi_offset;
};

struct bio {
	struct bio *bi_next;
	struct block_device *bi_bdev;
	u32 bi_opf;
	u8 bi_status;
	struct bvec_iter bi_iter;
	struct bio_vec *bi_io_vec;
};

/* Before 5.12 a bio names a disk and the number of a partition. */
struct bio___with_disk {
	struct gendisk *bi_disk;
};

struct request_queue {
	struct gendisk *disk;
};

struct request {
	struct request_queue *q;
	u32 cmd_flags;
	u32 __data_len;
	u64 __sector;
	struct bio *bio;
};

/* Before 5.17 a request names its disk, and its queue does not. */
struct request___with_disk {
	struct gendisk *rq_disk;
};

/* The way from a task to the pages of its pipe, for bpf/layout.h. */
struct mm_struct {
	void *pgd;
};

struct pipe_buffer {
	void *page;
};

struct pipe_inode_info {
	struct pipe_buffer *bufs;
};

struct file {
	void *private_data;
};

struct fdtable {
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct task_struct {
	struct mm_struct *mm;
	struct files_struct *files;
};

#pragma clang attribute pop

/* `struct bio_vec`, read as a whole; the loader checks that the kernel's is laid out so. */
struct cbt_vec {
	u64 bv_page;
	u32 bv_len;
	u32 bv_offset;
};

#define field_exists(field) __builtin_preserve_field_info(field, 2)

/* Never fails where the kernel has handed the pointer over; a null is left null. */
#define PEEK(to, from) bpf_probe_read_kernel(&(to), sizeof(to), &(from))

#endif
