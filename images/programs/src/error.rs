//! The crate's errors: failures of the infrastructure, each of which names the program and what it was run for.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::HostPackage;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {operation} {}: {reason}", path.display())]
    Io {
        /// What was tried, as `create`.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A program of the host is not installed.
    #[error(
        "cannot run {tool}: it is not installed; run `{}`",
        HostPackage::install_command_for(tool)
    )]
    MissingTool {
        /// The program.
        tool: String,
    },
    /// A program of the host failed.
    #[error("{doing} failed: {tool} {status}\n{excerpt}\nthe whole output is in {}", log.display())]
    Tool {
        /// The program.
        tool: String,
        /// What it was to do.
        doing: String,
        /// How it ended.
        status: Ending,
        /// The lines that tell most.
        excerpt: Excerpt,
        /// Its output.
        log: PathBuf,
    },
    /// Others have had a lock of apt's for too long.
    #[error(
        "another program has a lock of apt's and did not end within {} s ({lock}); wait for it and run again",
        limit.as_secs()
    )]
    Locked {
        /// What apt-get said of the lock.
        lock: String,
        /// How long it was waited for.
        limit: Duration,
    },
}

impl Error {
    /// Names the operation and the file of an I/O error, for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::Io {
            operation,
            path,
            reason,
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It had not ended after this time and was killed.
    TimedOut(Duration),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::TimedOut(limit) => write!(f, "was killed after {} s", limit.as_secs()),
        }
    }
}

/// The lines of a program's output that tell most about its failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt(Vec<String>);

impl Excerpt {
    /// Lines shown.
    const LINES: usize = 12;
    /// Characters shown of one line.
    const COLUMNS: usize = 300;

    /// Takes the first lines that report an error; when there are none, the last lines.
    pub fn of(output: &str) -> Self {
        let lines: Vec<&str> = output
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let mut shown: Vec<&str> = lines
            .iter()
            .filter(|line| is_error(line))
            .take(Self::LINES)
            .copied()
            .collect();
        if shown.is_empty() {
            shown = lines[lines.len().saturating_sub(Self::LINES)..].to_vec();
        }
        let cut = |line: &str| line.chars().take(Self::COLUMNS).collect();
        Self(shown.into_iter().map(cut).collect())
    }
}

/// Recognises the error lines of compilers, make, modpost, apt and mmdebstrap.
fn is_error(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    [
        "error:",
        "error ",
        "undefined!",
        "***",
        "cannot ",
        "not found",
    ]
    .iter()
    .any(|mark| lower.contains(mark))
        || line.starts_with("E:")
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("  (it wrote nothing)");
        }
        for (i, line) in self.0.iter().enumerate() {
            let end = if i + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "  {line}{end}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the excerpt shows the first errors of a long build, not its noise; without errors its end.
    #[test]
    fn excerpt_shows_the_first_errors() {
        let noise = "  CC [M]  a.o\n".repeat(100);
        let output = format!(
            "{noise}/build/a.c:3:1: error: unknown type name 'bi'\n{noise}make: *** [a] Error 2\n"
        );
        assert_eq!(
            Excerpt::of(&output).to_string(),
            "  /build/a.c:3:1: error: unknown type name 'bi'\n  make: *** [a] Error 2"
        );
        assert_eq!(Excerpt::of("one\n\ntwo\n").to_string(), "  one\n  two");
        assert_eq!(Excerpt::of("").to_string(), "  (it wrote nothing)");
    }
}
