//! `test-matrix`: from the command line to a judged table of verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use cowbird_cases::REGRESSIONS;
use cowbird_harness::catalogue::{cases, find, recorded_case};
use cowbird_host::program::HostProgram;
use cowbird_images::{Catalogue, KernelSpec};
use cowbird_matrix::durations::Durations;
use cowbird_matrix::judge::{self, Judgement};
use cowbird_matrix::mutants::{self, Mutant};
use cowbird_matrix::output::OutDir;
use cowbird_matrix::plan::{self, PlannedCell, Shard};
use cowbird_matrix::programs::GuestPrograms;
use cowbird_matrix::resume::{Earlier, Known};
use cowbird_matrix::select::Sharing;
use cowbird_matrix::spec::{Cases, RunSpec, Selection};
use cowbird_matrix::{regression, runner, table};
use cowbird_model::{CellResult, RunResults};
use cowbird_outside::out;
use cowbird_session::plan::CellPlan;
use cowbird_vm::command::DEFAULT_CPUS;

use crate::guest;
use crate::options::{AccelChoice, Tier};
use crate::rooms::Rooms;
use crate::run::Run;
use crate::run_context::RunContext;
use crate::ui::{Ui, print, print_json};
use crate::workload::{Wanted, WorkloadArgs};
use crate::{host, prepare, repo, runtime};

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

/// The ended run.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What `results.json` has.
    pub results: RunResults,
    /// How it counts.
    pub judgement: Judgement,
}

/// Runs the command; the value is the exit code.
pub fn command(args: &MatrixArgs, ui: &Arc<Ui>) -> Result<u8> {
    let run = check(&args.into())?;
    let ended = execute(&run, ui)?;
    show(&ended, args.json)?;
    Ok(ended.judgement.exit)
}

/// Compares what is wanted with the catalogue. Nothing is fetched, built or booted before this
/// has succeeded.
pub fn check(spec: &RunSpec) -> Result<Run> {
    let root = repo::root();
    let catalogue = Catalogue::load(root.join(Catalogue::PATH_IN_REPO))?;
    let kernels = spec.kernels.among(&catalogue.kernels)?;
    let kernels = names(&kernels, |kernel| &kernel.name);
    let (mut chosen_cases, workload) = match &spec.cases {
        Cases::Of(selection) => {
            let chosen = selection.among(cases())?;
            (names(&chosen, |case| case.name), None)
        }
        Cases::Recorded(recording) => {
            let case = recorded_case().name.to_owned();
            (vec![case], Some(Wanted::check(recording)?))
        }
    };
    let named = !matches!(spec.cases, Cases::Of(Selection::Tier(_)));
    let known = mutants::load(&root)?;
    let mutants: Vec<Mutant> = mutants::select(&known, &spec.mutants)?
        .into_iter()
        .cloned()
        .collect();
    let out = OutDir::open(&spec.out)?;
    let earlier = spec.resume.then(|| Earlier::read(&out)).transpose()?;
    let seed = match (spec.seed, &earlier) {
        (Some(seed), Some(earlier)) if seed != earlier.seed => bail!(
            "the run in {} has the seed {}; leave --seed out, or --resume",
            out.path().display(),
            earlier.seed
        ),
        (Some(seed), _) => seed,
        (None, Some(earlier)) => earlier.seed,
        (None, None) => random_seed()?,
    };
    let mutant_names = names(&mutants, |mutant| &mutant.name);
    let tier_cases = chosen_cases.clone();
    if !named {
        let wanted = |case: &&str| {
            let in_tier = tier_cases.iter().any(|name| name == case);
            let tried = mutants.iter().any(|mutant| mutant.is_for(case, in_tier));
            if mutants.is_empty() { in_tier } else { tried }
        };
        let all = cases().iter().map(|case| case.name);
        chosen_cases = all.filter(wanted).map(str::to_owned).collect();
    }
    let mut cells = plan::plan(&kernels, &chosen_cases, &mutant_names, seed);
    cells.retain(|cell| {
        let mutant = mutants
            .iter()
            .find(|mutant| cell.id.mutant.as_ref() == Some(&mutant.name));
        let in_tier = tier_cases.contains(&cell.id.case);
        mutant.is_none_or(|mutant| {
            mutant.concerns(&cell.id.kernel) && (named || mutant.is_for(&cell.id.case, in_tier))
        })
    });
    let kernels_of_tier = matches!(spec.kernels, Selection::Tier(_));
    if kernels_of_tier && !named && mutants.is_empty() {
        let sharing = Sharing::new(&catalogue.kernels, cases());
        cells.retain(|cell| sharing.has(&cell.id.kernel, &cell.id.case));
    }
    let durations = Durations::load(&root)?;
    let warning = spec
        .shard
        .and_then(|_| durations.warning(cells.iter().map(|cell| &cell.id)));
    let cells = match spec.shard {
        Some(shard) => plan::cells_of_shard(cells, shard, |cell| durations.of_cell(cell)),
        None => cells,
    };
    if cells.is_empty() && spec.shard.is_none() {
        bail!("no kernel and case are in this tier; name them with --kernel and --case");
    }
    let earlier = earlier
        .map(|results| Earlier::of(results, &cells, &out))
        .transpose()?;
    let script_runs = if cells.iter().any(|cell| cell.id.case == REGRESSIONS) {
        regression::plans(&root)?
    } else {
        Vec::new()
    };
    Ok(Run {
        catalogue,
        cells,
        workload,
        soak_minutes: spec.soak_minutes,
        cuts: spec.cuts,
        script_runs,
        mutants,
        traced: spec.traced,
        record: spec.record,
        cpus: spec.cpus,
        seed,
        shard: spec.shard,
        warning,
        jobs: spec.jobs.unwrap_or_else(|| default_jobs(spec.cpus)),
        accel: spec.accel,
        offline: spec.offline,
        out,
        earlier,
    })
}

