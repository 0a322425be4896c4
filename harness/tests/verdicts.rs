//! The harness on trial: guests that end in every way in which a guest can end, each of which must
//! get its own verdict.
//!
//! They boot a kernel, so plain `cargo test` lists them as ignored; `cargo xtask test` runs them.
//! By hand: `COWBIRD_SELF_TEST=plan.json cargo test -p cowbird-harness --test verdicts -- --ignored`,
//! where the plan is that of any cell (kernel, modules and init are taken from it).

#![expect(clippy::print_stdout, reason = "it is how a test says what it saw")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cowbird_harness::catalogue::find;
use cowbird_harness::{CellOutcome, run_cell};
use cowbird_host::limits::Limits;
use cowbird_model::Verdict;
use cowbird_session::plan::CellPlan;

/// Names the plan of a cell.
const PLAN_VARIABLE: &str = "COWBIRD_SELF_TEST";

/// A guest that falls silent is given up after this.
const SILENCE: Duration = Duration::from_secs(4);

/// A request that never ends is given up after this.
const STUCK: Duration = Duration::from_secs(4);

/// The process that kills a guest looks for it so long.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// The plan of a self-test in a folder that the test owns.
fn plan(case: &str, folder: &Path) -> CellPlan {
    let path = std::env::var(PLAN_VARIABLE)
        .unwrap_or_else(|_| panic!("{PLAN_VARIABLE} must name the plan.json of a cell"));
    let text = fs::read_to_string(&path).expect("the plan is readable");
    let plan: CellPlan = serde_json::from_str(&text).expect("the plan is one");
    CellPlan {
        case: case.into(),
        mutant: None,
        work_dir: folder.join("work"),
        bundle_dir: folder.join("bundle"),
        limits: Limits::default(),
        ..plan
    }
}

async fn run(plan: &CellPlan) -> CellOutcome {
    println!("seed {}", plan.seed);
    let outcome = run_cell(plan, &|_: &str| {}).await;
    println!("{outcome:?}");
    outcome
}

fn bundled(outcome: &CellOutcome, file: &str) -> String {
    let bundle = outcome
        .bundle
        .as_ref()
        .expect("a cell that did not pass leaves a bundle");
    fs::read_to_string(bundle.join(file)).expect("the bundle has the file")
}

/// Goal: a panic is a panic, and its trace is in the bundle. Method: sysrq-c.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel; cargo xtask test runs it"]
async fn a_panic_is_a_panic_with_its_trace() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan("self-test-panic", folder.path());
    let outcome = run(&plan).await;
    assert_eq!(outcome.verdict, Verdict::Panic);
    for file in ["report.txt", "console.txt"] {
        let text = bundled(&outcome, file);
        assert!(
            text.contains("Kernel panic - not syncing: sysrq triggered crash"),
            "{text}"
        );
        assert!(
            text.contains("sysrq_handle_crash"),
            "no trace in {file}: {text}"
        );
    }
    let again = format!("cargo xtask replay {}", plan.bundle_dir.display());
    assert!(bundled(&outcome, "report.txt").contains(&again));
}

/// Goal: QEMU killed from outside is nobody's panic and no fault of the module.
/// Method: another process sends SIGKILL to the QEMU that has the files of the cell open.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel; cargo xtask test runs it"]
async fn a_killed_guest_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan("self-test-idle", folder.path());
    let (idle, work_dir) = (AtomicBool::new(false), plan.work_dir.clone());
    let progress = |phase: &str| idle.store(phase == "idle", Ordering::Release);
    let kill_when_idle = async {
        while !idle.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::task::spawn_blocking(move || kill_qemu_of(&work_dir)).await
    };
    let mut cell = std::pin::pin!(run_cell(&plan, &progress));
    let outcome = tokio::select! {
        outcome = &mut cell => outcome,
        killed = kill_when_idle => {
            killed.unwrap();
            cell.await
        }
    };
    println!("{outcome:?}");
    assert_eq!(outcome.verdict, Verdict::LostGuest);
    assert!(outcome.reason.contains("signal 9"), "{}", outcome.reason);
    assert!(outcome.seconds < 40.0, "the end of QEMU was noticed late");
    bundled(&outcome, "report.txt");
}

