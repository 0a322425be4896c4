//! Scripts tried on one kernel and one build of the module, as often as somebody likes: what `shrink` and
//! `replay` do their work with.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cowbird_cases::REGRESSIONS;
use cowbird_checks::judgement::ScriptRunOutcome;
use cowbird_checks::script_runs::ScriptRunPlan;
use cowbird_matrix::output::Scratch;
use cowbird_matrix::spec::{Cases, RunSpec, Selection};
use cowbird_model::Class;
use cowbird_session::input::CaseInput;
use cowbird_session::plan::CellPlan;
use cowbird_vm::probe::AccelRequest;
use cowbird_workload::Script;
use tokio::runtime::Runtime;

use crate::host::runtime;
use crate::run::context::RunContext;
use crate::run::guest_programs;
use crate::ui::Ui;
use crate::{host, run};

/// Script runs of one boot: more would make a batch wait long for its first answer.
const SCRIPT_RUNS_AT_ONCE: u32 = 48;

/// What is tried on what.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Name of the kernel.
    pub kernel: String,
    /// Name of the mutant; none for the module as it is.
    pub mutant: Option<String>,
    /// Seed of contents and pauses.
    pub seed: u64,
}

/// How often a script failed, and as what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Times that it failed.
    pub failed: u32,
    /// Times that it was run.
    pub times: u32,
    /// Classes of the blocks that were wrong.
    pub classes: BTreeSet<Class>,
    /// What was wrong the first time.
    pub first_fault: Option<String>,
}

impl Tally {
    /// Takes an outcome that is to show one of these classes; all, if none is named.
    fn take(&mut self, outcome: &ScriptRunOutcome, wanted: &BTreeSet<Class>) {
        self.times += 1;
        let classes = outcome.classes.keys().copied();
        let seen: BTreeSet<Class> = classes
            .filter(|class| wanted.is_empty() || wanted.contains(class))
            .collect();
        let any_fault = wanted.is_empty() && !outcome.faults.is_empty();
        if seen.is_empty() && !any_fault {
            return;
        }
        self.failed += 1;
        self.classes.extend(seen);
        if self.first_fault.is_none() {
            self.first_fault = outcome.faults.first().cloned();
        }
    }
}

/// A kernel and a module that are ready.
pub struct ScriptRunner {
    runtime: Runtime,
    plan: CellPlan,
    ui: Arc<Ui>,
    boots: u32,
    _scratch: Scratch,
}

impl ScriptRunner {
    /// Prepares the kernel and builds the module. `out`: where evidence goes.
    pub fn prepare(
        subject: &Subject,
        accel: AccelRequest,
        offline: bool,
        out: &std::path::Path,
        ui: &Arc<Ui>,
    ) -> Result<Self> {
        let run = run::check(&RunSpec {
            kernels: Selection::named(&subject.kernel),
            cases: Cases::Of(Selection::named(REGRESSIONS)),
            mutants: subject.mutant.iter().cloned().collect(),
            seed: Some(subject.seed),
            jobs: Some(1),
            accel,
            offline,
            ..RunSpec::new(out.to_owned())
        })?;
        run::ensure_rooms(&run, ui)?;
        host::ensure(&run.catalogue, host::Needs::Matrix, &[], run.offline, ui)?;
        let guest = guest_programs::build(run.offline, ui)?;
        let scratch = run.out.scratch()?;
        let guest = guest.copy_to(scratch.path())?;
        let runtime = runtime::start()?;
        let context = runtime.block_on(RunContext::prepare(&run, &guest, scratch.path(), ui))?;
        let cell = run.cells.first().context("there is no cell")?;
        let (_, plan) = context.cell_plan(cell).map_err(anyhow::Error::msg)?;
        Ok(Self {
            runtime,
            plan: CellPlan {
                seed: subject.seed,
                ..plan
            },
            ui: Arc::clone(ui),
            boots: 0,
            _scratch: scratch,
        })
    }

    /// Guests that were booted so far.
    pub fn boots(&self) -> u32 {
        self.boots
    }

    /// Runs each script so many times, many of them in one boot; a failure counts if it is of one of these
    /// classes, or if none is named.
    pub fn run(
        &mut self,
        scripts: &[Script],
        times: u32,
        wanted: &BTreeSet<Class>,
    ) -> Result<Vec<Tally>> {
        let mut tallies = vec![Tally::default(); scripts.len()];
        let each: Vec<usize> = (0..scripts.len())
            .flat_map(|at| std::iter::repeat_n(at, times as usize))
            .collect();
        for batch in each.chunks(SCRIPT_RUNS_AT_ONCE as usize) {
            let plan = |at: &usize| ScriptRunPlan {
                name: format!("script {}", at + 1),
                script: scripts[*at].clone(),
                times: 1,
            };
            let outcomes = self.boot(batch.iter().map(plan).collect())?;
            for (at, outcome) in batch.iter().zip(&outcomes) {
                tallies[*at].take(outcome, wanted);
            }
        }
        Ok(tallies)
    }

    fn boot(&mut self, script_runs: Vec<ScriptRunPlan>) -> Result<Vec<ScriptRunOutcome>> {
        let count = script_runs.len();
        // Another boot sees other pauses.
        self.boots += 1;
        let plan = CellPlan {
            input: CaseInput::ScriptRuns(script_runs),
            seed: self.plan.seed ^ u64::from(self.boots) << 32,
            ..self.plan.clone()
        };
        let task = self.ui.task(&format!("boot {}", self.boots));
        let progress = |phase: &str| task.step(phase);
        let outcome = self
            .runtime
            .block_on(cowbird_harness::run_cell(&plan, &progress));
        let failed = outcome
            .script_runs
            .iter()
            .filter(|script_run| !script_run.faults.is_empty());
        task.end(&format!(
            "{} of {count} script runs failed, {:.1}s",
            failed.count(),
            outcome.seconds
        ));
        if outcome.script_runs.len() != count {
            bail!(
                "the guest did not come to the end of {count} script runs: {}: {}; only what makes blocks wrong \
                 can be tried so",
                outcome.verdict,
                outcome.reason
            );
        }
        Ok(outcome.script_runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(classes: &[Class], faults: &[&str]) -> ScriptRunOutcome {
        ScriptRunOutcome {
            name: "x".into(),
            faults: faults.iter().map(ToString::to_string).collect(),
            classes: classes.iter().map(|class| (*class, 1)).collect(),
        }
    }

    /// Goal: what fails in another way is another fault.
    #[test]
    fn only_the_wanted_failure_counts() {
        let mut tally = Tally::default();
        let wanted = [Class::Future, Class::Torn].into();
        tally.take(&outcome(&[], &[]), &wanted);
        tally.take(&outcome(&[Class::Stale], &["stale"]), &wanted);
        tally.take(&outcome(&[], &["cannot be read"]), &wanted);
        tally.take(&outcome(&[Class::Stale, Class::Torn], &["torn"]), &wanted);
        assert_eq!((tally.failed, tally.times), (1, 4));
        assert_eq!(tally.classes, [Class::Torn].into());
        assert_eq!(tally.first_fault.as_deref(), Some("torn"));

        let mut any = Tally::default();
        any.take(&outcome(&[], &["cannot be read"]), &BTreeSet::new());
        any.take(&outcome(&[], &[]), &BTreeSet::new());
        assert_eq!((any.failed, any.times), (1, 2));
    }
}
