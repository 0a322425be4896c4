//! A cell that is recorded, replayed exactly, and replayed from a tape that was meddled with.
//!
//! It boots a kernel, so plain `cargo test` lists it as ignored; `cargo xtask test` runs it, where a QEMU that records
//! can be had. By hand: `COWBIRD_SELF_TEST=plan.json COWBIRD_SELF_TEST_EMULATOR='"host"' cargo test -p cowbird-harness
//! --test tapes -- --ignored`, where the plan is that of any cell, and the emulator that of a plan with a tape.

#![expect(clippy::print_stdout, reason = "it is how a test says what it saw")]

use std::fs;
use std::path::Path;

use cowbird_harness::tape::{self, Kept, TAPE_DIR};
use cowbird_harness::{CellOutcome, run_cell};
use cowbird_host::limits::Limits;
use cowbird_model::Verdict;
use cowbird_session::plan::{CellPlan, TapePlan};
use cowbird_vm::emulator::Emulator;

/// Names the plan of a cell.
const PLAN_VARIABLE: &str = "COWBIRD_SELF_TEST";

/// Names the QEMU, as a plan does.
const EMULATOR_VARIABLE: &str = "COWBIRD_SELF_TEST_EMULATOR";

/// A guest that boots, and whose kernel then panics: nothing of it takes long.
const CASE: &str = "self-test-panic";

fn plan(folder: &Path) -> CellPlan {
    let variable = |name: &str| {
        std::env::var(name)
            .unwrap_or_else(|_| panic!("{name} must be set, as the test's file says"))
    };
    let text = fs::read_to_string(variable(PLAN_VARIABLE)).expect("the plan is readable");
    let plan: CellPlan = serde_json::from_str(&text).expect("the plan is one");
    let emulator: Emulator =
        serde_json::from_str(&variable(EMULATOR_VARIABLE)).expect("it names an emulator");
    CellPlan {
        case: CASE.into(),
        mutant: None,
        work_dir: folder.join("work"),
        bundle_dir: folder.join("bundle"),
        cpus: tape::CPUS,
        limits: Limits::for_slowdown(tape::SLOWDOWN),
        tape: Some(TapePlan {
            emulator,
            bundle: None,
        }),
        ..plan
    }
}

async fn run(plan: &CellPlan) -> CellOutcome {
    let outcome = run_cell(plan, &|_: &str| {}).await;
    println!("{outcome:?}");
    outcome
}

/// Puts something else into a file of the tape.
fn change(bundle: &Path, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = bundle.join(TAPE_DIR).join(file);
    let content = fs::read(&path).expect("the tape has the file");
    fs::write(&path, change(content)).expect("it can be written");
}

fn replaced(from: &str, to: &str) -> impl FnOnce(Vec<u8>) -> Vec<u8> {
    let (from, to) = (from.to_owned(), to.to_owned());
    move |content| {
        let text = String::from_utf8(content).expect("it is text");
        assert!(text.contains(&from), "{text}");
        text.replacen(&from, &to, 1).into_bytes()
    }
}

/// Goal: a replay is exact, one that is not says where, and a tape that cannot be played says why. Method: one
/// recording; a replay; another one, compared with a recording that has one byte more on its console; a tape of another
/// QEMU; and one with a changed byte.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a kernel; cargo xtask test runs it"]
async fn a_replay_is_exact_or_says_where_not() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path());
    let recorded = run(&plan).await;
    assert_eq!(recorded.verdict, Verdict::Panic, "{}", recorded.reason);
    let bundle = recorded.bundle.expect("a panic leaves a bundle");
    let kept = Kept::read(&bundle).unwrap().expect("it has a tape");
    let mut replay = plan.clone();
    replay.bundle_dir = folder.path().join("replay");
    replay.vmlinuz = "/nonexistent/the-tape-has-it".into();
    if let Some(tape) = &mut replay.tape {
        tape.bundle = Some(bundle.clone());
    }

    let same = run(&replay).await;
    assert_eq!(same.verdict, Verdict::Panic, "{}", same.reason);
    let replayed = same.replayed.expect("it is compared");
    assert!(replayed.is_identical(), "{replayed:?}");
    let said = |name: &str| {
        replayed
            .compared
            .iter()
            .any(|file| file.name == name && file.bytes > 0)
    };
    assert!(said("console.txt") && said("said.bin"), "{replayed:?}");
    assert!(same.bundle.is_none(), "there is nothing new in it");

    let console = replayed
        .compared
        .iter()
        .find(|file| file.name == "console.txt");
    let bytes = console.expect("just seen").bytes;
    let (was, is) = (
        format!("\"bytes\": {bytes},"),
        format!("\"bytes\": {},", bytes + 1),
    );
    change(&bundle, "tape.json", replaced(&was, &is));
    let differing = run(&replay).await;
    let replayed = differing.replayed.expect("it is compared");
    let differences: Vec<String> = replayed
        .differences
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        differences,
        [format!(
            "console.txt: it had {} bytes, and has {bytes}",
            bytes + 1
        )]
    );
    assert!(differing.bundle.is_some(), "what differs is kept");

    change(
        &bundle,
        "tape.json",
        replaced(&kept.qemu, "QEMU emulator version 99"),
    );
    let other = run(&replay).await;
    assert_eq!(other.verdict, Verdict::Infrastructure);
    assert!(
        other.reason.contains("good only for the QEMU that made it"),
        "{}",
        other.reason
    );
    change(
        &bundle,
        "tape.json",
        replaced("QEMU emulator version 99", &kept.qemu),
    );

    change(&bundle, "tape.rr.zst", |mut content| {
        let middle = content.len() / 2;
        content[middle] ^= 1;
        content
    });
    let damaged = run(&replay).await;
    assert_eq!(damaged.verdict, Verdict::Infrastructure);
    assert!(
        damaged.reason.contains("the tape is damaged"),
        "{}",
        damaged.reason
    );
    assert!(damaged.replayed.is_none());
}
