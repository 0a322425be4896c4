//! Which operation may be issued when. Pure: the caller has the clock, the threads and the device.
//!
//! Operations are issued in the order in which they were recorded, as many at once as the caller has
//! threads, under two rules:
//!
//! - Two operations of which one changes what the other touches are never in flight together. That is more
//!   than the recording promises, in which overlapping writes may have been in flight at once, but of such
//!   the order on the disk is nobody's to know, and a witness that logs another one would not be the truth.
//!   It contains the rule that matters: what was issued after an overlapping write had completed does not
//!   overtake it.
//! - A flush waits for all that change anything and were issued before it, as its submitter will have done.
//!
//! # Around the snapshot instant
//! A replay is fast and setting up a snapshot is not, so operations would run out before anything is
//! compared. From [`Instant::from`] on they are issued with pauses, so that there still are some when the cut
//! is made, and from [`Instant::hold`] on not at all until [`Schedule::release`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::operation::{Action, Operation, Workload};

/// Longer pauses of a recording are shortened to this, ns: nobody learns from a device at rest, and a guest
/// that does nothing for long cannot be told from one that hangs.
pub const MAX_PAUSE_NS: u64 = 5_000_000_000;

/// The operations around the instant are spread over about this time, ns: what setting up a snapshot takes.
const SPREAD_NS: u64 = 1_000_000_000;

/// Bounds of the pause between two of them, ns.
const MIN_SPREAD_PAUSE_NS: u64 = 1_000_000;
const MAX_SPREAD_PAUSE_NS: u64 = 100_000_000;

/// Unit of the factor in [`Timing::Scaled`].
const SCALE: u64 = 1000;

/// How fast operations follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Timing {
    /// As fast as they are done.
    #[default]
    Fast,
    /// With the recorded pauses, times so many thousandths.
    Scaled(u32),
}

impl FromStr for Timing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let factor = |text: &str| {
            let factor: f64 = text.parse().ok()?;
            let thousandths = (factor * SCALE as f64).round();
            (1.0..=f64::from(u32::MAX))
                .contains(&thousandths)
                .then_some(thousandths as u32)
        };
        match text.split_once(':') {
            None if text == "fast" => Some(Self::Fast),
            None if text == "kept" => Some(Self::Scaled(SCALE as u32)),
            Some(("scaled", text)) => factor(text).map(Self::Scaled),
            _ => None,
        }
        .ok_or_else(|| {
            format!(
                "`{text}` is none of fast, kept, and scaled:X where the pauses are X times as long"
            )
        })
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fast => f.write_str("fast"),
            Self::Scaled(1000) => f.write_str("kept"),
            Self::Scaled(thousandths) => {
                write!(f, "scaled:{}", f64::from(*thousandths) / SCALE as f64)
            }
        }
    }
}

/// Where in a workload the snapshot is taken, as numbers of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instant {
    /// From here on it may be taken.
    pub from: u64,
    /// Nothing from here on is issued before it is taken.
    pub hold: u64,
}

/// Why a snapshot cannot be taken in the middle of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the workload changes its device in {modifying} operations, of which {before} are before the snapshot; there must be some before it and behind it: record for longer, or take the snapshot elsewhere"
)]
pub struct NoInstant {
    modifying: usize,
    before: usize,
}

impl Instant {
    /// After so many percent of the operations that change anything. Half of those behind are held back.
    ///
    /// # Errors
    /// When one of the parts has no such operation.
    pub fn after_percent(workload: &Workload, percent: u32) -> Result<Self, NoInstant> {
        let operations = workload.operations.iter().enumerate();
        let modifying: Vec<usize> = operations
            .filter(|(_, operation)| operation.action.modifies())
            .map(|(at, _)| at)
            .collect();
        let before = modifying.len() * percent.min(100) as usize / 100;
        let held = (modifying.len() - before).div_ceil(2);
        let hold = modifying.len() - held;
        match (modifying.get(before), modifying.get(hold)) {
            (Some(from), Some(hold)) if before > 0 => Ok(Self {
                from: *from as u64,
                hold: *hold as u64,
            }),
            _ => Err(NoInstant {
                modifying: modifying.len(),
                before,
            }),
        }
    }
}

