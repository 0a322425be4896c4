//! Scripts: a few steps, each written down, so that they can be taken away one by one.
//!
//! A recorded workload is thousands of operations that a program reads; a script is a handful that a person
//! reads. It has its snapshots in it, and runs on a small volume of its own:
//!
//! ```text
//! snapshot                  the first snapshot of a series is taken
//! a write 64+8              thread a writes sectors 64 to 71 of the volume
//! b read 64+8               thread b reads them on the snapshot
//! track                     the snapshot is given up, changes go on to be tracked
//! a zero 0+16
//! next                      the next snapshot of the series is taken
//! ```
//!
//! Steps are begun in their order. One waits for the step before it of its own thread, one that changes
//! something for earlier changes of the same sectors (in which order two of those reach a disk, nobody
//! knows), and what concerns the snapshot for everything before it. All else is in flight together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::operation::{BLOCK_SECTORS, Extent, Sector};

/// Threads that a script can have: one for each letter.
pub const MAX_THREADS: u8 = 26;

/// Sectors of one task at most: 8 MiB.
pub const MAX_TASK_SECTORS: u64 = 16384;

/// Steps of a script at most. One that a cell's journal was made into begins with thousands.
pub const MAX_STEPS: usize = 20_000;

/// A thread of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Thread(u8);

impl Thread {
    /// The thread with a number, from 0; more threads than there are letters share them.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self((number % u32::from(MAX_THREADS)) as u8)
    }

    /// The thread so many letters behind this one.
    #[must_use]
    pub fn shifted(self, letters: u32) -> Self {
        Self::new(u32::from(self.0) + letters % u32::from(MAX_THREADS))
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'a' + self.0))
    }
}

/// How a write reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Way {
    /// Past the page cache.
    Direct,
    /// Through the page cache, and then written back.
    Cached,
    /// Past the page cache, onto stable storage.
    Durable,
    /// Past the page cache, and then the disk's cache is flushed.
    Flushed,
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    /// Writes to the origin.
    Write(Way),
    /// Discards on the origin.
    Discard,
    /// Zeroes without sending zeros.
    Zero,
    /// Reads on the snapshot.
    Read,
}

impl Op {
    const NAMES: [(Self, &'static str); 7] = [
        (Self::Write(Way::Direct), "write"),
        (Self::Write(Way::Cached), "write-cached"),
        (Self::Write(Way::Durable), "write-durable"),
        (Self::Write(Way::Flushed), "write-flushed"),
        (Self::Discard, "discard"),
        (Self::Zero, "zero"),
        (Self::Read, "read"),
    ];

    /// Whether it changes the origin.
    #[must_use]
    pub fn changes(self) -> bool {
        self != Self::Read
    }

    fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(op, _)| *op == self);
        named.map_or("", |(_, name)| name)
    }
}

/// One operation of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Who does it.
    pub thread: Thread,
    /// What.
    pub op: Op,
    /// Where on the volume.
    pub extent: Extent,
}

impl Task {
    /// The sectors that nobody else may change meanwhile: the page cache writes whole blocks.
    fn claim(&self) -> Extent {
        match self.op {
            Op::Write(Way::Cached) => whole_blocks(self.extent),
            _ => self.extent,
        }
    }

    /// Whether this one must be complete before a later one may begin.
    #[must_use]
    pub fn precedes(&self, later: &Self) -> bool {
        let both_change = self.op.changes() && later.op.changes();
        both_change && self.claim().overlaps(&later.claim())
    }
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Step {
    /// The first snapshot is taken.
    Snapshot,
    /// It is given up, its changes go on to be tracked.
    Track,
    /// The next snapshot is taken.
    Next,
    /// An operation.
    Do(Task),
}

/// What is wrong with a script.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScriptError {
    /// A line that is no step.
    #[error(
        "`{line}` is no step; a step is `snapshot`, `track`, `next`, or a letter, what it does (write, \
         write-cached, write-durable, write-flushed, discard, zero, read) and where, as `a write 64+8`"
    )]
    Step {
        /// The line.
        line: String,
    },
    /// A step that is in the wrong place.
    #[error("step {number}, `{step}`, {problem}")]
    Place {
        /// From 1.
        number: usize,
        /// The step.
        step: Step,
        /// What is wrong there.
        problem: &'static str,
    },
    /// The script as a whole.
    #[error("the script {0}")]
    Whole(&'static str),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot => f.write_str("snapshot"),
            Self::Track => f.write_str("track"),
            Self::Next => f.write_str("next"),
            Self::Do(task) => {
                let Extent { start, sectors } = task.extent;
                let name = task.op.name();
                write!(f, "{} {name} {}+{sectors}", task.thread, start.0)
            }
        }
    }
}

impl From<Step> for String {
    fn from(step: Step) -> Self {
        step.to_string()
    }
}

impl TryFrom<String> for Step {
    type Error = ScriptError;

    fn try_from(line: String) -> Result<Self, ScriptError> {
        line.parse()
    }
}

impl FromStr for Step {
    type Err = ScriptError;

    fn from_str(line: &str) -> Result<Self, ScriptError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let step = match words.as_slice() {
            ["snapshot"] => Some(Self::Snapshot),
            ["track"] => Some(Self::Track),
            ["next"] => Some(Self::Next),
            [thread, op, place] => task(thread, op, place).map(Self::Do),
            _ => None,
        };
        step.ok_or_else(|| ScriptError::Step {
            line: line.to_owned(),
        })
    }
}

