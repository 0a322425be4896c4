//! How a cell counts, and how a run ends. Pure: results in, exit code out.
//!
//! A cell's verdict says what was seen; how it counts depends on whether a mutant was run:
//!
//! | cell | counts as |
//! |---|---|
//! | module, `pass` | passed |
//! | module, any other verdict about the module or its kernel | failed |
//! | mutant, `mismatch` with the classes or the words that its list entry asks for | caught |
//! | mutant, another verdict that its list entry asks for | caught |
//! | mutant, `pass`, or `mismatch` of other classes | missed |
//! | mutant, any other verdict about the module or its kernel | failed |
//! | `lost-guest`, `infrastructure` | broken |
//! | `unsupported` | skipped |
//!
//! Not every case can see every fault, so a mutant may be missed by some cells: it has *survived* a
//! kernel only when cells ran there and none caught it. A run fails (1) with any failed cell or
//! surviving mutant; otherwise it could not run (2) with any broken cell, a missing result, a trace that
//! allows no conclusion, or when nothing passed at all; otherwise it is good (0).
//!
//! A cell that ended for a reason of the host's is run a second time, which is what counts, and one that passed with a trace that
//! lost events up to three times; how many were is said.
//!
//! A cell's trace does not change how the cell counts, except that a contradiction is a verdict. It counts by
//! itself, and one that allows no conclusion is never taken for one that agrees.

use std::collections::BTreeMap;

use cowbird_model::{CellResult, TraceConclusion, Verdict};

/// How one cell counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellStatus {
    /// The module is right.
    Passed,
    /// The mutant's fault was seen for what it is.
    Caught,
    /// The mutant's fault was not seen.
    Missed,
    /// The module or its kernel failed.
    Failed,
    /// The guest was lost, or the harness or the machine failed: nothing was shown about the module.
    Broken,
    /// The kernel cannot run the case.
    Skipped,
}

impl CellStatus {
    /// The name in summaries.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Caught => "caught",
            Self::Missed => "missed",
            Self::Failed => "failed",
            Self::Broken => "broken",
            Self::Skipped => "skipped",
        }
    }
}

