//! One tool at a time decides about the records of series: what it has read of record and module must still hold when it
//! writes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Longer than a reload or a suspension takes.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Held until it is dropped, and no longer than the process lives.
pub struct RecordLock {
    _folder: Option<File>,
}

/// Waits until no other tool holds the records of a folder. One that does not exist has none.
///
/// # Errors
/// When another tool does not let go of them in time, or the folder cannot be opened.
pub fn hold(folder: &Path) -> Result<RecordLock> {
    hold_within(folder, LIMIT)
}

fn hold_within(folder: &Path, limit: Duration) -> Result<RecordLock> {
    let file = match File::open(folder) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(RecordLock { _folder: None });
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot open {}", folder.display()));
        }
    };
    let begin = Instant::now();
    loop {
        // SAFETY: a plain system call on an open descriptor.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(RecordLock {
                _folder: Some(file),
            });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error).with_context(|| format!("cannot lock {}", folder.display()));
        }
        if begin.elapsed() > limit {
            bail!(
                "another cowbirdctl has been working with {} for more than {} s; try again when it has ended",
                folder.display(),
                limit.as_secs()
            );
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = hold(dir.path()).unwrap();
        let refused = hold_within(dir.path(), Duration::ZERO).err().unwrap();
        assert!(
            refused.to_string().contains("another cowbirdctl"),
            "{refused}"
        );
        drop(first);
        assert!(hold_within(dir.path(), Duration::ZERO).is_ok());
        assert!(hold(&dir.path().join("none")).is_ok());
    }
}
