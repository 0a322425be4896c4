//! `test-matrix`: from the command line to a judged table of verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cowbird_cases::REGRESSIONS;
use cowbird_harness::catalogue::{cases, find, recorded_case};
use cowbird_host::program::HostProgram;
use cowbird_images::{Catalogue, KernelSpec};
use cowbird_matrix::durations::Durations;
use cowbird_matrix::judge::{self, Judgement};
use cowbird_matrix::mutants::{self, Mutant};
use cowbird_matrix::output::OutDir;
use cowbird_matrix::plan::{self, PlannedCell};
use cowbird_matrix::programs::GuestPrograms;
use cowbird_matrix::resume::{Earlier, Known};
use cowbird_matrix::select::{RoundRobin, select};
use cowbird_matrix::{regression, runner, table};
use cowbird_model::{CellResult, RunResults};
use cowbird_outside::out;
use cowbird_session::plan::CellPlan;

use crate::cli::MatrixArgs;
use crate::guest;
use crate::rooms::Rooms;
use crate::run::Run;
use crate::stage::Stage;
use crate::ui::{Ui, print, print_json};
use crate::workload::Wanted;
use crate::{host, prepare, repo, runtime};

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
    let run = check(args)?;
    let ended = execute(&run, ui)?;
    show(&ended, args.json)?;
    Ok(ended.judgement.exit)
}

/// Reads the command line against the catalogue. Nothing is fetched, built or booted before this
/// has succeeded.
pub fn check(args: &MatrixArgs) -> Result<Run> {
    let root = repo::root();
    let catalogue = Catalogue::load(root.join(Catalogue::PATH_IN_REPO))?;
    let kernels = names(
        &select(&catalogue.kernels, &args.kernel, args.tier.into())?,
        |kernel| &kernel.name,
    );
    let workload = Wanted::check(&args.workload)?;
    let named = !args.case.is_empty() || workload.is_some();
    let mut chosen_cases = match &workload {
        Some(_) => vec![recorded_case().name.to_owned()],
        None => names(&select(cases(), &args.case, args.tier.into())?, |case| {
            case.name
        }),
    };
    let known = mutants::load(&root)?;
    let mutants: Vec<Mutant> = mutants::select(&known, &args.mutant)?
        .into_iter()
        .cloned()
        .collect();
    let out = OutDir::open(&args.out)?;
    let earlier = args.resume.then(|| Earlier::read(&out)).transpose()?;
    let seed = match (args.seed, &earlier) {
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
    if args.kernel.is_empty() && !named && mutants.is_empty() {
        let round_robin = RoundRobin::new(&catalogue.kernels, cases());
        cells.retain(|cell| round_robin.has(&cell.id.kernel, &cell.id.case));
    }
    let durations = Durations::load(&root)?;
    let cells = match args.shard {
        Some(shard) => plan::cells_of_shard(cells, shard, |cell| durations.of_cell(cell)),
        None => cells,
    };
    if cells.is_empty() && args.shard.is_none() {
        bail!("no kernel and case are in this tier; name them with --kernel and --case");
    }
    let earlier = earlier
        .map(|results| Earlier::of(results, &cells, &out))
        .transpose()?;
    let trials = if cells.iter().any(|cell| cell.id.case == REGRESSIONS) {
        regression::plans(&root)?
    } else {
        Vec::new()
    };
    let jobs = args
        .jobs
        .map_or_else(|| default_jobs(args.cpus), usize::from);
    let (shard, accel, offline) = (args.shard, args.accel, args.offline);
    Ok(Run {
        catalogue,
        cells,
        workload,
        soak_minutes: args.soak_minutes,
        cuts: args.cuts,
        trials,
        mutants,
        traced: args.traced,
        record: args.record,
        cpus: args.cpus,
        seed,
        shard,
        jobs,
        accel,
        offline,
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
    let stage = runtime::start()?.block_on(Stage::set(run, &guest, scratch, ui))?;
    stage
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
    let stage = Arc::new(Stage::set(run, &guest, scratch.path(), ui).await?);
    let mut so_far = ended_before(&run.cells, &stage);
    if run.earlier.is_some() {
        let (ended, all) = (so_far.len(), run.cells.len());
        ui.line(&format!("{ended} of {all} cells have ended before"));
    }
    let order = order_of_running(&run.cells, &so_far);
    let counter = ui.counter(order.len() as u64, "cells");
    let one = move |cell: PlannedCell| {
        let stage = Arc::clone(&stage);
        async move { stage.run(cell).await }
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
fn ended_before(cells: &[PlannedCell], stage: &Stage) -> BTreeMap<usize, CellResult> {
    let ended = |(at, cell)| match stage.known(cell) {
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
        let ended = [0, 4].map(|at| (at, runner::broken(&cells[at], String::new())));
        assert_eq!(order_of_running(&cells, &ended.into()), [1, 2, 3, 5]);
    }
}
