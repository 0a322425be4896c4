//! How much of the program has run; `coverage.c` counts.

unsafe extern "C" {
    fn cowbird_fuzz_edges() -> u64;
    fn cowbird_fuzz_guards() -> u64;
}

/// Edges that have run so far; 0 in a build that is not instrumented.
#[must_use]
pub fn edges() -> u64 {
    // SAFETY: it takes nothing and reads one number, which only instrumented code changes: the parsers, on this thread.
    unsafe { cowbird_fuzz_edges() }
}

/// Whether this build counts them.
#[must_use]
pub fn is_counted() -> bool {
    // SAFETY: as above; the number is set before `main`.
    unsafe { cowbird_fuzz_guards() != 0 }
}
