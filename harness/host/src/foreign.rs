//! What somebody else may have made: the files of a bundle come from a customer or a CI engine as often as from this
//! machine, and what a guest says comes from a kernel that is being tried.
//!
//! Such input decides what a guest does and nothing about the host: not which file is written, not which program runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{HarnessError, HarnessResult, PathContext};

/// The largest file of a bundle that is read whole: the journal of a long soak has 300 MB.
pub(crate) const MAX_TEXT_BYTES: u64 = 2 << 30;

/// Opens a regular file. A link at the end of the name is not followed, and a pipe does not hold the reader up.
///
/// # Errors
/// When it cannot be opened, or is anything else.
pub fn open(path: &Path) -> HarnessResult<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).on("open", path)?);
    if !file.metadata().on("look at", path)?.is_file() {
        return Err(io::Error::other("it is not a regular file")).on("read", path);
    }
    Ok(file)
}

/// Reads a regular file of a bounded size.
///
/// # Errors
/// When it cannot be read, is no text, or is larger.
pub fn read_text(path: &Path) -> HarnessResult<String> {
    let mut text = String::new();
    let taken = open(path)?
        .take(MAX_TEXT_BYTES + 1)
        .read_to_string(&mut text)
        .on("read", path)?;
    if taken as u64 > MAX_TEXT_BYTES {
        let too_large = io::Error::other(format!("it has more than {MAX_TEXT_BYTES} bytes"));
        return Err(too_large).on("read", path);
    }
    Ok(text)
}

/// A path below a folder of the host for a path in the guest.
///
/// # Errors
/// When it would lead out of the folder.
pub fn below(folder: &Path, path: &str) -> HarnessResult<PathBuf> {
    let inside = Path::new(path.trim_start_matches('/'));
    let plain = inside
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if plain && inside.file_name().is_some() {
        return Ok(folder.join(inside));
    }
    Err(HarnessError::Plan {
        detail: format!(
            "{path:?} is no name of a file in an initramfs, and nothing is written there"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a guest or a plan names does not lead out of the folder for it.
    #[test]
    fn a_path_stays_below_its_folder() {
        let folder = Path::new("/s");
        let inside = below(folder, "/etc/cowbird/a.json").expect("it is plain");
        assert_eq!(inside, Path::new("/s/etc/cowbird/a.json"));
        for bad in [
            "/etc/cowbird/../../../tmp/x.json",
            "..",
            "../x",
            "/",
            "",
            "./x",
        ] {
            assert!(below(folder, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "text").expect("it can be written");
        std::os::unix::fs::symlink(&file, &link).expect("a link can be made");
        assert_eq!(read_text(&file).expect("it is regular"), "text");
        for other in [link.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert!(read_text(other).is_err(), "{}", other.display());
        }
    }
}
