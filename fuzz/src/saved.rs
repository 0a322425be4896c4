//! Failing inputs that are kept: `fuzz/regressions/TARGET/NAME`.

use std::io;
use std::path::{Path, PathBuf};

/// The folder with one folder for each target. What cargo says as it starts this program comes first: where several checkouts
/// share a target folder, it may have been compiled in another of them.
#[must_use]
pub fn folder() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(),
            PathBuf::from,
        )
        .join("regressions")
}

/// A name that only this content has, for practical purposes.
#[must_use]
pub fn name(input: &[u8]) -> String {
    let tail = input.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    });
    format!("{tail:016x}")
}

/// Keeps an input; gives where it is.
///
/// # Errors
/// When it cannot be written.
pub fn keep(folder: &Path, target: &str, input: &[u8]) -> io::Result<PathBuf> {
    let folder = folder.join(target);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name(input));
    std::fs::write(&path, input)?;
    Ok(path)
}

/// The inputs of a target that are kept, with their names, in order.
///
/// # Errors
/// When they cannot be read.
pub fn all(target: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let folder = folder().join(target);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        inputs.push((name, std::fs::read(entry.path())?));
    }
    inputs.sort();
    Ok(inputs)
}
