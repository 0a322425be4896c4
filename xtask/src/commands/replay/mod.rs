//! `replay`: one cell again, with the seed that it had, on the module as it is now; or a regression, from its
//! file alone.
//!
//! A bundle's plan names the cell; kernel, module and guest programs are prepared afresh, so that a
//! fix can be tried on the cell that failed. Repeated, either says how often it fails. A cell that was recorded is played
//! from its tape.

pub mod args;
mod tape;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cowbird_checks::recorded::{WORKLOAD_FILE, WorkloadPlan};
use cowbird_harness::bundle::read_plan;
use cowbird_harness::tape::Kept;
use cowbird_matrix::plan::{CellId, PlannedCell};
use cowbird_matrix::regression::{self, Regression};
use cowbird_matrix::spec::{Cases, Recording, RunSpec, Selection};
use cowbird_matrix::table;
use cowbird_session::plan::CellPlan;
use cowbird_vm::probe::AccelRequest;

use crate::options::accel_again;
use crate::run;
use crate::run::Run;
use crate::run::script_runner::{ScriptRunner, Subject};
use crate::ui::{Ui, print};
use args::ReplayArgs;

/// Runs the command; the value is the exit code.
pub fn command(args: &ReplayArgs, ui: &Arc<Ui>) -> Result<u8> {
    if args.what.is_dir() {
        replay_bundle(args, ui)
    } else {
        replay_regression(args, ui)
    }
}

fn replay_regression(args: &ReplayArgs, ui: &Arc<Ui>) -> Result<u8> {
    if args.gdb {
        bail!("a regression has no tape to stop: record a cell with test-matrix --record");
    }
    let regression = Regression::load(&args.what)?;
    let mutant = regression.mutant.clone().filter(|_| !args.healthy);
    let subject = Subject {
        kernel: regression.kernel.clone(),
        mutant,
        seed: regression.seed,
    };
    let accel = args.accel.map_or(AccelRequest::Auto, AccelRequest::from);
    let mut script_runner = ScriptRunner::prepare(&subject, accel, args.offline, &args.out, ui)?;
    // Whatever is wrong: a fault of another class is a fault.
    let script = regression.script()?;
    let tallies = script_runner.run(&[script], args.times, &BTreeSet::new())?;
    let tally = tallies.first().context("nothing was run")?;
    let module = subject.mutant.as_deref().unwrap_or("the module as it is");
    let classes: Vec<&str> = tally.classes.iter().map(|class| class.name()).collect();
    let as_what = match classes.as_slice() {
        [] => String::new(),
        classes => format!(" ({})", classes.join(", ")),
    };
    print(&format!(
        "{}, {} steps, {module} on {}: failed {} of {} times{as_what}\n",
        regression::name_of(&args.what),
        regression.steps.len(),
        regression.kernel,
        tally.failed,
        tally.times
    ))?;
    if let Some(fault) = &tally.first_fault {
        print(&format!("the first time: {fault}\n"))?;
    }
    Ok(u8::from(tally.failed > 0))
}

fn replay_bundle(args: &ReplayArgs, ui: &Arc<Ui>) -> Result<u8> {
    let plan = read_plan(&args.what)
        .with_context(|| format!("{} is not the bundle of a cell", args.what.display()))?;
    if !args.healthy
        && let Some(kept) = Kept::read(&args.what)?
    {
        return tape::replay(args, &plan, &kept, ui);
    }
    if args.gdb {
        bail!(
            "{} has no tape to stop: record its cell with test-matrix --record",
            args.what.display()
        );
    }
    let run = run(args, &plan)?;
    ui.line(&format!(
        "again: {} seed {}",
        run.cells[0].id, run.cells[0].seed
    ));
    let ended = run::execute(&run, ui)?;
    if let Some(result) = ended.results.cells.first()
        && !result.kernel_version.starts_with(&plan.kernel_release)
        && !result.kernel_version.is_empty()
    {
        ui.line(&format!(
            "warning: the bundle is of kernel {}, this ran {}",
            plan.kernel_release, result.kernel_version
        ));
    }
    run::show(&ended, args.json)?;
    if args.times > 1 {
        ui.line(&table::rate(&ended.results.cells));
    }
    Ok(ended.judgement.exit)
}

/// The run of the one cell. Its names are checked as those of a command line are.
fn run(args: &ReplayArgs, plan: &CellPlan) -> Result<Run> {
    let cases = match plan.input.workload() {
        None => Cases::Of(Selection::named(&plan.case)),
        Some(workload) => Cases::Recorded(recording_of(&args.what, workload)),
    };
    let mutant = plan.mutant.clone().filter(|_| !args.healthy);
    let mut run = run::check(&RunSpec {
        kernels: Selection::named(&plan.kernel_name),
        cases,
        soak_minutes: plan.input.soak_minutes(),
        cuts: plan.input.cuts(),
        traced: plan.traced,
        cpus: plan.cpus,
        mutants: mutant.iter().cloned().collect(),
        seed: Some(plan.seed),
        jobs: Some(1),
        accel: accel_again(args.accel, plan.accel),
        offline: args.offline,
        ..RunSpec::new(args.out.clone())
    })?;
    // The plan has the cell's own seed, not that of the run which it was derived from.
    let id = CellId {
        kernel: plan.kernel_name.clone(),
        case: cowbird_cases::former::current(&plan.case).to_owned(),
        mutant,
    };
    let cell = PlannedCell {
        id,
        seed: plan.seed,
    };
    run.script_runs = plan.input.script_runs().to_vec();
    run.cells = vec![cell; args.times as usize];
    Ok(run)
}

/// The workload of a bundle: the file that the plan names was the run's, and is gone with it.
fn recording_of(bundle: &Path, plan: &WorkloadPlan) -> Recording {
    Recording {
        file: bundle.join(WORKLOAD_FILE),
        timing: plan.timing,
        snapshot_at_percent: plan.snapshot_at_percent,
    }
}
