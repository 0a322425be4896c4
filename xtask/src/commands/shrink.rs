//! `shrink`: from the bundle of a failed cell to a regression of a few steps.
//!
//! 1. The cell becomes a script: thousands of steps.
//! 2. Most have nothing to do with a given bad block. Slices of the script, each the steps around one or a few
//!    bad blocks, are tried together; the shortest that fails is taken. Where none does, the same with
//!    readers beside the writers, for races; then the whole.
//! 3. The volume is made smaller, then the list of steps ([`Shrinker`]), then the number of threads.
//!
//! A candidate counts as failing when it fails in one of several tries with a class of the cell's own bad
//! blocks. How many tries that takes follows from how often the slice failed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use cowbird_harness::{bundle, planned, reproducer};
use cowbird_matrix::output;
use cowbird_matrix::regression::{self, Regression, VERSION};
use cowbird_model::{BadBlock, Class, Shrinker};
use cowbird_session::plan::CellPlan;
use cowbird_workload::script::MAX_STEPS;
use cowbird_workload::{Script, Step, Task, Thread};

use crate::options::{AccelChoice, accel_again};
use crate::repo;
use crate::run::script_runner::{ScriptRunner, Subject, Tally};
use crate::ui::{Ui, print};

/// Bad blocks that get a slice of their own, and those that share one.
const ALONE: usize = 8;
const TOGETHER: usize = 10;

/// Slices around one bad block that are tried with readers.
const RACED_ALONE: usize = 2;

/// How often a slice is tried: without readers, and with.
const PLAIN_TRIES: u32 = 2;
const RACE_TRIES: u32 = 12;

/// Tries of one candidate at most.
const MAX_TRIES: u32 = 24;

/// How often the regression is run in the end, for its rate.
const FINAL_TIMES: u32 = 20;

/// A matrix runs it so many times at most.
const MAX_TIMES: u32 = 8;

/// How likely a failing candidate may be taken for a good one.
const MISSED: f64 = 0.05;

/// Volumes are whole MiB, but for their odd end.
const MIB_SECTORS: u64 = 2048;

/// Sectors of a block: what is behind the last whole one is a volume's odd end.
const BLOCK_SECTORS: u64 = 8;

/// Periods that a place may matter modulo: none, that of the mutants that strike every so many blocks, and
/// those of addresses.
const PERIODS: [u64; 4] = [1, 61, 64, 256];

/// Arguments of `shrink`.
#[derive(Clone, Debug, Args)]
pub struct ShrinkArgs {
    /// The bundle of a failed cell whose workload writes to the origin itself
    pub bundle: PathBuf,
    /// Name of the regression; by default that of the mutant, or of the case with the seed
    #[arg(long)]
    pub name: Option<String>,
    /// Where the regression goes; by default harness/regressions
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// How QEMU runs the guest; by default as it was
    #[arg(long, value_enum)]
    pub accel: Option<AccelChoice>,
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Where the evidence of the tries goes
    #[arg(long, value_name = "DIR", default_value = "out/shrink")]
    pub out: PathBuf,
}

/// Runs the command; the value is the exit code.
pub fn command(args: &ShrinkArgs, ui: &Arc<Ui>) -> Result<u8> {
    let plan = bundle::read_plan(&args.bundle)
        .with_context(|| format!("{} is not the bundle of a cell", args.bundle.display()))?;
    let original = read_original(&args.bundle, &plan)?;
    let subject = Subject {
        kernel: plan.kernel_name.clone(),
        mutant: plan.mutant.clone(),
        seed: plan.seed,
    };
    let accel = accel_again(args.accel, plan.accel);
    ui.line(&format!(
        "{} steps of {} on {}, {} bad blocks: {}",
        original.steps.len(),
        plan.case,
        plan.kernel_name,
        original.bad.len(),
        names(&original.classes)
    ));
    let script_runner = ScriptRunner::prepare(&subject, accel, args.offline, &args.out, ui)?;
    let mut search = Search {
        script_runner,
        classes: original.classes.clone(),
        tries: PLAIN_TRIES,
        ui,
    };
    let script = search.shrink(&original)?;
    let rate = search.rate(&script)?;
    let regression = Regression {
        version: VERSION,
        kernel: plan.kernel_name,
        mutant: plan.mutant,
        case: plan.case,
        seed: plan.seed,
        classes: rate.classes.clone(),
        failed: rate.failed,
        of: rate.times,
        times: tries_for(&rate).min(MAX_TIMES),
        volume_sectors: script.volume_sectors(),
        steps: script.steps().to_vec(),
    };
    let text = regression.to_text()?;
    let name = args.name.clone().or(regression.mutant);
    let name = name.unwrap_or_else(|| format!("{}-{}", regression.case, regression.seed));
    let folder = args
        .into
        .clone()
        .unwrap_or_else(|| repo::root().join(regression::FOLDER));
    let path = regression::path_of(&folder, &name);
    output::replace(&path, text.as_bytes())?;
    print(&format!(
        "{text}\n{} steps instead of {} after {} boots: {}\nIt alone: cargo xtask replay {}\n",
        regression.steps.len(),
        original.steps.len(),
        search.script_runner.boots(),
        path.display(),
        path.display(),
    ))?;
    Ok(0)
}

