//! Onto a volume of another size.
//!
//! The unit is the block of 4096 bytes: a place keeps its offset inside its block, so that what shared a
//! block still does, and what was written in parts still is. The first way that fits is taken:
//!
//! 1. [`Fit::Kept`]: every place stays what it is.
//! 2. [`Fit::Compacted`]: the blocks that any operation touches move together, in their order; gaps between
//!    them go. What was adjacent stays adjacent, what overlapped overlaps, what did not does not.
//! 3. [`Fit::Written`]: the same for the blocks that writes touch. Reads, discards and write-zeroes are cut
//!    to these, and left out where nothing of them remains: a new filesystem discards the whole device.
//! 4. [`Fit::Folded`]: so moved together, and then modulo the volume. What overlapped still does, but
//!    different places share blocks now. An operation across the end is two. A write of more than 1 GiB, which nobody
//!    makes, goes around once.

use crate::operation::{
    Action, BLOCK_SECTORS, Extent, MAX_KNOWN_PIECES, Operation, Sector, Workload,
};

/// How much of the recorded places remains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// All of it.
    Kept,
    /// Without the gaps.
    Compacted,
    /// Without the gaps between written blocks.
    Written,
    /// Modulo the size of the volume.
    Folded,
}

/// A workload on its volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remapped {
    /// The operations at their new places.
    pub workload: Workload,
    /// How they got there.
    pub fit: Fit,
    /// Operations that had no block that is written.
    pub left_out: usize,
}

/// The smallest volume on which a workload keeps as much of its shape as on one of `largest` sectors; not
/// below `smallest`.
#[must_use]
pub fn volume_sectors(workload: &Workload, smallest: u64, largest: u64) -> u64 {
    let sectors = |runs: Runs| runs.blocks() * BLOCK_SECTORS;
    let all = sectors(Runs::of(workload, |_| true));
    let written = sectors(Runs::of(workload, is_write));
    [all, written]
        .into_iter()
        .find(|sectors| *sectors <= largest)
        .unwrap_or(largest)
        .max(smallest)
}

fn is_write(operation: &Operation) -> bool {
    operation.action == Action::Write
}

/// Moves a workload onto a volume of so many sectors; without a whole block, onto nothing.
#[must_use]
pub fn remap(workload: &Workload, volume_sectors: u64) -> Remapped {
    if workload.space_sectors() <= volume_sectors {
        return Remapped {
            workload: workload.clone(),
            fit: Fit::Kept,
            left_out: 0,
        };
    }
    let volume_blocks = volume_sectors / BLOCK_SECTORS;
    let all = Runs::of(workload, |_| true);
    let (runs, fit) = if all.blocks() <= volume_blocks {
        (all, Fit::Compacted)
    } else {
        let written = Runs::of(workload, is_write);
        let fits = written.blocks() <= volume_blocks;
        (written, if fits { Fit::Written } else { Fit::Folded })
    };
    let mut moved = Vec::with_capacity(workload.operations.len());
    let mut left_out = 0;
    for operation in &workload.operations {
        let before = moved.len();
        runs.put(operation, volume_blocks * BLOCK_SECTORS, &mut moved);
        left_out += usize::from(moved.len() == before);
    }
    Remapped {
        workload: Workload {
            source: workload.source.clone(),
            doubts: workload.doubts.clone(),
            operations: moved,
        },
        fit,
        left_out,
    }
}

/// Blocks that follow each other, and the number of blocks in the runs before.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    end: u64,
    before: u64,
}

/// Blocks that are in use, in order.
#[derive(Debug)]
struct Runs(Vec<Run>);

impl Runs {
    fn of(workload: &Workload, wanted: impl Fn(&Operation) -> bool) -> Self {
        let mut used: Vec<(u64, u64)> = workload
            .operations
            .iter()
            .filter(|operation| !operation.extent.is_empty() && wanted(operation))
            .map(|operation| operation.extent)
            .map(|extent| {
                let end = extent.end().0.div_ceil(BLOCK_SECTORS);
                (extent.start.0 / BLOCK_SECTORS, end)
            })
            .collect();
        used.sort_unstable();
        let mut runs = Vec::<Run>::new();
        for (start, end) in used {
            match runs.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                last => {
                    let before = last.map_or(0, |last| last.before + last.end - last.start);
                    runs.push(Run { start, end, before });
                }
            }
        }
        Self(runs)
    }

    fn blocks(&self) -> u64 {
        self.0
            .last()
            .map_or(0, |last| last.before + last.end - last.start)
    }

    /// Where a sector is when the gaps are gone; one in a gap is where the next run begins.
    fn place(&self, sector: u64) -> u64 {
        let block = sector / BLOCK_SECTORS;
        let next = self.0.partition_point(|run| run.end <= block);
        match self.0.get(next) {
            Some(run) if run.start <= block => {
                (run.before + block - run.start) * BLOCK_SECTORS + sector % BLOCK_SECTORS
            }
            Some(run) => run.before * BLOCK_SECTORS,
            None => self.blocks() * BLOCK_SECTORS,
        }
    }

    /// An extent without its parts in gaps. What remains has no gaps any more.
    fn extent(&self, extent: Extent) -> Extent {
        let (start, end) = (extent.start.0, extent.end().0);
        Extent::between(Sector(self.place(start)), Sector(self.place(end)))
    }

    /// Adds what an operation becomes on a volume of so many sectors: nothing, one, or several where it
    /// crosses the end.
    fn put(&self, operation: &Operation, volume: u64, out: &mut Vec<Operation>) {
        if operation.extent.is_empty() {
            out.push(operation.clone());
            return;
        }
        let extent = self.extent(operation.extent);
        let end = match operation.action {
            // Each time around is an operation, and a forged recording may name any length.
            Action::Write if extent.piece_count() <= MAX_KNOWN_PIECES => extent.end().0,
            // Once around is everywhere.
            _ => extent.end().0.min(extent.start.0 + volume),
        };
        let (mut start, mut piece) = (extent.start.0, 0);
        while volume > 0 && start < end {
            let turn = start / volume * volume;
            let part = Extent::between(Sector(start - turn), Sector((end - turn).min(volume)));
            let pieces = usize::try_from(part.piece_count()).unwrap_or(usize::MAX);
            let contents = operation.contents.iter().skip(piece).take(pieces);
            out.push(Operation {
                extent: part,
                contents: contents.copied().collect(),
                ..*operation
            });
            start += part.sectors;
            piece += pieces;
        }
    }
}
