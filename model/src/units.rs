//! The units of the oracle: sectors, blocks, epochs and log entries, each its own type.
//!
//! A verdict that names the wrong block is worse than none, and every wrong block number met in
//! this field came from a sector of the partition taken for one of the disk, or a block taken for
//! a sector. So there is no arithmetic between these types except the few conversions below.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a sector, the unit of the block layer and of the witness.
pub const SECTOR_BYTES: usize = 512;
/// Bytes in a block, the unit of change tracking and of every verdict.
pub const BLOCK_BYTES: usize = 4096;
/// Sectors in a full block.
pub const SECTORS_PER_BLOCK: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;

/// So many sectors are looked at before the caller is told that it can let go of them: 16 MiB.
pub const PIECE_SECTORS: u64 = 32768;

/// A 512-byte sector of the *disk* that QEMU witnesses (not of a partition).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sector(pub u64);

/// A block of the *origin*: block 0 starts at the first sector of the origin.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BlockIndex(pub u64);

/// The number of a snapshot instant within one series (UUID).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// The position of an entry in the witness log, counted from 0.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EntryIndex(pub u64);

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for EntryIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A run of sectors of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SectorRange {
    /// First sector.
    pub start: Sector,
    /// Number of sectors.
    pub sectors: u64,
}

impl SectorRange {
    /// The run of `sectors` sectors that begins at `start`.
    #[must_use]
    pub fn new(start: Sector, sectors: u64) -> Self {
        Self { start, sectors }
    }

    /// The sector after the last one, or `u64::MAX` when the range does not fit a `u64`.
    #[must_use]
    pub fn end(&self) -> Sector {
        Sector(self.start.0.saturating_add(self.sectors))
    }

    /// The part that both ranges have, if any.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self::new(start, end.0 - start.0))
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sectors * SECTOR_BYTES as u64
    }
}

impl fmt::Display for SectorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sectors {}+{}", self.start, self.sectors)
    }
}

/// Where the origin lies on the disk, and how it divides into blocks.
///
/// The origin may start at any sector, so its blocks need not be aligned on the disk, and its
/// last block may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The sectors of the disk that make up the origin.
    pub range: SectorRange,
}

impl Origin {
    /// The origin that covers `range` of the disk.
    #[must_use]
    pub fn new(range: SectorRange) -> Self {
        Self { range }
    }

    /// Number of blocks, a short last one included.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.range.sectors.div_ceil(SECTORS_PER_BLOCK)
    }

    /// The sectors of the disk that hold `block`; empty past the end of the origin.
    #[must_use]
    pub fn block_range(&self, block: BlockIndex) -> SectorRange {
        let first = block
            .0
            .saturating_mul(SECTORS_PER_BLOCK)
            .min(self.range.sectors);
        let sectors = SECTORS_PER_BLOCK.min(self.range.sectors - first);
        SectorRange::new(Sector(self.range.start.0 + first), sectors)
    }

    /// The blocks of the origin that `range` touches, as first block and one past the last.
    #[must_use]
    pub fn blocks_of(&self, range: &SectorRange) -> std::ops::Range<u64> {
        match self.range.intersect(range) {
            None => 0..0,
            Some(part) => {
                let first = part.start.0 - self.range.start.0;
                first / SECTORS_PER_BLOCK..(first + part.sectors).div_ceil(SECTORS_PER_BLOCK)
            }
        }
    }
}

/// A set of blocks, kept as sorted runs: memory is proportional to the number of runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<BlockRun>", into = "Vec<BlockRun>")]
pub struct BlockSet {
    runs: Vec<BlockRun>,
}

/// A run of consecutive blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRun {
    /// First block.
    pub first: BlockIndex,
    /// Number of blocks, at least 1.
    pub blocks: u64,
}

impl BlockRun {
    fn end(&self) -> u64 {
        self.first.0.saturating_add(self.blocks)
    }
}

impl fmt::Display for BlockRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.blocks == 1 {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.end() - 1)
        }
    }
}

