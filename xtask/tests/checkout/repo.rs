//! The checkout whose cargo runs the tests, and what git knows of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The root of the checkout; with a shared target folder another one may have compiled this.
pub fn root() -> PathBuf {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test");
    let xtask = Path::new(&xtask);
    let root = xtask.parent().expect("xtask lies in the checkout");
    root.to_owned()
}

/// The cargo that runs the tests, in the checkout.
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

/// The files of the checkout that git knows, by a pattern.
pub fn files_of_git(checkout: &Path, pattern: &str) -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", pattern])
        .env("LC_ALL", "C")
        .current_dir(checkout)
        .output()
        .context("cannot run git; install it")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let checkout = checkout.display();
        // It refuses a checkout of another user, whose configuration it would follow.
        let remedy = match said.contains("dubious ownership") {
            true => format!("`git config --global --add safe.directory {checkout}`, or `chown`"),
            false => "a clone, not a copy of its files".to_owned(),
        };
        bail!(
            "git does not list the files of {checkout}: {}; what helps is {remedy}",
            said.trim()
        );
    }
    let listed = String::from_utf8(output.stdout).context("git lists a name that is no text")?;
    Ok(listed.split_terminator('\0').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a checkout that git does not read is told with git's reason and with what helps. Method: a folder that is none; and, for
    /// root, a checkout of somebody else.
    #[test]
    fn a_checkout_that_git_refuses_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = files_of_git(folder.path(), "*").unwrap_err().to_string();
        assert!(error.contains("not a git repository"), "{error}");
        assert!(error.contains("a clone"), "{error}");
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let made = Command::new("git")
            .args(["init", "--quiet"])
            .current_dir(folder.path())
            .status();
        assert!(made.unwrap().success());
        std::os::unix::fs::chown(folder.path(), Some(65534), None).unwrap();
        std::os::unix::fs::chown(folder.path().join(".git"), Some(65534), None).unwrap();
        let error = files_of_git(folder.path(), "*").unwrap_err().to_string();
        for part in ["dubious ownership", "--add safe.directory", "chown"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
