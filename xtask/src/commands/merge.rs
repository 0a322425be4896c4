//! `merge`: the parts of a matrix that ran on several machines, put together and judged as one run.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use cowbird_matrix::durations::{self, Durations};
use cowbird_matrix::output::OutDir;
use cowbird_matrix::{judge, shards};

use crate::repo;
use crate::run::{self, Ended};
use crate::ui::Ui;

/// Arguments of `merge`.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// results.json of every shard, or the folders that they are in
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
    /// Where results.json, junit.xml and report.html of the whole go
    #[arg(long, value_name = "DIR", default_value = "out/merged")]
    pub out: PathBuf,
    /// Print the results as JSON on standard output, everything else on standard error
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `durations`.
#[derive(Clone, Debug, Args)]
pub struct DurationsArgs {
    /// results.json of runs, or the folders that they are in
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
}

/// Runs `merge`; the value is the exit code, as that of `test-matrix`.
pub fn command(args: &MergeArgs) -> Result<u8> {
    let parts = shards::load(&args.results)?;
    for (path, part) in args.results.iter().zip(&parts) {
        if part.shard.is_none() {
            bail!(
                "{} has the results of a whole run, not of a shard",
                path.display()
            );
        }
    }
    let results = shards::merge(parts)?;
    let judgement = judge::judge(results.cells_expected, &results.cells);
    let out = OutDir::open(&args.out)?;
    out.write_results(&results)?;
    out.write_reports(&results, &judgement)?;
    let ended = Ended { results, judgement };
    run::show(&ended, args.json)?;
    Ok(ended.judgement.exit)
}

/// Runs `durations`: records how long the cases took.
pub fn record_durations(args: &DurationsArgs, ui: &Arc<Ui>) -> Result<u8> {
    let record = Durations::of(&shards::load(&args.results)?);
    let count = record.save(&repo::root())?;
    if count == 0 {
        bail!("no cell of these runs passed, so nothing was recorded");
    }
    ui.line(&format!("{}: {count} cases", durations::PATH_IN_REPO));
    Ok(0)
}