fn kill_qemu_of(work_dir: &Path) {
    let needle = work_dir.to_string_lossy().into_owned();
    let deadline = Instant::now() + KILL_LIMIT;
    while Instant::now() < deadline {
        for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
            let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line).into_owned();
            if command_line.starts_with("qemu-system") && command_line.contains(&needle) {
                let pid = entry
                    .file_name()
                    .into_string()
                    .expect("a process id is text");
                assert!(
                    Command::new("kill")
                        .args(["-KILL", &pid])
                        .status()
                        .expect("kill can be run")
                        .success()
                );
                return;
            }
        }
    }
    panic!("no QEMU with files in {needle}");
}

/// Goal: a guest that says nothing any more hangs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel; cargo xtask test runs it"]
async fn a_silent_guest_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan("self-test-silent", folder.path());
    plan.limits.silence = SILENCE;
    let outcome = run(&plan).await;
    assert_eq!(outcome.verdict, Verdict::Hang);
    assert!(
        outcome.reason.contains("no sign of life"),
        "{}",
        outcome.reason
    );
    assert!(bundled(&outcome, "registers.txt").contains("RIP="));
    // The agent says nothing, but the kernel answers on the console.
    let console = bundled(&outcome, "console.txt");
    assert!(console.contains("Show Blocked State"), "{console}");
    assert!(
        console.contains("cowbird-guest") || console.contains("task:init"),
        "{console}"
    );
}

/// Goal: a guest that lives but never ends what it was asked for hangs, and the bundle says in
/// which state its tasks are.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel; cargo xtask test runs it"]
async fn a_request_that_never_ends_is_a_hang() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan("self-test-stuck", folder.path());
    plan.limits.control = STUCK;
    let outcome = run(&plan).await;
    assert_eq!(outcome.verdict, Verdict::Hang);
    assert!(
        outcome.reason.contains("no answer to ReadText"),
        "{}",
        outcome.reason
    );
    assert!(bundled(&outcome, "dmesg.txt").contains("Show Blocked State"));
}

/// Goal: the witness can be trusted with this QEMU: writes, discards and write-zeroes of all sizes
/// and alignments, many at the same time, fold to the disk that QEMU leaves.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel; cargo xtask test runs it"]
async fn the_witness_agrees_with_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan("self-test-witness", folder.path());
    let outcome = run(&plan).await;
    assert_eq!(outcome.verdict, Verdict::Pass, "{}", outcome.reason);
    assert!(!plan.work_dir.exists(), "a cell that passed leaves nothing");
    assert_eq!(outcome.bundle, None);
}

/// Goal: a trace that does not show what the witness has is a contradiction, which names the place and what
/// both say; the same guest without it agrees. Method: QEMU writes a block by itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel; cargo xtask test runs it"]
async fn a_write_that_the_kernel_does_not_know_of_is_a_contradiction() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan("self-test-unseen-write", folder.path());
    plan.traced = true;
    let outcome = run(&plan).await;
    assert_eq!(
        outcome.verdict,
        Verdict::Contradiction,
        "{}",
        outcome.reason
    );
    let expected = "in 2 places, as contents: sectors 12288+8 of the disk: the trace has no such write, the \
                    witness has data ";
    assert!(outcome.reason.contains(expected), "{}", outcome.reason);
    bundled(&outcome, "report.txt");
    let bundle = outcome.bundle.expect("just read");
    assert!(bundle.join("trace-0.cbt").exists());
}

/// Goal: a kernel that is not there is not the module's fault.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel; cargo xtask test runs it"]
async fn a_kernel_that_does_not_start_is_infrastructure() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan("self-test-idle", folder.path());
    plan.vmlinuz = PathBuf::from("/nonexistent/vmlinuz");
    let outcome = run(&plan).await;
    assert_eq!(outcome.verdict, Verdict::Infrastructure);
    assert!(
        outcome.reason.contains("/nonexistent/vmlinuz"),
        "{}",
        outcome.reason
    );
    assert!(outcome.inconclusive);
}

#[test]
fn self_tests_are_found_but_belong_to_no_matrix() {
    assert!(find("self-test-panic").is_some());
    let is_self_test = |case: &&cowbird_cases::CaseInfo| case.name.starts_with("self-test");
    assert_eq!(
        cowbird_harness::catalogue::cases()
            .iter()
            .filter(is_self_test)
            .count(),
        0
    );
}
