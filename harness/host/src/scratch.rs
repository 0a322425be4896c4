//! Folders outside of a cell's work folder: for sockets, whose names must be short, and for what another user must be able to read.
//!
//! A folder is locked for as long as its process lives. A process that is killed leaves its folder behind without the lock, and the next one that
//! makes a folder in the same place removes it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::error::{HarnessError, HarnessResult, PathContext};

/// How the names begin. Folders of this name are nobody else's.
const PREFIX: &str = "cowbird-run-";

/// Characters that are added to it.
const RANDOM_CHARS: usize = 6;

/// Bytes of a socket's name that the kernel takes (`sun_path`, without the end).
const SOCKET_NAME_BYTES: usize = 107;

/// Bytes of the longest name of a socket in the folder, with the slash before it.
const SOCKET_BYTES: usize = 16;

/// Where sockets go when the folder for temporary files has too long a name.
const SHORT_PLACES: [&str; 3] = ["/tmp", "/dev/shm", "/var/tmp"];

/// Between a folder's making and its locking.
const YOUNG: Duration = Duration::from_secs(60);

/// Places that were tidied by this process.
static TIDIED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _held: File,
}

impl Scratch {
    /// A folder for sockets: in `TMPDIR`, or where names are shorter.
    ///
    /// # Errors
    /// When no place is both short enough and writable.
    pub fn for_sockets() -> HarnessResult<Self> {
        let short = SHORT_PLACES.iter().map(PathBuf::from);
        Self::for_sockets_in(std::iter::once(std::env::temp_dir()).chain(short))
    }

    fn for_sockets_in(places: impl Iterator<Item = PathBuf>) -> HarnessResult<Self> {
        let mut reasons = Vec::new();
        for place in places {
            let longest =
                place.as_os_str().as_bytes().len() + 1 + PREFIX.len() + RANDOM_CHARS + SOCKET_BYTES;
            if longest > SOCKET_NAME_BYTES {
                reasons.push(format!("the name of {} is too long", place.display()));
                continue;
            }
            match Self::within(&place) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(HarnessError::Plan {
            detail: format!(
                "there is no place for sockets ({}); set TMPDIR to a folder that can be written and has a name of at most {} bytes",
                reasons.join("; "),
                SOCKET_NAME_BYTES - 1 - PREFIX.len() - RANDOM_CHARS - SOCKET_BYTES
            ),
        })
    }

    /// A folder in `TMPDIR`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temporary() -> HarnessResult<Self> {
        Self::within(&std::env::temp_dir())
    }

    /// A folder in another one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn within(place: &Path) -> HarnessResult<Self> {
        tidy_once(place);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .rand_bytes(RANDOM_CHARS)
            .tempdir_in(place)
            .on("make a folder in", place)?;
        let held = File::open(folder.path()).on("open", folder.path())?;
        // Where there are no locks, nothing is tidied either.
        let _ = held.try_lock();
        Ok(Self {
            folder,
            _held: held,
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn tidy_once(place: &Path) {
    let mut tidied = TIDIED.lock().unwrap_or_else(PoisonError::into_inner);
    if tidied.insert(place.to_owned()) {
        tidy(place, YOUNG);
    }
}

/// Removes what killed processes left. Whatever cannot be removed only costs space.
fn tidy(place: &Path, young: Duration) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        if ours && is_left_behind(&entry.path(), young) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a folder is of this user, and its process has gone.
fn is_left_behind(folder: &Path, young: Duration) -> bool {
    let Ok(meta) = fs::symlink_metadata(folder) else {
        return false;
    };
    let oldest = SystemTime::now().checked_sub(young);
    let old = meta
        .modified()
        .is_ok_and(|time| oldest.is_some_and(|oldest| time <= oldest));
    meta.is_dir()
        && meta.uid() == rustix::process::geteuid().as_raw()
        && old
        && File::open(folder).is_ok_and(|folder| folder.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Goal: sockets can be made whatever `TMPDIR` is. Method: a place of 102 characters before a short one.
    #[test]
    fn long_places_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder
            .path()
            .join("x".repeat(101 - folder.path().as_os_str().len()));
        fs::create_dir(&long).unwrap();
        let places = [long.clone(), folder.path().to_owned()];
        let scratch = Scratch::for_sockets_in(places.into_iter()).unwrap();
        assert_eq!(scratch.path().parent(), Some(folder.path()));
        let longest = "s".repeat(SOCKET_BYTES - 1);
        UnixListener::bind(scratch.path().join(longest)).unwrap();
        let error = Scratch::for_sockets_in(std::iter::once(long)).unwrap_err();
        assert!(error.to_string().contains("set TMPDIR"), "{error}");
    }

    /// Goal: what a killed process left goes, and what a running one has stays.
    #[test]
    fn leftovers_go_and_folders_in_use_stay() {
        let place = tempfile::tempdir().unwrap();
        let running = Scratch::within(place.path()).unwrap();
        let left = place.path().join("cowbird-run-killed");
        let foreign = place.path().join("cowbird-other");
        for folder in [&left, &foreign] {
            fs::create_dir_all(folder.join("deep")).unwrap();
        }
        tidy(place.path(), YOUNG);
        assert!(left.exists(), "it may be about to be locked");
        tidy(place.path(), Duration::ZERO);
        assert!(!left.exists());
        assert!(foreign.exists() && running.path().exists());
    }
}
