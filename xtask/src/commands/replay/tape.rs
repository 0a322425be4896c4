//! The replay of a tape.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use cowbird_checks::recorded::{WORKLOAD_FILE, WorkloadPlan};
use cowbird_harness::tape::culprit::{self, Culprit};
use cowbird_harness::tape::{self, FileDigest, Kept, Replayed};
use cowbird_harness::{CellOutcome, run_cell};
use cowbird_host::limits::Limits;
use cowbird_images::Catalogue;
use cowbird_matrix::output::OutDir;
use cowbird_matrix::programs::GuestPrograms;
use cowbird_model::Verdict;
use cowbird_session::input::CaseInput;
use cowbird_session::plan::{CellPlan, TapePlan};
use cowbird_vm::accel::Accel;
use cowbird_vm::emulator::Emulator;

use crate::commands::replay::args::ReplayArgs;
use crate::host::rooms::{ROOM_BYTES, Rooms};
use crate::host::runtime;
use crate::repo;
use crate::run::{emulator, guest_programs, prepare};
use crate::ui::{Ui, print};

/// The debugger.
const GDB: &str = "gdb";

/// The exit code when not every replay was as its recording.
const NOT_IDENTICAL: u8 = 2;

/// Replays the tape of a bundle; the value is the exit code.
pub fn replay(args: &ReplayArgs, plan: &CellPlan, kept: &Kept, ui: &Arc<Ui>) -> Result<u8> {
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    let store = prepare::open_store(args.offline, false, ui)?;
    let out = OutDir::open(&args.out)?;
    Rooms {
        out: Some((out.path(), ROOM_BYTES + kept.unpacked_bytes())),
        cache: Some((&store.cache_dir(), 0)),
        ..Rooms::default()
    }
    .check()?;
    let (emulator, _in_use) = emulator::recording(&store, &catalogue, ui)?;
    kept.check_qemu(&emulator)?;
    let scratch = out.scratch()?;
    ui.line(&format!(
        "the tape of {} on {}, seed {}: {}",
        plan.case, plan.kernel_name, plan.seed, kept.verdict
    ));
    let own = Own {
        guest: guest_programs::build(args.offline, ui)?.copy_to(scratch.path())?,
        emulator,
        scratch: scratch.path(),
        out: &out,
    };
    let plan = played(plan, &args.what, own);
    let runtime = runtime::start()?;
    if args.gdb {
        return runtime.block_on(stop_at_culprit(&args.what, &plan, ui));
    }
    let mut identical = 0;
    for number in 1..=args.times {
        let task = ui.task(&format!("replay {number} of {}", args.times));
        let outcome = runtime.block_on(run_cell(&plan, &|phase: &str| task.step(phase)));
        let replayed = compared(&outcome)?;
        identical += u32::from(replayed.is_identical());
        task.end(&one_line(&outcome, replayed));
        if number == 1 {
            ui.line(&listing(&replayed.compared));
        }
    }
    print(&format!(
        "{identical} of {} replays identical to the recording, which ended with {}\n",
        args.times, kept.verdict
    ))?;
    Ok(exit_code(identical, args.times, kept.verdict))
}

/// Stops a replay at the culprit event and lets gdb in. Without a terminal nobody can use that, so that it only says where
/// it stands.
async fn stop_at_culprit(bundle: &Path, plan: &CellPlan, ui: &Arc<Ui>) -> Result<u8> {
    let culprit = Culprit::of(bundle)?;
    ui.line(&format!(
        "looking for where the disk takes it: {}",
        culprit.bad.detail
    ));
    let task = ui.task("stop at the culprit event");
    let stopped = culprit::find(plan, &culprit, &|step| task.step(step)).await?;
    task.end("found");
    let stack: Vec<String> = stopped
        .stack
        .iter()
        .map(|name| format!("  {name}\n"))
        .collect();
    print(&format!(
        "stands at instruction {} of the tape, before\n  {}\non the stack, with what else looks like code:\n{}",
        stopped.instruction,
        stopped.next,
        stack.concat()
    ))?;
    let attach = format!("target remote {}", stopped.gdb.display());
    if !std::io::stdin().is_terminal() {
        print("gdb is let in where there is a terminal\n")?;
        return Ok(0);
    }
    let gdb = tokio::process::Command::new(GDB)
        .args(["-q", "-ex", "set architecture i386:x86-64", "-ex", &attach])
        .status()
        .await;
    if gdb.is_err() {
        print(&format!(
            "no gdb here; ends with ctrl-c, until then: gdb -ex '{attach}'\n"
        ))?;
        stopped.wait().await;
    }
    Ok(0)
}

/// What a replay uses of this machine.
struct Own<'a> {
    guest: GuestPrograms,
    emulator: Emulator,
    scratch: &'a Path,
    out: &'a OutDir,
}

