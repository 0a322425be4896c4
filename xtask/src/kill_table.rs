//! Who caught which mutant: the table that ends `mutants`. Pure.

use std::collections::BTreeMap;

use cowbird_model::CellResult;

use crate::judge::{Standing, standing};
use crate::mutants::Mutant;
use crate::table;

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

fn kill(mutant: &Mutant, kernel: &str, cells: &[&CellResult]) -> Kill {
    let ran = |cell: &&&CellResult| !matches!(standing(cell), Standing::Broken | Standing::Skipped);
    let first = cells
        .iter()
        .position(|cell| standing(cell) == Standing::Caught);
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
        *whole.entry(&kill.mutant).or_insert(true) &= kill.catch.is_some();
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
    format!(
        "{}\n{caught} of {} mutants caught on every kernel that they were tried on\n",
        table::columns(&rows),
        whole.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use cowbird_model::{Class, Verdict};

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
    }
}
