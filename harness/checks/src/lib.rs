//! What a cell leaves, put before the oracle: its images and change maps, what readers saw, the journal, the trace.
//!
//! A case says what must be true at its end, as a list of [`claim::Claim`]s. [`verify::judge`] opens the disks once,
//! believes no witness before it was compared with its disk, and has every claim look for itself.
//!
//! Nothing here runs anything in a guest: files and data go in, a judgement comes out.

mod blocks;
pub mod change_map;
mod checkers;
pub mod claim;
mod crypt;
pub mod exhibits;
mod filesystem;
pub mod image;
mod journal_check;
pub mod judgement;
pub mod lockstep_writers;
pub mod mapped;
mod mirror;
pub mod power;
pub mod power_cuts;
pub mod recorded;
mod replay_check;
pub mod restored;
pub mod script_runs;
pub mod soak;
pub mod sparse;
pub mod tracing;
pub mod verify;