fn task(thread: &str, op: &str, place: &str) -> Option<Task> {
    let &[letter @ b'a'..=b'z'] = thread.as_bytes() else {
        return None;
    };
    let (op, _) = Op::NAMES.iter().find(|(_, name)| *name == op)?;
    let (start, sectors) = place.split_once('+')?;
    let (start, sectors) = (start.parse().ok()?, sectors.parse().ok()?);
    Some(Task {
        thread: Thread(letter - b'a'),
        op: *op,
        extent: Extent {
            start: Sector(start),
            sectors,
        },
    })
}

/// Tasks that are in flight together, and what ends them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// In the order in which they begin.
    pub tasks: Vec<Task>,
    /// The step that waits for them; none at the end of the script.
    pub then: Option<Step>,
}

/// Steps on a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Script {
    volume_sectors: u64,
    steps: Vec<Step>,
}

/// A script as it is read, before anybody has looked whether it makes sense.
#[derive(Serialize, Deserialize)]
struct Unchecked {
    volume_sectors: u64,
    steps: Vec<Step>,
}

impl TryFrom<Unchecked> for Script {
    type Error = ScriptError;

    fn try_from(read: Unchecked) -> Result<Self, ScriptError> {
        Self::new(read.volume_sectors, read.steps)
    }
}

impl From<Script> for Unchecked {
    fn from(script: Script) -> Self {
        Self {
            volume_sectors: script.volume_sectors,
            steps: script.steps,
        }
    }
}

impl Script {
    /// The script of these steps on a volume of this size.
    ///
    /// # Errors
    /// When it makes no sense: a read without a snapshot, a place behind the end.
    pub fn new(volume_sectors: u64, steps: Vec<Step>) -> Result<Self, ScriptError> {
        if steps.len() > MAX_STEPS {
            return Err(ScriptError::Whole("has more steps than can be kept"));
        }
        let mut state = State::Before;
        for (at, step) in steps.iter().enumerate() {
            state = state
                .after(step, volume_sectors)
                .map_err(|problem| ScriptError::Place {
                    number: at + 1,
                    step: *step,
                    problem,
                })?;
        }
        if state == State::Before {
            return Err(ScriptError::Whole("takes no snapshot"));
        }
        Ok(Self {
            volume_sectors,
            steps,
        })
    }

    /// Size of the volume.
    #[must_use]
    pub fn volume_sectors(&self) -> u64 {
        self.volume_sectors
    }

    /// The steps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The tasks, without what is between them.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.steps.iter().filter_map(|step| match step {
            Step::Do(task) => Some(task),
            _ => None,
        })
    }

    /// Snapshots that it takes.
    #[must_use]
    pub fn epochs(&self) -> usize {
        let takes = |step: &&Step| matches!(step, Step::Snapshot | Step::Next);
        self.steps.iter().filter(takes).count()
    }

    /// Its parts.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        let mut stages = Vec::new();
        let mut tasks = Vec::new();
        for step in &self.steps {
            match step {
                Step::Do(task) => tasks.push(*task),
                control => stages.push(Stage {
                    tasks: std::mem::take(&mut tasks),
                    then: Some(*control),
                }),
            }
        }
        stages.push(Stage { tasks, then: None });
        stages
    }

    /// The whole blocks that it touches, each once and in order; the last block may be short.
    #[must_use]
    pub fn touched(&self) -> Vec<Extent> {
        let mut extents: Vec<Extent> = self.tasks().map(|task| whole_blocks(task.extent)).collect();
        extents.sort_by_key(|extent| extent.start);
        let mut merged: Vec<Extent> = Vec::new();
        for extent in extents {
            let end = extent.end().min(Sector(self.volume_sectors));
            match merged.last_mut() {
                Some(last) if extent.start <= last.end() => {
                    *last = Extent::between(last.start, last.end().max(end));
                }
                _ => merged.push(Extent::between(extent.start, end)),
            }
        }
        merged
    }
}

fn whole_blocks(extent: Extent) -> Extent {
    let start = extent.start.0 / BLOCK_SECTORS * BLOCK_SECTORS;
    let end = extent.end().0.next_multiple_of(BLOCK_SECTORS);
    Extent::between(Sector(start), Sector(end))
}

/// How far a script is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Shown,
    Tracked,
}

impl State {
    fn after(self, step: &Step, volume_sectors: u64) -> Result<Self, &'static str> {
        match (step, self) {
            (Step::Snapshot, Self::Before) | (Step::Next, Self::Tracked) => Ok(Self::Shown),
            (Step::Track, Self::Shown) => Ok(Self::Tracked),
            (Step::Snapshot, _) => Err("is not the first snapshot; say `next`"),
            (Step::Next, _) => Err("does not follow `track`"),
            (Step::Track, _) => Err("does not follow a snapshot"),
            (Step::Do(task), state) => {
                let Extent { start, sectors } = task.extent;
                if task.op == Op::Read && state != Self::Shown {
                    return Err("reads where no snapshot is");
                }
                if sectors == 0 || sectors > MAX_TASK_SECTORS {
                    return Err("has no sectors or more than 16384");
                }
                let end = start.0.checked_add(sectors);
                if end.is_none_or(|end| end > volume_sectors) {
                    return Err("ends behind the volume");
                }
                Ok(state)
            }
        }
    }
}