/// What is known of the cell.
struct Original {
    steps: Vec<Step>,
    volume_sectors: u64,
    bad: Vec<BadBlock>,
    classes: BTreeSet<Class>,
}

fn read_original(path: &Path, plan: &CellPlan) -> Result<Original> {
    let Some(volume_sectors) = planned::volume_sectors(plan) else {
        bail!(
            "the case {} does not write to a plain origin itself, so its operations have no places on it; \
             shrink a cell of raw-writers, hot-read, write-kinds or series",
            plan.case
        );
    };
    let bad = bundle::read_bad_blocks(path)?;
    if bad.is_empty() {
        bail!("no block of this cell is wrong; only what makes blocks wrong can be shrunk");
    }
    let events = bundle::read_journal(path)?;
    let mut steps = reproducer::from_journal(&events, volume_sectors);
    steps.truncate(MAX_STEPS);
    if !steps.contains(&Step::Snapshot) {
        bail!("the journal of this cell has no snapshot; run the cell again with this program");
    }
    Ok(Original {
        steps,
        volume_sectors,
        classes: bad.iter().map(|bad| bad.class).collect(),
        bad,
    })
}

fn names(classes: &BTreeSet<Class>) -> String {
    let names: Vec<&str> = classes.iter().map(|class| class.name()).collect();
    names.join(", ")
}

/// So many tries show a failure that is seen at this rate.
fn tries_for(tally: &Tally) -> u32 {
    let rate = f64::from(tally.failed) / f64::from(tally.times.max(1));
    if rate >= 1.0 {
        return 1;
    }
    if tally.failed == 0 {
        return MAX_TRIES;
    }
    let tries = (MISSED.ln() / (1.0 - rate).ln()).ceil();
    (tries as u32).clamp(1, MAX_TRIES)
}

/// The slices of a script that are tried first: around single bad blocks, and around several of them.
fn slices(original: &Original) -> Vec<Vec<Step>> {
    let mut blocks: Vec<u64> = original.bad.iter().map(|bad| bad.block.0).collect();
    blocks.dedup();
    let spread = |count: usize| {
        let step = blocks.len().div_ceil(count).max(1);
        blocks.iter().copied().step_by(step)
    };
    let mut slices = Vec::new();
    for reach in [0, 1] {
        for block in spread(ALONE) {
            slices.push(reproducer::around(&original.steps, &[block].into(), reach));
        }
    }
    slices.push(reproducer::around(
        &original.steps,
        &spread(TOGETHER).collect(),
        0,
    ));
    slices
}

/// All steps by one thread; and otherwise the threads by the first letters, in the order in which they come.
fn on_one_thread(steps: &[Step]) -> Vec<Step> {
    with_threads(steps, |_| Thread::new(0))
}

fn with_first_letters(steps: &[Step]) -> Vec<Step> {
    let mut letters = BTreeMap::new();
    with_threads(steps, |thread| {
        let next = letters.len() as u32;
        *letters.entry(thread).or_insert_with(|| Thread::new(next))
    })
}

fn with_threads(steps: &[Step], mut thread: impl FnMut(Thread) -> Thread) -> Vec<Step> {
    let one = |step: &Step| match step {
        Step::Do(task) => Step::Do(Task {
            thread: thread(task.thread),
            ..*task
        }),
        other => *other,
    };
    steps.iter().map(one).collect()
}