fn names<T, N: AsRef<str> + ?Sized>(items: &[T], name: impl Fn(&T) -> &N) -> Vec<String> {
    items
        .iter()
        .map(|item| name(item).as_ref().to_owned())
        .collect()
}

/// A seed that nobody chose.
fn random_seed() -> Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom for a seed; give one with --seed")?;
    Ok(plan::shorten_seed(u64::from_le_bytes(bytes)))
}

/// So many guests that they have as many CPUs as the host: a host that is busier than its CPUs makes its guests
/// slow and its limits tight.
fn default_jobs(cpus_of_each: u32) -> usize {
    let of_host = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    (of_host / cpus_of_each as usize).max(1)
}

/// Runs the cells of a checked run.
pub fn execute(run: &Run, ui: &Arc<Ui>) -> Result<Ended> {
    ensure_rooms(run, ui)?;
    ensure_host(run, ui)?;
    ui.line(&format!("seed {}", run.seed));
    if let Some(warning) = &run.warning {
        ui.line(&format!("warning: {warning}"));
    }
    let guest = guest::build(run.offline, ui)?;
    let results = runtime::start()?.block_on(run_all(run, &guest, ui))?;
    let judgement = judge::judge(results.cells_expected, &results.cells);
    run.out.write_reports(&results, &judgement)?;
    Ok(Ended { results, judgement })
}

/// That the disks have room for what a run makes.
pub fn ensure_rooms(run: &Run, ui: &Arc<Ui>) -> Result<()> {
    let store = prepare::open_store(true, false, ui)?;
    let has_cells = |spec: &&KernelSpec| run.cells.iter().any(|cell| cell.id.kernel == spec.name);
    let kernels = run.catalogue.kernels.iter().filter(has_cells);
    let to_make = prepare::kernels_to_make(&store, kernels);
    Rooms {
        cache: Some((&store.cache_dir(), to_make)),
        ..Rooms::of_results(run.out.path())
    }
    .check()
}

/// What the host must have for the cells of a run.
fn ensure_host(run: &Run, ui: &Arc<Ui>) -> Result<()> {
    let cases = run.cells.iter().filter_map(|cell| find(&cell.id.case));
    let programs: BTreeSet<HostProgram> = cases.flat_map(|case| case.programs).copied().collect();
    let programs: Vec<HostProgram> = programs.into_iter().collect();
    host::ensure(
        &run.catalogue,
        host::Needs::Matrix,
        &programs,
        run.offline,
        ui,
    )
}

