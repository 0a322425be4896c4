//! `mutants`: the harness on trial, which must see every known fault of the module.

use std::sync::Arc;

use cowbird_images::Catalogue;
use cowbird_matrix::kill_table;
use cowbird_matrix::mutants::ALL;
use cowbird_matrix::select::oldest_and_newest;

use crate::cli::MutantsArgs;
use crate::ui::Ui;
use crate::{lists, matrix, repo};

/// Runs the command: the mutants on trial, and who caught them; the value is the exit code.
pub fn command(args: &MutantsArgs, ui: &Arc<Ui>) -> anyhow::Result<u8> {
    if args.list {
        return lists::mutants(args.run.json);
    }
    let mut wanted = args.run.clone();
    if wanted.mutant.is_empty() {
        wanted.mutant = vec![ALL.to_owned()];
    }
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    if wanted.kernel.is_empty() {
        wanted.kernel = oldest_and_newest(&catalogue)?;
    }
    let run = matrix::check(&wanted)?;
    let ended = matrix::execute(&run, ui)?;
    let kills = kill_table::kills(&run.mutants, &ended.results.cells);
    let text = kill_table::render(&kills) + &kill_table::rates(&run.mutants, &ended.results.cells);
    matrix::show_with(&ended, &text, wanted.json)?;
    Ok(ended.judgement.exit)
}