/// How a result counts. `caught` of a mutant's result must be set.
pub fn status_of(result: &CellResult) -> CellStatus {
    match (result.verdict, result.caught) {
        (Verdict::LostGuest | Verdict::Infrastructure, _) => CellStatus::Broken,
        (Verdict::Unsupported, _) => CellStatus::Skipped,
        (_, Some(true)) => CellStatus::Caught,
        (Verdict::Pass | Verdict::Mismatch, Some(false)) => CellStatus::Missed,
        (Verdict::Pass, None) => CellStatus::Passed,
        _ => CellStatus::Failed,
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The exit code: 0, 1 or 2.
    pub exit: u8,
    /// How many cells count how.
    pub counts: BTreeMap<CellStatus, u64>,
    /// How many cells were run twice, because the first attempt said nothing about the module.
    pub second_attempts: u64,
    /// How many traces are worth what.
    pub traces: BTreeMap<TraceConclusion, u64>,
    /// Mutants that survived, as kernel and mutant.
    pub survivors: Vec<(String, String)>,
    /// What does not add up, in one sentence each.
    pub complaints: Vec<String>,
}

impl Judgement {
    /// Cells that count as success, and those that do not; skipped ones are neither. A missed
    /// mutant cell counts against the run only where the mutant survived.
    pub fn passed_and_failed(&self) -> (u64, u64) {
        let count = |status| self.counts.get(&status).copied().unwrap_or(0);
        let passed = count(CellStatus::Passed) + count(CellStatus::Caught);
        let failed = count(CellStatus::Failed) + count(CellStatus::Broken);
        (
            passed,
            failed + self.survivors.len() as u64 + self.complaints.len() as u64,
        )
    }
}

impl Judgement {
    /// Whether no cell on its kernel caught the mutant of this cell.
    pub fn survived(&self, cell: &CellResult) -> bool {
        self.survivors
            .iter()
            .any(|(kernel, mutant)| *kernel == cell.kernel && cell.mutant.as_ref() == Some(mutant))
    }

    /// Whether somebody should look at this cell. One that missed its mutant is worth a look where the
    /// mutant survived and something else was seen.
    pub fn needs_attention(&self, cell: &CellResult) -> bool {
        match status_of(cell) {
            CellStatus::Passed | CellStatus::Caught => false,
            CellStatus::Missed => self.survived(cell) && cell.verdict != Verdict::Pass,
            CellStatus::Failed | CellStatus::Broken | CellStatus::Skipped => true,
        }
    }
}

/// Judges a run that was to report `expected` cells.
pub fn judge(expected: u64, results: &[CellResult]) -> Judgement {
    let mut counts = BTreeMap::<CellStatus, u64>::new();
    let mut mutants = BTreeMap::<(&str, &str), (bool, bool)>::new();
    let mut traces = BTreeMap::<TraceConclusion, u64>::new();
    for result in results {
        if let Some(trace) = &result.trace {
            *traces.entry(trace.conclusion).or_default() += 1;
        }
        let status = status_of(result);
        *counts.entry(status).or_default() += 1;
        if let Some(mutant) = &result.mutant {
            let (ran, caught) = mutants.entry((&result.kernel, mutant)).or_default();
            *ran |= !matches!(status, CellStatus::Broken | CellStatus::Skipped);
            *caught |= status == CellStatus::Caught;
        }
    }
    let survivors: Vec<(String, String)> = mutants
        .iter()
        .filter(|(_, (ran, caught))| *ran && !*caught)
        .map(|((kernel, mutant), _)| ((*kernel).to_owned(), (*mutant).to_owned()))
        .collect();
    let mut complaints = Vec::new();
    if expected != results.len() as u64 {
        complaints.push(format!(
            "{expected} cells were expected, {} reported",
            results.len()
        ));
    }
    // Of a cell that did not pass, its verdict is enough to say.
    let vague = results.iter().filter(|result| {
        let passed = matches!(status_of(result), CellStatus::Passed);
        let trace = result.trace.as_ref().map(|trace| trace.conclusion);
        passed && trace == Some(TraceConclusion::NoConclusion)
    });
    complaints.extend(vague.map(|result| {
        format!(
            "{} {}: its trace allows no conclusion: {}",
            result.kernel,
            result.case,
            result.trace.as_ref().map_or("", |trace| &trace.reason)
        )
    }));
    let has = |status| counts.contains_key(&status);
    let nothing_good = !has(CellStatus::Passed) && !has(CellStatus::Caught) && expected > 0;
    let exit = if has(CellStatus::Failed) || !survivors.is_empty() {
        1
    } else if has(CellStatus::Broken) || nothing_good || !complaints.is_empty() {
        2
    } else {
        0
    };
    let second_attempts = results.iter().filter(|cell| cell.first_attempt.is_some());
    Judgement {
        exit,
        counts,
        second_attempts: second_attempts.count() as u64,
        traces,
        survivors,
        complaints,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use cowbird_model::{Class, Phase};

    /// A result with some plausible numbers, for the tests of this crate.
    pub fn result(kernel: &str, case: &str, mutant: Option<&str>, verdict: Verdict) -> CellResult {
        let bad = verdict == Verdict::Mismatch;
        CellResult {
            kernel: kernel.into(),
            kernel_version: "6.1.0-50-cloud-amd64 6.1.176-1".into(),
            case: case.into(),
            mutant: mutant.map(Into::into),
            seed: 17,
            cpus: 2,
            first_attempt: None,
            made_of: Some("5f".repeat(32)),
            verdict,
            reason: if verdict == Verdict::Pass {
                String::new()
            } else {
                "a reason".into()
            },
            notes: Vec::new(),
            caught: mutant.map(|_| bad),
            blocks_checked: 32768,
            blocks_bad: if bad { 12 } else { 0 },
            classes: if bad {
                [(Class::Future, 12)].into()
            } else {
                BTreeMap::new()
            },
            phases: [("boot", 4.25), ("workload", 6.5), ("verify", 0.25)]
                .map(|(name, seconds)| Phase {
                    name: name.into(),
                    seconds,
                })
                .into(),
            seconds: 11.0,
            trace: None,
            bundle: (verdict != Verdict::Pass).then(|| format!("out/bundles/{kernel}+{case}")),
        }
    }

    fn exit(results: &[CellResult]) -> u8 {
        judge(results.len() as u64, results).exit
    }

    #[test]
    fn the_module_passes_or_fails() {
        use Verdict::*;
        let pass = result("k", "a", None, Pass);
        assert_eq!(exit(std::slice::from_ref(&pass)), 0);
        for verdict in [Mismatch, KernelSplat, Panic, Hang] {
            assert_eq!(
                exit(&[pass.clone(), result("k", "b", None, verdict)]),
                1,
                "{verdict}"
            );
        }
        for verdict in [LostGuest, Infrastructure] {
            assert_eq!(
                exit(&[pass.clone(), result("k", "b", None, verdict)]),
                2,
                "{verdict}"
            );
        }
        assert_eq!(
            exit(&[pass.clone(), result("k", "b", None, Unsupported)]),
            0
        );
        // A skip is never a pass: with nothing else, nothing was shown.
        assert_eq!(exit(&[result("k", "b", None, Unsupported)]), 2);
        // What is about the module comes before what is about the machine.
        let both = [
            result("k", "a", None, Panic),
            result("k", "b", None, Infrastructure),
        ];
        assert_eq!(exit(&both), 1);
        // A result that is missing is no pass, either.
        assert_eq!(judge(2, &[pass]).exit, 2);
        assert_eq!(judge(1, &[]).exit, 2);
    }

    #[test]
    fn a_mutant_must_be_caught_on_each_kernel() {
        use Verdict::*;
        let caught = result("k", "a", Some("m"), Mismatch);
        let missed = result("k", "b", Some("m"), Pass);
        assert_eq!(exit(&[caught.clone(), missed.clone()]), 0);
        assert_eq!(exit(std::slice::from_ref(&missed)), 1);
        let elsewhere = result("k2", "a", Some("m"), Pass);
        let judgement = judge(2, &[caught.clone(), elsewhere]);
        assert_eq!(judgement.exit, 1);
        assert_eq!(judgement.survivors, [("k2".into(), "m".into())]);
        assert_eq!(judgement.passed_and_failed(), (1, 1));
        // A fault of another class was not caught.
        let other = CellResult {
            caught: Some(false),
            ..caught.clone()
        };
        assert_eq!(status_of(&other), CellStatus::Missed);
        assert_eq!(exit(&[other]), 1);
        // A panic catches nothing and is a failure beside a catch.
        assert_eq!(
            exit(&[caught.clone(), result("k", "b", Some("m"), Panic)]),
            1
        );
        // Nothing ran: that says nothing about the mutant.
        let broken = judge(1, &[result("k", "a", Some("m"), Infrastructure)]);
        assert_eq!((broken.exit, broken.survivors.len()), (2, 0));
    }

    /// Goal: a trace never makes a cell better or worse, and one that says nothing is never passed over.
    #[test]
    fn traces_count_by_themselves() {
        use cowbird_model::TraceResult;
        let traced = |conclusion, verdict| CellResult {
            trace: Some(TraceResult {
                conclusion,
                reason: "a reason".into(),
            }),
            ..result("k", "a", None, verdict)
        };
        for (conclusion, verdict, wanted) in [
            (TraceConclusion::Agrees, Verdict::Pass, 0),
            (TraceConclusion::NotTraced, Verdict::Pass, 0),
            (TraceConclusion::NoConclusion, Verdict::Pass, 2),
            (TraceConclusion::NoConclusion, Verdict::Panic, 1),
            (TraceConclusion::Contradicts, Verdict::Contradiction, 1),
        ] {
            let cells = [traced(conclusion, verdict)];
            let judgement = judge(1, &cells);
            assert_eq!(judgement.exit, wanted, "{conclusion:?} {verdict:?}");
            assert_eq!(judgement.traces[&conclusion], 1);
        }
    }
}
