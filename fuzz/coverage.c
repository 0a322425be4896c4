// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts edges of the program that have run for the first time.
 *
 * `cargo xtask fuzz` has rustc and the C compiler put a call in front of every edge (LLVM's
 * sancov-module, level 3, trace-pc-guard; gcc's trace-pc). Each guard is zeroed when it is passed
 * first, so an edge is counted once and costs one load and one branch from then on. A build that
 * is not instrumented never calls this, and the count stays 0.
 */
#include <stdint.h>

void __sanitizer_cov_trace_pc_guard_init(uint32_t *start, uint32_t *stop);
void __sanitizer_cov_trace_pc_guard(uint32_t *guard);
void __sanitizer_cov_trace_pc_indir(uintptr_t callee);
void __sanitizer_cov_trace_pc(void);
uint64_t cowbird_fuzz_edges(void);
uint64_t cowbird_fuzz_guards(void);

static uint64_t edges, guards;

void __sanitizer_cov_trace_pc_guard_init(uint32_t *start, uint32_t *stop)
{
	/* Called once for each object that was compiled so, with the guards of all of them. */
	if (start == stop || *start)
		return;
	guards += (uint64_t)(stop - start);
	for (; start < stop; start++)
		*start = 1;
}

void __sanitizer_cov_trace_pc_guard(uint32_t *guard)
{
	if (!*guard)
		return;
	*guard = 0;
	edges++;
}

void __sanitizer_cov_trace_pc_indir(uintptr_t callee)
{
	(void)callee;
}

/* gcc's, for the C core: it has no guards, so places are told apart by their distance from here. */
void __sanitizer_cov_trace_pc(void)
{
	static uint8_t seen[1 << 16];
	uintptr_t here = (uintptr_t)&cowbird_fuzz_edges;
	uintptr_t from = (uintptr_t)__builtin_return_address(0) - here;
	uint16_t place = (uint16_t)(from ^ from >> 16);

	if (seen[place])
		return;
	seen[place] = 1;
	edges++;
}

uint64_t cowbird_fuzz_edges(void)
{
	return edges;
}

uint64_t cowbird_fuzz_guards(void)
{
	return guards;
}
