//! Broken invariants, and what they are counted by.

use std::fmt;

use cowbird_events::devices::BLOCK_SECTORS;
use cowbird_events::event::{BLOCK_BYTES, BlockIndex, SECTOR_BYTES};
use serde::Serialize;

pub(super) const PHASE_TRACKING: u32 = 3;
pub(super) const PHASE_ACTIVE: u32 = 2;

/// Findings that are kept one by one; more are only counted.
pub const MAX_FINDINGS: usize = 10_000;

/// What is wrong with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// I1, old before new.
    WrittenUnpreserved,
    /// I2, revalidate: the reader got what was written after the instant.
    Future,
    /// I2, revalidate: the reader got something else, such as parts of both.
    Wrong,
    /// I3, a true cut: in flight at the cut.
    InFlightAtCut,
    /// I6, the map is true.
    NotInMap,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrittenUnpreserved => {
                "was written before its content at the instant had been read (I1, old before new)"
            }
            Self::Future => "was read with content from after the instant (I2, revalidate)",
            Self::Wrong => {
                "was read with content that it did not have at the instant (I2, revalidate)"
            }
            Self::InFlightAtCut => "was being written when the cut was made (I3, a true cut)",
            Self::NotInMap => "was written without being in the change map (I6, the map is true)",
        })
    }
}

/// One broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Snapshot.
    pub minor: u32,
    /// Block of the origin.
    pub block: BlockIndex,
    /// What is wrong.
    pub fault: Fault,
    /// The event that shows it.
    pub sequence: u64,
    /// Its time.
    pub time_ns: u64,
    /// Fingerprint at the instant, where that is the matter.
    pub expected: Option<u64>,
    /// Fingerprint that was read.
    pub found: Option<u64>,
}

/// What a trace came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Verdict {
    /// Broken invariants, the first [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond these.
    pub more: u64,
    /// Snapshot instants that were checked.
    pub instants: u64,
    /// Whole blocks of snapshot reads that were compared.
    pub blocks_compared: u64,
    /// Whole blocks of snapshot reads whose content at the instant nobody saw.
    pub blocks_unknown: u64,
    /// Writes to origins that were checked.
    pub writes: u64,
    /// Snapshots that could not be checked, and why.
    pub unchecked: Vec<String>,
}

impl Verdict {
    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}

/// Blocks that a range of sectors touches.
pub(super) fn touched(first_sector: u64, bytes: u64) -> std::ops::RangeInclusive<u64> {
    let last = first_sector.saturating_add(bytes.div_ceil(SECTOR_BYTES).max(1) - 1);
    first_sector / BLOCK_SECTORS..=last / BLOCK_SECTORS
}

/// Blocks that one request can be about: the kernel counts its bytes in 32 bits, and it may begin within a block.
const MAX_BLOCKS_OF_REQUEST: u64 = (1 << 32) / BLOCK_BYTES + 1;

/// The blocks of an event, of which a forged trace may name all that there are.
pub(super) fn of_request(first: BlockIndex, last: BlockIndex) -> std::ops::RangeInclusive<u64> {
    first.0
        ..=last
            .0
            .min(first.0.saturating_add(MAX_BLOCKS_OF_REQUEST - 1))
}

/// Whether a fingerprint is of a whole block of a device; which one.
pub(super) fn whole_block(sector: u64, bytes: u32) -> Option<u64> {
    (u64::from(bytes) == BLOCK_BYTES && sector.is_multiple_of(BLOCK_SECTORS))
        .then_some(sector / BLOCK_SECTORS)
}
