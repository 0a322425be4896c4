//! What all cells of a run share, and how one of them becomes a result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use cowbird_cases::{CaseInfo, REGRESSIONS};
use cowbird_checks::recorded::WorkloadPlan;
use cowbird_checks::script_runs::ScriptRunPlan;
use cowbird_harness::{CellOutcome, catalogue, tape};
use cowbird_host::limits::Limits;
use cowbird_images::{InUse, KernelSpec, Store};
use cowbird_matrix::mutants::Mutant;
use cowbird_matrix::output::{self, OutDir};
use cowbird_matrix::plan::PlannedCell;
use cowbird_matrix::programs::GuestPrograms;
use cowbird_matrix::resume::{Earlier, Known, Programs};
use cowbird_model::{CellResult, Phase, Verdict};
use cowbird_session::input::CaseInput;
use cowbird_session::plan::{CellPlan, TapePlan};
use cowbird_vm::accel::Accel;
use cowbird_vm::command::DEFAULT_MEMORY_MIB;
use cowbird_vm::probe::{AccelRequest, ProbeKernel, probe_accel};

use crate::run::checked::Run;
use crate::run::emulator;
use crate::run::prepare::{self, Ready, Wanted};
use crate::ui::Ui;

/// Characters of a reason in the log of a run; all of it is in the results.
const REASON_CHARS: usize = 160;

/// Why a cell has no plan.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// Something failed that has nothing to do with the cell.
    #[error("{0}")]
    Broken(String),
    /// This kernel cannot run this case.
    #[error("{0}")]
    Unsupported(String),
}

/// What all cells share while they run.
pub struct RunContext {
    /// Kernels that the catalogue says cannot run, and why.
    unsupported: BTreeMap<String, String>,
    ready: BTreeMap<String, Result<Arc<Ready>, String>>,
    guest: GuestPrograms,
    accel: Accel,
    scratch: PathBuf,
    out: OutDir,
    mutants: Vec<Mutant>,
    workload: Option<WorkloadPlan>,
    soak_minutes: Option<u32>,
    cuts: Option<u32>,
    traced: bool,
    cpus: u32,
    script_runs: Vec<ScriptRunPlan>,
    /// How cells are recorded, if they are.
    tape: Option<TapePlan>,
    /// Nobody deletes the emulator that records them meanwhile.
    _emulator: Option<InUse>,
    programs: Programs,
    /// What an earlier run knew.
    earlier: Earlier,
    ui: Arc<Ui>,
}

impl RunContext {
    /// Prepares the kernels of a run, builds the module for each, and decides the acceleration. A
    /// kernel that fails here fails its own cells only.
    pub async fn prepare(
        run: &Run,
        guest: &GuestPrograms,
        scratch: &Path,
        ui: &Arc<Ui>,
    ) -> Result<Self> {
        let workload = run.workload.as_ref();
        let workload = workload.map(|wanted| wanted.stage(guest, scratch, ui));
        let workload = workload.transpose()?;
        let store = Arc::new(prepare::open_store(run.offline, false, ui)?);
        let recorded_by = run
            .record
            .then(|| recorded_by(&store, run, ui))
            .transpose()?;
        let (tape, emulator) = recorded_by.unzip();
        let unsupported = unsupported(run, &store);
        let ready = prepare::prepare(&store, wanted(run, &unsupported)).await;
        let accel = match tape {
            Some(_) => Accel::Tcg,
            None => choose_accel(run.accel, &ready, guest, &store.cache_dir(), ui).await?,
        };
        Ok(Self {
            unsupported,
            ready,
            guest: guest.clone(),
            accel,
            scratch: scratch.to_owned(),
            out: run.out.clone(),
            mutants: run.mutants.clone(),
            workload,
            soak_minutes: run.soak_minutes,
            cuts: run.cuts,
            traced: run.traced,
            cpus: run.cpus,
            script_runs: run.script_runs.clone(),
            tape,
            _emulator: emulator,
            programs: Programs::read(guest)?,
            earlier: run.earlier.clone().unwrap_or_default(),
            ui: Arc::clone(ui),
        })
    }

