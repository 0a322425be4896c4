//! One cell from its plan to its verdict.

use std::fs;
use std::path::PathBuf;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::CaseInfo;
use cowbird_checks::claim::Evidence;
use cowbird_checks::exhibits::Testimony;
use cowbird_checks::judgement::Judgement;
use cowbird_checks::recorded::Recorded;
use cowbird_checks::script_runs::ScriptRunPlan;
use cowbird_checks::tracing::{self, TracedCell};
use cowbird_checks::verify;
use cowbird_host::background::in_background;
use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::{CellFiles, INITRAMFS_FILE};
use cowbird_host::initramfs::{self, COWBIRD_KO, COWBIRDCTL, Contents, TRACER, TRACER_TRIAL};
use cowbird_host::kernel_log::{find_leak, find_splat, split_at_module};
use cowbird_host::limits::EVIDENCE_LIMIT;
use cowbird_model::{TraceConclusion, TraceResult, Verdict};
use cowbird_session::fault::Declared;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, Tracing, shut_down_error};
use cowbird_session::machine::Machine;
use cowbird_session::phases::{CellProgress, PhaseClock};
use cowbird_session::plan::CellPlan;
use cowbird_vm::End;

use crate::artifacts::CellArtifacts;
use crate::bundle;
use crate::outcome::CellOutcome;
use crate::planned::{context_of, find_case, load_workload};
use crate::tape::{self, Beginning, Replayed};

/// Runs one cell. Every failure is a verdict.
pub async fn run_cell(plan: &CellPlan, progress: &dyn CellProgress) -> CellOutcome {
    let mut clock = PhaseClock::new(progress);
    let mut artifacts = CellArtifacts::default();
    let mut plan = plan.clone();
    let attempted = attempt(&mut plan, &mut clock, &mut artifacts).await;
    let plan = &plan;
    // A cell that came to its end is so if its kernel complained before the module was there.
    let mut host_caused = true;
    let (verdict, reason, judgement) = match attempted {
        Ok(judged) => judged,
        Err(error) => {
            host_caused = match &error {
                CaseError::Ended(End::Infrastructure(error)) => error.is_of_the_host(),
                _ => false,
            };
            let (verdict, reason) = verdict_of(&error, &mut artifacts);
            (verdict, reason, Judgement::default())
        }
    };
    artifacts.report = judgement.text;
    let trace = judgement.trace.or_else(|| untraced(plan, verdict));
    artifacts.bad = judgement.bad;
    artifacts.notes.extend(judgement.notes);
    let (phases, seconds) = clock.finish();
    let inconclusive = match verdict {
        Verdict::Infrastructure => host_caused,
        // Of a mutant a pass is a chance that was missed, and there is no second one.
        Verdict::Pass => {
            plan.mutant.is_none() && trace.as_ref().is_some_and(tracing::is_incomplete)
        }
        _ => false,
    };
    let mut outcome = CellOutcome {
        verdict,
        reason,
        blocks_checked: judgement.blocks_checked,
        blocks_bad: judgement.blocks_bad,
        classes: judgement.classes,
        notes: artifacts.notes.clone(),
        script_runs: judgement.script_runs,
        phases,
        trace,
        inconclusive,
        replayed: None,
        bundle: None,
        seconds,
    };
    if let Err(error) = tape::finish(plan, &mut outcome, &artifacts).await {
        outcome.reason += &format!(" (and of the tape: {error})");
    }
    clean_up(plan, &mut outcome, &artifacts);
    outcome
}

/// Removes the files of a cell of which nothing is left to ask, or of which everything is in a bundle already, and
/// bundles those of any other.
fn clean_up(plan: &CellPlan, outcome: &mut CellOutcome, artifacts: &CellArtifacts) {
    let replayed = outcome.replayed.as_ref();
    let known = replayed.is_some_and(Replayed::is_identical);
    let kept = if outcome.is_settled() || known {
        fs::remove_dir_all(&plan.work_dir).on("remove", &plan.work_dir)
    } else {
        bundle::write(plan, outcome, artifacts).map(|path| outcome.bundle = Some(path))
    };
    if let Err(error) = kept {
        outcome.reason += &format!(" (and afterwards: {error})");
        if outcome.verdict == Verdict::Pass {
            outcome.verdict = Verdict::Infrastructure;
        }
    }
}

