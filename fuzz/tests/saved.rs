//! Goal: what failed once fails no more, and every parser holds for a while of new input. Method: the inputs in
//! `regressions/`, and a short run of each target with a fixed seed. Not seen: what only millions of inputs find; that is
//! `cargo xtask fuzz`.

use std::time::Duration;

use cowbird_fuzz::engine::{self, Budget};
use cowbird_fuzz::saved;
use cowbird_fuzz::targets::TARGETS;

/// Inputs for each target, and the longest time for them: all of it is done in 20 s.
const INPUTS: u64 = 4000;
const TIME: Duration = Duration::from_millis(700);
/// Fewer say nothing.
const FEWEST: u64 = 50;

/// One test, because memory is counted for the whole process.
#[test]
fn parsers_hold() {
    let mut failed = Vec::new();
    let mut replayed = 0;
    for target in TARGETS {
        for (name, input) in saved::all(target.name).unwrap() {
            replayed += 1;
            if let Err(reason) = engine::judge(target, &input) {
                failed.push(format!("regressions/{}/{name}: {reason}", target.name));
            }
        }
        let budget = Budget {
            inputs: INPUTS,
            time: Some(TIME),
            seed: 1,
        };
        let report = engine::run(target, budget, |_, _| {});
        if report.inputs < FEWEST {
            failed.push(format!("{}: {} inputs only", target.name, report.inputs));
        }
        for failure in report.failures {
            failed.push(format!(
                "{}: {}; `cargo xtask fuzz {}` keeps the input",
                target.name, failure.reason, target.name
            ));
        }
    }
    println!("{replayed} inputs that failed once");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Goal: inputs are kept for targets that exist.
#[test]
fn every_folder_has_its_target() {
    for entry in std::fs::read_dir(saved::folder()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(
            !entry.path().is_dir() || cowbird_fuzz::targets::find(&name).is_some(),
            "there is no target {name}"
        );
    }
}
