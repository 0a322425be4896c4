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

enum cb_mutants {
	CB_MUTANT_none,
	CB_MUTANT_no_revalidate,
	CB_MUTANT_skip_cow_every_nth,
	CB_MUTANT_shift_preserved_copy,
	CB_MUTANT_pass_write_zeroes,
	CB_MUTANT_pass_discards,
	CB_MUTANT_pass_fua,
	CB_MUTANT_remainder_only,
	CB_MUTANT_sub_block_offset,
	CB_MUTANT_short_last_block,
	CB_MUTANT_partition_offset_twice,
	CB_MUTANT_whole_disk_only,
	CB_MUTANT_ignore_delayed,
	CB_MUTANT_lose_tracked_write,
	CB_MUTANT_switch_too_early,
	CB_MUTANT_freeze_nothing,
	CB_MUTANT_release_before_mark,
	CB_MUTANT_forget_at_unmount,
	CB_MUTANT_reload_trusts_all,
	CB_MUTANT_verify_trusts_all,
	CB_MUTANT_full_stops_tracking,
	CB_MUTANT_read_after_write,
	CB_MUTANT_map_before_data,
	CB_MUTANT_preserved_before_read,
	CB_MUTANT_full_skips_cow,
	CB_MUTANT_shift_stored_copy,
	CB_MUTANT_gaps_ignored,
	CB_MUTANT_lose_last_sector,
	CB_MUTANT_advanced_iterator,
	CB_MUTANT_own_blocks_live,
	CB_MUTANT_no_gate,
	CB_MUTANT_forget_gated,
	CB_MUTANT_end_off_by_one,
	CB_MUTANT_mark_in_cache,
	CB_MUTANT_note_first_block,
	CB_MUTANT_note_whole_blocks,
	CB_MUTANT_forget_at_transition,
	CB_MUTANT_map_of_this_epoch,
	CB_MUTANT_save_empty_map,
	CB_MUTANT_pass_metadata,
	CB_MUTANT_cow_base_forgotten,
	CB_MUTANT_failed_reads_live,
	CB_MUTANT_allow_dax,
	CB_MUTANT_lose_held,
	CB_MUTANT_pass_nowait,
	CB_MUTANT_trust_frozen,
	CB_MUTANT_audit_off,
	CB_MUTANT_switch_one_by_one,
	CB_MUTANT_keep_memory,
	CB_MUTANT_expand_on_origin,
	CB_MUTANT_ignore_load_errors,
	CB_MUTANT_ignore_store_errors,
	CB_MUTANT_hide_read_errors,
	CB_MUTANT_unload_any_time,
	CB_MUTANT_fail_held,
	CB_MUTANT_drop_held,
	CB_MUTANT_allow_second,
	CB_MUTANT_ignore_size,
	CB_MUTANT_memory_at_any_cost,
	CB_MUTANT_no_drain,
	CB_MUTANT_own_writes_foreign,
	CB_MUTANT_hibernate_blindly,
	CB_MUTANT_forget_nested,
	CB_MUTANT_unload_under_sleepers,
	CB_MUTANT_age_from_admission,
	CB_MUTANT_hold_whole,
	CB_MUTANT_delayed_ignores_gate,
	CB_MUTANT_keep_open,
	CB_MUTANT_ignore_removal,
	CB_MUTANT_freeze_visible,
	CB_MUTANT_save_skips_changed,
	CB_MUTANT_reload_skips_group,
	CB_MUTANT_maps_at_any_cost,
	CB_MUTANT_neighbour_saves_all,
	CB_MUTANT_split_slots,
	CB_MUTANT_bridge_errors,
	CB_MUTANT_patch_too_early,
	CB_MUTANT_tell_loss_once,
	CB_MUTANT_origin_unflushed,
	CB_MUTANT_loss_holds_nothing,
	CB_MUTANT_ahead_shifted,
	CB_MUTANT_ahead_unawaited,
	CB_MUTANT_never_pause,
	CB_MUTANT_pause_for_all,
	CB_MUTANT_drop_some_held,
	CB_MUTANT_reload_any_series,
	CB_MUTANT_refusal_is_not_told,
	CB_MUTANT_sums_unchecked,
	CB_MUTANT_samples_ignored,
	CB_MUTANT_grub_sampled,
	CB_MUTANT_marks_unlooked,
	CB_MUTANT_resize_unseen,
};

#ifdef COWBIRD_MUTANT
/* Does not compile where MUTANT names none of these. */
static_assert(COWBIRD_MUTANT != CB_MUTANT_none, "MUTANT names no fault");
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
/*
 * Faults by which the COW file does not have, or give, what was stored. The sums would turn
 * each into an error.
 */
#define cb_mutant_closes_sums()                                                                   \
	(cb_mutant(sums_unchecked) || cb_mutant(map_before_data) || cb_mutant(gaps_ignored) ||    \
	 cb_mutant(shift_stored_copy) || cb_mutant(cow_base_forgotten) ||                         \
	 cb_mutant(ignore_store_errors) || cb_mutant(hide_read_errors) ||                         \
	 cb_mutant(ahead_shifted) || cb_mutant(ahead_unawaited) || cb_mutant(split_slots) ||      \
	 cb_mutant(advanced_iterator))
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
