//! `test-matrix`: from the command line to a judged table of verdicts.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use cowbird_matrix::plan::Shard;
use cowbird_matrix::spec::{Cases, RunSpec, Selection};
use cowbird_vm::command::DEFAULT_CPUS;

use crate::options::{AccelChoice, Tier};
use crate::run;
use crate::run::workload::WorkloadArgs;
use crate::ui::Ui;

/// Most virtual CPUs of a guest: more than any host of the matrix has.
const MAX_CPUS: i64 = 16;

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

impl From<&MatrixArgs> for RunSpec {
    fn from(args: &MatrixArgs) -> Self {
        let tier = args.tier.into();
        Self {
            kernels: Selection::of(&args.kernel, tier),
            cases: match args.workload.recording() {
                Some(recording) => Cases::Recorded(recording),
                None => Cases::Of(Selection::of(&args.case, tier)),
            },
            mutants: args.mutant.clone(),
            soak_minutes: args.soak_minutes,
            cuts: args.cuts,
            traced: args.traced,
            record: args.record,
            cpus: args.cpus,
            seed: args.seed,
            resume: args.resume,
            jobs: args.jobs.map(usize::from),
            shard: args.shard,
            accel: args.accel.into(),
            offline: args.offline,
            out: args.out.clone(),
        }
    }
}

/// Runs the command; the value is the exit code.
pub fn command(args: &MatrixArgs, ui: &Arc<Ui>) -> Result<u8> {
    let run = run::check(&args.into())?;
    let ended = run::execute(&run, ui)?;
    run::show(&ended, args.json)?;
    Ok(ended.judgement.exit)
}
