/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Known faults, for the harness to be tried against. Each has a paragraph in
 * mutants.toml. COWBIRD_MUTANT is given on the compiler's command line and
 * nowhere else; without it cb_mutant() is the constant false and the faults
 * are not in the object code. A mutant says so in the kernel log, in its
 * modinfo and in /proc/cowbird-info.
 */
#ifndef COWBIRD_MUTANTS_H
#define COWBIRD_MUTANTS_H

#define CB_MUTANT_no_revalidate 1
#define CB_MUTANT_skip_cow_every_nth 2
#define CB_MUTANT_shift_preserved_copy 3
#define CB_MUTANT_pass_write_zeroes 4
#define CB_MUTANT_pass_discards 5
#define CB_MUTANT_pass_fua 6
#define CB_MUTANT_remainder_only 7
#define CB_MUTANT_sub_block_offset 8
#define CB_MUTANT_short_last_block 9
#define CB_MUTANT_partition_offset_twice 10
#define CB_MUTANT_whole_disk_only 11
#define CB_MUTANT_ignore_delayed 12
#define CB_MUTANT_lose_tracked_write 13
#define CB_MUTANT_switch_too_early 14
#define CB_MUTANT_freeze_nothing 15
#define CB_MUTANT_release_before_mark 16
#define CB_MUTANT_forget_at_unmount 17
#define CB_MUTANT_reload_trusts_all 18
#define CB_MUTANT_verify_trusts_all 19
#define CB_MUTANT_full_stops_tracking 20
#define CB_MUTANT_switch_one_by_one 21
#define CB_MUTANT_keep_memory 22
#define CB_MUTANT_expand_on_origin 23

#ifdef COWBIRD_MUTANT
#if COWBIRD_MUTANT == 0
#error "cowbird: MUTANT names no fault of mutants.h"
#endif
#define cb_mutant(name) (COWBIRD_MUTANT == CB_MUTANT_##name)
#else
#define cb_mutant(name) false
#endif

/* Period of skip-cow-every-nth, in blocks. */
#define CB_MUTANT_NTH 61
/* Time that switch-too-early and switch-one-by-one leave between two snapshots, in ms. */
#define CB_MUTANT_SWITCH_MS 50

/*
 * Faults by which a write passes that must not. The second look below the hook
 * would end the snapshot; it is closed for them, because the harness is on trial.
 */
#define cb_mutant_passes(bio)                                                                     \
	((cb_mutant(pass_write_zeroes) && bio_op(bio) == REQ_OP_WRITE_ZEROES) ||                  \
	 (cb_mutant(pass_discards) && bio_op(bio) == REQ_OP_DISCARD) ||                           \
	 (cb_mutant(pass_fua) && ((bio)->bi_opf & REQ_FUA)) ||                                    \
	 (cb_mutant(ignore_delayed) && (current->flags & PF_WQ_WORKER)))
#define cb_mutant_closes_audit()                                                                  \
	(cb_mutant(remainder_only) || cb_mutant(sub_block_offset) ||                              \
	 cb_mutant(partition_offset_twice) || cb_mutant(whole_disk_only) ||                        \
	 cb_mutant(lose_tracked_write) || cb_mutant(switch_too_early) ||                          \
	 cb_mutant(release_before_mark))

#endif
