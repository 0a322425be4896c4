//! How long cells take: recorded once, used to split a matrix into shards that take equally long.
//!
//! The file is part of the repository, so that all shards of a run split it alike. A machine's speed does
//! not matter, only how its cases compare; the record is by case, since kernels differ far less.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cowbird_model::RunResults;

use crate::output;
use crate::plan::CellId;
use cowbird_outside::foreign::read_text;

/// Where the record lies below the root of the repository.
pub const PATH_IN_REPO: &str = "ci/durations.json";

/// Seconds of a cell by case: the median of those recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    by_case: BTreeMap<String, f64>,
}

impl Durations {
    /// Reads the record of the repository at `root`; a missing one weighs all cells alike.
    pub fn load(root: &Path) -> Result<Self> {
        let path = root.join(PATH_IN_REPO);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = read_text(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let by_case: BTreeMap<String, f64> = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a record of durations", path.display()))?;
        if let Some((case, _)) = by_case.iter().find(|(_, seconds)| **seconds <= 0.0) {
            bail!("{}: case {case} has no duration", path.display());
        }
        let named = |(case, seconds): (String, f64)| {
            (cowbird_cases::former::current(&case).to_owned(), seconds)
        };
        Ok(Self {
            by_case: by_case.into_iter().map(named).collect(),
        })
    }

    /// The record that the healthy cells of some runs make. Cells that did not pass took the time
    /// of something else.
    pub fn of(runs: &[RunResults]) -> Self {
        let mut seconds = BTreeMap::<&str, Vec<f64>>::new();
        let cells = runs.iter().flat_map(|run| &run.cells);
        for cell in cells.filter(|cell| cell.verdict == cowbird_model::Verdict::Pass) {
            seconds.entry(&cell.case).or_default().push(cell.seconds);
        }
        let by_case = seconds
            .into_iter()
            .map(|(case, mut seconds)| {
                seconds.sort_by(f64::total_cmp);
                // Tenths: more would change with every recording.
                let median = (seconds[seconds.len() / 2] * 10.0).round() / 10.0;
                (case.to_owned(), median.max(0.1))
            })
            .collect();
        Self { by_case }
    }

    /// Writes the record of the repository at `root`; cases that were not run keep theirs.
    pub fn save(self, root: &Path) -> Result<usize> {
        let mut all = Self::load(root)?;
        let count = self.by_case.len();
        all.by_case.extend(self.by_case);
        let path = root.join(PATH_IN_REPO);
        output::replace(&path, output::to_json(&all.by_case)?.as_bytes())?;
        Ok(count)
    }

    /// The cases of these cells of which nothing is recorded, each once: what they take is assumed.
    pub fn assumed<'c>(&self, cells: impl IntoIterator<Item = &'c CellId>) -> BTreeSet<&'c str> {
        let cases = cells.into_iter().map(|cell| cell.case.as_str());
        cases
            .filter(|case| !self.by_case.contains_key(*case))
            .collect()
    }

    /// What whoever splits these cells into shards should know of the record, if anything.
    pub fn warning<'c>(
        &self,
        cells: impl IntoIterator<Item = &'c CellId> + Clone,
    ) -> Option<String> {
        let assumed = self.assumed(cells.clone()).len();
        let cases: BTreeSet<&str> = cells.into_iter().map(|cell| &*cell.case).collect();
        (assumed > 0).then(|| {
            format!(
                "{PATH_IN_REPO} lacks {assumed} of {} cases: each is assumed to take as long as the others on average, and shards may \
                 take unequally long; `cargo xtask durations DIR` adds what a run that passed has taken",
                cases.len()
            )
        })
    }

    /// Seconds that a cell takes; the mean of all where nothing is known of its case.
    pub fn of_cell(&self, cell: &CellId) -> f64 {
        let mean = || {
            let all = self.by_case.values();
            all.sum::<f64>() / self.by_case.len().max(1) as f64
        };
        let known = self.by_case.get(&cell.case).copied();
        known.unwrap_or_else(mean).max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use cowbird_model::{CellResult, Verdict};

    fn cell(case: &str) -> CellId {
        CellId {
            kernel: "k".into(),
            case: case.into(),
            mutant: None,
        }
    }

    #[test]
    fn the_record_is_the_median_of_what_passed() {
        let timed = |case: &str, seconds: f64, verdict| CellResult {
            seconds,
            ..result("k", case, None, verdict)
        };
        let run = RunResults {
            cells_expected: 5,
            seed: 1,
            shard: None,
            plan: None,
            cells: vec![
                timed("a", 4.04, Verdict::Pass),
                timed("a", 2.0, Verdict::Pass),
                timed("a", 9.0, Verdict::Pass),
                timed("a", 300.0, Verdict::Hang),
                timed("b", 8.0, Verdict::Pass),
            ],
        };
        let record = Durations::of(&[run]);
        assert_eq!(record.of_cell(&cell("a")), 4.0);
        assert_eq!(record.of_cell(&cell("new")), 6.0);
        let cells = ["a", "new", "other", "new"].map(cell);
        assert_eq!(record.assumed(&cells), ["new", "other"].into());
        assert!(record.assumed(&cells[..1]).is_empty());
        assert_eq!(record.warning(&cells[..1]), None);
        let warning = record.warning(&cells).expect("two are not known");
        assert!(warning.contains("lacks 2 of 3 cases"), "{warning}");

        let root = tempfile::tempdir().expect("a folder for the test");
        std::fs::create_dir(root.path().join("ci")).expect("it can be made");
        let nothing = Durations::load(root.path()).expect("a missing record is none");
        assert_eq!(nothing.of_cell(&cell("a")), nothing.of_cell(&cell("b")));
        record.clone().save(root.path()).expect("it can be written");
        assert_eq!(Durations::load(root.path()).expect("it is one"), record);
        std::fs::write(root.path().join(PATH_IN_REPO), "{\"a\": 0}").expect("it can be written");
        assert!(Durations::load(root.path()).is_err());
    }
}