    /// Runs one cell. It always has a result.
    pub async fn run(&self, cell: PlannedCell) -> CellResult {
        let task = self.ui.task(&cell.id.to_string());
        let result = match self.cell_plan(&cell) {
            Err(NoPlan::Broken(reason)) => cell.result(Verdict::Infrastructure, reason),
            Err(NoPlan::Unsupported(reason)) => cell.result(Verdict::Unsupported, reason),
            Ok((ready, plan)) => {
                let run = async || {
                    cowbird_harness::run_cell(&plan, &|phase: &str| task.step(phase)).await
                };
                let mut first = match self.known(&cell) {
                    Known::Broken(reason) => Some(reason),
                    Known::Nothing | Known::Ended(_) => None,
                };
                let mut outcome = run().await;
                let mut done = 1;
                let mut again = Vec::new();
                while outcome.inconclusive && done < attempts(&outcome) {
                    let reason = why_again(&outcome);
                    again.push(format!("run again, because {reason}"));
                    first.get_or_insert(reason);
                    outcome = run().await;
                    done += 1;
                }
                outcome.notes.append(&mut again);
                CellResult {
                    first_attempt: first,
                    made_of: self.programs.made_of(&plan).ok(),
                    ..self.result(&cell, &plan, &ready, outcome)
                }
            }
        };
        task.end(&one_line(&result));
        result
    }

    /// What the earlier run says of a cell.
    pub fn known(&self, cell: &PlannedCell) -> Known {
        let plan = self.cell_plan(cell).ok();
        let made_of = plan.and_then(|(_, plan)| self.programs.made_of(&plan).ok());
        let known = made_of.map(|made_of| self.earlier.of_cell(cell, &made_of));
        match known {
            Some(Known::Ended(mut result)) => {
                // The list of mutants is no part of what a cell is made of.
                result.caught = self.caught(cell, &result);
                Known::Ended(result)
            }
            known => known.unwrap_or(Known::Nothing),
        }
    }

    /// What the harness is to do for a cell, or why it cannot be done.
    pub fn cell_plan(&self, cell: &PlannedCell) -> Result<(Arc<Ready>, CellPlan), NoPlan> {
        if let Some(reason) = self.unsupported.get(&cell.id.kernel) {
            return Err(NoPlan::Unsupported(reason.clone()));
        }
        let broken = |reason: &str| NoPlan::Broken(reason.to_owned());
        let ready = self
            .ready
            .get(&cell.id.kernel)
            .ok_or_else(|| broken("the kernel was not prepared"))?
            .clone()
            .map_err(NoPlan::Broken)?;
        let boot_modules = ready
            .boot_modules
            .get(&cell.id.case)
            .ok_or_else(|| broken("the case's modules were not looked for"))?
            .clone()
            .map_err(NoPlan::Unsupported)?;
        let built = ready
            .built
            .get(&cell.id.mutant)
            .ok_or_else(|| broken("the module was not built"))?
            .clone()
            .map_err(NoPlan::Broken)?;
        let input = match (&self.workload, cell.id.case.as_str()) {
            (Some(workload), _) => CaseInput::Workload(workload.clone()),
            (None, REGRESSIONS) => CaseInput::ScriptRuns(self.script_runs.clone()),
            (None, _) => CaseInput::Lengths {
                soak_minutes: self.soak_minutes,
                cuts: self.cuts,
            },
        };
        let taped = self.tape.is_some();
        let slowdown = ready.kernel.spec.slowdown * if taped { tape::SLOWDOWN } else { 1 };
        let plan = CellPlan {
            kernel_name: cell.id.kernel.clone(),
            kernel_release: ready.kernel.release.clone(),
            vmlinuz: ready.image.clone(),
            boot_modules,
            cowbird_ko: built,
            guest_init: self.guest.init.clone(),
            cowbirdctl: self.guest.cowbirdctl.clone(),
            tracer: self.guest.tracer.clone(),
            tracer_trial: self.guest.tracer_trial.clone(),
            case: cell.id.case.clone(),
            input,
            traced: self.traced,
            mutant: cell.id.mutant.clone(),
            seed: cell.seed,
            accel: self.accel,
            cpus: if taped { tape::CPUS } else { self.cpus },
            memory_mib: DEFAULT_MEMORY_MIB,
            work_dir: self.scratch.join(cell.id.slug()),
            bundle_dir: self
                .out
                .bundle(&format!("{}+{}", cell.id.slug(), cell.seed)),
            limits: Limits::for_slowdown(slowdown),
            tape: self.tape.clone(),
        };
        Ok((ready, plan))
    }

