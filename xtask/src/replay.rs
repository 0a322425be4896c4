//! `replay`: one cell again, with the seed that it had, on the module as it is now.
//!
//! A bundle's plan names the cell; kernel, module and guest programs are prepared afresh, so that a
//! fix can be tried on the cell that failed.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use cowbird_harness::bundle::read_plan;
use cowbird_harness::recorded::WORKLOAD_FILE;
use cowbird_harness::{Accel, CellPlan, WorkloadPlan};

use crate::cli::{AccelChoice, MatrixArgs, ReplayArgs, Tier, WorkloadArgs};
use crate::matrix::{self, Run};
use crate::plan::{CellId, PlannedCell};
use crate::ui::Ui;

/// Runs the command; the value is the exit code.
pub fn command(args: &ReplayArgs, ui: &Arc<Ui>) -> Result<u8> {
    let plan = read_plan(&args.bundle)
        .with_context(|| format!("{} is not the bundle of a cell", args.bundle.display()))?;
    let run = run(args, &plan)?;
    ui.line(&format!(
        "again: {} seed {}",
        run.cells[0].id, run.cells[0].seed
    ));
    let ended = matrix::execute(&run, ui)?;
    if let Some(result) = ended.results.cells.first()
        && !result.kernel_version.starts_with(&plan.kernel_release)
        && !result.kernel_version.is_empty()
    {
        ui.line(&format!(
            "warning: the bundle is of kernel {}, this ran {}",
            plan.kernel_release, result.kernel_version
        ));
    }
    matrix::show(&ended, args.json)?;
    Ok(ended.judgement.exit)
}

/// The run of the one cell. Its names are checked as those of a command line are.
fn run(args: &ReplayArgs, plan: &CellPlan) -> Result<Run> {
    let accel = args.accel.unwrap_or(match plan.accel {
        Accel::Kvm => AccelChoice::Kvm,
        Accel::Tcg => AccelChoice::Tcg,
    });
    let (case, workload) = match &plan.workload {
        None => (
            vec![glob::Pattern::escape(&plan.case)],
            WorkloadArgs::default(),
        ),
        Some(workload) => (Vec::new(), workload_of(&args.bundle, workload)),
    };
    let mut run = matrix::check(&MatrixArgs {
        tier: Tier::Full,
        kernel: vec![glob::Pattern::escape(&plan.kernel_name)],
        case,
        workload,
        soak_minutes: plan.soak_minutes,
        mutant: plan.mutant.iter().cloned().collect(),
        traced: plan.traced,
        seed: Some(plan.seed),
        jobs: Some(1),
        shard: None,
        accel,
        offline: args.offline,
        out: args.out.clone(),
        json: args.json,
    })?;
    // The plan has the cell's own seed, not that of the run which it was derived from.
    let id = CellId {
        kernel: plan.kernel_name.clone(),
        case: plan.case.clone(),
        mutant: plan.mutant.clone(),
    };
    run.cells = vec![PlannedCell {
        id,
        seed: plan.seed,
    }];
    Ok(run)
}

/// The workload of a bundle: the file that the plan names was the run's, and is gone with it.
fn workload_of(bundle: &Path, plan: &WorkloadPlan) -> WorkloadArgs {
    WorkloadArgs {
        workload: Some(bundle.join(WORKLOAD_FILE)),
        timing: plan.timing,
        snapshot_at: plan.snapshot_at_percent,
    }
}
