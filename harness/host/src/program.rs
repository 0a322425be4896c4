//! Programs of the host that run in the guest, with the libraries that they load.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk;
use crate::error::{HarnessError, HarnessResult, PathContext};

/// Where Debian puts what belongs to one version of PostgreSQL: `<version>/bin`.
const POSTGRESQL_VERSIONS: &str = "/usr/lib/postgresql";

/// What measures, and writes in profiles.
pub const FIO: HostProgram = HostProgram {
    program: "fio",
    package: "fio",
};

/// A program of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostProgram {
    /// Its name.
    pub program: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
}

impl HostProgram {
    /// Where it is; the newest, if it is there in several versions. On the path there is only a script that chooses one
    /// of these.
    #[must_use]
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        version_folders(Path::new(POSTGRESQL_VERSIONS))
            .into_iter()
            .chain(std::env::split_paths(&path))
            .map(|folder| folder.join(self.program))
            .find(|path| path.is_file())
    }

    /// Where it is, as text, which is where it is in the guest as well.
    ///
    /// # Errors
    /// When it is not there.
    pub fn path(self) -> HarnessResult<String> {
        let path = self.find().ok_or_else(|| HarnessError::Tool {
            tool: self.program,
            detail: "not found".into(),
            hint: self.package,
        })?;
        Ok(path.display().to_string())
    }

    /// The files that it needs, itself first, as (path in the guest, path on the host): the same paths, because a
    /// program has the path of its loader in it.
    ///
    /// # Errors
    /// When it is not there, or `ldd` cannot say what it needs.
    pub fn files(self) -> HarnessResult<Vec<(String, PathBuf)>> {
        let path = self.path()?;
        let content = std::fs::read(&path).on("read", Path::new(&path))?;
        let said = if is_static(&content) {
            String::new()
        } else {
            disk::run("ldd", "package libc-bin", Command::new("ldd").arg(&path))?
        };
        let mut files = vec![(path.clone(), PathBuf::from(path))];
        for library in said.lines().filter_map(library_of) {
            let host = Path::new(library)
                .canonicalize()
                .on("find", Path::new(library))?;
            files.push((library.to_owned(), host));
        }
        Ok(files)
    }
}

/// Whether this is a 64-bit ELF program that names no loader. `ldd` fails with such a program as it does with a text.
fn is_static(content: &[u8]) -> bool {
    /// Where the header has the place of the table of segments, and their number.
    const TABLE: usize = 32;
    const COUNT: usize = 56;
    const ENTRY_BYTES: usize = 56;
    const INTERPRETER: [u8; 4] = [3, 0, 0, 0];
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = content.get(at..at + bytes)?;
        let value = field
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    let (Some(table), Some(count)) = (number(TABLE, 8), number(COUNT, 2)) else {
        return false;
    };
    let names_loader = |segment: usize| {
        let kind = table.checked_add(segment * ENTRY_BYTES);
        let kind = kind.and_then(|at| content.get(at..)?.get(..INTERPRETER.len()));
        // A table that is cut off is no program of this kind.
        kind.is_none_or(|kind| kind == INTERPRETER)
    };
    content.starts_with(b"\x7fELF\x02\x01") && count > 0 && !(0..count).any(names_loader)
}

/// The folders of programs of all versions below a folder, the newest first.
fn version_folders(all: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(all).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    versions
        .into_iter()
        .rev()
        .map(|(_, folder)| folder)
        .collect()
}

/// The path in a line of `ldd`: `name => /path (address)` or `/path (address)`.
fn library_of(line: &str) -> Option<&str> {
    let place = line.split(" => ").last()?.trim();
    let path = place.split(" (").next()?;
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_each_kind_of_line() {
        assert_eq!(library_of("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        assert_eq!(
            library_of("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(
            library_of("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(library_of("\tlibgone.so => not found"), None);
    }

    #[test]
    fn static_programs_name_no_loader() {
        let own = std::fs::read("/proc/self/exe").expect("it runs");
        assert!(!is_static(&own));
        assert!(!is_static(b"#!/bin/sh\n") && !is_static(&own[..60]) && !is_static(b""));
        let mut without = vec![0; 64 + 56];
        without[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (without[32], without[56], without[64]) = (64, 1, 1);
        assert!(is_static(&without));
        without[64] = 3;
        assert!(!is_static(&without));
    }

    #[test]
    fn the_newest_version_comes_first() {
        let all = tempfile::tempdir().expect("a folder for the test");
        for version in ["9", "15", "common"] {
            std::fs::create_dir(all.path().join(version)).expect("a folder");
        }
        let expected = ["15/bin", "9/bin"].map(|folder| all.path().join(folder));
        assert_eq!(version_folders(all.path()), expected);
    }
}
