//! What can go wrong on the host. None of this says anything about the module under test: a
//! [`HarnessError`] always ends in the verdict *infrastructure*.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Result of an operation on the host.
pub type HarnessResult<T> = Result<T, HarnessError>;

/// A failure of the host's side.
#[derive(Debug, Error)]
pub enum HarnessError {
    /// A file operation failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A tool of the host is missing or failed.
    #[error("{tool} failed: {detail}; install it or look at its message ({hint})")]
    Tool {
        /// Program.
        tool: &'static str,
        /// Exit status and standard error.
        detail: String,
        /// Where it comes from.
        hint: &'static str,
    },
    /// QEMU cannot be started or ended before the kernel ran.
    #[error("QEMU cannot run: {detail}")]
    Qemu {
        /// What it said.
        detail: String,
    },
    /// The emulator executed code that is not in the guest's memory.
    #[error(
        "the emulator executed a breakpoint that is not in memory any more, a fault of QEMU before \
         8.1; use a newer QEMU"
    )]
    Emulator {
        /// Console around it.
        excerpt: String,
    },
    /// QMP says something that this client does not understand.
    #[error("QMP {operation}: {detail}")]
    Qmp {
        /// The command or step.
        operation: String,
        /// What happened.
        detail: String,
    },
    /// The protocol stream between guest and host is corrupt.
    #[error("guest protocol: {detail}")]
    Protocol {
        /// What happened.
        detail: String,
    },
    /// The agent ended although the kernel did not.
    #[error("the guest's agent ended: {detail}")]
    Agent {
        /// The line on the console.
        detail: String,
    },
    /// The witness contradicts the disk that it witnessed.
    #[error("the witness log cannot be trusted: {detail}; try another QEMU version")]
    Witness {
        /// First mismatches.
        detail: String,
    },
    /// Something that the caller asked for does not exist or does not fit.
    #[error("{detail}")]
    Plan {
        /// What is wrong with the plan.
        detail: String,
    },
}

impl HarnessError {
    /// Whether only the host can look like this. What a guest with a faulty module may cause as well (a lost agent, a
    /// request that fails, a tool that stumbles over an image, a witness that disagrees) a second attempt must not hide.
    pub fn is_of_the_host(&self) -> bool {
        matches!(
            self,
            Self::File { .. } | Self::Qemu { .. } | Self::Emulator { .. } | Self::Qmp { .. }
        )
    }
}

/// Adds operation and path to an I/O error.
pub trait PathContext<T> {
    /// `operation` is an infinitive: "create".
    fn on(self, operation: &'static str, path: &Path) -> HarnessResult<T>;
}

impl<T> PathContext<T> for io::Result<T> {
    fn on(self, operation: &'static str, path: &Path) -> HarnessResult<T> {
        self.map_err(|source| HarnessError::File {
            operation,
            path: path.to_owned(),
            source,
        })
    }
}

impl<T> PathContext<T> for Result<T, rustix::io::Errno> {
    fn on(self, operation: &'static str, path: &Path) -> HarnessResult<T> {
        self.map_err(io::Error::from).on(operation, path)
    }
}
