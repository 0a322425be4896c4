//! Programs of the host that look at what a cell leaves: each runs for a bounded time, is ended with the harness, and has its output in
//! files without a name.
//!
//! Not done here: what an exit status means. Only an end that says nothing of what the program was given, by a signal of others or because
//! its time was over, is an error of the infrastructure whatever the program was run for.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cowbird_programs::Ending;
use cowbird_programs::tool::run_bounded;
use rustix::process::Signal;

use crate::error::{HarnessError, HarnessResult, PathContext};

/// What a program may take. A checker needs seconds; on a busy host with a slow disk it needs minutes.
pub const TOOL_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Signals by which a program ends that has crashed.
const CRASHES: [i32; 6] = [
    Signal::ILL.as_raw(),
    Signal::TRAP.as_raw(),
    Signal::ABORT.as_raw(),
    Signal::BUS.as_raw(),
    Signal::FPE.as_raw(),
    Signal::SEGV.as_raw(),
];

/// The exit status of a program that has crashed is this and the signal, as in a shell.
pub const CRASHED: i32 = 128;

/// What is read of words for people: who wants more has the same tool.
const SAID_BYTES_MAX: u64 = 1 << 20;

/// The longest output that is read whole: the events of a traced cell have some hundred MiB.
const OUTPUT_BYTES_MAX: u64 = 1 << 30;

/// A program that ended by itself.
#[derive(Debug)]
pub struct Ran {
    tool: &'static str,
    hint: &'static str,
    /// Its exit status; [`CRASHED`] and the signal if it has crashed.
    pub code: i32,
    output: File,
    errors: File,
}

impl Ran {
    /// The beginning of its standard output.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn said(&self) -> HarnessResult<String> {
        let bytes = self.read(&self.output, SAID_BYTES_MAX)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The beginning of its standard error.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn complaints(&self) -> HarnessResult<String> {
        let bytes = self.read(&self.errors, SAID_BYTES_MAX)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All of its standard output.
    ///
    /// # Errors
    /// When it cannot be read, or is too long to be held in memory.
    pub fn output(&self) -> HarnessResult<Vec<u8>> {
        let bytes = self.read(&self.output, OUTPUT_BYTES_MAX + 1)?;
        if bytes.len() as u64 > OUTPUT_BYTES_MAX {
            let mib = OUTPUT_BYTES_MAX >> 20;
            return Err(self.failed(format!("its output has more than {mib} MiB")));
        }
        Ok(bytes)
    }

    /// That it failed, with these words.
    #[must_use]
    pub fn failed(&self, detail: String) -> HarnessError {
        HarnessError::Tool {
            tool: self.tool,
            detail,
            hint: self.hint,
        }
    }

    fn read(&self, mut file: &File, most: u64) -> HarnessResult<Vec<u8>> {
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.take(most).read_to_end(&mut bytes))
            .map_err(|error| self.failed(format!("its output cannot be read: {error}")))?;
        Ok(bytes)
    }
}

/// Runs a program to its end, with its output in files of a folder.
///
/// # Errors
/// When it cannot be run, somebody's signal ends it, or it takes longer than the limit.
pub fn run_to_end(
    tool: &'static str,
    hint: &'static str,
    command: &mut Command,
    folder: &Path,
    limit: Duration,
) -> HarnessResult<Ran> {
    let failed = |detail: String| HarnessError::Tool { tool, detail, hint };
    let file = || tempfile::tempfile_in(folder).on("create a file in", folder);
    let (output, errors) = (file()?, file()?);
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone().on("duplicate a file in", folder)?)
        .stderr(errors.try_clone().on("duplicate a file in", folder)?);
    let ended = run_bounded(tool, command, Signal::TERM, limit);
    let code = match ended.map_err(|error| failed(error.to_string()))? {
        None => 0,
        Some(Ending::Code(code)) => code,
        // Nobody but the program itself sends these: it has crashed on what it was given.
        Some(Ending::Signal(signal)) if CRASHES.contains(&signal) => CRASHED + signal,
        Some(ending @ (Ending::Signal(_) | Ending::TimedOut(_))) => {
            return Err(failed(format!("it {ending}")));
        }
    };
    Ok(Ran {
        tool,
        hint,
        code,
        output,
        errors,
    })
}

/// Runs a program of which only its end tells something: whether it is a good one, within this time. Where its input and output are,
/// the command says.
#[must_use]
pub fn run_quietly(tool: &'static str, command: &mut Command, limit: Duration) -> bool {
    matches!(run_bounded(tool, command, Signal::KILL, limit), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what no exit status speaks of is an error that says so; an exit status is none. Method: a shell that ends in each way.
    #[test]
    fn each_end_is_told_apart() {
        let folder = std::env::temp_dir();
        let run = |script: &str, limit: Duration| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run_to_end("sh", "the test", &mut command, &folder, limit)
        };
        let ran = run("echo yes; echo no >&2; exit 9", TOOL_LIMIT).expect("it ends by itself");
        assert_eq!(
            (ran.code, ran.output().expect("its output")),
            (9, b"yes\n".to_vec())
        );
        assert_eq!(ran.said().expect("the same again"), "yes\n");
        assert_eq!(ran.complaints().expect("the other"), "no\n");
        let error = run("kill -9 $$", TOOL_LIMIT).unwrap_err().to_string();
        assert!(error.contains("it was ended by signal 9"), "{error}");
        let crashed = run("kill -SEGV $$", TOOL_LIMIT).expect("its own end");
        assert_eq!(crashed.code, CRASHED + 11);
        let short = Duration::from_millis(50);
        let error = run("exec sleep 1000", short).unwrap_err().to_string();
        assert!(error.contains("it was killed after 0 s"), "{error}");
    }
}