/// Prepares what the first cell of a run needs and gives its plan, without running it.
pub fn plan_first(run: &Run, scratch: &Path, ui: &Arc<Ui>) -> Result<CellPlan> {
    ensure_host(run, ui)?;
    let guest = guest::build(run.offline, ui)?;
    let cell = run.cells.first().context("there is no cell")?;
    let context = runtime::start()?.block_on(RunContext::prepare(run, &guest, scratch, ui))?;
    context
        .cell_plan(cell)
        .map(|(_, plan)| plan)
        .map_err(anyhow::Error::msg)
}

async fn run_all(run: &Run, guest: &GuestPrograms, ui: &Arc<Ui>) -> Result<RunResults> {
    let mut results = RunResults {
        cells_expected: run.cells.len() as u64,
        seed: run.seed,
        shard: run.shard.map(|shard| shard.to_string()),
        cells: Vec::new(),
    };
    if run.earlier.is_none() {
        run.out.write_results(&results)?;
    }
    let scratch = run.out.scratch()?;
    let guest = guest.copy_to(scratch.path())?;
    let context = Arc::new(RunContext::prepare(run, &guest, scratch.path(), ui).await?);
    let mut so_far = ended_before(&run.cells, &context);
    if run.earlier.is_some() {
        let (ended, all) = (so_far.len(), run.cells.len());
        ui.line(&format!("{ended} of {all} cells have ended before"));
    }
    let order = order_of_running(&run.cells, &so_far);
    let counter = ui.counter(order.len() as u64, "cells");
    let one = move |cell: PlannedCell| {
        let context = Arc::clone(&context);
        async move { context.run(cell).await }
    };
    let mut write_error = None;
    let in_order: Vec<PlannedCell> = order.iter().map(|at| run.cells[*at].clone()).collect();
    runner::run_cells(&in_order, run.jobs, one, |at, result| {
        counter.inc(1);
        so_far.insert(order[at], result.clone());
        // Written after every cell: a run that is cut off leaves what it knew.
        let partial = RunResults {
            cells: so_far.values().cloned().collect(),
            ..results.clone()
        };
        write_error = run.out.write_results(&partial).err();
    })
    .await;
    counter.finish_and_clear();
    results.cells = so_far.into_values().collect();
    match write_error {
        None => Ok(results),
        Some(error) => Err(error),
    }
}

/// The results that an earlier run had, by their places in the plan.
fn ended_before(cells: &[PlannedCell], context: &RunContext) -> BTreeMap<usize, CellResult> {
    let ended = |(at, cell)| match context.known(cell) {
        Known::Ended(result) => Some((at, *result)),
        Known::Nothing | Known::Broken(_) => None,
    };
    cells.iter().enumerate().filter_map(ended).collect()
}

/// Places of the cells that have not ended, in the order in which they are run: what failed once is what fails next.
fn order_of_running(cells: &[PlannedCell], ended: &BTreeMap<usize, CellResult>) -> Vec<usize> {
    let all = 0..cells.len();
    let mut order: Vec<usize> = all.filter(|at| !ended.contains_key(at)).collect();
    // Stable: the others stay in their order.
    order.sort_by_key(|at| cells[*at].id.case != REGRESSIONS);
    order
}

/// Prints the table, or the results as JSON with the table beside.
pub fn show(ended: &Ended, json: bool) -> Result<()> {
    show_with(ended, &table::verdicts(&ended.results.cells), json)
}

/// The same with another table.
pub fn show_with(ended: &Ended, verdicts: &str, json: bool) -> Result<()> {
    let results = &ended.results;
    let text = [
        verdicts.to_owned(),
        table::failures(&results.cells, &ended.judgement),
        table::time(&results.cells),
        table::summary(results.cells_expected, &ended.judgement),
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect::<Vec<_>>()
    .join("\n");
    if json {
        out::note_lines(&format!("\n{text}"));
        print_json(results)
    } else {
        print(&format!("\n{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_model::Verdict;

    #[test]
    fn regressions_run_before_all_else() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let cells = plan::plan(
            &names(&["k", "l"]),
            &names(&["a", REGRESSIONS, "b"]),
            &[],
            1,
        );
        assert_eq!(
            order_of_running(&cells, &BTreeMap::new()),
            [1, 4, 0, 2, 3, 5]
        );
        let ended = [0, 4].map(|at| (at, cells[at].result(Verdict::Pass, String::new())));
        assert_eq!(order_of_running(&cells, &ended.into()), [1, 2, 3, 5]);
    }
}
