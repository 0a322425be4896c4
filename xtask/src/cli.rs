//! The command line: what can be asked for. Nothing here decides anything.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cowbird_matrix::plan::Shard;
use cowbird_vm::command::DEFAULT_CPUS;
use cowbird_workload::Timing;

/// Most virtual CPUs of a guest: more than any host of the matrix has.
const MAX_CPUS: i64 = 16;

/// The developer's front door of Cowbird.
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

/// How much is run: each tier includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Tier {
    /// On every change.
    Quick,
    /// Once a day.
    Daily,
    /// Before a release.
    Full,
}

impl From<Tier> for cowbird_images::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Quick => Self::Quick,
            Tier::Daily => Self::Daily,
            Tier::Full => Self::Full,
        }
    }
}

/// How QEMU runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccelChoice {
    /// KVM if a test boot succeeds, otherwise TCG; success is cached for a day, failure for ten minutes.
    Auto,
    /// Hardware virtualisation, tried whatever was found out before.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// Arguments of `test-matrix`.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// Run this tier and all lower ones; quick kernels run all its cases, other kernels an eighth of the long ones
    #[arg(long, value_enum, default_value = "quick")]
    pub tier: Tier,
    /// Only kernels that match; may be given several times; overrides the tier for kernels
    #[arg(long, value_name = "GLOB")]
    pub kernel: Vec<String>,
    /// Only cases that match; may be given several times; overrides the tier for cases
    #[arg(long, value_name = "GLOB")]
    pub case: Vec<String>,
    #[command(flatten)]
    pub workload: WorkloadArgs,
    /// How long the case soak goes on; by default a minute and a half
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub soak_minutes: Option<u32>,
    /// How many snapshot instants the cases with writers above the origin have, or how often the cases unload-asleep*
    /// unload the module; by default as many as each says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cuts: Option<u32>,
    /// Run a mutant, or all of them, instead of the module as it is; may be given several times. A
    /// mutant is caught on a kernel when at least one of its cells there sees the fault it was built with
    #[arg(long, value_name = "NAME|all")]
    pub mutant: Vec<String>,
    /// Let cowbird-trace record in every guest, and compare its trace with the witness and the journal: a
    /// contradiction is a verdict of its own, and a trace that is not complete ends the run with 2
    #[arg(long)]
    pub traced: bool,
    /// Record every cell, so that one that fails can be replayed exactly; needs QEMU 10, which is fetched if the host has
    /// an older one. A recorded guest has one CPU and is several times slower
    #[arg(long)]
    pub record: bool,
    /// Virtual CPUs of each guest. Two are enough for a race between two threads; with one CPU, faults that need two at once are not found
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CPUS, value_parser = clap::value_parser!(u32).range(1..=MAX_CPUS), conflicts_with = "record")]
    pub cpus: u32,
    /// The seed that every cell's seed is derived from; by default random, and printed first
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Continue the run in --out; finished cells keep their verdict unless harness, guest, kernel, module or options
    /// changed
    #[arg(long)]
    pub resume: bool,
    /// Cells at the same time; by default so many that their CPUs are as many as the host's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Run only the K-th of N parts of the matrix, which take about equally long
    #[arg(long, value_name = "K/N")]
    pub shard: Option<Shard>,
    /// How QEMU runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: AccelChoice,
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Where results.json, junit.xml, report.html and the bundles of failed cells go
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// Print the results as JSON on standard output, everything else on standard error
    #[arg(long)]
    pub json: bool,
}

impl MatrixArgs {
    /// What a command line without options gives, with the results elsewhere: for commands that run cells of their own.
    pub fn plain(out: PathBuf) -> Self {
        Self {
            tier: Tier::Quick,
            kernel: Vec::new(),
            case: Vec::new(),
            workload: WorkloadArgs::default(),
            soak_minutes: None,
            cuts: None,
            mutant: Vec::new(),
            traced: false,
            record: false,
            cpus: DEFAULT_CPUS,
            seed: None,
            resume: false,
            jobs: None,
            shard: None,
            accel: AccelChoice::Auto,
            offline: false,
            out,
            json: false,
        }
    }
}

