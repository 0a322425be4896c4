//! How blocks are wrong.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a block is wrong. [`mod@crate::verify`] documents which class wins when several fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Content that the block got after the snapshot instant.
    Future,
    /// Content that the block had before, and no longer at the snapshot instant.
    Stale,
    /// Each sector is of some version of that sector, but no one version has them all.
    Torn,
    /// What another place of the origin held at the snapshot instant.
    Misplaced,
    /// All zeros, and never so after the snapshot instant.
    Zeroed,
    /// None of the others.
    Foreign,
    /// The block differs between two epochs and is not in the change map.
    MissedChange,
}

impl Class {
    /// The name as in `results.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Future => "future",
            Self::Stale => "stale",
            Self::Torn => "torn",
            Self::Misplaced => "misplaced",
            Self::Zeroed => "zeroed",
            Self::Foreign => "foreign",
            Self::MissedChange => "missed_change",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
