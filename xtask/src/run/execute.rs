//! A checked run, from what the host must have to the results of its cells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use cowbird_cases::REGRESSIONS;
use cowbird_harness::catalogue::find;
use cowbird_host::program::HostProgram;
use cowbird_images::KernelSpec;
use cowbird_matrix::judge::{self, Judgement};
use cowbird_matrix::plan::PlannedCell;
use cowbird_matrix::programs::GuestPrograms;
use cowbird_matrix::resume::Known;
use cowbird_matrix::runner;
use cowbird_model::{CellResult, RunResults};
use cowbird_session::plan::CellPlan;

use crate::host;
use crate::host::rooms::Rooms;
use crate::host::runtime;
use crate::run::checked::Run;
use crate::run::context::RunContext;
use crate::run::{guest_programs, prepare};
use crate::ui::Ui;

/// The ended run.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What `results.json` has.
    pub results: RunResults,
    /// How it counts.
    pub judgement: Judgement,
}

/// Runs the cells of a checked run.
pub fn execute(run: &Run, ui: &Arc<Ui>) -> Result<Ended> {
    ensure_rooms(run, ui)?;
    ensure_host(run, &[], ui)?;
    ui.line(&format!("seed {}", run.seed));
    if let Some(warning) = &run.warning {
        ui.line(&format!("warning: {warning}"));
    }
    let guest = guest_programs::build(run.offline, ui)?;
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

/// What the host must have for the cells of a run, and these programs.
pub fn ensure_host(run: &Run, more: &[HostProgram], ui: &Arc<Ui>) -> Result<()> {
    let cases = run.cells.iter().filter_map(|cell| find(&cell.id.case));
    let of_cases = cases.flat_map(|case| case.programs);
    let programs: BTreeSet<HostProgram> = of_cases.chain(more).copied().collect();
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
    ensure_host(run, &[], ui)?;
    let guest = guest_programs::build(run.offline, ui)?;
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
        plan: Some(run.plan.clone()),
        cells: Vec::new(),
    };
    run.out.remove_reports()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_matrix::plan;
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
