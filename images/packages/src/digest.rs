//! SHA-256 digests, of files and of cache keys.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes read at a time when a file is hashed.
const READ_BYTES: usize = 256 * 1024;

/// Hexadecimal digits of a digest that name a cache entry: 64 bits, enough for the few thousand that a cache
/// ever holds.
const KEY_DIGITS: usize = 16;

/// A SHA-256 digest; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// Hashes bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Hashes a whole file.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                return Ok(Self(hasher.finalize().into()));
            }
            hasher.update(&buffer[..n]);
        }
    }
}

impl From<[u8; 32]> for Sha256Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a SHA-256 digest of 64 hexadecimal digits")]
pub struct BadDigest(String);

impl FromStr for Sha256Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(text.to_owned());
        if text.len() != 64 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

impl From<Sha256Digest> for String {
    fn from(digest: Sha256Digest) -> Self {
        digest.to_string()
    }
}

/// Hashes the ingredients of a cache entry. Every piece goes in with its length, so that no two lists of pieces
/// hash the same bytes.
pub struct KeyHasher(Sha256);

impl KeyHasher {
    /// Begins a key of one kind; `format` changes when the recipe or the layout of such entries changes.
    pub fn new(kind: &str, format: u32) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.piece(kind.as_bytes());
        hasher.piece(&format.to_le_bytes());
        hasher
    }

    /// Adds one ingredient.
    pub fn piece(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The whole digest.
    pub fn digest(self) -> Sha256Digest {
        Sha256Digest(self.0.finalize().into())
    }

    /// The shortened digest that names an entry's folder.
    pub fn key(self) -> String {
        let mut key = self.digest().to_string();
        key.truncate(KEY_DIGITS);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a file's digest is right and survives its text form. Method: the published digest of `abc`
    /// (FIPS 180-2, appendix B.1).
    #[test]
    fn hashes_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let digest = Sha256Digest::of_file(&path).unwrap();
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        assert!("zz".repeat(32).parse::<Sha256Digest>().is_err());
    }

    /// Goal: pieces do not run into each other. Method: the same bytes, cut at another place.
    #[test]
    fn pieces_are_kept_apart() {
        let key = |pieces: &[&str]| {
            let mut hasher = KeyHasher::new("test", 1);
            for piece in pieces {
                hasher.piece(piece.as_bytes());
            }
            hasher.key()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]).len(), KEY_DIGITS);
    }
}
