//! The results of runs, and the shards of one run put together. Reads files, and decides nothing else.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cowbird_model::{CellResult, RunResults};
use cowbird_outside::foreign::read_text;

use crate::output::{self, RESULTS};
use crate::plan::Shard;

/// Reads results; a folder stands for the file in it.
pub fn load(paths: &[PathBuf]) -> Result<Vec<RunResults>> {
    let read = |path: &PathBuf| {
        let path = if path.is_dir() {
            path.join(RESULTS)
        } else {
            path.clone()
        };
        let text = read_text(&path)
            .with_context(|| format!("cannot read the results {}", path.display()))?;
        output::results_of(&text)
            .with_context(|| format!("{} is not the results of a run", path.display()))
    };
    paths.iter().map(read).collect()
}

/// All shards of one run, in any order, as that run.
pub fn merge(mut parts: Vec<RunResults>) -> Result<RunResults> {
    let shard = |part: &RunResults| -> Result<Shard> {
        let text = part
            .shard
            .as_deref()
            .context("one of the results is a whole run, not a shard")?;
        text.parse().map_err(anyhow::Error::msg)
    };
    let shards = parts.iter().map(shard).collect::<Result<Vec<Shard>>>()?;
    let count = shards.first().context("there are no results")?.count();
    let seed = parts.first().map_or(0, |part| part.seed);
    if shards.iter().any(|shard| shard.count() != count) {
        bail!("the shards are of runs that were split differently");
    }
    if parts.iter().any(|part| part.seed != seed) {
        bail!("the shards have different seeds; give every `test-matrix --shard` the same --seed");
    }
    if parts.iter().any(|part| part.plan != parts[0].plan) {
        bail!(
            "the shards are of different runs, so a cell may be in none of them; run all of them with the same options, from one \
             checkout, and let nothing change its ci/durations.json meanwhile"
        );
    }
    for index in 1..=count {
        match shards.iter().filter(|shard| shard.index() == index).count() {
            1 => {}
            0 => bail!("shard {index}/{count} is missing"),
            _ => bail!("shard {index}/{count} is there twice"),
        }
    }
    parts.sort_by_key(|part| shard(part).map_or(0, |shard| shard.index()));
    let plan = parts[0].plan.clone();
    let cells_expected = parts.iter().map(|part| part.cells_expected).sum();
    let mut cells: Vec<_> = parts.into_iter().flat_map(|part| part.cells).collect();
    // Kernels and mutants together again; within them the order of the shards is as good as any.
    cells.sort_by(|a, b| (&a.kernel, &a.mutant, &a.case).cmp(&(&b.kernel, &b.mutant, &b.case)));
    let id = |cell: &CellResult| (cell.kernel.clone(), cell.mutant.clone(), cell.case.clone());
    if let Some(pair) = cells.windows(2).find(|pair| id(&pair[0]) == id(&pair[1])) {
        bail!(
            "{} {} is in two shards, so another cell may be in none: the shards are of different checkouts; run them all from one",
            pair[0].kernel,
            pair[0].case
        );
    }
    Ok(RunResults {
        cells_expected,
        seed,
        shard: None,
        plan,
        cells,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{self, tests::result};
    use crate::plan::{self, PlannedCell};
    use cowbird_model::Verdict;

    fn part(shard: &str, kernel: &str, case: &str) -> RunResults {
        RunResults {
            cells_expected: 1,
            seed: 9,
            shard: Some(shard.into()),
            plan: None,
            cells: vec![result(kernel, case, None, Verdict::Pass)],
        }
    }

    #[test]
    fn shards_in_any_order_are_one_run() {
        let parts = vec![part("2/2", "k", "b"), part("1/2", "k", "a")];
        let merged = merge(parts).expect("both are there");
        let cases: Vec<&str> = merged.cells.iter().map(|cell| cell.case.as_str()).collect();
        assert_eq!((merged.cells_expected, merged.seed), (2, 9));
        assert_eq!(merged.shard, None);
        assert_eq!(cases, ["a", "b"]);
    }

    /// Goal: two shards have the cells of the whole run, each once and with its seed, and are judged as it
    /// is. Method: a matrix with mutants, split into shards, run by a stand-in, and merged.
    #[test]
    fn two_shards_are_the_whole_run() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let cells = [
            plan::plan(&names(&["k", "l"]), &names(&["a", "b", "c"]), &[], 9),
            plan::plan(
                &names(&["k", "l"]),
                &names(&["a", "b"]),
                &names(&["m", "n"]),
                9,
            ),
        ]
        .concat();
        let run = |cells: &[PlannedCell], shard: Option<&str>| {
            let one = |cell: &PlannedCell| CellResult {
                seed: cell.seed,
                ..result(
                    &cell.id.kernel,
                    &cell.id.case,
                    cell.id.mutant.as_deref(),
                    Verdict::Mismatch,
                )
            };
            RunResults {
                cells_expected: cells.len() as u64,
                seed: 9,
                shard: shard.map(Into::into),
                plan: None,
                cells: cells.iter().map(one).collect(),
            }
        };
        let part = |shard: &str| {
            let seconds = |cell: &plan::CellId| if cell.case == "a" { 30.0 } else { 2.0 };
            let assigned =
                plan::cells_of_shard(cells.clone(), shard.parse().expect("a shard"), seconds);
            assert!(!assigned.is_empty() && assigned.len() < cells.len());
            run(&assigned, Some(shard))
        };
        let merged = merge(vec![part("2/2"), part("1/2")]).expect("both are there");
        let mut whole = run(&cells, None);
        whole
            .cells
            .sort_by_key(|cell| (cell.kernel.clone(), cell.mutant.clone(), cell.case.clone()));
        assert_eq!(merged, whole);
        let judged = |run: &RunResults| judge::judge(run.cells_expected, &run.cells);
        assert_eq!(judged(&merged), judged(&whole));
    }

    #[test]
    fn what_is_not_one_run_is_refused() {
        let whole = RunResults {
            shard: None,
            ..part("1/1", "k", "a")
        };
        let other_seed = RunResults {
            seed: 10,
            ..part("2/2", "k", "b")
        };
        let other_plan = RunResults {
            plan: Some("of another matrix".into()),
            ..part("2/2", "k", "b")
        };
        for (parts, why) in [
            (vec![part("1/2", "k", "a")], "shard 2/2 is missing"),
            (vec![part("1/2", "k", "a"), part("1/2", "k", "a")], "twice"),
            (
                vec![part("1/2", "k", "a"), part("2/3", "k", "b")],
                "split differently",
            ),
            (vec![part("1/2", "k", "a"), other_seed], "different seeds"),
            (vec![part("1/2", "k", "a"), other_plan], "different runs"),
            (vec![whole], "a whole run"),
            (
                vec![part("1/2", "k", "a"), part("2/2", "k", "a")],
                "k a is in two shards",
            ),
            (Vec::new(), "no results"),
        ] {
            let error = merge(parts).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