impl BlockSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `blocks` blocks from `first` on; what is there already stays.
    pub fn insert(&mut self, first: BlockIndex, blocks: u64) {
        if blocks == 0 {
            return;
        }
        let mut new = BlockRun { first, blocks };
        // Runs that touch the new one are merged into it, so that the set stays canonical.
        let from = self.runs.partition_point(|run| run.end() < new.first.0);
        let to = self.runs.partition_point(|run| run.first.0 <= new.end());
        if let Some(absorbed) = self.runs.get(from..to).filter(|runs| !runs.is_empty()) {
            let start = absorbed[0].first.min(new.first);
            let end = absorbed[absorbed.len() - 1].end().max(new.end());
            new = BlockRun {
                first: start,
                blocks: end - start.0,
            };
        }
        self.runs.splice(from..to, [new]);
    }

    /// Whether `block` is in the set.
    #[must_use]
    pub fn contains(&self, block: BlockIndex) -> bool {
        let after = self.runs.partition_point(|run| run.first <= block);
        after > 0 && self.runs[after - 1].end() > block.0
    }

    /// Number of blocks.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.blocks).sum()
    }

    /// Whether no block is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The blocks, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = BlockIndex> {
        self.runs
            .iter()
            .flat_map(|run| (run.first.0..run.end()).map(BlockIndex))
    }

    /// The runs, sorted, none touching another.
    #[must_use]
    pub fn runs(&self) -> &[BlockRun] {
        &self.runs
    }
}

impl From<Vec<BlockRun>> for BlockSet {
    fn from(runs: Vec<BlockRun>) -> Self {
        let mut set = Self::new();
        for run in runs {
            set.insert(run.first, run.blocks);
        }
        set
    }
}

impl From<BlockSet> for Vec<BlockRun> {
    fn from(set: BlockSet) -> Self {
        set.runs
    }
}

impl FromIterator<BlockIndex> for BlockSet {
    fn from_iter<I: IntoIterator<Item = BlockIndex>>(blocks: I) -> Self {
        let mut set = Self::new();
        for block in blocks {
            set.insert(block, 1);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn unaligned_origin_with_a_short_last_block() {
        let origin = Origin::new(SectorRange::new(Sector(63), 19));
        assert_eq!(origin.blocks(), 3);
        assert_eq!(
            origin.block_range(BlockIndex(1)),
            SectorRange::new(Sector(71), 8)
        );
        assert_eq!(
            origin.block_range(BlockIndex(2)),
            SectorRange::new(Sector(79), 3)
        );
        assert_eq!(origin.block_range(BlockIndex(3)).sectors, 0);
        assert_eq!(origin.blocks_of(&SectorRange::new(Sector(0), 63)), 0..0);
        assert_eq!(origin.blocks_of(&SectorRange::new(Sector(0), 72)), 0..2);
        assert_eq!(origin.blocks_of(&SectorRange::new(Sector(70), 100)), 0..3);
    }

    #[test]
    fn a_range_at_the_end_of_the_number_space_does_not_wrap() {
        let range = SectorRange::new(Sector(u64::MAX - 1), 8);
        assert_eq!(range.end(), Sector(u64::MAX));
        assert_eq!(range.intersect(&SectorRange::new(Sector(0), 8)), None);
    }

    proptest::proptest! {
        /// Goal: the run-length set is the set. Method: every operation against a `BTreeSet`.
        #[test]
        fn block_set_is_a_set(runs in proptest::collection::vec((0u64..60, 0u64..9), 0..20)) {
            let mut set = BlockSet::new();
            let mut naive = BTreeSet::new();
            for (first, blocks) in runs {
                set.insert(BlockIndex(first), blocks);
                naive.extend(first..first + blocks);
                for pair in set.runs().windows(2) {
                    proptest::prop_assert!(pair[0].end() < pair[1].first.0);
                }
            }
            proptest::prop_assert_eq!(set.len(), naive.len() as u64);
            for block in 0..80 {
                proptest::prop_assert_eq!(set.contains(BlockIndex(block)), naive.contains(&block));
            }
        }
    }
}
