//! The digests by which a replay is compared with its recording.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use cowbird_host::error::{HarnessResult, PathContext};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;

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

impl FileDigest {
    /// The digest of a file under a name.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(path: &Path, name: String) -> HarnessResult<Self> {
        let file = File::open(path).on("open", path)?;
        let mut reader = BufReader::with_capacity(CHUNK_BYTES, file);
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = reader.read(&mut chunk).on("read", path)?;
            if count == 0 {
                break;
            }
            hasher.update(&chunk[..count]);
            bytes += count as u64;
        }
        let sha256 = hasher.finalize();
        Ok(Self {
            name,
            bytes,
            sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }
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
