/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs put into the ring buffer; read by tracer/src/decoder.rs.
 * No padding, the machine's byte order. Both structures begin alike.
 */
#ifndef COWBIRD_BPF_EVENT_H
#define COWBIRD_BPF_EVENT_H

enum cbt_kind {
	CBT_BIO_QUEUE = 1,
	CBT_RQ_ISSUE = 2,
	CBT_RQ_COMPLETE = 3,
	CBT_BIO_COMPLETE = 4,
	CBT_FINGERPRINT = 5,
	/* The module's events; see tracer/EVENTS.md. */
	CBT_INTERCEPT = 16,
	CBT_PRESERVE_BEGIN = 17,
	CBT_PRESERVE_COMPLETE = 18,
	CBT_PRESERVE_STORE = 19,
	CBT_RELEASE = 20,
	CBT_SNAPSHOT_READ = 21,
	CBT_EPOCH = 22,
	CBT_STATE = 23,
	CBT_OVERFLOW = 24,
	CBT_ERROR = 25,
	CBT_CHANGE = 26,
};

enum cbt_mark {
	/* A field or some content could not be read and is zero. */
	CBT_READ_FAULT = 1,
	/* Place and length come from the queueing of the same bio. */
	CBT_FROM_QUEUE = 2,
	/* Recorded by a later program, because the first was busy. */
	CBT_RESCUED = 4,
	/* `second` is the fingerprint of all the content. */
	CBT_PRINTED = 8,
};

/* 88 bytes. */
struct cbt_event {
	u64 time_ns;	/* CLOCK_MONOTONIC */
	u16 cpu;
	u8 kind;	/* enum cbt_kind */
	u8 marks;	/* enum cbt_mark */
	u32 disk;	/* dev_t of the whole disk, or the module's minor */
	u64 object;	/* address of the bio or request; 0 in the module's events */
	u64 first;	/* sector of the whole disk, or the module's first u64 */
	u64 second;	/* fingerprint, or the module's second u64 */
	u64 parent;	/* of a request: address of its first bio; otherwise 0 */
	u32 amount;	/* bytes, or the module's last u32 */
	u32 opf;	/* operation and flags as this kernel numbers them */
	u32 bdev;	/* dev_t that the bio names, 0 where the kernel has none */
	s32 status;	/* as the kernel has it: blk_status_t or -errno */
	u32 tgid;	/* 0 at completions: whoever was interrupted */
	u32 tid;
	char comm[16];
};

#define CBT_PRINTS 16

/* 168 bytes: fingerprints of blocks that follow each other, or of one shorter piece. */
struct cbt_prints {
	u64 time_ns;
	u16 cpu;
	u8 kind;	/* CBT_FINGERPRINT */
	u8 marks;
	u32 disk;
	u64 object;	/* of the event that these belong to */
	u64 sector;	/* of the first; the others are 8 further each */
	u16 bytes;	/* that each was computed of: 4096, or less if it is one */
	u16 count;
	u32 opf;
	u64 hash[CBT_PRINTS];
};

/* One per CPU. produced == received by user space + dropped + limited, exactly. */
struct cbt_counters {
	u64 produced;
	u64 dropped;	  /* the ring buffer was full */
	u64 read_faults;  /* fields or blocks that could not be read */
	u64 rescued;	  /* events with CBT_RESCUED */
	u64 mark_failures; /* events that may be there twice */
	u64 skipped_first;  /* events outside the filter, seen by first programs */
	u64 skipped_second; /* and by second ones; see cowbird_trace.bpf.c */
	u64 limited;	  /* beyond the rate limit */
	u64 second_ns;	  /* when the rate limit's second began */
	u64 second_events; /* events in it */
};

#endif
