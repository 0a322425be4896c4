//! The static programs that run inside the guest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::repo;
use crate::ui::Ui;

/// The guest is a distribution's kernel with nothing around it, so its programs bring their libc.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// A static position-dependent program starts without a dynamic loader and without relocating
/// itself.
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";
const PROFILE: &str = "guest";
const PACKAGES: [&str; 3] = ["cowbird-guest", "cowbirdctl", "cowbird-trace"];
/// An example of the tracer's, because it is no part of what the tracer's users get.
const TRIAL: &str = "trial";

/// The built programs.
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

/// Builds the programs; costs a second when nothing changed.
pub fn build(offline: bool, ui: &std::sync::Arc<Ui>) -> Result<GuestPrograms> {
    let task = ui.task("build the guest's programs");
    // A folder of its own: RUSTFLAGS would otherwise rebuild everything at every change of hands.
    let target_dir = repo::target_dir().join("guest");
    let mut cargo = repo::cargo();
    cargo.args(["build", "--quiet", "--profile", PROFILE, "--target", TARGET]);
    cargo
        .args(PACKAGES.iter().flat_map(|package| ["-p", *package]))
        .args(["--bins", "--example", TRIAL, "--target-dir"])
        .arg(&target_dir);
    cargo
        .env("RUSTFLAGS", RUSTFLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env_remove("CARGO_BUILD_TARGET");
    if offline {
        cargo.arg("--offline");
    }
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("the guest's programs do not build:\n{}", text.trim_end());
    }
    drop(task);
    let folder = target_dir.join(TARGET).join(PROFILE);
    let programs = GuestPrograms {
        init: folder.join("cowbird-guest"),
        cowbirdctl: folder.join("cowbirdctl"),
        tracer: folder.join("cowbird-trace"),
        tracer_trial: folder.join("examples").join(TRIAL),
    };
    let GuestPrograms {
        init,
        cowbirdctl,
        tracer,
        tracer_trial,
    } = &programs;
    for program in [init, cowbirdctl, tracer, tracer_trial] {
        if !program.is_file() {
            bail!("cargo built no {}", program.display());
        }
    }
    Ok(programs)
}
