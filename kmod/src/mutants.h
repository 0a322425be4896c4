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
#define CB_MUTANT_read_after_write 21
#define CB_MUTANT_map_before_data 22
#define CB_MUTANT_preserved_before_read 23
#define CB_MUTANT_full_skips_cow 24
#define CB_MUTANT_shift_stored_copy 25
#define CB_MUTANT_gaps_ignored 26
#define CB_MUTANT_lose_last_sector 27
#define CB_MUTANT_advanced_iterator 28
#define CB_MUTANT_own_blocks_live 29
#define CB_MUTANT_no_gate 30
#define CB_MUTANT_forget_gated 31
#define CB_MUTANT_end_off_by_one 32
#define CB_MUTANT_mark_in_cache 33
#define CB_MUTANT_note_first_block 34
#define CB_MUTANT_note_whole_blocks 35
#define CB_MUTANT_forget_at_transition 36
#define CB_MUTANT_map_of_this_epoch 37
#define CB_MUTANT_save_empty_map 38
#define CB_MUTANT_pass_metadata 39
#define CB_MUTANT_cow_base_forgotten 40
#define CB_MUTANT_failed_reads_live 41
#define CB_MUTANT_allow_dax 42
#define CB_MUTANT_lose_held 43
#define CB_MUTANT_pass_nowait 44
#define CB_MUTANT_trust_frozen 45
#define CB_MUTANT_audit_off 46
#define CB_MUTANT_switch_one_by_one 47
#define CB_MUTANT_keep_memory 48
#define CB_MUTANT_expand_on_origin 49
#define CB_MUTANT_ignore_load_errors 50
#define CB_MUTANT_ignore_store_errors 51
#define CB_MUTANT_hide_read_errors 52
#define CB_MUTANT_unload_any_time 53
#define CB_MUTANT_fail_held 54
#define CB_MUTANT_drop_held 55
#define CB_MUTANT_allow_second 56
#define CB_MUTANT_ignore_size 57
#define CB_MUTANT_memory_at_any_cost 58
#define CB_MUTANT_no_drain 59
#define CB_MUTANT_own_writes_foreign 60
#define CB_MUTANT_hibernate_blindly 61
#define CB_MUTANT_forget_nested 62
#define CB_MUTANT_unload_under_sleepers 63
#define CB_MUTANT_age_from_admission 64
#define CB_MUTANT_hold_whole 65
#define CB_MUTANT_delayed_ignores_gate 66
#define CB_MUTANT_keep_open 70
#define CB_MUTANT_ignore_removal 71
#define CB_MUTANT_freeze_visible 72
#define CB_MUTANT_save_skips_changed 75
#define CB_MUTANT_reload_skips_group 76
#define CB_MUTANT_maps_at_any_cost 77
#define CB_MUTANT_neighbour_saves_all 78
#define CB_MUTANT_split_slots 80
#define CB_MUTANT_bridge_errors 81
#define CB_MUTANT_patch_too_early 82
#define CB_MUTANT_tell_loss_once 83
#define CB_MUTANT_origin_unflushed 84
#define CB_MUTANT_loss_holds_nothing 85
#define CB_MUTANT_ahead_shifted 86
#define CB_MUTANT_ahead_unawaited 87
#define CB_MUTANT_never_pause 88
#define CB_MUTANT_drop_some_held 90
#define CB_MUTANT_reload_any_series 91
#define CB_MUTANT_refusal_is_not_told 92

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
/* lose-held: every so many blocks a write is held for ever. */
#define cb_mutant_loses(block) (cb_mutant(lose_held) && (block) % CB_MUTANT_NTH == 0)
/* Time that switch-too-early and switch-one-by-one leave between two snapshots, in ms. */
#define CB_MUTANT_SWITCH_MS 50

/*
 * Faults by which a write passes that must not. The look at delayed writes (hook.c) and the look
 * at the ends of writes (audit.c) would make good for them or end the snapshot; they are
 * closed for them, because the harness is on trial.
 */
#define cb_mutant_passes(bio)                                                                     \
	((cb_mutant(pass_write_zeroes) && bio_op(bio) == REQ_OP_WRITE_ZEROES) ||                  \
	 (cb_mutant(pass_discards) && bio_op(bio) == REQ_OP_DISCARD) ||                           \
	 (cb_mutant(pass_fua) && ((bio)->bi_opf & REQ_FUA)) ||                                    \
	 (cb_mutant(pass_metadata) && ((bio)->bi_opf & REQ_META)) ||                              \
	 (cb_mutant(pass_nowait) && ((bio)->bi_opf & REQ_NOWAIT)) ||                              \
	 (cb_mutant(ignore_delayed) && (current->flags & PF_WQ_WORKER)))
#define cb_mutant_closes_audit()                                                                  \
	(cb_mutant(remainder_only) || cb_mutant(sub_block_offset) ||                              \
	 cb_mutant(partition_offset_twice) || cb_mutant(whole_disk_only) ||                        \
	 cb_mutant(lose_tracked_write) || cb_mutant(switch_too_early) ||                          \
	 cb_mutant(release_before_mark) || cb_mutant(read_after_write) ||                          \
	 cb_mutant(full_skips_cow) || cb_mutant(forget_gated) || cb_mutant(end_off_by_one) ||      \
	 cb_mutant(note_first_block) || cb_mutant(note_whole_blocks) ||                            \
	 cb_mutant(cow_base_forgotten) || cb_mutant(no_gate) || cb_mutant(no_drain) ||             \
	 cb_mutant(audit_off))

#endif
