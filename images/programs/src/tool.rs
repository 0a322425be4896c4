//! Runs programs of the host, each for a bounded time and with its output in a file.
//!
//! The kernel ends a program whose starter has died: what it makes is of no use then, and one that goes on holds apt's lock or
//! writes where the next run begins.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::error::{Ending, Error, Excerpt, Result};

/// How often a running program is looked at: short against the second that a module takes to build.
const POLL: Duration = Duration::from_millis(10);

/// What a program gets to clean up (mmdebstrap unmounts and removes its folder) before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// One run of a program.
#[derive(Debug)]
pub struct Tool {
    program: &'static str,
    command: Command,
    doing: String,
    log: PathBuf,
    ended_by: Signal,
}

impl Tool {
    /// Prepares a run; `doing` says in messages what it is for, `log` takes all its output.
    pub fn new(program: &'static str, doing: impl Into<String>, log: PathBuf) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        Self::of_command(program, command, doing, log)
    }

    /// Prepares a run of a command that is made already. Its environment stays as it is, and its input is empty.
    pub fn of_command(
        program: &'static str,
        mut command: Command,
        doing: impl Into<String>,
        log: PathBuf,
    ) -> Self {
        command.stdin(Stdio::null());
        Self {
            program,
            command,
            doing: doing.into(),
            log,
            ended_by: Signal::TERM,
        }
    }

    /// Ends it by another signal than that which lets a program clean up.
    pub fn ended_by(&mut self, signal: Signal) {
        self.ended_by = signal;
    }

    /// The command, to add arguments to.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs to the end; anything but success is an error.
    pub fn run(self, limit: Duration) -> Result<()> {
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
    pub fn try_run(mut self, limit: Duration) -> Result<Option<Ending>> {
        // A new file: what a program of an earlier run left behind may still write to the one that it has.
        match std::fs::remove_file(&self.log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &self.log)(error));
            }
            _ => {}
        }
        let log = File::create(&self.log).map_err(Error::io("create", &self.log))?;
        let errors = log.try_clone().map_err(Error::io("duplicate", &self.log))?;
        self.command.stdout(log).stderr(errors);
        run_bounded(self.program, &mut self.command, self.ended_by, limit)
    }

    /// Runs to the end and returns the standard output; the standard error goes to the log.
    pub fn output(mut self, limit: Duration) -> Result<String> {
        let log = File::create(&self.log).map_err(Error::io("create", &self.log))?;
        // Without a name: several kernels may be asking the same thing.
        let dir = self.log.parent().unwrap_or(&self.log);
        let mut out = tempfile::tempfile_in(dir).map_err(Error::io("create a file in", dir))?;
        let to = out.try_clone().map_err(Error::io("duplicate", &self.log))?;
        self.command.stdout(to).stderr(log);
        let ended = run_bounded(self.program, &mut self.command, self.ended_by, limit)?;
        if let Some(status) = ended {
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
        let mut output = Vec::new();
        out.rewind()
            .and_then(|()| out.read_to_end(&mut output))
            .map_err(Error::io("read the output kept beside", &self.log))?;
        // Names of files in packages are bytes.
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

/// Runs a command to the end, with the signal that ends it when its starter dies or its time is over; `None` is success. An error only if
/// it cannot be run at all. Its output goes where the command sends it, which must not be a pipe that nobody reads.
pub fn run_bounded(
    program: &'static str,
    command: &mut Command,
    ended_by: Signal,
    limit: Duration,
) -> Result<Option<Ending>> {
    let mut child = spawn(program, command, ended_by)?;
    let started = Instant::now();
    match wait_until(&mut child, started + limit) {
        Ok(Some(status)) => Ok(ending(status)),
        Ok(None) => {
            stop(&mut child, ended_by);
            Ok(Some(Ending::TimedOut(limit)))
        }
        Err(reason) => Err(Error::Io {
            operation: "wait for",
            path: PathBuf::from(program),
            reason,
        }),
    }
}

fn spawn(program: &'static str, command: &mut Command, signal: Signal) -> Result<Child> {
    let starter = rustix::process::getpid();
    // The signal is tied to the thread that starts the child, which waits for it.
    // SAFETY: the closure runs between fork and exec and makes two system calls (prctl, getppid), which are
    // async-signal-safe; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(signal))?;
            match getppid() == Some(starter) {
                true => Ok(()),
                // It died before the signal was asked for.
                false => Err(io::ErrorKind::Interrupted.into()),
            }
        });
    }
    command.spawn().map_err(|reason| {
        if reason.kind() == io::ErrorKind::NotFound && !crate::host::is_installed(program) {
            return Error::MissingTool {
                tool: program.to_owned(),
            };
        }
        Error::Io {
            operation: "run",
            path: PathBuf::from(program),
            reason,
        }
    })
}

/// Waits for a child until a deadline; `None` if it has not ended by then.
///
/// # Errors
/// When the system does not say how it ended.
pub fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
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
fn stop(child: &mut Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
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
pub fn read_lossy(path: &Path) -> String {
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

    /// Goal: output is taken whatever bytes are in it.
    #[test]
    fn foreign_bytes_are_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let output = sh(dir.path(), r"printf 'usr/a\377b\nusr/c\n'").output(LIMIT);
        assert_eq!(output.unwrap().lines().nth(1), Some("usr/c"));
    }

    /// Goal: a program does not outlive whoever started it. Method: this test starts itself, and the child a program that would run for
    /// long; the child is killed.
    #[test]
    fn a_program_ends_with_its_starter() {
        const CHILD: &str = "COWBIRD_TEST_STARTER";
        if let Some(dir) = std::env::var_os(CHILD) {
            let script = "echo $$ > pid.part; mv pid.part pid; exec sleep 1000";
            let mut tool = sh(Path::new(&dir), script);
            tool.command().current_dir(dir);
            let _ = tool.run(Duration::from_secs(1000));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut starter = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tool::tests::a_program_ends_with_its_starter"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let within = |what: &str, done: &dyn Fn() -> bool| {
            let deadline = Instant::now() + LIMIT;
            while !done() {
                assert!(Instant::now() < deadline, "{what}");
                thread::sleep(POLL);
            }
        };
        let file = dir.path().join("pid");
        within("the program does not begin", &|| file.exists());
        let pid = std::fs::read_to_string(file).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        starter.kill().unwrap();
        starter.wait().unwrap();
        // Whoever adopts it may not have waited for it.
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        within("the program goes on", &|| !runs());
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