/// The plan of a replay: of the recording's it has what decides the cell, and no file. Kernel and initramfs come from the
/// tape; what runs on the host is this machine's. A tape is of one boot, so that nothing is built into its guest.
fn played(plan: &CellPlan, bundle: &Path, own: Own<'_>) -> CellPlan {
    let input = match &plan.input {
        CaseInput::Workload(workload) => CaseInput::Workload(WorkloadPlan {
            file: bundle.join(WORKLOAD_FILE),
            timing: workload.timing,
            snapshot_at_percent: workload.snapshot_at_percent,
        }),
        input @ (CaseInput::Lengths { .. } | CaseInput::ScriptRuns(_)) => input.clone(),
    };
    // Named one by one: whoever adds a field decides whether a bundle from elsewhere may set it.
    CellPlan {
        kernel_name: plan.kernel_name.clone(),
        kernel_release: plan.kernel_release.clone(),
        vmlinuz: PathBuf::new(),
        boot_modules: Vec::new(),
        cowbird_ko: PathBuf::new(),
        guest_init: own.guest.init,
        cowbirdctl: own.guest.cowbirdctl,
        tracer: own.guest.tracer,
        tracer_trial: own.guest.tracer_trial,
        case: plan.case.clone(),
        input,
        traced: plan.traced,
        mutant: plan.mutant.clone(),
        seed: plan.seed,
        accel: Accel::Tcg,
        cpus: tape::CPUS,
        memory_mib: plan.memory_mib,
        work_dir: own.scratch.join("tape"),
        bundle_dir: own.out.bundle("differing-replay"),
        limits: Limits::for_slowdown(plan.limits.slowdown),
        tape: Some(TapePlan {
            emulator: own.emulator,
            bundle: Some(bundle.to_owned()),
        }),
    }
}

/// What was compared; a replay that did not come so far says nothing.
fn compared(outcome: &CellOutcome) -> Result<&Replayed> {
    match &outcome.replayed {
        Some(replayed) => Ok(replayed),
        None => bail!("the tape cannot be played: {}", outcome.reason),
    }
}

fn one_line(outcome: &CellOutcome, replayed: &Replayed) -> String {
    let verdict = format!(
        "{}, {} of {} blocks bad, {:.1}s",
        outcome.verdict, outcome.blocks_bad, outcome.blocks_checked, outcome.seconds
    );
    if replayed.is_identical() {
        let bytes: u64 = replayed.compared.iter().map(|file| file.bytes).sum();
        let files = replayed.compared.len();
        return format!("{verdict}: identical in {files} files with {bytes} bytes");
    }
    let differences = replayed.differences.iter();
    let differences: Vec<String> = differences.map(|one| format!("\n      {one}")).collect();
    let bundle = outcome.bundle.as_ref();
    let kept = bundle.map_or_else(String::new, |path| format!("; see {}", path.display()));
    format!(
        "{verdict}: NOT identical ({}){kept}{}",
        outcome.reason,
        differences.concat()
    )
}

/// What is compared, one file a line.
fn listing(digests: &[FileDigest]) -> String {
    let lines = digests.iter().map(|file| {
        let digest = &file.sha256[..file.sha256.len().min(16)];
        format!("      {digest} {:>10} bytes  {}", file.bytes, file.name)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn exit_code(identical: u32, times: u32, verdict: Verdict) -> u8 {
    if identical < times {
        NOT_IDENTICAL
    } else {
        u8::from(verdict != Verdict::Pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nothing that a foreign plan names is read, run or written on the host. Method: a plan full of such names, each of
    /// which would be found in the plan that is played.
    #[test]
    fn no_file_of_a_foreign_plan_is_used() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let out = OutDir::open(&folder.path().join("out")).expect("it can be made");
        let foreign = serde_json::json!({
            "kernel_name": "k", "kernel_release": "6.1", "vmlinuz": "/foreign", "boot_modules": [["ext4", "/foreign"]],
            "cowbird_ko": "/foreign", "guest_init": "/foreign", "cowbirdctl": "/foreign", "tracer": "/foreign",
            "tracer_trial": "/foreign", "case": "recorded", "traced": true, "mutant": null, "seed": 7, "accel": "kvm",
            "workload": {"file": "/foreign", "timing": "Fast", "snapshot_at_percent": null},
            "cpus": 64, "memory_mib": 1024, "work_dir": "/foreign", "bundle_dir": "/foreign",
            "limits": Limits::default(), "tape": {"emulator": {"root": "/foreign"}, "bundle": "/foreign"},
        });
        let foreign: CellPlan = serde_json::from_value(foreign).expect("it is a plan");
        let own = Own {
            guest: GuestPrograms {
                init: "/own/init".into(),
                cowbirdctl: "/own/cowbirdctl".into(),
                tracer: "/own/tracer".into(),
                tracer_trial: "/own/trial".into(),
            },
            emulator: Emulator::Host,
            scratch: folder.path(),
            out: &out,
        };
        let plan = played(&foreign, Path::new("/bundle"), own);
        let text = serde_json::to_string(&plan).expect("it is JSON");
        assert!(!text.contains("/foreign"), "{text}");
        assert_eq!(plan.tracer, Path::new("/own/tracer"));
        assert!(plan.work_dir.starts_with(folder.path()));
        assert_eq!(plan.cpus, tape::CPUS);
    }

    /// Goal: a replay that differs is never taken for the failure that it should show.
    #[test]
    fn a_replay_that_differs_is_no_verdict() {
        assert_eq!(exit_code(3, 3, Verdict::Mismatch), 1);
        assert_eq!(exit_code(2, 3, Verdict::Mismatch), 2);
        assert_eq!(exit_code(0, 1, Verdict::Panic), 2);
    }
}
