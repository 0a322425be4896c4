//! Runs programs of the host, each for a bounded time and with its output in a file.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Ending, Error, Excerpt, Result};

/// How often a running program is looked at: short against the second that a module takes to build.
const POLL: Duration = Duration::from_millis(10);

/// What a program gets to clean up (mmdebstrap unmounts and removes its folder) before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// One run of a program.
pub(crate) struct Tool {
    program: &'static str,
    command: Command,
    doing: String,
    log: PathBuf,
}

impl Tool {
    /// Prepares a run; `doing` says in messages what it is for, `log` takes all its output.
    pub(crate) fn new(program: &'static str, doing: impl Into<String>, log: PathBuf) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        Self {
            program,
            command,
            doing: doing.into(),
            log,
        }
    }

    /// The command, to add arguments to.
    pub(crate) fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs to the end; anything but success is an error.
    pub(crate) fn run(self, limit: Duration) -> Result<()> {
        let (program, doing, log) = (self.program, self.doing.clone(), self.log.clone());
        match self.try_run(limit)? {
            None => Ok(()),
            Some(status) => {
                let excerpt = Excerpt::of(&read_lossy(&log));
                Err(Error::Tool {
                    tool: program.to_owned(),
                    doing,
                    status,
                    excerpt,
                    log,
                })
            }
        }
    }

    /// Runs to the end; `None` is success. An error only if the program cannot be run at all.
    pub(crate) fn try_run(mut self, limit: Duration) -> Result<Option<Ending>> {
        let log = File::create(&self.log).map_err(Error::io("create", &self.log))?;
        let errors = log.try_clone().map_err(Error::io("duplicate", &self.log))?;
        self.command.stdout(log).stderr(errors);
        let mut child = self.spawn()?;
        self.wait(&mut child, limit)
    }

    /// Runs to the end and returns the standard output; the standard error goes to the log.
    pub(crate) fn output(mut self, limit: Duration) -> Result<String> {
        let log = File::create(&self.log).map_err(Error::io("create", &self.log))?;
        // Without a name: several kernels may be asking the same thing.
        let dir = self.log.parent().unwrap_or(&self.log);
        let mut out = tempfile::tempfile_in(dir).map_err(Error::io("create a file in", dir))?;
        let to = out.try_clone().map_err(Error::io("duplicate", &self.log))?;
        self.command.stdout(to).stderr(log);
        let mut child = self.spawn()?;
        if let Some(status) = self.wait(&mut child, limit)? {
            let excerpt = Excerpt::of(&read_lossy(&self.log));
            let tool = self.program.to_owned();
            return Err(Error::Tool {
                tool,
                doing: self.doing,
                status,
                excerpt,
                log: self.log,
            });
        }
        let mut output = String::new();
        out.rewind()
            .and_then(|()| out.read_to_string(&mut output))
            .map_err(Error::io("read the output kept beside", &self.log))?;
        Ok(output)
    }

    fn spawn(&mut self) -> Result<Child> {
        self.command.spawn().map_err(|reason| {
            if reason.kind() == io::ErrorKind::NotFound && !crate::host::is_installed(self.program)
            {
                return Error::MissingTool {
                    tool: self.program.to_owned(),
                };
            }
            Error::Io {
                operation: "run",
                path: PathBuf::from(self.program),
                reason,
            }
        })
    }

    fn wait(&self, child: &mut Child, limit: Duration) -> Result<Option<Ending>> {
        let started = Instant::now();
        match wait_until(child, started + limit) {
            Ok(Some(status)) => Ok(ending(status)),
            Ok(None) => {
                stop(child);
                Ok(Some(Ending::TimedOut(limit)))
            }
            Err(reason) => Err(Error::Io {
                operation: "wait for",
                path: PathBuf::from(self.program),
                reason,
            }),
        }
    }
}

fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Asks the program to end, then kills it. Failures are ignored: they mean that it has ended.
fn stop(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if !matches!(wait_until(child, Instant::now() + GRACE), Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn ending(status: ExitStatus) -> Option<Ending> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(Ending::Code(code)),
        (None, signal) => Some(Ending::Signal(signal.unwrap_or(0))),
    }
}

/// The text of a log, or nothing if it cannot be read: it only illustrates an error that is reported anyway.
pub(crate) fn read_lossy(path: &std::path::Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn sh(dir: &std::path::Path, script: &str) -> Tool {
        let mut tool = Tool::new("sh", "the test script", dir.join("log"));
        tool.command().args(["-c", script]);
        tool
    }

    /// Goal: each ending is told apart, and a failure carries the program's own words and the log.
    #[test]
    fn endings_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(sh(dir.path(), "echo yes").output(LIMIT).unwrap(), "yes\n");
        let message = sh(dir.path(), "echo 'E: no space'; exit 3")
            .run(LIMIT)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("the test script failed: sh exited with 3\n  E: no space\n"),
            "{message}"
        );
        assert!(
            message.contains(&dir.path().join("log").display().to_string()),
            "{message}"
        );
        let killed = sh(dir.path(), "kill -9 $$").try_run(LIMIT).unwrap();
        assert_eq!(killed, Some(Ending::Signal(9)));
    }

    /// Goal: a program that hangs is ended at the limit, long before it would end by itself.
    #[test]
    fn a_hanging_program_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let limit = Duration::from_millis(50);
        let ending = sh(dir.path(), "exec sleep 1000").try_run(limit).unwrap();
        assert_eq!(ending, Some(Ending::TimedOut(limit)));
        assert!(started.elapsed() < GRACE, "it took {:?}", started.elapsed());
    }

    /// Goal: a missing program is reported with the command that installs it.
    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let tool = Tool::new("cowbird-no-such-program", "nothing", dir.path().join("log"));
        let message = tool.run(LIMIT).unwrap_err().to_string();
        assert!(
            message.contains("cowbird-no-such-program: it is not installed"),
            "{message}"
        );
    }
}
