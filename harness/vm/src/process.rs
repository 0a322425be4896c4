//! The QEMU process: started so that it never outlives the harness, and always waited for.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};
use tokio::sync::watch;

use crate::command::VmConfig;
use crate::emulator::QEMU;
use crate::guard::Guard;
use std::path::Path;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessEnd {
    /// Exit code, when it ended by itself.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
}

/// A running QEMU; killed when dropped.
pub struct Process {
    pidfd: OwnedFd,
    pid: u32,
    end: watch::Receiver<Option<ProcessEnd>>,
}

impl Process {
    /// Starts QEMU.
    ///
    /// # Errors
    /// When the program is missing or cannot be started.
    pub fn start(config: &VmConfig, arguments: Vec<OsString>) -> HarnessResult<Self> {
        let log_path = config.qemu_log_path();
        let log = File::create(&log_path).on("create", &log_path)?;
        let mut command = config.emulator.confined();
        command.args(arguments);
        let (started_sender, started) = mpsc::channel();
        let (end_sender, end) = watch::channel(None);
        // The death signal is tied to the *thread* that started the child, and the threads of an
        // async runtime come and go. This one lives exactly as long as the child.
        std::thread::Builder::new()
            .name("qemu".into())
            .spawn(move || supervise(command, log, &started_sender, &end_sender))
            .map_err(|error| qemu_error(format!("no thread to supervise it: {error}")))?;
        let (pidfd, pid) = started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
            .map_err(|error| qemu_error(format!("cannot start {QEMU}: {error}")))?;
        Ok(Self { pidfd, pid, end })
    }

    /// Process id, for messages and for tests that kill it from outside.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<ProcessEnd> {
        *self.end.borrow()
    }

    /// Waits for the end.
    pub async fn wait(&self) -> ProcessEnd {
        let mut end = self.end.clone();
        let ended = end
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|end| *end);
        // The sender goes away only after it has told the end.
        ended.unwrap_or(ProcessEnd {
            code: None,
            signal: None,
        })
    }

    /// Kills it.
    pub fn kill(&self) {
        // It can only fail because the process is gone already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

type Started = io::Result<(OwnedFd, u32)>;

fn supervise(
    command: Command,
    log: File,
    started: &mpsc::Sender<Started>,
    end: &watch::Sender<Option<ProcessEnd>>,
) {
    let spawned = spawn(command, log);
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let pid = child.id();
    let pidfd = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::Error::other("impossible process id"))
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from))
        .and_then(|pidfd| Ok((Guard::begin(&pidfd)?, pidfd)));
    let (guard, pidfd) = match pidfd {
        Ok((guard, pidfd)) => (Some(guard), Ok((pidfd, pid))),
        Err(error) => (None, Err(error)),
    };
    if guard.is_none() {
        let _ = child.kill();
    }
    // A receiver that is gone has dropped its pidfd, and with it the process was killed.
    let _ = started.send(pidfd);
    let status = child.wait().unwrap_or(ExitStatus::from_raw(0));
    drop(guard);
    end.send_replace(Some(ProcessEnd {
        code: status.code(),
        signal: status.signal(),
    }));
}

fn spawn(mut command: Command, log: File) -> io::Result<std::process::Child> {
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: the closure runs between fork and exec and only makes one system call (prctl), which
    // is async-signal-safe; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)
        });
    }
    command.spawn()
}

fn qemu_error(detail: String) -> HarnessError {
    HarnessError::Qemu { detail }
}

/// QEMU ended although it should have begun.
pub(super) fn qemu_refused(config: &VmConfig, end: ProcessEnd) -> HarnessError {
    let said = last_lines(&config.qemu_log_path());
    HarnessError::Qemu {
        detail: format!("it ended at once ({end:?}){said}"),
    }
}

/// The end of a log, whatever bytes are in it and however long it is.
fn end_of(path: &Path) -> io::Result<String> {
    const BYTES: u64 = 64 << 10;
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What QEMU said last.
pub(super) fn last_lines(path: &Path) -> String {
    const LINES: usize = 5;
    let text = end_of(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    match lines.as_slice() {
        [] => String::new(),
        lines => format!(
            "; it says: {}",
            lines[lines.len().saturating_sub(LINES)..].join(" / ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what QEMU said last is told whatever it said before. Method: a log with a byte that is no UTF-8, larger than what is read.
    #[test]
    fn the_last_words_are_told() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let log = folder.path().join("qemu.log");
        let mut said = b"noise\n".repeat(100_000);
        said.extend_from_slice(b"bad \xFF option\nqemu: it is refused\n");
        std::fs::write(&log, said).expect("it can be written");
        let told = last_lines(&log);
        assert!(told.ends_with(" option / qemu: it is refused"), "{told}");
        assert_eq!(last_lines(&folder.path().join("none")), "");
    }
}
