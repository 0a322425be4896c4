//! Who caught which mutant: the table that ends `mutants`. Pure.

use std::collections::BTreeMap;

use cowbird_model::CellResult;

use crate::judge::{CellStatus, status_of};
use crate::mutants::Mutant;
use crate::table;

/// In place of the kernel of a mutant that none has tried.
const NO_KERNEL: &str = "-";

/// What became of one mutant on one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    mutant: String,
    kernel: String,
    expected: String,
    /// Cells that ran the module.
    cells: usize,
    /// The first cell that caught it.
    catch: Option<Catch>,
}

/// How a mutant was caught.
#[derive(Clone, Debug, PartialEq)]
struct Catch {
    case: String,
    found: String,
    /// Of all cells until then, this one included.
    seconds: f64,
}

/// In the order of the mutants, and of each in that of the kernels' cells.
pub fn kills(mutants: &[Mutant], results: &[CellResult]) -> Vec<Kill> {
    let mut kills = Vec::new();
    for mutant in mutants {
        let mut kernels = Vec::<(&str, Vec<&CellResult>)>::new();
        let of_it = |result: &&CellResult| result.mutant.as_ref() == Some(&mutant.name);
        for result in results.iter().filter(of_it) {
            match kernels
                .iter_mut()
                .find(|(kernel, _)| *kernel == result.kernel)
            {
                Some((_, cells)) => cells.push(result),
                None => kernels.push((&result.kernel, vec![result])),
            }
        }
        kills.extend(
            kernels
                .into_iter()
                .map(|(kernel, cells)| kill(mutant, kernel, &cells)),
        );
    }
    kills
}

/// The mutants of a whole run that none of its kernels has tried, since they concern other kernels only.
pub fn without_kernel(mutants: &[Mutant], results: &[CellResult]) -> Vec<Kill> {
    let has_cell = |mutant: &&Mutant| {
        results
            .iter()
            .any(|result| result.mutant.as_ref() == Some(&mutant.name))
    };
    mutants
        .iter()
        .filter(|mutant| !has_cell(mutant))
        .map(|mutant| kill(mutant, NO_KERNEL, &[]))
        .collect()
}

fn kill(mutant: &Mutant, kernel: &str, cells: &[&CellResult]) -> Kill {
    let ran =
        |cell: &&&CellResult| !matches!(status_of(cell), CellStatus::Broken | CellStatus::Skipped);
    let first = cells
        .iter()
        .position(|cell| status_of(cell) == CellStatus::Caught);
    Kill {
        mutant: mutant.name.clone(),
        kernel: kernel.to_owned(),
        expected: mutant.seen_as(),
        cells: cells.iter().filter(ran).count(),
        catch: first.map(|at| Catch {
            case: cells[at].case.clone(),
            found: found(cells[at]),
            seconds: cells[..=at].iter().map(|cell| cell.seconds).sum(),
        }),
    }
}

/// The classes of wrong blocks; where there are none, the reason.
fn found(cell: &CellResult) -> String {
    let classes: Vec<String> = cell
        .classes
        .iter()
        .map(|(class, count)| format!("{class} {count}"))
        .collect();
    match classes.is_empty() {
        true => format!("{}: {}", cell.verdict, first_words(&cell.reason)),
        false => classes.join(", "),
    }
}

