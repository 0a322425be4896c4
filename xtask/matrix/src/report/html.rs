//! Results as one page of HTML that needs nothing else: the matrix, what failed, where the time went.

use std::collections::BTreeMap;

use cowbird_model::{CellResult, RunResults};
use maud::{DOCTYPE, Markup, PreEscaped, html as page};

use crate::judge::{CellStatus, Judgement, status_of};

const STYLE: &str = "
:root { color-scheme: light dark; --good: #1a7f37; --bad: #cf222e; --broken: #9a6700; --none: #8c959f }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.lead { font-size: 1.1rem } .muted { opacity: .7 }
.scroll { overflow-x: auto }
table { border-collapse: separate; border-spacing: 3px; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; padding: .25rem .6rem; white-space: nowrap }
td.cell { color: #fff; border-radius: 4px; padding: .25rem .6rem; white-space: nowrap }
.passed, .caught { background: var(--good) } .failed { background: var(--bad) }
.broken { background: var(--broken) } .missed, .skipped { background: var(--none) }
article { border-left: 4px solid var(--bad); padding: .2rem 1rem; margin: 1rem 0 }
article p { margin: .3rem 0 } code { font-size: .9em; overflow-wrap: anywhere }
.bar { display: flex; height: 1.6rem; border-radius: 4px; overflow: hidden; max-width: 60rem }
.bar div { min-width: 2px }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin: 0 .4rem 0 1rem }
";

/// Colours of the phases, in the order in which they appear.
const PALETTE: [&str; 10] = [
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5",
    "#9c6b4e", "#9498a0",
];

/// The text of `report.html`.
pub fn html(results: &RunResults, judgement: &Judgement) -> String {
    let title = match judgement.exit {
        0 => "all as it should be",
        1 => "something is wrong",
        _ => "could not run everything",
    };
    let counts: Vec<String> = judgement
        .counts
        .iter()
        .map(|(status, count)| format!("{count} {}", status.name()))
        .collect();
    let page = page! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Cowbird: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Cowbird: " (title) }
                p class="lead" { (results.cells_expected) " cells: " (counts.join(", ")) }
                p class="muted" {
                    "seed " (results.seed)
                    @if let Some(shard) = &results.shard { ", shard " (shard) }
                }
                @for complaint in &judgement.complaints { article { p { (complaint) } } }
                @for (kernel, mutant) in &judgement.survivors {
                    article { p { "Mutant " (mutant) " survived on " (kernel) ": no cell caught it." } }
                }
                (matrix(&results.cells))
                (failures(&results.cells, judgement))
                (time(&results.cells))
            }
        }
    };
    page.into_string()
}

/// Kernels and mutants down, cases across.
fn matrix(cells: &[CellResult]) -> Markup {
    let mut cases = Vec::<&str>::new();
    let mut rows = Vec::<(String, BTreeMap<&str, &CellResult>)>::new();
    for cell in cells {
        if !cases.contains(&cell.case.as_str()) {
            cases.push(&cell.case);
        }
        let mutant = cell.mutant.iter().map(|mutant| format!(" + {mutant}"));
        let head: String = [cell.kernel.clone()].into_iter().chain(mutant).collect();
        if rows.last().is_none_or(|(last, _)| *last != head) {
            rows.push((head, BTreeMap::new()));
        }
        if let Some((_, row)) = rows.last_mut() {
            row.insert(&cell.case, cell);
        }
    }
    page! {
        h2 { "Matrix" }
        div class="scroll" {
            table {
                tr { th { "kernel" } @for case in &cases { th { (case) } } }
                @for (head, row) in &rows {
                    tr {
                        th { (head) }
                        @for case in &cases {
                            @match row.get(case) { Some(cell) => (one(cell)), None => td {} }
                        }
                    }
                }
            }
        }
    }
}

