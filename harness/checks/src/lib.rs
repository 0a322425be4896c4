//! What a cell leaves, put before the oracle: its images and change maps, what readers saw, the journal, the trace.
//!
//! Nothing here runs anything in a guest: files and data go in, a judgement comes out.

pub mod change_map;
mod crypt;
pub mod exhibits;
pub mod judgement;
pub mod power;
pub mod power_cuts;
pub mod recorded;
mod replayed;
pub mod restored;
pub mod soak;
pub mod sparse;
pub mod tracing;
pub mod trials;
mod turns;
pub mod verify;
mod written;
