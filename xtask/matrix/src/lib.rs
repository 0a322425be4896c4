//! A run of the matrix as data: which cells it has, in which order and on which machine, what is known of an earlier
//! run, how a cell counts, and what the results look like.
//!
//! Nothing here boots a guest, reads a command line or knows of a terminal. What runs the cells is given as a function.

pub mod durations;
pub mod judge;
pub mod kill_table;
pub mod mutants;
pub mod output;
pub mod plan;
pub mod programs;
pub mod regression;
pub mod report;
pub mod resume;
pub mod runner;
pub mod select;
pub mod shards;
pub mod spec;
pub mod table;

/// The root of the checkout that the tests look at.
#[cfg(test)]
fn repository() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
