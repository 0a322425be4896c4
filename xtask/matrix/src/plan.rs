//! Which cells a run has, in which order, and with which seeds. Pure: names in, cells out.
//!
//! # Seeds
//! A cell's seed is derived from the run's seed and the cell's identity alone, so a cell of a full
//! run is repeated by running it alone with the same `--seed`, whatever else the two runs select.
//! A case that was renamed keeps its seeds.
//!
//! # Shards
//! Cells are assigned to shards so that all shards take about equally long. All cells of one mutant on one
//! kernel go to the same shard, because a mutant counts as caught when any of them catches it, and no
//! shard sees another's results.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use cowbird_model::{CellResult, Verdict};
use sha2::{Digest, Sha256};

/// Seeds stay below 2^53: every reader of `results.json` must get the number back, and those that
/// keep numbers as doubles lose larger ones.
const SEED_BITS: u32 = 53;

/// What a cell is: one kernel, one case, and perhaps a mutant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId {
    /// Name of the kernel in the catalogue.
    pub kernel: String,
    /// Name of the case.
    pub case: String,
    /// Name of the mutant; none for the module as it is.
    pub mutant: Option<String>,
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kernel, self.case)?;
        match &self.mutant {
            Some(mutant) => write!(f, " {mutant}"),
            None => Ok(()),
        }
    }
}

impl CellId {
    /// A name for the cell's folders: its parts are names, which have no `/`.
    pub fn slug(&self) -> String {
        let mutant = self.mutant.iter().flat_map(|mutant| ["+", mutant]);
        [self.kernel.as_str(), "+", &self.case]
            .into_iter()
            .chain(mutant)
            .collect()
    }

    /// Whether both belong to one shard: cells of one mutant on one kernel.
    fn shares_a_shard_with(&self, other: &Self) -> bool {
        self.mutant.is_some() && (&self.kernel, &self.mutant) == (&other.kernel, &other.mutant)
    }

    /// The cell's seed in a run with the seed `run`.
    pub fn seed(&self, run: u64) -> u64 {
        let mut hash = Sha256::new();
        hash.update(run.to_le_bytes());
        for part in [
            self.kernel.as_str(),
            cowbird_cases::former::first(&self.case),
            self.mutant.as_deref().unwrap_or_default(),
        ] {
            // The length keeps ("ab", "c") apart from ("a", "bc").
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        shorten_seed(u64::from_le_bytes(first))
    }
}

/// Cuts any number to the range of seeds.
pub fn shorten_seed(number: u64) -> u64 {
    number >> (u64::BITS - SEED_BITS)
}

/// A cell to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedCell {
    /// What it is.
    pub id: CellId,
    /// Its seed.
    pub seed: u64,
}

impl PlannedCell {
    /// Its result with a verdict and the reason, and nothing that a guest would have to say.
    pub fn result(&self, verdict: Verdict, reason: String) -> CellResult {
        CellResult {
            kernel: self.id.kernel.clone(),
            kernel_version: String::new(),
            case: self.id.case.clone(),
            mutant: self.id.mutant.clone(),
            seed: self.seed,
            cpus: 0,
            first_attempt: None,
            made_of: None,
            verdict,
            reason,
            notes: Vec::new(),
            // Whoever ran it decides.
            caught: self.id.mutant.as_ref().map(|_| false),
            blocks_checked: 0,
            blocks_bad: 0,
            classes: BTreeMap::new(),
            phases: Vec::new(),
            seconds: 0.0,
            trace: None,
            bundle: None,
        }
    }
}

/// One of several parts of a matrix: the `index`-th of `count`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, count)| {
            Some(Self {
                index: index.parse().ok()?,
                count: count.parse().ok()?,
            })
        });
        numbers
            .filter(|shard| (1..=shard.count).contains(&shard.index))
            .ok_or_else(|| format!("`{text}` is not K/N with 1 <= K <= N, as 2/3"))
    }
}

