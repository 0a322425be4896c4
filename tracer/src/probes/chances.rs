//! Which of the programs of a tracepoint are attached on which kernel.

use cowbird_events::kernel::KernelFacts;

use super::options::ProbeOptions;

/// Each block event has programs 0 to this one; `LAST_CHANCE` in `bpf/cowbird_trace.bpf.c`.
pub(super) const LAST_CHANCE: u32 = 3;

/// The program behind it, which only takes marks away.
pub(super) const SWEEP: u32 = LAST_CHANCE + 1;

/// How many programs record an event, so that one that the kernel skips is not lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chances {
    /// One: it is never skipped, or so short that a bio which comes just then is not to be expected.
    One,
    /// A second one, for the interrupt that comes while the first is at work on the same tracepoint.
    Two,
    /// Some more, for the threads that come while others are preempted there.
    All,
}

impl Chances {
    pub(super) fn of(options: &ProbeOptions, facts: &KernelFacts) -> Self {
        match (facts.preemptible_programs, facts.guards_recursion) {
            (true, _) => Self::All,
            // To fingerprint takes a hundred times as long as all else.
            (false, true) if options.fingerprints => Self::Two,
            (false, _) => Self::One,
        }
    }

    /// Those programs of an event of the block layer that are attached, in order.
    pub(super) fn of_block_layer(self) -> &'static [u32] {
        match self {
            Self::One => &[0],
            Self::Two => &[0, 1],
            Self::All => &[0, 1, 2, LAST_CHANCE, SWEEP],
        }
    }

    /// Those of an event of the module.
    pub(super) fn of_module(self) -> &'static [u32] {
        match self {
            Self::One | Self::Two => &[0],
            Self::All => &[0, LAST_CHANCE, SWEEP],
        }
    }
}
