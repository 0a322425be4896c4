//! What today's design cannot see: the open rows of `docs/tracking-trust.md`.

use crate::device::Blocks;

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
pub struct Hazard {
    pub row: Row,
    pub blocks: Blocks,
    /// The boot in which it happened, where it can be seen as long as that lasts.
    pub boot: Option<u64>,
}

impl Hazard {
    pub fn explains(&self, block: u64, boot: u64) -> bool {
        self.boot != Some(boot) && self.blocks.contains(&block)
    }
}
