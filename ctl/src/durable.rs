//! Small files that a power cut leaves as they were or as they are to be.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Puts the content in place of what the file had, on stable storage, name and all.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = draft(path);
    let mut file = File::create(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_folder(path)
}

/// Removes the file, on stable storage. Neither it nor its folder needs to be there; what somebody else removed may
/// not be on stable storage yet.
pub fn remove(path: &Path) -> io::Result<()> {
    let there = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    there(fs::remove_file(path))?;
    there(sync_folder(path))
}

/// Where the content is until it is complete.
fn draft(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("label.json");
        replace(&path, b"a longer content").unwrap();
        replace(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        remove(&path).unwrap();
        remove(&path).unwrap();
        remove(&folder.path().join("none/label.json")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("label.json");
        replace(&path, b"old").unwrap();
        fs::create_dir(draft(&path)).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