/// What a thread that could issue an operation is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Issue this one, and say so when it is complete.
    Go(usize),
    /// Come back at this time, or when one is complete; ns.
    WaitUntil(u64),
    /// Come back when one is complete, or after the release.
    WaitForOthers,
    /// All are issued.
    Over,
}

/// The state of a replay.
#[derive(Debug)]
pub struct Schedule {
    workload: Arc<Workload>,
    instant: Instant,
    /// When each is due after the start, if that matters, ns.
    due: Vec<u64>,
    /// Pause between operations around the instant.
    spread_ns: u64,
    next: usize,
    in_flight: Vec<usize>,
    released: bool,
    last_issue_ns: u64,
    /// How much later than planned everything is, ns.
    late_ns: u64,
}

impl Schedule {
    /// The beginning. Times that are given later count from it.
    #[must_use]
    pub fn new(workload: Arc<Workload>, timing: Timing, instant: Instant) -> Self {
        let due = match timing {
            Timing::Fast => Vec::new(),
            Timing::Scaled(thousandths) => due_times(&workload.operations, thousandths),
        };
        let spread = SPREAD_NS / instant.hold.saturating_sub(instant.from).max(1);
        Self {
            workload,
            instant,
            due,
            spread_ns: spread.clamp(MIN_SPREAD_PAUSE_NS, MAX_SPREAD_PAUSE_NS),
            next: 0,
            in_flight: Vec::new(),
            released: false,
            last_issue_ns: 0,
            late_ns: 0,
        }
    }

    /// What to do at this time.
    pub fn turn(&mut self, now_ns: u64) -> Turn {
        let operations = &self.workload.operations;
        let Some(operation) = operations.get(self.next) else {
            return Turn::Over;
        };
        let waits = |other: &usize| conflict(operation, &operations[*other]);
        if self.is_held() || self.in_flight.iter().any(waits) {
            return Turn::WaitForOthers;
        }
        let due = self.due_ns();
        if now_ns < due {
            return Turn::WaitUntil(due);
        }
        self.in_flight.push(self.next);
        self.last_issue_ns = now_ns;
        self.next += 1;
        Turn::Go(self.next - 1)
    }

    /// An operation is complete.
    pub fn complete(&mut self, operation: usize) {
        self.in_flight.retain(|other| *other != operation);
    }

    /// Whether all operations are complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next == self.workload.operations.len() && self.in_flight.is_empty()
    }

    /// The snapshot is taken. A recording's pauses go on from here, without those of the waiting.
    pub fn release(&mut self, now_ns: u64) {
        if self.released {
            return;
        }
        self.released = true;
        let due = self.due.get(self.next).copied().unwrap_or(now_ns);
        self.late_ns = now_ns.saturating_sub(due);
    }

    fn is_held(&self) -> bool {
        !self.released && self.next as u64 >= self.instant.hold
    }

    fn due_ns(&self) -> u64 {
        let planned = self.due.get(self.next).map_or(0, |due| due + self.late_ns);
        if !self.released && self.next as u64 >= self.instant.from {
            planned.max(self.last_issue_ns + self.spread_ns)
        } else {
            planned
        }
    }
}

fn due_times(operations: &[Operation], thousandths: u32) -> Vec<u64> {
    let (mut due, mut before) = (0, 0);
    operations
        .iter()
        .map(|operation| {
            let pause = operation.at_ns.saturating_sub(before);
            before = operation.at_ns;
            let scaled = pause.saturating_mul(thousandths.into()) / SCALE;
            due += scaled.min(MAX_PAUSE_NS);
            due
        })
        .collect()
}

/// Whether an operation must not be in flight with an earlier one.
fn conflict(operation: &Operation, earlier: &Operation) -> bool {
    if operation.action == Action::Flush {
        return earlier.action.modifies();
    }
    let modifies = operation.action.modifies() || earlier.action.modifies();
    modifies && operation.extent.overlaps(&earlier.extent)
}
