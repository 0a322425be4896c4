//! `mutants`: the harness on trial, which must see every known fault of the module.

use std::sync::Arc;

use clap::Args;
use cowbird_images::Catalogue;
use cowbird_matrix::kill_table;
use cowbird_matrix::mutants::ALL;
use cowbird_matrix::select::oldest_and_newest;
use cowbird_matrix::spec::{RunSpec, Selection};

use crate::commands::lists;
use crate::commands::test_matrix::MatrixArgs;
use crate::ui::Ui;
use crate::{repo, run};

/// Arguments of `mutants`.
#[derive(Clone, Debug, Args)]
pub struct MutantsArgs {
    /// Only list them
    #[arg(long, conflicts_with_all = ["kernel", "case", "mutant", "workload"])]
    pub list: bool,
    #[command(flatten)]
    pub run: MatrixArgs,
}

/// Runs the command: the mutants on trial, and who caught them; the value is the exit code.
pub fn command(args: &MutantsArgs, ui: &Arc<Ui>) -> anyhow::Result<u8> {
    if args.list {
        return lists::mutants(args.run.json);
    }
    let mut wanted = RunSpec::from(&args.run);
    if wanted.mutants.is_empty() {
        wanted.mutants = vec![ALL.to_owned()];
    }
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    if let Selection::Tier(_) = wanted.kernels {
        wanted.kernels = Selection::Names(oldest_and_newest(&catalogue)?);
    }
    let run = run::check(&wanted)?;
    let ended = run::execute(&run, ui)?;
    let mut kills = kill_table::kills(&run.mutants, &ended.results.cells);
    if run.shard.is_none() {
        kills.extend(kill_table::without_kernel(
            &run.mutants,
            &ended.results.cells,
        ));
    }
    let text = kill_table::render(&kills) + &kill_table::rates(&run.mutants, &ended.results.cells);
    run::show_with(&ended, &text, args.run.json)?;
    Ok(ended.judgement.exit)
}
