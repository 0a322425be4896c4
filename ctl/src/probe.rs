//! Whether a device answers, asked in a process of its own.
//!
//! Opening a drive may block in the kernel, where no signal reaches: a floppy drive without a medium, a disk whose
//! partition table is being read from a path that is gone. A thread that hangs there keeps its whole process from ending,
//! so another process asks, and is left behind if it must be.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a device may take to be opened: longer than any drive spins up.
const LIMIT: Duration = Duration::from_secs(15);

/// How often the answer is looked for.
const POLL: Duration = Duration::from_millis(5);

/// More files than this tool ever has open.
const FILES: libc::c_int = 1024;

/// Opens the device for reading and closes it again.
///
/// # Errors
/// When it cannot be opened, or when that takes too long.
pub fn opens(path: &Path) -> Result<()> {
    opens_within(path, LIMIT)
}

fn opens_within(path: &Path, limit: Duration) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())
        .with_context(|| format!("bad path {}", path.display()))?;
    // SAFETY: the child calls only what may be called between fork and exit of a process with threads.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()).context("cannot start a process"),
        0 => ask(&name),
        child => child,
    };
    let begin = Instant::now();
    loop {
        match ended(child).with_context(|| format!("cannot wait for process {child}"))? {
            Some(0) => return Ok(()),
            Some(errno) => {
                return Err(io::Error::from_raw_os_error(errno))
                    .with_context(|| format!("cannot open {}", path.display()));
            }
            None if begin.elapsed() >= limit => {
                // SAFETY: it is our child and has not been waited for. It may end long after us.
                unsafe { libc::kill(child, libc::SIGKILL) };
                bail!(
                    "{} does not answer: opening it has taken more than {} s; look at the drive and at the kernel \
                     log. Process {child} goes when it does",
                    path.display(),
                    limit.as_secs()
                );
            }
            None => std::thread::sleep(POLL),
        }
    }
}

/// What the child does: it keeps nothing of ours open, least of all a pipe whose reader waits for our end.
fn ask(name: &CStr) -> ! {
    // SAFETY: these are system calls without memory of ours but for `name`, which ends with a zero.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) != 0 {
            // A kernel before 5.9.
            for file in 0..FILES {
                libc::close(file);
            }
        }
        let errno = match libc::open(name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) {
            -1 => *libc::__errno_location(),
            _ => 0,
        };
        libc::_exit(errno)
    }
}

/// The exit code of a child that has ended; all errors of Linux fit it.
fn ended(child: libc::pid_t) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: waitpid writes one number at the address, which is `status`.
    match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ if libc::WIFEXITED(status) => Ok(Some(libc::WEXITSTATUS(status))),
        // Somebody killed it.
        _ => Ok(Some(libc::EINTR)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_opens() {
        assert!(opens(Path::new("/dev/null")).is_ok());
        let error = opens(Path::new("/dev/missing")).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "cannot open /dev/missing: No such file or directory (os error 2)"
        );
    }

    /// Goal: what does not open is given up in time. Method: a pipe that nobody writes to.
    #[test]
    fn what_blocks_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let error = opens_within(&path, Duration::from_secs(1)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("pipe does not answer: opening it has taken more than 1 s"),
            "{text}"
        );
    }
}