fn first_words(text: &str) -> String {
    const WIDTH: usize = 48;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// The table, and the count that matters.
pub fn render(kills: &[Kill]) -> String {
    let mut rows = vec![
        [
            "mutant",
            "kernel",
            "",
            "expected",
            "found",
            "by",
            "cells",
            "first after",
        ]
        .map(String::from)
        .to_vec(),
    ];
    let mut whole = BTreeMap::<&str, bool>::new();
    for kill in kills {
        if kill.kernel != NO_KERNEL {
            *whole.entry(&kill.mutant).or_insert(true) &= kill.catch.is_some();
        }
        let (end, found, case, after) = match &kill.catch {
            Some(catch) => (
                "caught",
                catch.found.clone(),
                catch.case.clone(),
                format!("{:.1}s", catch.seconds),
            ),
            None if kill.cells == 0 => ("NOT TRIED", "-".into(), "-".into(), "-".into()),
            None => ("SURVIVED", "-".into(), "-".into(), "-".into()),
        };
        rows.push(vec![
            kill.mutant.clone(),
            kill.kernel.clone(),
            end.to_owned(),
            kill.expected.clone(),
            found,
            case,
            kill.cells.to_string(),
            after,
        ]);
    }
    let caught = whole.values().filter(|caught| **caught).count();
    let untried = match kills.iter().filter(|kill| kill.kernel == NO_KERNEL).count() {
        0 => String::new(),
        count => format!("; {count} concern none of these kernels"),
    };
    format!(
        "{}\n{caught} of {} mutants caught on every kernel that they were tried on{untried}\n",
        table::columns(&rows),
        whole.len()
    )
}

/// Phases of a cell in which there is no guest.
const WITHOUT_GUEST: [&str; 2] = ["prepare", "verify"];

/// How often each case sees each mutant: wrong blocks by minute of guest run. Nothing, where no mutant was
/// tried with several cases on one kernel.
pub fn rates(mutants: &[Mutant], results: &[CellResult]) -> String {
    let heads = [
        "mutant",
        "kernel",
        "case",
        "wrong blocks",
        "guest ran",
        "per minute",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for mutant in mutants {
        let cells: Vec<&CellResult> = results
            .iter()
            .filter(|cell| cell.mutant.as_ref() == Some(&mutant.name))
            .filter(|cell| matches!(status_of(cell), CellStatus::Caught | CellStatus::Missed))
            .collect();
        let siblings =
            |cell: &CellResult| cells.iter().filter(|it| it.kernel == cell.kernel).count();
        for cell in cells.iter().filter(|cell| siblings(cell) > 1) {
            let seconds = guest_seconds(cell);
            rows.push(vec![
                mutant.name.clone(),
                cell.kernel.clone(),
                cell.case.clone(),
                cell.blocks_bad.to_string(),
                format!("{seconds:.1}s"),
                format!("{:.0}", cell.blocks_bad as f64 * 60.0 / seconds.max(1.0)),
            ]);
        }
    }
    match rows.len() {
        1 => String::new(),
        _ => format!("\n{}", table::columns(&rows)),
    }
}

/// From the start of the guest to its end.
fn guest_seconds(cell: &CellResult) -> f64 {
    cell.phases
        .iter()
        .filter(|phase| !WITHOUT_GUEST.contains(&phase.name.as_str()))
        .map(|phase| phase.seconds)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use cowbird_model::{Class, Phase, Verdict};

    #[test]
    fn a_table_with_every_ending() {
        let mutant = |name: &str| Mutant {
            name: name.into(),
            breaks: "x".into(),
            expect: [Class::Future].into(),
            require: [].into(),
            cases: Vec::new(),
            says: None,
            ends: Vec::new(),
            kernels: Vec::new(),
            closes: Vec::new(),
        };
        let spoken = Mutant {
            expect: [].into(),
            says: Some("a rea".into()),
            ends: vec![Verdict::Hang],
            ..mutant("spoken")
        };
        let mut said = result("old", "a", Some("spoken"), Verdict::Mismatch);
        said.classes.clear();
        let results = [
            result("old", "a", Some("late"), Verdict::Pass),
            result("old", "b", Some("late"), Verdict::Mismatch),
            result("new", "a", Some("late"), Verdict::Mismatch),
            said,
            result("old", "a", Some("alive"), Verdict::Pass),
            result("old", "a", Some("unknown"), Verdict::Infrastructure),
        ];
        let mutants = [mutant("late"), spoken, mutant("alive"), mutant("unknown")];
        insta::assert_snapshot!(render(&kills(&mutants, &results)));
        // One that concerns none of the kernels is listed, and is neither caught nor missed.
        let elsewhere = [mutant("late"), mutant("elsewhere")];
        let mut all = kills(&elsewhere, &results[1..3]);
        all.extend(without_kernel(&elsewhere, &results[1..3]));
        let text = render(&all);
        assert!(text.contains("NOT TRIED"), "{text}");
        let last = "1 of 1 mutants caught on every kernel that they were tried on; 1 concern none of these kernels\n";
        assert!(text.ends_with(last), "{text}");
    }

    /// Goal: a case is judged by the time of its guest alone. Method: two cells with the same wrong blocks, one of
    /// which is longer only on the host.
    #[test]
    fn rates_are_by_minute_of_guest_run() {
        let mutant = Mutant {
            name: "m".into(),
            breaks: "x".into(),
            expect: [Class::Future].into(),
            require: [].into(),
            cases: Vec::new(),
            says: None,
            ends: Vec::new(),
            kernels: Vec::new(),
            closes: Vec::new(),
        };
        let cell = |case: &str, phases: &[(&str, f64)]| CellResult {
            blocks_bad: 10,
            phases: phases
                .iter()
                .map(|(name, seconds)| Phase {
                    name: (*name).to_owned(),
                    seconds: *seconds,
                })
                .collect(),
            ..result("k", case, Some("m"), Verdict::Mismatch)
        };
        let short = cell("short", &[("prepare", 9.0), ("copy", 6.0), ("verify", 9.0)]);
        let long = cell("long", &[("boot", 6.0), ("copy", 24.0)]);
        let text = rates(std::slice::from_ref(&mutant), &[short.clone(), long]);
        let rate = |case: &str| {
            let row = text.lines().find(|line| line.contains(case));
            row.and_then(|row| row.split_whitespace().last().map(str::to_owned))
        };
        assert_eq!(rate("short"), Some("100".to_owned()), "{text}");
        assert_eq!(rate("long"), Some("20".to_owned()), "{text}");
        assert_eq!(
            rates(&[mutant], &[short]),
            "",
            "there is nothing to compare"
        );
    }
}
