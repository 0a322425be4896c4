//! The programs of a run's guests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The programs that are built for guests, each static.
#[derive(Clone, Debug)]
pub struct GuestPrograms {
    /// PID 1 of the guest.
    pub init: PathBuf,
    /// The control tool.
    pub cowbirdctl: PathBuf,
    /// The tracer.
    pub tracer: PathBuf,
    /// What puts the tracer on trial.
    pub tracer_trial: PathBuf,
}

impl GuestPrograms {
    /// Copies the programs to a folder of the run. Cargo replaces those that it built when somebody builds again, and a
    /// guest that came from other sources than its host does not speak its protocol.
    pub fn copy_to(&self, folder: &Path) -> Result<Self> {
        let copy = |program: &Path| {
            let to = folder.join(program.file_name().unwrap_or_default());
            std::fs::copy(program, &to).with_context(|| {
                format!("cannot copy {} to {}", program.display(), to.display())
            })?;
            Ok::<_, anyhow::Error>(to)
        };
        Ok(Self {
            init: copy(&self.init)?,
            cowbirdctl: copy(&self.cowbirdctl)?,
            tracer: copy(&self.tracer)?,
            tracer_trial: copy(&self.tracer_trial)?,
        })
    }
}
