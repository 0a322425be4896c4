//! The static programs that run inside the guest.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use cowbird_matrix::programs::GuestPrograms;

use crate::repo;
use crate::ui::Ui;

/// The guest is a distribution's kernel with nothing around it, so its programs bring their libc.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// A static position-dependent program starts without a dynamic loader and without relocating
/// itself.
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";
const PROFILE: &str = "guest";
/// The last one puts the tracer on trial, and is no part of what the tracer's users get.
const PACKAGES: [&str; 4] = ["cowbird-guest", "cowbirdctl", "cowbird-trace", TRIAL];
const TRIAL: &str = "cowbird-tracer-trial";

/// Runs cargo and gives what it says line by line, as it says it: on a fresh machine it is at work for minutes.
fn run_by_line(mut cargo: Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = cargo
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let said = child.stderr.take().context("cargo says nothing")?;
    for line in BufReader::new(said).split(b'\n') {
        let line = line.context("cannot read what cargo says")?;
        each(&String::from_utf8_lossy(&line));
    }
    child.wait().context("cannot wait for cargo")
}

/// Whether a line of cargo's says how far it is: a word in front of which it has put blanks.
fn is_step(line: &str) -> bool {
    let word = line.trim_start().split(' ').next().unwrap_or_default();
    line.starts_with(' ')
        && word.starts_with(char::is_uppercase)
        && word.chars().all(char::is_alphabetic)
}

/// Builds the programs; costs a second when nothing changed.
pub fn build(offline: bool, ui: &std::sync::Arc<Ui>) -> Result<GuestPrograms> {
    let task = ui.task("build the guest's programs");
    // A folder of its own: RUSTFLAGS would otherwise rebuild everything at every change of hands.
    let target_dir = repo::target_dir().join("guest");
    let mut cargo = repo::cargo();
    cargo.args(["build", "--profile", PROFILE, "--target", TARGET]);
    cargo
        .args(PACKAGES.iter().flat_map(|package| ["-p", *package]))
        .args(["--bins", "--target-dir"])
        .arg(&target_dir);
    cargo
        .env("RUSTFLAGS", RUSTFLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env_remove("CARGO_BUILD_TARGET");
    if offline {
        cargo.arg("--offline");
    }
    let mut faults = String::new();
    let status = run_by_line(cargo, |line| match is_step(line) {
        true => task.step(line.trim()),
        false => faults += &format!("{line}\n"),
    })?;
    if !status.success() {
        bail!("the guest's programs do not build:\n{}", faults.trim_end());
    }
    drop(task);
    let folder = target_dir.join(TARGET).join(PROFILE);
    let programs = GuestPrograms {
        init: folder.join("cowbird-guest"),
        cowbirdctl: folder.join("cowbirdctl"),
        tracer: folder.join("cowbird-trace"),
        tracer_trial: folder.join(TRIAL),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: steps are told apart from what is wrong, and come while cargo is at work. Method: a program that says what cargo says.
    #[test]
    fn steps_are_told_from_faults() {
        let mut cargo = Command::new("sh");
        let said = "printf '   Compiling one v1\\nerror: no\\n  --> a.rs:1\\n    Blocking waiting\\n' >&2; exit 3";
        cargo.args(["-c", said]);
        let (mut steps, mut faults) = (Vec::new(), Vec::new());
        let status = run_by_line(cargo, |line| match is_step(line) {
            true => steps.push(line.trim().to_owned()),
            false => faults.push(line.to_owned()),
        });
        assert_eq!(status.expect("it runs").code(), Some(3));
        assert_eq!(steps, ["Compiling one v1", "Blocking waiting"]);
        assert_eq!(faults, ["error: no", "  --> a.rs:1"]);
    }
}
