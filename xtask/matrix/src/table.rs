//! The text that ends a run: the table of verdicts, what failed, and where the time went. Pure.

use std::collections::BTreeMap;

use cowbird_model::{CellResult, Verdict};
use cowbird_outside::printable;

use crate::judge::{CellStatus, Judgement, status_of};

/// What is between two columns.
const GAP: &str = "  ";

/// Renders rows with aligned columns; the first row is the head.
pub fn columns(rows: &[Vec<String>]) -> String {
    let escaped = |row: &Vec<String>| row.iter().map(|cell| printable(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(escaped).collect();
    let mut widths = Vec::<usize>::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let gap = " ".repeat(width - cell.chars().count());
            line += &format!("{cell}{gap}{GAP}");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What stands in the table for one cell.
fn cell_text(result: &CellResult) -> String {
    let classes: Vec<String> = result
        .classes
        .iter()
        .map(|(class, count)| format!("{class} {count}"))
        .collect();
    let seen = match (status_of(result), result.verdict) {
        (CellStatus::Caught, _) => "caught",
        (CellStatus::Missed, Verdict::Pass) => "missed",
        (CellStatus::Missed, _) => "missed: other fault",
        (_, verdict) => verdict.name(),
    };
    let classes = if classes.is_empty() {
        String::new()
    } else {
        format!(" ({})", classes.join(", "))
    };
    format!("{seen}{classes} {:.1}s", result.seconds)
}

/// Kernels and mutants down, cases across.
pub fn verdicts(results: &[CellResult]) -> String {
    let mut cases = Vec::<&str>::new();
    let mut rows = Vec::<(String, BTreeMap<&str, String>)>::new();
    for result in results {
        if !cases.contains(&result.case.as_str()) {
            cases.push(&result.case);
        }
        let head = match &result.mutant {
            Some(mutant) => format!("{} + {mutant}", result.kernel),
            None => result.kernel.clone(),
        };
        if rows.last().is_none_or(|(last, _)| *last != head) {
            rows.push((head, BTreeMap::new()));
        }
        if let Some((_, row)) = rows.last_mut() {
            row.insert(&result.case, cell_text(result));
        }
    }
    let mut table = vec![vec![String::from("kernel")]];
    table[0].extend(cases.iter().map(ToString::to_string));
    for (head, mut row) in rows {
        let mut line = vec![head];
        line.extend(
            cases
                .iter()
                .map(|case| row.remove(case).unwrap_or_else(|| "-".into())),
        );
        table.push(line);
    }
    columns(&table)
}

/// One paragraph per cell that is not as it should be, with the command that repeats it.
pub fn failures(results: &[CellResult], judgement: &Judgement) -> String {
    let mut text = String::new();
    for result in results {
        if !judgement.needs_attention(result) {
            continue;
        }
        let mutant = result
            .mutant
            .iter()
            .map(|mutant| format!(" + {mutant}"))
            .collect::<String>();
        text += &format!(
            "{} {}{mutant}: {}\n",
            result.kernel, result.case, result.verdict
        );
        if !result.reason.is_empty() {
            text += &format!("  {}\n", result.reason.trim_end().replace('\n', "\n  "));
        }
        if let Some(bundle) = &result.bundle {
            text += &format!("  evidence: {bundle}\n  again:    cargo xtask replay {bundle}\n");
        }
    }
    text
}

/// Where the time of the cells went: for each phase the median, the longest, and its part of all.
pub fn time(results: &[CellResult]) -> String {
    let mut order = Vec::<&str>::new();
    let mut phases = BTreeMap::<&str, Vec<f64>>::new();
    let mut whole = Vec::new();
    for result in results.iter().filter(|result| !result.phases.is_empty()) {
        for phase in &result.phases {
            if !order.contains(&phase.name.as_str()) {
                order.push(&phase.name);
            }
            phases.entry(&phase.name).or_default().push(phase.seconds);
        }
        whole.push(result.seconds);
    }
    if whole.is_empty() {
        return String::new();
    }
    let all: f64 = whole.iter().sum();
    let mut rows = vec![
        ["phase", "median", "longest", "of all"]
            .map(String::from)
            .to_vec(),
    ];
    let mut line = |name: &str, mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        let longest = seconds.last().copied().unwrap_or(0.0);
        let share = 100.0 * seconds.iter().sum::<f64>() / all.max(f64::MIN_POSITIVE);
        rows.push(vec![
            name.to_owned(),
            format!("{:.2}s", median(&seconds)),
            format!("{longest:.2}s"),
            format!("{share:.0}%"),
        ]);
    };
    for name in order {
        line(name, phases.remove(name).unwrap_or_default());
    }
    line("cell", whole);
    columns(&rows)
}

/// The median of sorted numbers; 0 of none.
fn median(sorted: &[f64]) -> f64 {
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => 0.0,
        (half, 0) => f64::midpoint(sorted[half - 1], sorted[half]),
        (half, _) => sorted[half],
    }
}

/// What counts against a run and is in no cell's verdict: survivors and complaints, a line each.
pub fn complaints(judgement: &Judgement) -> String {
    let mut text = String::new();
    for (kernel, mutant) in &judgement.survivors {
        text += &format!("mutant {mutant} survived on {kernel}: no cell caught it\n");
    }
    for complaint in &judgement.complaints {
        text += &format!("{complaint}\n");
    }
    text
}

/// The last lines: survivors, complaints and counts.
pub fn summary(expected: u64, judgement: &Judgement) -> String {
    let mut text = complaints(judgement);
    let counts: Vec<String> = judgement
        .counts
        .iter()
        .map(|(status, count)| format!("{count} {}", status.name()))
        .collect();
    let cells = if expected == 1 { "cell" } else { "cells" };
    text += &format!("{expected} {cells}: {}\n", counts.join(", "));
    if judgement.second_attempts > 0 {
        let count = judgement.second_attempts;
        text += &format!("{count} at the second attempt, as its notes say\n");
    }
    if !judgement.traces.is_empty() {
        let traces: Vec<String> = judgement
            .traces
            .iter()
            .map(|(status, count)| format!("{count} {}", status.name()))
            .collect();
        text += &format!("their traces: {}\n", traces.join(", "));
    }
    text
}

/// How often a cell failed, and how.
pub fn rate(results: &[CellResult]) -> String {
    let mut verdicts = BTreeMap::<Verdict, usize>::new();
    for result in results {
        *verdicts.entry(result.verdict).or_default() += 1;
    }
    let failed = results.len() - verdicts.get(&Verdict::Pass).unwrap_or(&0);
    let each: Vec<String> = verdicts
        .iter()
        .map(|(verdict, count)| format!("{count} {verdict}"))
        .collect();
    format!(
        "failed {failed} of {} times: {}",
        results.len(),
        each.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{judge, tests::result};
    use cowbird_model::{TraceConclusion, TraceResult};

    fn all(results: &[CellResult]) -> String {
        let judgement = judge(results.len() as u64, results);
        [
            verdicts(results),
            failures(results, &judgement),
            time(results),
            summary(results.len() as u64, &judgement),
        ]
        .join("\n")
    }

    #[test]
    fn a_healthy_matrix() {
        let results = ["k-5.10", "k-6.1"].map(|kernel| {
            ["files", "raw", "hot"].map(|case| result(kernel, case, None, Verdict::Pass))
        });
        insta::assert_snapshot!(all(&results.concat()));
    }

    #[test]
    fn a_matrix_with_every_ending() {
        use Verdict::*;
        let mut results = vec![
            result("k", "a", None, Pass),
            result("k", "b", None, Mismatch),
            result("k", "c", None, Panic),
        ];
        results.push(result("longer-name", "a", None, Infrastructure));
        results.push(result("longer-name", "c", None, Unsupported));
        results[1].first_attempt = Some("a full disk".into());
        insta::assert_snapshot!(all(&results));
    }

    #[test]
    fn a_matrix_of_mutants() {
        use Verdict::*;
        let mut other = result("k", "b", Some("n"), Mismatch);
        other.caught = Some(false);
        let results = [
            result("k", "a", Some("m"), Mismatch),
            result("k", "b", Some("m"), Pass),
            result("k", "a", Some("n"), Pass),
            other,
        ];
        insta::assert_snapshot!(all(&results));
    }

    #[test]
    fn complaints_are_told_where_every_cell_passed() {
        let mut traced = result("k", "a", None, Verdict::Pass);
        traced.trace = Some(TraceResult {
            conclusion: TraceConclusion::NoConclusion,
            reason: "17 events were lost".into(),
        });
        let judgement = judge(1, std::slice::from_ref(&traced));
        assert_eq!(failures(&[traced], &judgement), "");
        let told = complaints(&judgement);
        assert!(told.contains("k a"), "{told}");
        assert!(told.contains("17 events were lost"), "{told}");
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn the_rate_names_every_verdict() {
        let one = |verdict| result("k", "a", None, verdict);
        let results = [
            Verdict::Mismatch,
            Verdict::Pass,
            Verdict::Hang,
            Verdict::Mismatch,
        ]
        .map(one);
        assert_eq!(
            rate(&results),
            "failed 3 of 4 times: 1 pass, 2 mismatch, 1 hang"
        );
    }
}
