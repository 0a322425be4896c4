//! What an entry of the cache says about itself: a TOML file beside its content, written last.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Name of the file in every entry.
pub(crate) const FILE: &str = "entry.toml";

/// Writes an entry's record.
pub(crate) fn write<T: Serialize>(entry: &Path, record: &T) -> Result<()> {
    let path = entry.join(FILE);
    let text = toml::to_string(record).map_err(|error| bad(&path, error.to_string()))?;
    std::fs::write(&path, text).map_err(Error::io("write", &path))
}

/// Reads an entry's record.
pub(crate) fn read<T: DeserializeOwned>(entry: &Path) -> Result<T> {
    let path = entry.join(FILE);
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    toml::from_slice(&text).map_err(|error| bad(&path, error.to_string()))
}

fn bad(path: &Path, problem: String) -> Error {
    Error::BadRecord {
        path: path.to_owned(),
        what: "the record of a cache entry",
        problem,
    }
}
