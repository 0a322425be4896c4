//! What `cargo xtask` runs: builds `xtask` where everybody sees it, and becomes it.
//!
//! On a fresh machine the build takes minutes, in which `cargo run --quiet` says nothing; without `--quiet` it says two lines too many
//! each time that nothing has changed. Here every line of cargo's is shown but the one that says that it has finished.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The program, which cargo puts beside this one.
const PROGRAM: &str = "xtask";

/// The exit code when a command could not do its work, as that of the program.
const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(reason) => {
            // If that fails there is nobody left to tell.
            let _ = writeln!(io::stderr(), "error: {reason}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Comes back only when there is no program to become.
fn run() -> Result<ExitCode, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut build = Command::new(&cargo);
    build.args(["build", "--package", PROGRAM]);
    for (name, _) in std::env::vars_os() {
        // What cargo said of this package is not true of others.
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            build.env_remove(name);
        }
    }
    build
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("CARGO_MANIFEST_PATH");
    let built = show(build)
        .map_err(|error| format!("cannot run {}: {error}", Path::new(&cargo).display()))?;
    if let Some(code) = built {
        return Ok(ExitCode::from(code));
    }
    let program = std::env::current_exe()
        .map_err(|error| format!("cannot find the folder of this program: {error}"))?
        .with_file_name(PROGRAM);
    let mut become_it = Command::new(&program);
    become_it
        .args(std::env::args_os().skip(1))
        .env("PATH", with_system_folders(std::env::var_os("PATH")));
    if let Some(front) = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from)
        && let Some(package) = front.parent()
    {
        become_it.env("CARGO_MANIFEST_DIR", package);
    }
    let error = become_it.exec();
    Err(format!("cannot run {}: {error}", program.display()))
}

/// The folders of programs, with those of mkfs, fsck, depmod and chroot behind them: Debian has them on the path of root's login shell
/// only.
fn with_system_folders(path: Option<OsString>) -> OsString {
    let mut path = path.unwrap_or_default();
    for folder in ["/usr/sbin", "/sbin"] {
        let is_there = std::env::split_paths(&path).any(|there| there == Path::new(folder));
        if !is_there {
            if !path.is_empty() {
                path.push(":");
            }
            path.push(folder);
        }
    }
    path
}

/// Runs cargo and shows what it says as it says it; its exit code if it fails.
fn show(mut cargo: Command) -> io::Result<Option<u8>> {
    let mut child = cargo.stderr(Stdio::piped()).spawn()?;
    if let Some(said) = child.stderr.take() {
        let mut said = BufReader::new(said);
        let mut line = Vec::new();
        while said.read_until(b'\n', &mut line)? > 0 {
            if !is_noise(&line) {
                // Nobody may be listening, and the build goes on.
                let _ = io::stderr().write_all(&line);
            }
            line.clear();
        }
    }
    let status = child.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok((!status.success()).then_some(code.unwrap_or(COULD_NOT_RUN)))
}

/// Whether a line of cargo's says nothing when nothing had to be built.
fn is_noise(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"Finished ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: tools of the administrator are found, once, behind what the user has.
    #[test]
    fn system_folders_come_last() {
        let with = |path: &str| with_system_folders(Some(path.into()));
        assert_eq!(with("/usr/bin:/bin"), "/usr/bin:/bin:/usr/sbin:/sbin");
        assert_eq!(with("/usr/sbin:/bin"), "/usr/sbin:/bin:/sbin");
        assert_eq!(with("/sbin:/usr/sbin"), "/sbin:/usr/sbin");
        assert_eq!(with_system_folders(None), "/usr/sbin:/sbin");
    }
}
