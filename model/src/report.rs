//! What the oracle found: classes, bad blocks and the report that names them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::units::{BlockIndex, BlockRun, EntryIndex, Sector, SectorRange};
use crate::verdict::Verdict;
use crate::witness::{Entry, EntryKind};

/// Bad blocks that a report lists; all are counted.
pub const MAX_LISTED_BLOCKS: usize = 1000;
/// Runs of bad blocks that a report lists; all are counted.
pub const MAX_LISTED_RUNS: usize = 1000;
/// Distances of misplaced content that a report lists, the most frequent first.
pub const MAX_LISTED_SHIFTS: usize = 8;

/// Different distances that are counted, so that memory is bounded where everything is everywhere.
const MAX_COUNTED_SHIFTS: usize = 65_536;

/// The entry of the witness that put the content there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// Position in the log.
    pub entry: EntryIndex,
    /// First sector of the disk that it covers.
    pub sector: Sector,
    /// Number of sectors.
    pub sectors: u64,
    /// Write or discard.
    pub kind: EntryKind,
}

impl From<&Entry<'_>> for Culprit {
    fn from(entry: &Entry<'_>) -> Self {
        Self {
            entry: entry.index,
            sector: entry.sector,
            sectors: entry.sectors,
            kind: entry.kind,
        }
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            EntryKind::Write => "write",
            EntryKind::Discard => "discard",
            EntryKind::Flush => "flush",
            EntryKind::Mark => "mark",
        };
        let range = SectorRange::new(self.sector, self.sectors);
        write!(f, "{verb} {} of {range}", self.entry)
    }
}

/// One wrong block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadBlock {
    /// The block of the origin.
    pub block: BlockIndex,
    /// How it is wrong.
    pub class: Class,
    /// The entry that put this content on the disk, here or elsewhere, where one is known.
    pub culprit: Option<Culprit>,
    /// For misplaced content: where it belongs, as signed distance in sectors from this block.
    pub distance_sectors: Option<i64>,
    /// One sentence for people.
    pub detail: String,
}

/// The result of comparing an image with the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Blocks compared: all of the origin.
    pub blocks_checked: u64,
    /// Blocks that are wrong.
    pub blocks_bad: u64,
    /// Wrong blocks by class; the sum is `blocks_bad`.
    pub classes: BTreeMap<Class, u64>,
    /// Number of runs of consecutive wrong blocks.
    pub runs_bad: u64,
    /// The first [`MAX_LISTED_RUNS`] runs.
    pub runs: Vec<BlockRun>,
    /// The first [`MAX_LISTED_BLOCKS`] wrong blocks, in order.
    pub bad: Vec<BadBlock>,
    /// Distances of misplaced content in sectors and how many blocks have each, the most frequent
    /// first: a constant distance is the mark of a wrong address computation.
    pub shifts: Vec<(i64, u64)>,
}

/// A report while it is made, of wrong blocks in order. Its memory is bounded however many there are.
pub(crate) struct Gathering {
    report: Report,
    run: Option<BlockRun>,
    shifts: BTreeMap<i64, u64>,
}

impl Gathering {
    /// The report of `checked` compared blocks, of which none is wrong yet.
    pub(crate) fn new(checked: u64) -> Self {
        Self {
            report: Report {
                blocks_checked: checked,
                ..Report::default()
            },
            run: None,
            shifts: BTreeMap::new(),
        }
    }

    /// Takes the next wrong block.
    pub(crate) fn add(&mut self, bad: BadBlock) {
        let report = &mut self.report;
        report.blocks_bad += 1;
        *report.classes.entry(bad.class).or_default() += 1;
        if let Some(distance) = bad.distance_sectors
            && (self.shifts.len() < MAX_COUNTED_SHIFTS || self.shifts.contains_key(&distance))
        {
            *self.shifts.entry(distance).or_default() += 1;
        }
        match &mut self.run {
            Some(run) if run.first.0 + run.blocks == bad.block.0 => run.blocks += 1,
            _ => {
                self.close_run();
                self.run = Some(BlockRun {
                    first: bad.block,
                    blocks: 1,
                });
            }
        }
        if self.report.bad.len() < MAX_LISTED_BLOCKS {
            self.report.bad.push(bad);
        }
    }

    fn close_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.report.runs_bad += 1;
        if self.report.runs.len() < MAX_LISTED_RUNS {
            self.report.runs.push(run);
        }
    }

    /// The report.
    pub(crate) fn finish(mut self) -> Report {
        self.close_run();
        let mut shifts: Vec<(i64, u64)> = self.shifts.into_iter().collect();
        shifts.sort_by_key(|(distance, count)| (u64::MAX - count, distance.unsigned_abs()));
        shifts.truncate(MAX_LISTED_SHIFTS);
        self.report.shifts = shifts;
        self.report
    }
}

impl Report {
    /// Pass when nothing is wrong, else mismatch.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.blocks_bad == 0 {
            Verdict::Pass
        } else {
            Verdict::Mismatch
        }
    }

    /// The report as text for a console: counts, ranges, and at most `blocks` wrong blocks.
    #[must_use]
    pub fn render(&self, blocks: usize) -> String {
        let mut text = format!(
            "{} blocks checked, {} bad\n",
            self.blocks_checked, self.blocks_bad
        );
        if self.blocks_bad == 0 {
            return text;
        }
        let classes: Vec<String> = self
            .classes
            .iter()
            .map(|(class, count)| format!("{class} {count}"))
            .collect();
        text += &format!("  classes: {}\n", classes.join(", "));
        const RUNS_ON_A_LINE: usize = 12;
        let runs: Vec<String> = self
            .runs
            .iter()
            .take(RUNS_ON_A_LINE)
            .map(ToString::to_string)
            .collect();
        let more = self.runs_bad - runs.len() as u64;
        let more = if more > 0 {
            format!(", and {more} more runs")
        } else {
            String::new()
        };
        text += &format!("  blocks: {}{more}\n", runs.join(", "));
        for (distance, count) in &self.shifts {
            text += &format!("  misplaced by {distance:+} sectors: {count} blocks\n");
        }
        for bad in self.bad.iter().take(blocks) {
            text += &format!(
                "  block {:>8}  {:<13} {}\n",
                bad.block.0, bad.class, bad.detail
            );
            if let Some(culprit) = &bad.culprit {
                text += &format!("                  by {culprit}\n");
            }
        }
        let listed = self.bad.len().min(blocks) as u64;
        if listed < self.blocks_bad {
            text += &format!("  .. and {} more bad blocks\n", self.blocks_bad - listed);
        }
        text
    }
}
