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

#endif
