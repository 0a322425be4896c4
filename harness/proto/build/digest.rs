//! A digest of code: it changes with every change of what the code says, and not with comments and the arrangement of lines.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// What the messages take from the crate of recorded workloads.
const OF_WORKLOADS: [&str; 3] = ["operation.rs", "schedule.rs", "script.rs"];

/// The files that say what is on the wire, in a fixed order: all of this crate, and those of another one whose types travel in messages.
/// The folder of the first is among them, because a file can be added.
pub fn sources(package: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    add_folder(&package.join("src"), &mut all)?;
    all.sort();
    let workload = package.join("../../workload/src");
    all.extend(OF_WORKLOADS.iter().map(|name| workload.join(name)));
    Ok(all)
}

fn add_folder(folder: &Path, all: &mut Vec<PathBuf>) -> io::Result<()> {
    all.push(folder.to_owned());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            add_folder(&path, all)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
    Ok(())
}

/// The digest of these files; folders among them count for nothing.
pub fn of_files(files: &[PathBuf]) -> io::Result<u64> {
    let mut digest = Digest::default();
    for file in files.iter().filter(|file| !file.is_dir()) {
        digest.add(&fs::read_to_string(file)?);
    }
    Ok(digest.0)
}

/// FNV-1a: builds are to be told apart, nobody is to be kept from making two that are alike.
pub struct Digest(pub u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Adds the code of a file: its words, without comments that have a line of their own.
    pub fn add(&mut self, code: &str) {
        let lines = code.lines().map(str::trim_start);
        let words = lines
            .filter(|line| !line.starts_with("//"))
            .flat_map(str::split_whitespace);
        for byte in words.flat_map(|word| word.bytes().chain([0])).chain([1]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
