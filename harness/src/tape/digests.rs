//! What two runs of one cell left, compared to the byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::files::INITRAMFS_FILE;
use cowbird_vm::command::{ASKED_FILE, QEMU_LOG_FILE, REGISTERS_FILE, TAPE_FILE};

use super::keep::UNPACKED;
use crate::tape::{Difference, FileDigest};

/// What is in a work folder and was not made by the guest, or not of it alone.
const NOT_OF_THE_GUEST: [&str; 7] = [
    UNPACKED[0],
    UNPACKED[1],
    INITRAMFS_FILE,
    ASKED_FILE,
    TAPE_FILE,
    QEMU_LOG_FILE,
    REGISTERS_FILE,
];

/// The digests of all files below a work folder in which the guest had a part, by name.
///
/// # Errors
/// When one cannot be read.
pub(super) fn digests_of(dir: &Path) -> HarnessResult<Vec<FileDigest>> {
    let mut digests = Vec::new();
    gather(dir, "", &mut digests)?;
    digests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(digests)
}

fn gather(dir: &Path, prefix: &str, digests: &mut Vec<FileDigest>) -> HarnessResult<()> {
    for entry in fs::read_dir(dir).on("list", dir)? {
        let entry = entry.on("list", dir)?;
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().on("look at", &path)?;
        if kind.is_dir() {
            gather(&path, &format!("{name}/"), digests)?;
        } else if !NOT_OF_THE_GUEST.contains(&name.as_str()) {
            digests.push(FileDigest::of(&path, name)?);
        }
    }
    Ok(())
}

/// What of `now` is not as it was `then`.
pub(super) fn differences(then: &[FileDigest], now: &[FileDigest]) -> Vec<Difference> {
    let by_name = |digests: &[FileDigest]| -> BTreeMap<String, FileDigest> {
        let named = digests
            .iter()
            .map(|digest| (digest.name.clone(), digest.clone()));
        named.collect()
    };
    let (then, mut now) = (by_name(then), by_name(now));
    let mut found = Vec::new();
    for (name, was) in then {
        let detail = match now.remove(&name) {
            None => "it was there, and is not".to_owned(),
            Some(is) if is.bytes != was.bytes => {
                format!("it had {} bytes, and has {}", was.bytes, is.bytes)
            }
            Some(is) if is.sha256 != was.sha256 => {
                format!("its {} bytes are others", is.bytes)
            }
            Some(_) => continue,
        };
        found.push(Difference { name, detail });
    }
    let new = now.into_keys().map(|name| Difference {
        name,
        detail: "it was not there, and is".to_owned(),
    });
    found.extend(new);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder for the test");
        fs::create_dir(folder.path().join("second")).expect("it can be made");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("it can be written");
        }
        folder
    }

    fn compared(then: &[(&str, &[u8])], now: &[(&str, &[u8])]) -> Vec<String> {
        let digests = |files| digests_of(folder(files).path()).expect("they can be read");
        let found = differences(&digests(then), &digests(now));
        found.iter().map(ToString::to_string).collect()
    }

    /// Goal: one byte of any file is seen, and so is a file more or less, at any depth. What is of the host is not
    /// compared.
    #[test]
    fn one_byte_is_seen() {
        let then: [(&str, &[u8]); 3] = [
            ("console.txt", b"abc"),
            ("second/origin.raw", b"0123"),
            ("qemu.txt", b"at 10:01"),
        ];
        assert!(compared(&then, &then).is_empty());
        let now: [(&str, &[u8]); 4] = [
            ("console.txt", b"abd"),
            ("second/origin.raw", b"012"),
            ("trace-0.cbt", b""),
            ("qemu.txt", b"at 10:02"),
        ];
        assert_eq!(
            compared(&then, &now),
            [
                "console.txt: its 3 bytes are others",
                "second/origin.raw: it had 4 bytes, and has 3",
                "trace-0.cbt: it was not there, and is",
            ]
        );
        assert_eq!(
            compared(&then, &then[1..]),
            ["console.txt: it was there, and is not"]
        );
    }
}