/// What is replayed, and how.
#[derive(Clone, Debug, Default, Args)]
pub struct WorkloadArgs {
    /// Replay what was recorded on some device, instead of a case: a trace or workload of cowbird-trace,
    /// the text of blkparse, or an iolog of fio
    #[arg(long, value_name = "FILE", conflicts_with = "case")]
    pub workload: Option<PathBuf>,
    /// How fast the workload is replayed: fast, kept (with the recorded pauses), or scaled:X (with pauses X
    /// times as long)
    #[arg(
        long,
        value_name = "TIMING",
        default_value = "fast",
        requires = "workload"
    )]
    pub timing: Timing,
    /// Take the snapshot after so many percent of the workload's changes; by default the seed decides
    #[arg(long, value_name = "PERCENT", requires = "workload", value_parser = clap::value_parser!(u32).range(1..100))]
    pub snapshot_at: Option<u32>,
}

/// Arguments of `test`.
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Leave out everything that boots a kernel
    #[arg(long)]
    pub no_matrix: bool,
    /// Where logs, results.json and bundles go
    #[arg(long, value_name = "DIR", default_value = "out/test")]
    pub out: PathBuf,
}

/// Arguments of the listing commands.
#[derive(Clone, Copy, Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `mutants`.
#[derive(Clone, Debug, Args)]
pub struct MutantsArgs {
    /// Only list them
    #[arg(long)]
    pub list: bool,
    /// What is run: by default all of them, on the oldest and the newest kernel of the quick tier, each
    /// with the cases that see it
    #[command(flatten)]
    pub run: MatrixArgs,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BenchPart {
    /// What a snapshot costs its origin
    Snapshot,
    /// Of that, only reads of a snapshot with single preserved blocks all over it
    ScatteredRead,
    /// What the tracer costs
    Tracer,
}

/// Arguments of `bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Kernels to measure on; may be given several times
    #[arg(long, value_name = "GLOB", default_values = ["bullseye-5.10-cloud", "bookworm-6.1-cloud", "trixie-backports-7.3-cloud"])]
    pub kernel: Vec<String>,
    /// Also say where the CPUs were, from outside of the guest; what is measured then is slower
    #[arg(long)]
    pub profile: bool,
    /// How often everything is measured; each ratio is the median of so many
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Measure only this; by default all
    #[arg(long, value_enum, value_name = "PART")]
    pub part: Option<BenchPart>,
    /// How QEMU runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: AccelChoice,
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Where bench.json goes
    #[arg(long, value_name = "DIR", default_value = "out/bench")]
    pub out: PathBuf,
    /// Print the results as JSON on standard output, everything else on standard error
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `scale`.
#[derive(Clone, Debug, Args)]
pub struct ScaleArgs {
    /// Size of the origin, which is sparse
    #[arg(long, value_name = "GIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub origin_gib: u64,
    /// What is written to it; it is on disk three times
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub written_mib: u64,
    /// Folder for the files, which are removed in the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub within: PathBuf,
}

/// Arguments of `merge`.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// results.json of every shard, or the folders that they are in
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
    /// Where results.json, junit.xml and report.html of the whole go
    #[arg(long, value_name = "DIR", default_value = "out/merged")]
    pub out: PathBuf,
    /// Print the results as JSON on standard output, everything else on standard error
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `durations`.
#[derive(Clone, Debug, Args)]
pub struct DurationsArgs {
    /// results.json of runs, or the folders that they are in
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
}

/// Arguments of `kernels`.
#[derive(Clone, Copy, Debug, Args)]
pub struct KernelsArgs {
    /// Print JSON
    #[arg(long, conflicts_with = "prune")]
    pub json: bool,
    /// Delete from the cache what no kernel of the catalogue is made of any more, as after `setup --refresh`
    #[arg(long)]
    pub prune: bool,
    /// Only say what would be deleted
    #[arg(long, requires = "prune")]
    pub dry_run: bool,
}

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

/// Arguments of `shrink`.
#[derive(Clone, Debug, Args)]
pub struct ShrinkArgs {
    /// The bundle of a failed cell whose workload writes to the origin itself
    pub bundle: PathBuf,
    /// Name of the regression; by default that of the mutant, or of the case with the seed
    #[arg(long)]
    pub name: Option<String>,
    /// Where the regression goes; by default harness/regressions
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// How QEMU runs the guest; by default as it was
    #[arg(long, value_enum)]
    pub accel: Option<AccelChoice>,
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Where the evidence of the tries goes
    #[arg(long, value_name = "DIR", default_value = "out/shrink")]
    pub out: PathBuf,
}

/// Arguments of `shell`.
#[derive(Clone, Debug, Args)]
pub struct ShellArgs {
    /// The kernel: its name, or a pattern that matches one only
    #[arg(long, value_name = "GLOB")]
    pub kernel: String,
    /// The case whose disks, modules and programs the guest has; /dev/vda has its origin
    #[arg(long, value_name = "GLOB", default_value = "ext4-churn")]
    pub case: String,
    /// With this mutant in place of the module as it is
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<String>,
    /// The seed of what is on the disks
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How QEMU runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: AccelChoice,
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Keep the disks, the console and the messages of QEMU, in the folder kept of --out
    #[arg(long)]
    pub keep: bool,
    /// Where the files of the running guest are; removed in the end
    #[arg(long, value_name = "DIR", default_value = "out/shell")]
    pub out: PathBuf,
}

/// Arguments of `setup`.
#[derive(Clone, Debug, Args)]
pub struct SetupArgs {
    /// Only kernels that match; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub kernel: Vec<String>,
    /// Look for newer kernel packages even where the cache has one
    #[arg(long)]
    pub refresh: bool,
    /// Fetch and install nothing: only say what is missing
    #[arg(long, conflicts_with = "refresh")]
    pub offline: bool,
    /// Only install packages of the host, and prepare no kernel
    #[arg(long, conflicts_with_all = ["kernel", "refresh"])]
    pub only_host: bool,
    /// Replace packages of the host that are in the way by older versions of the archive's
    #[arg(long, conflicts_with = "offline")]
    pub allow_downgrades: bool,
}

/// Arguments of `new`.
#[derive(Clone, Debug, Args)]
pub struct NewArgs {
    /// What it is
    #[command(subcommand)]
    pub thing: NewThing,
}

/// What there is a skeleton of.
#[derive(Clone, Debug, Subcommand)]
pub enum NewThing {
    /// A case: one story that is played in a guest, and what must then be true
    Case {
        /// Its name, as in `hot-read`
        name: String,
    },
}

/// Arguments of `fresh`.
#[derive(Clone, Debug, Args)]
pub struct FreshArgs {
    /// Only hosts that match; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub host: Vec<String>,
    /// Run these steps only, in their order; may be given several times
    #[arg(long, value_enum)]
    pub step: Vec<FreshStep>,
    /// The kernel that the matrix is cut to
    #[arg(long, default_value = "bookworm-6.1-cloud")]
    pub kernel: String,
    /// The case that it is cut to
    #[arg(long, default_value = "raw-writers")]
    pub case: String,
    /// The commit that is tried
    #[arg(long, default_value = "HEAD")]
    pub commit: String,
    /// Where the layers above the roots and the logs go; it must have room for a build
    #[arg(long, default_value = "out/fresh")]
    pub out: PathBuf,
}

/// What is tried on a fresh machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum FreshStep {
    /// As an ordinary user the matrix does not run: it says what to install, and ends with 2
    User,
    /// As root it installs what it needs, and passes
    Matrix,
    /// The tests that boot nothing
    Test,
}

/// Arguments of `gen-abi`.
#[derive(Clone, Copy, Debug, Args)]
pub struct GenAbiArgs {
    /// Change nothing; fail when the bindings in the tree are not what the header gives
    #[arg(long)]
    pub check: bool,
}

/// Arguments of `gen-docs`.
#[derive(Clone, Copy, Debug, Args)]
pub struct GenDocsArgs {
    /// Change nothing; fail when a page is not what the code says
    #[arg(long)]
    pub check: bool,
}

/// Arguments of `fuzz`.
#[derive(Clone, Debug, Args)]
pub struct FuzzArgs {
    /// Parsers; all of them where none is named
    pub targets: Vec<String>,
    /// Inputs for each of them; 10 million unless said
    #[arg(long)]
    pub inputs: Option<u64>,
    /// Seed of the changes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Longest time for each of them
    #[arg(long, value_name = "S")]
    pub seconds: Option<u64>,
    /// List the parsers, and do nothing else
    #[arg(long)]
    pub list: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