/// The same steps on smaller volumes: cut off behind the last step, and with the steps moved to the front.
fn on_smaller_volumes(script: &Script) -> Vec<Script> {
    let odd_end = script.volume_sectors() % BLOCK_SECTORS;
    let first = script.tasks().map(|task| task.extent.start.0).min();
    let first_block = first.unwrap_or_default() / BLOCK_SECTORS;
    let mut moves = vec![0];
    moves.extend(PERIODS.map(|period| first_block / period * period));
    let smaller = moves.into_iter().filter_map(|blocks| {
        let steps = reproducer::moved(script.steps(), blocks)?;
        let ends = steps.iter().map(|step| match step {
            Step::Do(task) => task.extent.end().0,
            _ => 0,
        });
        let used = ends.max().unwrap_or_default();
        let volume = used.next_multiple_of(MIB_SECTORS).max(MIB_SECTORS) + odd_end;
        Script::new(volume, steps).ok()
    });
    let mut smaller: Vec<Script> = smaller
        .filter(|smaller| smaller.volume_sectors() <= script.volume_sectors())
        .collect();
    smaller.dedup();
    smaller
}

/// The search for the shortest script.
struct Search<'a> {
    script_runner: ScriptRunner,
    classes: BTreeSet<Class>,
    tries: u32,
    ui: &'a Ui,
}

