//! The digests by which a replay is compared with its recording.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Its path in the work folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256, as 64 digits.
    pub sha256: String,
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The file, or what else was compared.
    pub name: String,
    /// What is different.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.detail)
    }
}

/// What came of a replay besides its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Files that were compared.
    pub compared: Vec<FileDigest>,
    /// What is not as it was.
    pub differences: Vec<Difference>,
}

impl Replayed {
    /// Whether everything was as it was.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        self.differences.is_empty()
    }
}
