//! What today's design cannot see: the open rows of `docs/tracking-trust.md`.

use std::collections::BTreeMap;

/// An open row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    CowHangs,
    OneDiskBack,
    AnotherDisk,
    OtherSystemSaved,
    OtherSystemCrashed,
    NotTakenUp,
}

impl Row {
    pub const ALL: [Self; 6] = [
        Self::CowHangs,
        Self::OneDiskBack,
        Self::AnotherDisk,
        Self::OtherSystemSaved,
        Self::OtherSystemCrashed,
        Self::NotTakenUp,
    ];

    /// How its row begins.
    pub fn name(self) -> &'static str {
        match self {
            Self::CowHangs => "the COW file's disk hangs, writes go on past the hold limit, reset",
            Self::OneDiskBack => {
                "one of the two disks is put back to an earlier time, a restored image of the origin is"
            }
            Self::AnotherDisk => "another disk of the same size has the origin's name",
            Self::OtherSystemSaved => "another system writes between two boots, after a clean save",
            Self::OtherSystemCrashed => "another system writes between two boots, after a crash",
            Self::NotTakenUp => "a series is not taken up in one boot, and is in the next",
        }
    }

    pub fn short(self) -> &'static str {
        match self {
            Self::CowHangs => "COW file unaware",
            Self::OneDiskBack => "one disk back",
            Self::AnotherDisk => "another disk",
            Self::OtherSystemSaved => "other system, saved",
            Self::OtherSystemCrashed => "other system, crashed",
            Self::NotTakenUp => "not taken up",
        }
    }
}

/// What has happened of a row, and which blocks may be missed for it.
#[derive(Clone)]
pub struct Hazard {
    pub row: Row,
    /// With the epoch in which the module has seen a write to the block since: maps of that epoch have it.
    pub blocks: BTreeMap<u64, Option<u64>>,
    /// The boot in which it happened, where it can be seen as long as that lasts.
    pub boot: Option<u64>,
}

impl Hazard {
    pub fn new(row: Row, blocks: impl IntoIterator<Item = u64>, boot: Option<u64>) -> Self {
        let blocks = blocks.into_iter().map(|block| (block, None)).collect();
        Self { row, blocks, boot }
    }

    /// Whether a map may miss a block. `until` is the epoch at whose instant the map ends.
    pub fn explains(&self, block: u64, boot: u64, until: u64) -> bool {
        let seen = self.blocks.get(&block);
        self.boot != Some(boot) && seen.is_some_and(|seen| seen.is_none_or(|epoch| epoch >= until))
    }

    /// The module has seen a write to these blocks.
    pub fn see(&mut self, first: u64, count: u64, epoch: u64) {
        for (_, seen) in self.blocks.range_mut(first..first + count) {
            seen.get_or_insert(epoch);
        }
    }

    /// The COW file goes back, and forgets what the module has seen.
    pub fn unsee(&mut self) {
        self.blocks.values_mut().for_each(|seen| *seen = None);
    }
}
