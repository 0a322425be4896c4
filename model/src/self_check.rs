//! The witness on trial: folded whole, it must give the disk that it witnessed.
//!
//! This finds a log that lost entries, a wrong [`crate::DiscardModel`], a disk that was written
//! beside the witness, and overlapping writes that were logged in another order than the disk took
//! them, where they are the last of their sectors. It does not find such an order when the sectors
//! were written again later.

use std::fmt;

use thiserror::Error;

use crate::bytes::is_zero;
use crate::holes::Holes;
use crate::truth::{Content, DiscardModel, Segment, Truth, TruthError};
use crate::units::{EntryIndex, SECTOR_BYTES, Sector, SectorRange};
use crate::witness::WitnessLog;

/// Wrong sectors that the error lists; all are counted.
const MAX_LISTED_SECTORS: usize = 16;

/// A sector on which the witness and the disk disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The sector of the disk.
    pub sector: Sector,
    /// The entry that wrote it last according to the witness.
    pub writer: Option<EntryIndex>,
}

/// The sectors on which the witness and the disk disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreements {
    /// How many sectors.
    pub sectors: u64,
    /// The first of them.
    pub first: Vec<Disagreement>,
}

impl fmt::Display for Disagreements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sectors, the first are", self.sectors)?;
        for Disagreement { sector, writer } in &self.first {
            match writer {
                Some(entry) => write!(f, " {sector} (entry {entry})")?,
                None => write!(f, " {sector} (never written)")?,
            }
        }
        Ok(())
    }
}

/// Why the witness cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelfCheckError {
    /// The log does not fit the disk.
    #[error(transparent)]
    Truth(#[from] TruthError),
    /// The disk changed its size.
    #[error("the disk had {before} bytes before the log and has {after} now")]
    DiskSize {
        /// Bytes before.
        before: usize,
        /// Bytes after.
        after: usize,
    },
    /// The disk holds something else than the log says.
    #[error(
        "the witness and its disk disagree on {0}; check the discard setting of the disk, and that the workload has no overlapping writes in flight"
    )]
    Disagree(Disagreements),
}

/// Compares the log, folded whole over `base`, with `final_disk`.
///
/// QEMU must have ended, or the disk be quiet, when the two were read.
///
/// # Errors
/// Any sector that differs, or inputs that do not fit together.
pub fn self_check(
    base: &[u8],
    log: &WitnessLog<'_>,
    final_disk: &[u8],
    discard: DiscardModel,
) -> Result<(), SelfCheckError> {
    self_check_sparse(base, log, final_disk, discard, Holes::NONE, &mut || {})
}

/// The same of mapped files, as [`crate::Oracle::verify_sparse`] takes them.
///
/// # Errors
/// As [`self_check`].
pub fn self_check_sparse(
    base: &[u8],
    log: &WitnessLog<'_>,
    final_disk: &[u8],
    discard: DiscardModel,
    holes: &Holes,
    after_piece: &mut dyn FnMut(),
) -> Result<(), SelfCheckError> {
    if base.len() != final_disk.len() {
        return Err(SelfCheckError::DiskSize {
            before: base.len(),
            after: final_disk.len(),
        });
    }
    let folded = Truth::at(base, log, log.end(), discard)?;
    let mut wrong = Disagreements {
        sectors: 0,
        first: Vec::new(),
    };
    for segment in folded.segments(SectorRange::new(Sector(0), folded.disk_sectors())) {
        for piece in holes.pieces_of(&segment) {
            compare(&segment.part(piece), final_disk, &mut wrong);
            after_piece();
        }
    }
    if wrong.sectors > 0 {
        Err(SelfCheckError::Disagree(wrong))
    } else {
        Ok(())
    }
}

/// Adds the sectors of a segment that differ.
fn compare(segment: &Segment<'_>, final_disk: &[u8], wrong: &mut Disagreements) {
    let from = segment.range.start.0 as usize * SECTOR_BYTES;
    let seen = &final_disk[from..from + segment.range.bytes() as usize];
    let equal = match segment.content {
        Content::Bytes(expected) => expected == seen,
        Content::Zeros => is_zero(seen),
    };
    if equal {
        return;
    }
    for (at, sector) in seen.chunks_exact(SECTOR_BYTES).enumerate() {
        let equal = match segment.content {
            Content::Bytes(expected) => expected[at * SECTOR_BYTES..].starts_with(sector),
            Content::Zeros => is_zero(sector),
        };
        if !equal {
            wrong.sectors += 1;
            if wrong.first.len() < MAX_LISTED_SECTORS {
                let sector = Sector(segment.range.start.0 + at as u64);
                wrong.first.push(Disagreement {
                    sector,
                    writer: segment.writer,
                });
            }
        }
    }
}