impl Search<'_> {
    fn shrink(&mut self, original: &Original) -> Result<Script> {
        let script = self.first_failing(original)?;
        let script = self.smaller_volume(script)?;
        let script = self.fewer_steps(script)?;
        let script = self.fewer_threads(script)?;
        self.smaller_volume(script)
    }

    /// The shortest slice that fails.
    fn first_failing(&mut self, original: &Original) -> Result<Script> {
        let plain = slices(original);
        // The one around several bad blocks first: a race is tried as often as there are writes to race with.
        let most = plain
            .iter()
            .rev()
            .take(1)
            .chain(plain.iter().take(RACED_ALONE));
        let raced = most.map(|slice| reproducer::with_reads(slice)).collect();
        let whole = vec![
            original.steps.clone(),
            reproducer::with_reads(&original.steps),
        ];
        for (what, tries, lists) in [
            ("slices", PLAIN_TRIES, plain),
            ("slices with readers", RACE_TRIES, raced),
            ("the whole", PLAIN_TRIES, whole),
        ] {
            let scripts: Vec<Script> = lists
                .into_iter()
                .filter_map(|steps| Script::new(original.volume_sectors, steps).ok())
                .collect();
            let tallies = self.script_runner.run(&scripts, tries, &self.classes)?;
            let mut failing: Vec<(&Script, &Tally)> = scripts
                .iter()
                .zip(&tallies)
                .filter(|(_, tally)| tally.failed > 0)
                .collect();
            self.ui.line(&format!(
                "{} of {} {what} fail",
                failing.len(),
                scripts.len()
            ));
            // What fails always is worth more than what is short.
            failing
                .sort_by_key(|(script, tally)| (tally.times - tally.failed, script.steps().len()));
            if let Some((script, _)) = failing.first() {
                let rate =
                    self.script_runner
                        .run(&[(*script).clone()], RACE_TRIES, &self.classes)?;
                self.tries = tries_for(&rate[0]).max(PLAIN_TRIES);
                self.ui.line(&format!(
                    "{} steps fail {} of {} times; each candidate is tried {} times",
                    script.steps().len(),
                    rate[0].failed,
                    rate[0].times,
                    self.tries
                ));
                return Ok((*script).clone());
            }
        }
        bail!(
            "no part of this cell failed again, nor did the whole: it depends on what the journal does not have"
        )
    }

    fn fewer_steps(&mut self, script: Script) -> Result<Script> {
        let volume = script.volume_sectors();
        let mut shrinker = Shrinker::new(script.steps().to_vec());
        while !shrinker.is_minimal() {
            let scripts: Vec<Option<Script>> = shrinker
                .candidates()
                .into_iter()
                .map(|steps| Script::new(volume, steps).ok())
                .collect();
            let failed = self.failing(&scripts)?;
            shrinker.take(&failed);
            self.ui.line(&format!("{} steps", shrinker.parts().len()));
        }
        Ok(Script::new(volume, shrinker.parts().to_vec())?)
    }

    fn fewer_threads(&mut self, script: Script) -> Result<Script> {
        let volume = script.volume_sectors();
        let one = Script::new(volume, on_one_thread(script.steps()))?;
        let renamed = Script::new(volume, with_first_letters(script.steps()))?;
        Ok(self.smallest(vec![one, renamed])?.unwrap_or(script))
    }

    fn smaller_volume(&mut self, script: Script) -> Result<Script> {
        let mut smaller = on_smaller_volumes(&script);
        smaller.sort_by_key(Script::volume_sectors);
        Ok(self.smallest(smaller)?.unwrap_or(script))
    }

    /// The first of these that fails.
    fn smallest(&mut self, scripts: Vec<Script>) -> Result<Option<Script>> {
        let some: Vec<Option<Script>> = scripts.into_iter().map(Some).collect();
        let failed = self.failing(&some)?;
        let failing = some.into_iter().zip(failed).filter(|(_, failed)| *failed);
        Ok(failing.filter_map(|(script, _)| script).next())
    }

    /// Which of these fail; what is no script does not.
    fn failing(&mut self, scripts: &[Option<Script>]) -> Result<Vec<bool>> {
        let sound: Vec<Script> = scripts.iter().flatten().cloned().collect();
        let mut tallies = self
            .script_runner
            .run(&sound, self.tries, &self.classes)?
            .into_iter();
        let failed = |script: &Option<Script>| {
            script.is_some() && tallies.next().is_some_and(|tally| tally.failed > 0)
        };
        Ok(scripts.iter().map(failed).collect())
    }

    /// How often it fails in the end.
    fn rate(&mut self, script: &Script) -> Result<Tally> {
        let tallies =
            self.script_runner
                .run(std::slice::from_ref(script), FINAL_TIMES, &self.classes)?;
        let tally = tallies.into_iter().next().context("there is no tally")?;
        if tally.failed == 0 {
            bail!(
                "{} steps were seen to fail, but did not in {} more tries; shrink again, or race it harder",
                script.steps().len(),
                tally.times
            );
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(lines: &[&str]) -> Vec<Step> {
        let step = |line: &&str| line.parse().expect("a step");
        lines.iter().map(step).collect()
    }

    fn lines(steps: &[Step]) -> Vec<String> {
        steps.iter().map(ToString::to_string).collect()
    }

    fn tally(failed: u32, times: u32) -> Tally {
        Tally {
            failed,
            times,
            ..Tally::default()
        }
    }

    #[test]
    fn the_rarer_the_more_tries() {
        assert_eq!(tries_for(&tally(12, 12)), 1);
        assert_eq!(tries_for(&tally(6, 12)), 5);
        assert_eq!(tries_for(&tally(1, 12)), 24);
        assert_eq!(tries_for(&tally(0, 12)), MAX_TRIES);
    }

    #[test]
    fn threads_are_named_in_the_order_in_which_they_come() {
        let original = steps(&["snapshot", "k write 0+8", "b read 0+8", "k zero 8+8"]);
        assert_eq!(
            lines(&with_first_letters(&original)),
            ["snapshot", "a write 0+8", "b read 0+8", "a zero 8+8"]
        );
        assert_eq!(lines(&on_one_thread(&original))[2], "a read 0+8");
    }

    /// Goal: a smaller volume keeps its odd end, and a place keeps what it is modulo some period.
    #[test]
    fn smaller_volumes() {
        let original = steps(&["snapshot", "a write 24400+8", "a write 24417+2"]);
        let script = Script::new(48 * 2048 + 5, original).expect("a script");
        let smaller: Vec<(u64, String)> = on_smaller_volumes(&script)
            .iter()
            .map(|smaller| (smaller.volume_sectors(), smaller.steps()[1].to_string()))
            .collect();
        // Block 3050 is 50 * 61, 47 * 64 + 42 and 11 * 256 + 234.
        let expected = [
            (24581, "a write 24400+8"),
            (2053, "a write 0+8"),
            (2053, "a write 336+8"),
            (2053, "a write 1872+8"),
        ];
        let expected = expected.map(|(volume, step)| (volume, step.to_owned()));
        assert_eq!(smaller, expected);
    }
}
