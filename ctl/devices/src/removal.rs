//! Removing a COW file: that file and no other, in a time that has a bound, and without leaving its content where that is wanted.
//!
//! The folder may be somebody else's, who renames it and puts another one in its place, with a file of the same name: so the
//! folder is opened once, and what is looked at is what is removed. The filesystem may not answer: so a process of its own does all of
//! it, and is left behind if it must be.

use std::ffi::{CStr, CString, OsStr};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::probe::{begin_child, close_all, end_within};
use crate::topology::DeviceNumber;

/// How long the removal of a file may take: `destroy` has waited for the module before.
pub const REMOVAL_LIMIT: Duration = Duration::from_secs(5);

/// Overwriting may take so long for a start, and then as a disk needs that writes so many bytes in a second.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOWEST_BYTES_PER_S: u64 = 4 << 20;

/// The child's exit code for another file under the name: above all errors of Linux.
const ANOTHER: i32 = 200;

/// What a file is overwritten with, piece by piece.
const PIECE_BYTES: usize = 1 << 20;
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// A file, by its number and by the filesystem in which it has that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// Device of the filesystem.
    pub device: DeviceNumber,
    /// Number of the inode.
    pub inode: u64,
}

impl FileId {
    /// Of a file that was looked at.
    #[must_use]
    pub fn of(meta: &Metadata) -> Self {
        Self {
            device: DeviceNumber::from_raw(meta.dev()),
            inode: meta.ino(),
        }
    }
}

/// What becomes of the content of a file that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It is left on the disk until something else is written there.
    Left,
    /// It is overwritten with zeros first.
    Wiped,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The file is gone.
    Done,
    /// What has the name is not the file, and was left alone.
    Another,
}

/// How long a file of so many bytes may be overwritten.
#[must_use]
pub fn wiping_limit(bytes: u64) -> Duration {
    PATIENCE + Duration::from_secs(bytes / SLOWEST_BYTES_PER_S)
}

/// Removes a file, if it is this one. What is not done in time is still being done by the process that this leaves behind.
///
/// # Errors
/// When it cannot be overwritten or removed, or not in time.
pub fn remove_within(
    path: &Path,
    id: FileId,
    content: Content,
    limit: Duration,
) -> Result<Removal> {
    let text = |part: &OsStr| {
        CString::new(part.as_bytes()).with_context(|| format!("bad path {}", path.display()))
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (folder, name) = (
        text(folder.as_os_str())?,
        text(path.file_name().unwrap_or_default())?,
    );
    let child = begin_child(|| remove(&folder, &name, id, content))?;
    match end_within(child, limit)? {
        Some(0) => Ok(Removal::Done),
        Some(ANOTHER) => Ok(Removal::Another),
        Some(code) => Err(io::Error::from_raw_os_error(code).into()),
        None => bail!(
            "its filesystem has taken more than {} s; process {child} goes on with it",
            limit.as_secs()
        ),
    }
}

/// What the child does; it ends with the exit code that says why not.
fn remove(folder: &CStr, name: &CStr, id: FileId, content: Content) {
    close_all();
    // SAFETY: these are system calls. Of our memory they take the names, which end with a zero, and what `is_it` and `wipe` say.
    unsafe {
        let folder = libc::open(
            folder.as_ptr(),
            libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC,
        );
        if folder == -1 {
            end_with_error();
        }
        let mut stat: libc::stat = std::mem::zeroed();
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        if libc::fstatat(folder, name.as_ptr(), &raw mut stat, flags) == -1 {
            end_with_error();
        }
        if !is_it(&stat, id) {
            libc::_exit(ANOTHER);
        }
        if content == Content::Wiped {
            wipe(folder, name, id);
        }
        if libc::unlinkat(folder, name.as_ptr(), 0) == -1 {
            end_with_error();
        }
    }
}

fn is_it(stat: &libc::stat, id: FileId) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFREG
        && stat.st_ino == id.inode
        && DeviceNumber::from_raw(stat.st_dev) == id.device
}