type Judged = (Verdict, String, Judgement);

async fn attempt(
    plan: &mut CellPlan,
    clock: &mut PhaseClock<'_>,
    artifacts: &mut CellArtifacts,
) -> CaseResult<Judged> {
    let case = find_case(plan)?;
    ScriptRunPlan::check(plan.input.script_runs())?;
    clock.enter("prepare");
    let recorded = load_workload(plan).await?;
    let context = context_of(plan, case, recorded.as_ref());
    let files = CellFiles {
        dir: plan.work_dir.clone(),
    };

    if let Some(recorded) = &recorded {
        artifacts.notes.clone_from(&recorded.notes);
    }
    fs::create_dir_all(&plan.work_dir).on("create", &plan.work_dir)?;
    if plan.tape.is_some()
        && let Some(reason) = tape::unfit(&context.layout().attach(&files))
    {
        return Err(CaseError::Unsupported(reason));
    }
    let (layout, seed) = (*context.layout(), plan.seed);
    let made = files.clone();
    in_background(move || layout.create(&made, seed)).await?;
    let initramfs = match tape::begin(plan, &layout, &files).await? {
        Beginning::Replay => false,
        Beginning::Unfit(reason) => return Err(CaseError::Unsupported(reason)),
        Beginning::Record(start) => {
            artifacts.start = Some(start);
            true
        }
        Beginning::NoTape => true,
    };
    prepare(plan, case, recorded.clone(), initramfs).await?;

    clock.enter("boot");
    let machine = Machine::new(plan, context.layout(), files.clone());
    let unconfined = machine.config().emulator.unconfined();
    artifacts.notes.extend(unconfined.map(str::to_owned));
    let vm = machine
        .boot()
        .await
        .map_err(|end| boot_failure(end, artifacts))?;

    let declared = Declared::by(case.name, case.faults);
    let mut guest = GuestSession::new(vm, machine, clock, declared);
    if plan.traced {
        guest.tracing = Some(Tracing::of(context.layout()));
    }
    let acted = act(&mut guest, case, &context, artifacts).await;
    if guest.vm.has_ended() {
        guest.vm.settle().await;
    }
    artifacts.info = guest.info.take();
    artifacts.notes.append(&mut guest.notes);
    artifacts.record = std::mem::take(&mut guest.earlier.record);
    artifacts.record.append(guest.vm.take_record());
    guest.vm.stop().await;
    let boots = guest.earlier.count + 1;
    let traced = guest.tracing.take().map(|tracing| TracedCell {
        tracer: plan.tracer.clone(),
        disks: tracing.disks,
        recordings: tracing.recordings,
        boots,
        targets: tracing.targets,
        pages_may_change: tracing.pages_may_change,
        events: artifacts.record.events.clone(),
    });
    let clock = guest.clock;
    let evidence = match acted {
        Ok(evidence) => evidence,
        Err(CaseError::Failed(reason)) => return Ok(failed(reason, artifacts)),
        Err(error) => return Err(error),
    };
    let observations = artifacts.record.observations.clone();
    let (events, dropped) = (artifacts.record.events.clone(), artifacts.record.dropped);

    clock.enter("verify");
    let nature = context.layout().nature();
    let judgement = in_background(move || {
        let said = Testimony {
            observations: &observations,
            events: &events,
            dropped,
            recorded: recorded.as_ref(),
        };
        let mut judgement = verify::judge(&files, nature, &evidence, said)?;
        if let Some(traced) = traced {
            let (result, text) = tracing::check(&traced, &files)?;
            judgement.trace = Some(result);
            judgement.text += &text;
        }
        Ok(judgement)
    })
    .await?;
    Ok(weigh(judgement, artifacts))
}

