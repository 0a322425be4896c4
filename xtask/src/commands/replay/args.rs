//! What `replay` may be given.

use std::path::PathBuf;

use clap::Args;

use crate::options::AccelChoice;

/// Arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The bundle of a failed cell, or a file of harness/regressions. A cell that was recorded is replayed exactly, and
    /// compared with its recording
    pub what: PathBuf,
    /// Number of runs; the summary counts failures, or for a recorded cell exact matches
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub times: u32,
    /// Stop the replay of a recorded cell at the culprit event, the last instruction before the disk takes the write from
    /// which a wrong block's content came, and let gdb in
    #[arg(long, conflicts_with_all = ["times", "healthy", "json"])]
    pub gdb: bool,
    /// With the module as it is, not with the mutant that it failed with; a recorded cell is run anew
    #[arg(long)]
    pub healthy: bool,
    /// How QEMU runs the guest; by default as it was
    #[arg(long, value_enum)]
    pub accel: Option<AccelChoice>,
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Where results.json and the new bundle go
    #[arg(long, value_name = "DIR", default_value = "out/replay")]
    pub out: PathBuf,
    /// Print the results as JSON on standard output, everything else on standard error
    #[arg(long)]
    pub json: bool,
}