    fn result(
        &self,
        cell: &PlannedCell,
        plan: &CellPlan,
        ready: &Ready,
        outcome: CellOutcome,
    ) -> CellResult {
        let bundle = outcome.bundle.clone();
        let mut result = CellResult {
            kernel_version: format!("{} {}", ready.kernel.release, ready.kernel.package_version),
            ..told(cell, plan, outcome)
        };
        result.caught = self.caught(cell, &result);
        // What was recorded on purpose is not thrown away.
        if result.caught == Some(true)
            && self.tape.is_none()
            && let Some(bundle) = &bundle
        {
            output::prune_bundle(bundle);
        }
        result
    }

    /// For a mutant's cell, whether it saw the fault.
    fn caught(&self, cell: &PlannedCell, result: &CellResult) -> Option<bool> {
        let name = cell.id.mutant.as_ref()?;
        let mutant = self.mutants.iter().find(|mutant| mutant.name == *name);
        Some(mutant.is_some_and(|mutant| mutant.is_caught(result)))
    }
}

/// What a cell's outcome says, as its plan had it done.
fn told(cell: &PlannedCell, plan: &CellPlan, outcome: CellOutcome) -> CellResult {
    let phase = |(name, time): (String, Duration)| Phase {
        name,
        seconds: time.as_secs_f64(),
    };
    let bundle = outcome.bundle;
    CellResult {
        cpus: plan.cpus,
        blocks_checked: outcome.blocks_checked,
        blocks_bad: outcome.blocks_bad,
        classes: outcome.classes,
        notes: outcome.notes,
        phases: outcome.phases.into_iter().map(phase).collect(),
        seconds: outcome.seconds,
        trace: outcome.trace,
        bundle: bundle.map(|path| path.display().to_string()),
        ..cell.result(outcome.verdict, outcome.reason)
    }
}

/// How the cells of a run are recorded.
fn recorded_by(store: &Store, run: &Run, ui: &Ui) -> Result<(TapePlan, InUse)> {
    if run.accel == AccelRequest::Kvm {
        bail!("QEMU records only what it emulates: leave --accel out beside --record");
    }
    let (emulator, in_use) = emulator::recording(store, &run.catalogue, ui)?;
    let bundle = None;
    Ok((TapePlan { emulator, bundle }, in_use))
}

/// Kernels that cannot run, by the catalogue or because nobody supplied their packages, and why.
fn unsupported(run: &Run, store: &Store) -> BTreeMap<String, String> {
    let kernels = run.catalogue.kernels.iter();
    let reasons =
        kernels.filter_map(|spec| Some((spec.name.clone(), prepare::unsupported(store, spec)?)));
    reasons.collect()
}

/// What is needed of each kernel that has cells.
fn wanted(run: &Run, unsupported: &BTreeMap<String, String>) -> Vec<Wanted> {
    let kernels = run.catalogue.kernels.iter();
    let specs = kernels.filter(|spec| !unsupported.contains_key(&spec.name));
    let with_cells = specs.filter_map(|spec| {
        let cells: Vec<&PlannedCell> = run
            .cells
            .iter()
            .filter(|cell| cell.id.kernel == spec.name)
            .collect();
        (!cells.is_empty()).then(|| wanted_of(spec, &cells))
    });
    with_cells.collect()
}

fn wanted_of(spec: &KernelSpec, cells: &[&PlannedCell]) -> Wanted {
    let mut mutants = Vec::new();
    let mut modules = BTreeMap::new();
    for cell in cells {
        if !mutants.contains(&cell.id.mutant) {
            mutants.push(cell.id.mutant.clone());
        }
        let needs =
            catalogue::find(&cell.id.case).map_or(&[][..], |case: &CaseInfo| case.needs_modules);
        let needs = needs.iter().map(ToString::to_string).collect();
        modules.insert(cell.id.case.clone(), needs);
    }
    Wanted {
        spec: spec.clone(),
        modules,
        mutants,
    }
}