/// Before the module is loaded, a panic or hang of the kernel is nobody's but the host's: this
/// kernel or this QEMU does not work here.
fn boot_failure(end: End, artifacts: &mut CellArtifacts) -> End {
    match end {
        End::Panic(panic) => {
            artifacts.excerpt = panic.excerpt;
            let detail = format!(
                "the kernel panics before the module is loaded: {}",
                panic.headline
            );
            HarnessError::Qemu { detail }.into()
        }
        End::Hang { reason } => {
            let detail = format!("the kernel does not boot: {reason}");
            HarnessError::Qemu { detail }.into()
        }
        end => end,
    }
}

/// Lets the case act, then takes the kernel log and powers the guest off.
async fn act(
    guest: &mut GuestSession<'_, '_>,
    case: &CaseInfo,
    context: &CaseContext,
    artifacts: &mut CellArtifacts,
) -> CaseResult<Evidence> {
    guest.get_ready().await?;
    let mut acted = case.act(guest, context).await;
    if acted.is_ok()
        && let Err(error) = guest.stop_tracing().await
    {
        acted = Err(error);
    }
    if acted.is_ok() {
        guest.note_unmade_faults();
        match guest.memory_leaks().await {
            Ok(leaks) => artifacts.leaks = leaks,
            Err(error) => acted = Err(error),
        }
    }
    if let Err(CaseError::Ended(end)) = &acted {
        if matches!(end, End::Hang { .. }) {
            question(guest, artifacts).await;
        }
        return acted;
    }
    // The evidence of a case that failed is as welcome as that of one that did not, but its own
    // reason is the better one.
    match shut_down(guest, artifacts).await {
        Err(error) if acted.is_ok() => Err(error),
        _ => acted,
    }
}

/// Gets the kernel log out of a hanging guest; mostly only a part of it hangs.
async fn question(guest: &mut GuestSession<'_, '_>, artifacts: &mut CellArtifacts) {
    artifacts.kernel_log = std::mem::take(&mut guest.earlier.kernel_log);
    if let Ok(records) = guest.kernel_log(EVIDENCE_LIMIT).await {
        artifacts.kernel_log.extend(records);
    }
}

async fn shut_down(
    guest: &mut GuestSession<'_, '_>,
    artifacts: &mut CellArtifacts,
) -> CaseResult<()> {
    guest.phase("shutdown");
    guest.full_pace().await?;
    let limit = guest.limits.request;
    artifacts.kernel_log = std::mem::take(&mut guest.earlier.kernel_log);
    let last = guest.kernel_log(limit).await.map_err(shut_down_error)?;
    artifacts.kernel_log.extend(last);
    guest.vm.power_off().await.map_err(shut_down_error)
}

/// The module under test and its control tool, as (path in the guest, path on the host).
pub(crate) fn cowbird_files(plan: &CellPlan) -> [(String, PathBuf); 2] {
    [
        (COWBIRD_KO.to_owned(), plan.cowbird_ko.clone()),
        (COWBIRDCTL.to_owned(), plan.cowbirdctl.clone()),
    ]
}

/// The tracer and what tries it, as files of the guest.
pub(crate) fn tracer_files(plan: &CellPlan) -> [(String, PathBuf); 2] {
    [
        (TRACER.to_owned(), plan.tracer.clone()),
        (TRACER_TRIAL.to_owned(), plan.tracer_trial.clone()),
    ]
}

/// Puts what the guest needs besides its disks into the work folder. That of a tape has its `initramfs`.
async fn prepare(
    plan: &CellPlan,
    case: &CaseInfo,
    recorded: Option<Recorded>,
    initramfs: bool,
) -> HarnessResult<()> {
    let case = *case;
    let (uses_module, uses_tracer) = (case.uses_module, case.uses_tracer || plan.traced);
    let plan = plan.clone();
    in_background(move || {
        let mut programs = Vec::new();
        if uses_module {
            programs.extend(cowbird_files(&plan));
        }
        if uses_tracer {
            programs.extend(tracer_files(&plan));
        }
        if let Some(recorded) = recorded {
            programs.push(recorded.write(&plan.work_dir)?);
        }
        if !initramfs {
            return Ok(());
        }
        for program in case.programs {
            programs.extend(program.files()?);
        }
        programs.extend((case.files)()?);
        write_initramfs(&plan, programs)
    })
    .await
}

