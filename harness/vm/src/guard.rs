//! A process that ends QEMU when the harness ends, however that happens.
//!
//! A process can ask the kernel for a signal when its parent dies, and QEMU does, but the kernel forgets that when a process changes
//! its user. So another process waits for the end of a pipe that only the harness has open, and then kills QEMU.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::pipe::{PipeFlags, pipe_with};

/// More files than the harness ever has open.
const FILES: RawFd = 65_536;

/// Guards a process until it is dropped, which kills that as well.
#[derive(Debug)]
pub struct Guard {
    /// Closed by the kernel when the harness dies.
    harness: Option<OwnedFd>,
    process: libc::pid_t,
}

impl Guard {
    /// Begins to guard a process.
    ///
    /// # Errors
    /// When there are no more processes or descriptors.
    pub fn begin(pidfd: &OwnedFd) -> io::Result<Self> {
        let (waits, harness) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the child calls only what may be called between fork and exit of a process with threads.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => watch(waits.as_raw_fd(), pidfd.as_raw_fd()),
            process => Ok(Self {
                harness: Some(harness),
                process,
            }),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.harness = None;
        let mut status = 0;
        // SAFETY: it is our child, which ends now; the kernel writes one number at the address.
        unsafe { libc::waitpid(self.process, &raw mut status, 0) };
    }
}

/// In the child: keeps nothing open but these two, and does not end with the terminal.
fn watch(waits: RawFd, pidfd: RawFd) -> ! {
    let mut byte = 0_u8;
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: these are system calls. Of our memory they take `byte`, the set and the name, each with its length.
    unsafe {
        libc::setsid();
        // Who ends the harness by its name, or with all that its terminal has, does not end this one.
        libc::prctl(libc::PR_SET_NAME, c"cowbird-guard".as_ptr());
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
        // Above all standard descriptors, so that neither is written over before it is copied.
        let waits = libc::fcntl(waits, libc::F_DUPFD, 3);
        let guarded = libc::fcntl(pidfd, libc::F_DUPFD, 3);
        if waits < 0 || guarded < 0 || libc::dup2(waits, 0) < 0 || libc::dup2(guarded, 1) < 0 {
            // Without these it cannot guard, and what is not guarded does not run.
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd,
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
            libc::_exit(1);
        }
        if libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0) != 0 {
            // A kernel before 5.9.
            for file in 2..FILES {
                libc::close(file);
            }
        }
        while libc::read(0, (&raw mut byte).cast(), 1) == -1
            && *libc::__errno_location() == libc::EINTR
        {}
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            1,
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        );
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn sleeper() -> (Child, OwnedFd) {
        let child = Command::new("sleep").arg("20").spawn().expect("it starts");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pidfd_open(pid.expect("it has a number"), PidfdFlags::empty());
        (child, pidfd.expect("it runs"))
    }

    /// Goal: a guest ends with the harness, and no other one with it. Method: of two that are guarded, the pipe of the first is
    /// closed, as the kernel closes it when a process is killed. The second guard was made while that pipe was open.
    #[test]
    fn a_process_ends_with_its_guard() {
        let (mut first, first_fd) = sleeper();
        let (mut second, second_fd) = sleeper();
        let guard = Guard::begin(&first_fd).expect("there is room");
        let other = Guard::begin(&second_fd).expect("there is room");
        assert!(first.try_wait().expect("it is ours").is_none());
        drop(guard);
        let status = first.wait().expect("it is ours");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert!(second.try_wait().expect("it is ours").is_none());
        drop(other);
        let status = second.wait().expect("it is ours");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