/// In the child: overwrites the file in place, and puts that on stable storage.
fn wipe(folder: libc::c_int, name: &CStr, id: FileId) {
    let flags = libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: these are system calls. Of our memory they take `name`, which ends with a zero, `stat`, which is of the type that
    // they fill, and zeros, with their length.
    unsafe {
        let file = libc::openat(folder, name.as_ptr(), flags);
        let mut stat: libc::stat = std::mem::zeroed();
        if file == -1 || libc::fstat(file, &raw mut stat) == -1 {
            end_with_error();
        }
        // It may have been exchanged since it was looked at.
        if !is_it(&stat, id) {
            libc::_exit(ANOTHER);
        }
        let mut at: libc::off_t = 0;
        while at < stat.st_size {
            let left = usize::try_from(stat.st_size - at).unwrap_or(PIECE_BYTES);
            let written = libc::pwrite(file, ZEROS.as_ptr().cast(), left.min(PIECE_BYTES), at);
            if written <= 0 {
                end_with_error();
            }
            at += written as libc::off_t;
        }
        if libc::fsync(file) == -1 {
            end_with_error();
        }
        libc::close(file);
    }
}

/// In the child, after a system call that failed.
fn end_with_error() -> ! {
    // SAFETY: plain calls.
    unsafe {
        let error = *libc::__errno_location();
        // A write of nothing has no error.
        libc::_exit(if error == 0 { libc::EIO } else { error })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn id_of(path: &Path) -> FileId {
        FileId::of(&fs::symlink_metadata(path).unwrap())
    }

    /// Goal: `destroy` removes the COW file and no other one that somebody has put under its name: be it of the same number on
    /// another filesystem, a folder, a link to the file, or in another folder that has the first one's name by now.
    #[test]
    fn another_file_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("cow");
        fs::write(&path, "content").unwrap();
        let id = id_of(&path);
        let remove = |path: &Path, id| remove_within(path, id, Content::Wiped, LIMIT).unwrap();
        for other in [
            FileId {
                inode: id.inode + 1,
                ..id
            },
            FileId {
                device: DeviceNumber {
                    major: id.device.major + 1,
                    ..id.device
                },
                ..id
            },
        ] {
            assert_eq!(remove(&path, other), Removal::Another);
        }
        assert_eq!(remove(&folder, id_of(&folder)), Removal::Another);
        let link = place.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(remove(&link, id), Removal::Another);
        assert_eq!(remove(&link, id_of(&link)), Removal::Another);
        fs::rename(&folder, place.path().join("away")).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(&path, "somebody's data").unwrap();
        assert_eq!(remove(&path, id), Removal::Another);
        assert_eq!(fs::read(&path).unwrap(), b"somebody's data");
        assert_eq!(fs::read(place.path().join("away/cow")).unwrap(), b"content");
    }

    /// Goal: what was in a file that is wiped is nowhere any more; otherwise it is left as it is. Method: what another name of
    /// the file shows, and a length that is no multiple of a piece.
    #[test]
    fn what_was_in_it_is_overwritten_if_that_is_wanted() {
        let place = tempfile::tempdir().unwrap();
        let (path, other) = (place.path().join("cow"), place.path().join("other"));
        let bytes = PIECE_BYTES + 4097;
        for (content, expected) in [(Content::Left, 0x55), (Content::Wiped, 0)] {
            fs::write(&path, vec![0x55; bytes]).unwrap();
            fs::hard_link(&path, &other).unwrap();
            let done = remove_within(&path, id_of(&path), content, LIMIT).unwrap();
            assert_eq!(done, Removal::Done);
            assert!(!path.exists());
            let mut left = Vec::new();
            let mut file = File::open(&other).unwrap();
            file.read_to_end(&mut left).unwrap();
            assert_eq!(left.len(), bytes);
            assert!(left.iter().all(|&byte| byte == expected), "{content:?}");
            fs::remove_file(&other).unwrap();
        }
        assert_eq!(wiping_limit(10 << 30), Duration::from_secs(60 + 2560));
    }

    #[test]
    fn it_is_said_why_a_file_is_not_removed() {
        let place = tempfile::tempdir().unwrap();
        let id = id_of(place.path());
        for path in ["none", "none/none"] {
            let path = place.path().join(path);
            let error = remove_within(&path, id, Content::Left, LIMIT).unwrap_err();
            assert!(error.to_string().contains("No such file"), "{error}");
        }
    }
}