/// Makes the initramfs of a plan with these files besides its init and modules, as (path in the guest, path on the host).
pub(crate) fn write_initramfs(
    plan: &CellPlan,
    mut files: Vec<(String, PathBuf)>,
) -> HarnessResult<()> {
    // Programs share libraries.
    files.sort();
    files.dedup();
    let contents = Contents {
        guest_init: &plan.guest_init,
        boot_modules: &plan.boot_modules,
        files: &files,
    };
    let path = plan.work_dir.join(INITRAMFS_FILE);
    fs::write(&path, initramfs::build(&contents)?).on("write", &path)
}

/// The verdict of a cell that came to its end.
fn weigh(judgement: Judgement, artifacts: &mut CellArtifacts) -> Judged {
    let leaks = artifacts.leaks.as_deref().unwrap_or_default();
    let (before, since) = split_at_module(&artifacts.kernel_log);
    let of_host = find_splat(before, judgement.expected_log);
    let splat = find_splat(since, judgement.expected_log).or_else(|| find_leak(leaks));
    let mut reasons = judgement.faults.clone();
    let mut verdict = if reasons.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Mismatch
    };
    if let Some(splat) = splat {
        if verdict == Verdict::Pass {
            verdict = Verdict::KernelSplat;
        }
        reasons.push(format!("the kernel says: {}", splat.headline));
        artifacts.excerpt = splat.excerpt;
    } else if let Some(splat) = of_host {
        // As with a panic or a hang of a kernel that has no module yet: nothing was shown about it.
        if verdict == Verdict::Pass {
            verdict = Verdict::Infrastructure;
        }
        reasons.push(format!(
            "before the module is loaded the kernel says: {}",
            splat.headline
        ));
        artifacts.excerpt = splat.excerpt;
    }
    if let Some(trace) = &judgement.trace
        && trace.conclusion == TraceConclusion::Contradicts
    {
        if verdict == Verdict::Pass {
            verdict = Verdict::Contradiction;
        }
        reasons.push(trace.reason.clone());
    }
    (verdict, reasons.join("; "), judgement)
}

/// The verdict of a cell in which the module did not do what it must: nothing that it made can be
/// compared, which is as bad as wrong blocks, unless the kernel's log says something worse.
fn failed(reason: String, artifacts: &mut CellArtifacts) -> Judged {
    let mut judgement = Judgement::default();
    judgement.faults.push(reason);
    weigh(judgement, artifacts)
}

/// What became of the trace of a cell that was not judged.
fn untraced(plan: &CellPlan, verdict: Verdict) -> Option<TraceResult> {
    plan.traced.then(|| {
        let reason = format!("the cell ended with {verdict}");
        tracing::without_comparison(TraceConclusion::NoConclusion, reason)
    })
}

/// The verdict of a cell that did not come to its end.
fn verdict_of(error: &CaseError, artifacts: &mut CellArtifacts) -> (Verdict, String) {
    let verdict = match error {
        CaseError::Ended(End::Panic(panic)) => {
            artifacts.excerpt.clone_from(&panic.excerpt);
            Verdict::Panic
        }
        CaseError::Ended(End::Hang { .. }) => Verdict::Hang,
        CaseError::Ended(End::Lost { .. }) => Verdict::LostGuest,
        CaseError::Ended(End::Infrastructure(error)) => {
            if let HarnessError::Emulator { excerpt } = error {
                artifacts.excerpt.clone_from(excerpt);
            }
            Verdict::Infrastructure
        }
        CaseError::Failed(_) => Verdict::Mismatch,
        CaseError::Unsupported(_) => Verdict::Unsupported,
    };
    (verdict, error.to_string())
}
