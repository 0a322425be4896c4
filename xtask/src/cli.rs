//! The command line: which commands there are. What each may be given is beside what it does.

use clap::{Parser, Subcommand};

use crate::commands::bench::BenchArgs;
use crate::commands::fresh::FreshArgs;
use crate::commands::fuzz::FuzzArgs;
use crate::commands::gen_abi::GenAbiArgs;
use crate::commands::gen_docs::GenDocsArgs;
use crate::commands::lists::{KernelsArgs, ListArgs};
use crate::commands::merge::{DurationsArgs, MergeArgs};
use crate::commands::mutants::MutantsArgs;
use crate::commands::new::NewArgs;
use crate::commands::replay::args::ReplayArgs;
use crate::commands::scale::ScaleArgs;
use crate::commands::setup::SetupArgs;
use crate::commands::shell::ShellArgs;
use crate::commands::shrink::ShrinkArgs;
use crate::commands::test::TestArgs;
use crate::commands::test_matrix::MatrixArgs;

/// Build, test and debug Cowbird.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot kernels, run cases on them, and judge every block; exit 0 when all pass, 1 when a
    /// verdict failed, 2 when it could not run
    TestMatrix(MatrixArgs),
    /// Run everything that must hold before a change lands, in about 45 minutes on two CPUs: format, lints, tests,
    /// and several matrices
    ///
    /// Without a guest: format, lints, the tests of all crates, checks of the module's C core, and whether the
    /// bindings are those of the header.
    ///
    /// In guests, with the kernels of the quick tier:
    ///
    /// - verdicts: the harness on trial, with guests that end in every way, and tapes if a QEMU that records can be
    ///   had; on the oldest kernel
    ///
    /// - matrix: all quick cases on all kernels
    ///
    /// - traced cells: `raw-writers` with the tracer in the guest; on the oldest and the newest kernel
    ///
    /// - daily cases: on the oldest kernel
    ///
    /// - recorded workload: a recording of fio, and a mutant that its replay must catch; on the oldest and the newest
    ///   kernel
    ///
    /// - mutants: all that name no cases of their own, with the quick cases; on the oldest and the newest kernel
    Test(TestArgs),
    /// List the kernels of the catalogue and what is cached of each; with --prune, delete from the cache
    /// what is superseded
    Kernels(KernelsArgs),
    /// List the cases
    Cases(ListArgs),
    /// Put the harness on trial: run all mutants, known faults of the module, and say which cell caught
    /// each, and after how long
    ///
    /// Without --kernel, the oldest and the newest kernel of the quick tier run them, whatever --tier says. Without --case, each
    /// mutant runs with the cases that see it.
    Mutants(MutantsArgs),
    /// Measure what a snapshot costs its origin, and what the tracer costs: ratios within one boot, with fio in the guest
    Bench(BenchArgs),
    /// Measure what the oracle takes for a large origin, against sha256sum and cmp
    Scale(ScaleArgs),
    /// Put the shards of one run together, and judge them as that run
    Merge(MergeArgs),
    /// Record how long the cases took, so that the shards of a matrix take about equally long
    Durations(DurationsArgs),
    /// Run one cell again from the bundle that it left, with the same seed; or a regression from its file
    Replay(ReplayArgs),
    /// Work in a guest: boot a kernel with the module, the tools and the disks of a case, and get a shell there
    Shell(ShellArgs),
    /// Make a failed cell as small as it can be and still fail, and keep that as a regression
    Shrink(ShrinkArgs),
    /// Make this machine ready: host packages, kernels, build roots, guest programs
    Setup(SetupArgs),
    /// Write the skeleton of something new, which runs as it is
    New(NewArgs),
    /// Try the README's commands on machines that have nothing yet: minimal roots of the distributions that the tests run on
    Fresh(FreshArgs),
    /// Generate the Rust bindings of the module's user-space interface from its header
    GenAbi(GenAbiArgs),
    /// Write the tables of cases, kernels and mutants in docs/reference
    GenDocs(GenDocsArgs),
    /// Give every parser of foreign data input that was damaged, forged or cut off; exit 1 when one fails
    Fuzz(FuzzArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
