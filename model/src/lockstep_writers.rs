//! Two volumes that one writer wrote in lockstep, and whether two images of them show one instant.
//!
//! In round `n` the writer writes to the first volume, waits for the end of that, writes to the
//! second, and waits again. Both volumes have the same slots for it; round `n` goes to slot
//! `n % slots`. At any one instant the first volume has begun the same round as the second, or the
//! one after it:
//!
//! ```text
//! round n is in the second image       =>  round n is in the first
//! round n is in the first image, n > 1 =>  round n - 1 is in the second
//! ```
//!
//! # What this does not check
//! - What the blocks contain besides their round: each image is compared with its own truth by
//!   [`crate::verify`](mod@crate::verify).
//! - Instants that differ by less than it takes to write one block: nobody could know.

use std::fmt;

/// A round of which one image shows that another one must be there, which is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockstepFault {
    /// The second volume has this round, the first does not.
    SecondAhead {
        /// The round.
        round: u64,
    },
    /// The first volume has this round, the second not even the one before it.
    FirstAhead {
        /// The round.
        round: u64,
    },
}

impl fmt::Display for LockstepFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SecondAhead { round } => write!(
                f,
                "round {round} is in the second image and not in the first, where it was written \
                 before"
            ),
            Self::FirstAhead { round } => write!(
                f,
                "round {round} is in the first image, and round {} not in the second, where it was \
                 written before",
                round - 1
            ),
        }
    }
}

/// Compares what two images hold of one writer: the newest round in each slot, 0 for none. Both have
/// the same number of slots.
#[must_use]
pub fn check_lockstep(first: &[u64], second: &[u64]) -> Vec<LockstepFault> {
    let slots = first.len().min(second.len()) as u64;
    let newest = |image: &[u64], round: u64| image[(round % slots) as usize];
    let ahead = second
        .iter()
        .filter(|&&round| round > 0 && newest(first, round) < round)
        .map(|&round| LockstepFault::SecondAhead { round });
    let behind = first
        .iter()
        .filter(|&&round| round > 1 && newest(second, round - 1) < round - 1)
        .map(|&round| LockstepFault::FirstAhead { round });
    ahead.chain(behind).collect()
}
