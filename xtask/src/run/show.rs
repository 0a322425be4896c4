//! How a run that has ended is shown.

use anyhow::Result;
use cowbird_matrix::table;
use cowbird_outside::out;

use crate::run::execute::Ended;
use crate::ui::{print, print_json};

/// Prints the table, or the results as JSON with the table beside.
pub fn show(ended: &Ended, json: bool) -> Result<()> {
    show_with(ended, &table::verdicts(&ended.results.cells), json)
}

/// The same with another table.
pub fn show_with(ended: &Ended, verdicts: &str, json: bool) -> Result<()> {
    let results = &ended.results;
    let text = [
        verdicts.to_owned(),
        table::failures(&results.cells, &ended.judgement),
        table::time(&results.cells),
        table::summary(results.cells_expected, &ended.judgement),
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect::<Vec<_>>()
    .join("\n");
    if json {
        out::note_lines(&format!("\n{text}"));
        print_json(results)
    } else {
        print(&format!("\n{text}"))
    }
}