/// Decides what QEMU runs the guests with, by booting one of the kernels where that is needed.
async fn choose_accel(
    request: AccelRequest,
    ready: &BTreeMap<String, Result<Arc<Ready>, String>>,
    guest: &GuestPrograms,
    cache: &Path,
    ui: &Arc<Ui>,
) -> Result<Accel> {
    let bootable = |ready: &Arc<Ready>| {
        let modules = ready
            .boot_modules
            .values()
            .find_map(|modules| modules.as_ref().ok());
        Some((ready.image.clone(), modules?.clone()))
    };
    let Some((vmlinuz, boot_modules)) = ready
        .values()
        .filter_map(|ready| ready.as_ref().ok())
        .find_map(bootable)
    else {
        // No cell will boot, and each says why.
        return Ok(Accel::Tcg);
    };
    let kernel = ProbeKernel {
        vmlinuz,
        boot_modules,
        guest_init: guest.init.clone(),
    };
    let chosen = probe_accel(request, &kernel, &cache.join("accel")).await?;
    ui.line(&format!(
        "acceleration: {:?} ({})",
        chosen.accel, chosen.reason
    ));
    Ok(chosen.accel)
}

/// How often a cell is run at most while it says nothing about the module: a host that failed it once seldom does so twice, while
/// a kernel that preempts the tracer's programs loses an event of each few recordings of a busy machine.
fn attempts(outcome: &CellOutcome) -> u32 {
    match outcome.verdict {
        Verdict::Pass => 3,
        _ => 2,
    }
}

/// Why an outcome says nothing.
fn why_again(outcome: &CellOutcome) -> String {
    let trace = outcome.trace.iter().map(|trace| &trace.reason);
    let verdict = Some(&outcome.reason).filter(|reason| !reason.is_empty());
    verdict
        .into_iter()
        .chain(trace)
        .next()
        .cloned()
        .unwrap_or_default()
}

/// How a cell ended, for the log of the run.
fn one_line(result: &CellResult) -> String {
    let caught = match result.caught {
        Some(true) => ", caught",
        Some(false) => ", not caught",
        None => "",
    };
    let line = result.reason.lines().next().unwrap_or_default();
    let mut reason: String = line.chars().take(REASON_CHARS).collect();
    if reason.len() < line.len() {
        reason.push_str(" ..");
    }
    if !reason.is_empty() {
        reason.insert_str(0, ": ");
    }
    if let Some(trace) = &result.trace {
        reason += &format!(
            "\n      trace {}: {}",
            trace.conclusion.name(),
            trace.reason
        );
    }
    for note in &result.notes {
        reason += "\n      ";
        reason += note;
    }
    format!(
        "{}{caught}, {} of {} blocks bad, {:.1}s{reason}",
        result.verdict, result.blocks_bad, result.blocks_checked, result.seconds
    )
}

#[cfg(test)]
mod tests {
    use cowbird_matrix::plan;

    use super::*;

    /// Goal: a result tells with how many CPUs its cell ran, which for a recorded one are those of the tape, whatever the
    /// run was asked for. Method: an outcome, told by a plan.
    #[test]
    fn a_result_has_the_cpus_of_its_plan() {
        let cells = plan::plan(&["k".into()], &["raw-writers".into()], &[], 7);
        let plan = CellPlan {
            cpus: tape::CPUS,
            ..CellPlan::example()
        };
        let outcome = CellOutcome {
            verdict: Verdict::Pass,
            reason: String::new(),
            blocks_checked: 5,
            blocks_bad: 0,
            classes: BTreeMap::new(),
            notes: vec!["a note".into()],
            script_runs: Vec::new(),
            phases: vec![("copy".into(), Duration::from_millis(1500))],
            trace: None,
            inconclusive: false,
            replayed: None,
            bundle: Some("/bundle".into()),
            seconds: 2.0,
        };
        let result = told(&cells[0], &plan, outcome);
        assert_eq!((result.cpus, result.verdict), (tape::CPUS, Verdict::Pass));
        assert_eq!(result.bundle.as_deref(), Some("/bundle"));
        assert_eq!(result.phases[0].seconds, 1.5);
        assert_ne!(tape::CPUS, CellPlan::example().cpus);
    }
}