impl Shard {
    /// Which part, from 1.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Of how many.
    pub fn count(self) -> u32 {
        self.count
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// The cells of a run: with mutants, these instead of the module as it is. Ordered by kernel, then
/// mutant, then case, each in the order given.
pub fn plan(
    kernels: &[String],
    cases: &[String],
    mutants: &[String],
    seed: u64,
) -> Vec<PlannedCell> {
    let mutants: Vec<Option<String>> = if mutants.is_empty() {
        vec![None]
    } else {
        mutants.iter().cloned().map(Some).collect()
    };
    let mut cells = Vec::new();
    for kernel in kernels {
        for mutant in &mutants {
            for case in cases {
                let id = CellId {
                    kernel: kernel.clone(),
                    case: case.clone(),
                    mutant: mutant.clone(),
                };
                cells.push(PlannedCell {
                    seed: id.seed(seed),
                    id,
                });
            }
        }
    }
    cells
}

/// The cells of one shard: the longest units go first, each to the shard that has least so far.
pub fn cells_of_shard(
    cells: Vec<PlannedCell>,
    shard: Shard,
    seconds: impl Fn(&CellId) -> f64,
) -> Vec<PlannedCell> {
    let mut units = Vec::<(f64, Vec<PlannedCell>)>::new();
    for cell in cells {
        let weight = seconds(&cell.id);
        match units.last_mut() {
            Some((sum, unit)) if unit[0].id.shares_a_shard_with(&cell.id) => {
                *sum += weight;
                unit.push(cell);
            }
            _ => units.push((weight, vec![cell])),
        }
    }
    let mut order: Vec<usize> = (0..units.len()).collect();
    // Stable: of equals the first in the plan.
    order.sort_by(|a, b| units[*b].0.total_cmp(&units[*a].0));
    let mut loads = vec![0.0_f64; shard.count as usize];
    let mut mine = vec![false; units.len()];
    for at in order {
        let least = (0..loads.len())
            .min_by(|a, b| loads[*a].total_cmp(&loads[*b]))
            .unwrap_or_default();
        loads[least] += units[at].0;
        mine[at] = least == shard.index as usize - 1;
    }
    units
        .into_iter()
        .zip(mine)
        .filter(|(_, mine)| *mine)
        .flat_map(|((_, unit), _)| unit)
        .collect()
}

/// What stands for all that a run is to do, its other shards included: SHA-256, in hexadecimal, of its cells with their seeds, of
/// their `seconds`, by which it is split into shards, and of `options`, which all cells have.
pub fn digest(cells: &[PlannedCell], seconds: impl Fn(&CellId) -> f64, options: &str) -> String {
    let mut digest = Sha256::new();
    // No part has a line feed in it, so that the text is of these cells only.
    digest.update(options.replace('\n', " "));
    for PlannedCell { id, seed } in cells {
        let CellId {
            kernel,
            case,
            mutant,
        } = id;
        let mutant = mutant.as_deref().unwrap_or("-");
        let bits = seconds(id).to_bits();
        digest.update(format!("\n{kernel} {case} {mutant} {seed} {bits}"));
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    /// Goal: what may put a cell into another shard, or make it another cell, makes another digest.
    #[test]
    fn the_digest_is_of_all_that_a_run_does() {
        let cells = |cases: &[&str], seed| plan(&names(&["k"]), &names(cases), &[], seed);
        let even = |_: &CellId| 2.0;
        let one = digest(&cells(&["a", "b"], 1), even, "(traced)");
        assert_eq!(one, digest(&cells(&["a", "b"], 1), even, "(traced)"));
        assert_eq!(one.len(), 64);
        let uneven = |cell: &CellId| if cell.case == "a" { 3.0 } else { 2.0 };
        for other in [
            digest(&cells(&["a"], 1), even, "(traced)"),
            digest(&cells(&["b", "a"], 1), even, "(traced)"),
            digest(&cells(&["a", "b"], 2), even, "(traced)"),
            digest(&cells(&["a", "b"], 1), uneven, "(traced)"),
            digest(&cells(&["a", "b"], 1), even, "(untraced)"),
        ] {
            assert_ne!(one, other);
        }
    }

    fn shard(text: &str) -> Shard {
        text.parse().expect("a shard")
    }

    /// Cases take very different times.
    fn seconds(cell: &CellId) -> f64 {
        match cell.case.as_str() {
            "a" => 1.0,
            "b" => 2.0,
            _ => 30.0,
        }
    }

    #[test]
    fn a_plan_is_in_order_and_its_seeds_are_fixed() {
        let cells = plan(&names(&["k1", "k2"]), &names(&["a", "b"]), &[], 42);
        let listed: Vec<String> = cells
            .iter()
            .map(|cell| format!("{} {}", cell.id, cell.seed))
            .collect();
        // Worked out with another implementation: an old seed must stay good for old cells.
        let expected = [
            "k1 a 7988359374929075",
            "k1 b 5105664122613830",
            "k2 a 6033649022779904",
            "k2 b 7610295283886240",
        ];
        assert_eq!(listed, expected);
        let mutants = plan(
            &names(&["k1"]),
            &names(&["a", "b"]),
            &names(&["m", "n"]),
            42,
        );
        let listed: Vec<String> = mutants.iter().map(|cell| cell.id.to_string()).collect();
        assert_eq!(listed, ["k1 a m", "k1 b m", "k1 a n", "k1 b n"]);
    }

    /// Goal: a cell alone has the seed that it has in the full run.
    #[test]
    fn seeds_do_not_depend_on_the_selection() {
        let all = plan(
            &names(&["k1", "k2"]),
            &names(&["a", "b"]),
            &names(&["m"]),
            7,
        );
        let one = plan(&names(&["k2"]), &names(&["b"]), &names(&["m"]), 7);
        assert_eq!(all.last(), one.first());
        let seeds: BTreeSet<u64> = all.iter().map(|cell| cell.seed).collect();
        assert_eq!(seeds.len(), 4);
        assert!(seeds.iter().all(|seed| *seed < 1 << SEED_BITS));
        assert_ne!(one[0].seed, one[0].id.seed(8));
    }

    /// Goal: a case that is renamed keeps its seeds.
    #[test]
    fn seeds_outlive_names() {
        let id = |case: &str| plan(&names(&["k"]), &names(&[case]), &[], 7).remove(0);
        for (first, now) in cowbird_cases::former::renamed() {
            assert_eq!(id(first).seed, id(now).seed);
            assert_ne!(id(now).seed, id("another").seed);
        }
    }

    /// Goal: the shards of a matrix are a partition of it, and keep a mutant's cells on one kernel
    /// together. Method: for several numbers of shards, put the parts together again.
    #[test]
    fn shards_partition_the_matrix() {
        let kernels = names(&["k1", "k2", "k3"]);
        let cases = names(&["a", "b", "c"]);
        for mutants in [names(&[]), names(&["m", "n"])] {
            let whole = plan(&kernels, &cases, &mutants, 1);
            for count in 1..=12 {
                let mut owners = BTreeSet::new();
                let mut seen = 0;
                for index in 1..=count {
                    let part =
                        cells_of_shard(whole.clone(), shard(&format!("{index}/{count}")), seconds);
                    assert!(part.iter().all(|cell| whole.contains(cell)));
                    seen += part.len();
                    let groups: BTreeSet<_> = part
                        .iter()
                        .filter(|cell| cell.id.mutant.is_some())
                        .map(|cell| (cell.id.kernel.clone(), cell.id.mutant.clone()))
                        .collect();
                    for group in groups {
                        assert!(owners.insert(group), "a group is in two shards");
                    }
                }
                assert_eq!(seen, whole.len());
            }
        }
    }

    /// Goal: no shard is longer than the others by more than one unit.
    #[test]
    fn shards_take_about_equally_long() {
        let whole = plan(
            &names(&["k1", "k2", "k3", "k4"]),
            &names(&["a", "b", "c"]),
            &[],
            1,
        );
        let loads: Vec<f64> = (1..=3)
            .map(|index| cells_of_shard(whole.clone(), shard(&format!("{index}/3")), seconds))
            .map(|part| part.iter().map(|cell| seconds(&cell.id)).sum())
            .collect();
        let (least, most) = loads.iter().fold((f64::MAX, 0.0), |(least, most), load| {
            (load.min(least), load.max(most))
        });
        assert!(most - least <= 30.0, "{loads:?}");
        assert!(loads.iter().sum::<f64>() == 132.0, "{loads:?}");
    }

    #[test]
    fn shards_are_read_strictly() {
        assert_eq!(shard("2/3").to_string(), "2/3");
        for wrong in ["0/3", "4/3", "1", "1/0", "a/b", "1/2/3", "-1/2", "", "/"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn slugs_tell_cells_apart() {
        let id = |kernel: &str, case: &str, mutant: Option<&str>| CellId {
            kernel: kernel.into(),
            case: case.into(),
            mutant: mutant.map(Into::into),
        };
        assert_eq!(id("k-1", "c", None).slug(), "k-1+c");
        assert_eq!(id("k-1", "c", Some("m")).slug(), "k-1+c+m");
    }
}