fn one(cell: &CellResult) -> Markup {
    let classes: Vec<String> = cell
        .classes
        .iter()
        .map(|(class, count)| format!("{count} {class}"))
        .collect();
    let hint = format!(
        "{}, seed {}, {} blocks checked. {}",
        cell.kernel_version, cell.seed, cell.blocks_checked, cell.reason
    );
    page! {
        td class={ "cell " (status_of(cell).name()) } title=(hint) {
            @match status_of(cell) {
                CellStatus::Passed => { "pass" }
                CellStatus::Caught | CellStatus::Missed => { (status_of(cell).name()) }
                _ => { (cell.verdict) }
            }
            @if !classes.is_empty() { " " (classes.join(", ")) }
            " " (format!("{:.1} s", cell.seconds))
        }
    }
}

fn failures(cells: &[CellResult], judgement: &Judgement) -> Markup {
    let listed: Vec<&CellResult> = cells
        .iter()
        .filter(|cell| judgement.needs_attention(cell))
        .collect();
    page! {
        @if !listed.is_empty() {
            h2 { "What is not as it should be" }
            @for cell in listed {
                article {
                    p {
                        strong { (cell.kernel) " " (cell.case) }
                        @if let Some(mutant) = &cell.mutant { " + " (mutant) }
                        ": " (cell.verdict)
                    }
                    p { (cell.reason) }
                    @if let Some(bundle) = &cell.bundle { p { code { "cargo xtask replay " (bundle) } } }
                }
            }
        }
    }
}

/// One bar: the share of each phase in the time of all cells.
fn time(cells: &[CellResult]) -> Markup {
    let mut phases = Vec::<(&str, f64)>::new();
    for phase in cells.iter().flat_map(|cell| &cell.phases) {
        match phases.iter_mut().find(|(name, _)| *name == phase.name) {
            Some((_, seconds)) => *seconds += phase.seconds,
            None => phases.push((&phase.name, phase.seconds)),
        }
    }
    let all: f64 = phases.iter().map(|(_, seconds)| seconds).sum();
    let coloured: Vec<(&str, f64, &str)> = phases
        .into_iter()
        .zip(PALETTE.iter().cycle())
        .map(|((name, seconds), colour)| {
            (name, 100.0 * seconds / all.max(f64::MIN_POSITIVE), *colour)
        })
        .collect();
    page! {
        @if !coloured.is_empty() {
            h2 { "Where the time went" }
            p class="muted" { (format!("{all:.0} s of all cells together")) }
            div class="bar" {
                @for (name, percent, colour) in &coloured {
                    div title=(format!("{name} {percent:.1} %"))
                        style=(format!("width:{percent:.2}%;background:{colour}")) {}
                }
            }
            p {
                @for (name, percent, colour) in &coloured {
                    span class="key" style=(format!("background:{colour}")) {}
                    (name) " " (format!("{percent:.0} %"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{judge, tests::result};
    use cowbird_model::Verdict;

    fn page_of(cells: Vec<CellResult>) -> String {
        let judgement = judge(cells.len() as u64, &cells);
        let results = RunResults {
            cells_expected: cells.len() as u64,
            seed: 3,
            shard: Some("1/2".into()),
            plan: None,
            cells,
        };
        html(&results, &judgement)
    }

    /// Goal: nothing in the results can break out of the page, and the page fetches nothing.
    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let mut hostile = result("k", "a", None, Verdict::Mismatch);
        hostile.reason = "<script>alert(1)</script>".into();
        let page = page_of(vec![hostile, result("k", "b", None, Verdict::Pass)]);
        assert!(page.contains("&lt;script&gt;alert(1)"));
        assert!(!page.contains("<script"));
        for fetched in ["http:", "https:", "src=", "url(", "@import"] {
            assert!(!page.contains(fetched), "{fetched}");
        }
        assert!(page.ends_with("</html>"));
    }

    #[test]
    fn each_cell_is_there_once_with_its_status() {
        let page = page_of(vec![
            result("k", "a", None, Verdict::Pass),
            result("k", "a", Some("m"), Verdict::Mismatch),
            result("k", "a", Some("n"), Verdict::Pass),
            result("k", "b", None, Verdict::Hang),
        ]);
        for (class, count) in [("passed", 1), ("caught", 1), ("missed", 1), ("failed", 1)] {
            let found = page.matches(&format!("<td class=\"cell {class}\"")).count();
            assert_eq!(found, count, "{class}");
        }
        assert!(page.contains("Mutant n survived on k"));
        assert!(page.contains("Cowbird: something is wrong"));
    }
}
