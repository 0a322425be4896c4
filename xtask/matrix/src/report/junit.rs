//! Results as JUnit XML: a suite for each kernel, a test for each cell.
//!
//! A missed mutant cell is a failure only where its mutant survived the kernel, as in the exit code.

use std::time::Duration;

use anyhow::{Context, Result};
use cowbird_model::{CellResult, RunResults};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::judge::{CellStatus, Judgement, status_of};

/// The text of `junit.xml`.
pub fn junit(results: &RunResults, judgement: &Judgement) -> Result<String> {
    let mut report = Report::new("cowbird");
    let mut suites = Vec::<TestSuite>::new();
    for cell in &results.cells {
        if suites
            .last()
            .is_none_or(|suite| suite.name.as_str() != cell.kernel)
        {
            suites.push(TestSuite::new(cell.kernel.as_str()));
        }
        if let Some(suite) = suites.last_mut() {
            suite.add_test_case(test_case(cell, judgement));
        }
    }
    report.add_test_suites(suites);
    report
        .to_string()
        .context("the results do not fit JUnit XML")
}

fn test_case(cell: &CellResult, judgement: &Judgement) -> TestCase {
    let name = match &cell.mutant {
        Some(mutant) => format!("{} + {mutant}", cell.case),
        None => cell.case.clone(),
    };
    let mut test = TestCase::new(name, status(cell, judgement));
    test.set_classname(cell.kernel.as_str());
    test.set_time(Duration::try_from_secs_f64(cell.seconds).unwrap_or_default());
    test.set_system_out(format!(
        "kernel {}, seed {}, {} blocks checked, {} bad",
        cell.kernel_version, cell.seed, cell.blocks_checked, cell.blocks_bad
    ));
    test
}

fn status(cell: &CellResult, judgement: &Judgement) -> TestCaseStatus {
    let bad = |kind| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_type(cell.verdict.name());
        status.set_message(cell.reason.as_str());
        status
    };
    match status_of(cell) {
        CellStatus::Passed | CellStatus::Caught => TestCaseStatus::success(),
        CellStatus::Missed if judgement.survived(cell) => {
            let mut status = bad(NonSuccessKind::Failure);
            status.set_message("no cell on this kernel caught the mutant");
            status
        }
        CellStatus::Missed => TestCaseStatus::success(),
        CellStatus::Failed => bad(NonSuccessKind::Failure),
        CellStatus::Broken => bad(NonSuccessKind::Error),
        CellStatus::Skipped => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(cell.reason.as_str());
            status
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{judge, tests::result};
    use cowbird_model::Verdict;

    #[test]
    fn every_status_has_its_form() {
        let cells = vec![
            result("k", "a", None, Verdict::Pass),
            result("k", "b", None, Verdict::Panic),
            result("k", "c", None, Verdict::Infrastructure),
            result("k", "d", None, Verdict::Unsupported),
            result("l", "a", Some("m"), Verdict::Mismatch),
            result("l", "b", Some("m"), Verdict::Pass),
            result("l", "a", Some("n"), Verdict::Pass),
        ];
        let judgement = judge(7, &cells);
        let results = RunResults {
            cells_expected: 7,
            seed: 3,
            shard: None,
            plan: None,
            cells,
        };
        insta::assert_snapshot!(junit(&results, &judgement).expect("it fits"));
    }
}
