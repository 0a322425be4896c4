/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Known faults, for the harness to be tried against. Each has a paragraph in
 * mutants.toml, which is their only list. With MUTANT=no-gate Kbuild defines
 * COWBIRD_MUTANT_no_gate on the compiler's command line, and nothing else does;
 * without it cb_mutant(no_gate) is the constant 0 and the fault is not in the
 * object code. A mutant says so in the kernel log, in its modinfo and in
 * /proc/cowbird-info.
 */
#ifndef COWBIRD_MUTANTS_H
#define COWBIRD_MUTANTS_H

#include <linux/kconfig.h>

#define cb_mutant(name) __is_defined(COWBIRD_MUTANT_##name)
/* Whether this build has a fault at all. */
#define cb_mutant_any() __is_defined(COWBIRD_MUTANT)

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
 * What would make good for a fault, or turn it into an error, is closed where its paragraph in
 * mutants.toml says so with the key "closes": "sums" for faults by which the COW file does not
 * have, or give, what was stored; "audit" for those by which a write passes that must not.
 */
#define cb_mutant_closes_sums() __is_defined(COWBIRD_MUTANT_CLOSES_sums)
#define cb_mutant_closes_audit() __is_defined(COWBIRD_MUTANT_CLOSES_audit)

/*
 * A function of the module asks for a fault in one place at most, so that what it does can be
 * read without the faults: those of one function are together here, in origin.h where they
 * look at a write, or beside the function, with a name that begins with cb_mutant.
 */
#define cb_mutant_splits_nothing() (cb_mutant(hold_whole) || cb_mutant(remainder_only))
#define cb_mutant_believes_frozen() (cb_mutant(freeze_nothing) || cb_mutant(trust_frozen))
#define cb_mutant_believes_samples() (cb_mutant(samples_ignored) || cb_mutant(reload_trusts_all))
#define cb_mutant_waits_for_no_loss() (cb_mutant(tell_loss_once) || cb_mutant(loss_holds_nothing))

#endif
