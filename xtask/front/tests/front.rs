//! Goal: whoever waits for a build sees it, and nobody sees anything when there is nothing to build. Method: the program itself, beside a program to
//! become, with a cargo that says what cargo says.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a copy of the program; `cargo` is what cargo does.
fn front(cargo: &str) -> Output {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "{}-{}",
        std::process::id(),
        cargo.len()
    ));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("xtask-front");
    fs::copy(env!("CARGO_BIN_EXE_xtask-front"), &program).unwrap();
    script(
        &folder.join("xtask"),
        r#"echo "$CARGO_MANIFEST_DIR $*"; exit 7"#,
    );
    script(&folder.join("cargo"), cargo);
    let mut command = Command::new(program);
    command
        .args(["cases", "--json"])
        .env("CARGO", folder.join("cargo"))
        .env("CARGO_MANIFEST_DIR", "/checkout/xtask/front");
    // Another test's child may have the copy open for writing until it begins its own program.
    let output = loop {
        match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
            output => break output.unwrap(),
        }
    };
    fs::remove_dir_all(folder).unwrap();
    output
}

#[test]
fn a_build_is_seen_and_a_warm_start_is_silent() {
    let finished = r#"echo "    Finished \`dev\` profile in 0.1s" >&2"#;
    let cold = front(&format!(
        r#"test "$*" = "build --package xtask" || exit 9; echo "   Compiling one v1.0.0" >&2; {finished}"#
    ));
    assert_eq!(cold.stderr, b"   Compiling one v1.0.0\n");
    assert_eq!(cold.stdout, b"/checkout/xtask cases --json\n");
    assert_eq!(cold.status.code(), Some(7));
    let warm = front(finished);
    assert!(warm.stderr.is_empty());
    assert_eq!(warm.status.code(), Some(7));
}

#[test]
fn a_build_that_fails_ends_as_cargo_does() {
    let failed = front("echo 'error: no such thing' >&2; exit 101");
    assert_eq!(failed.status.code(), Some(101));
    assert_eq!(failed.stderr, b"error: no such thing\n");
    assert!(failed.stdout.is_empty());
}

/// Goal: whoever reads only the first line of a build does not end it. Method: the reader goes away after that line, as `head -1` does, and
/// cargo says more than a pipe holds.
#[test]
fn a_build_goes_on_when_nobody_listens() {
    use std::io::{BufRead, BufReader};
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-deaf", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let built = folder.join("built");
    let lines = "echo first >&2; i=0; while [ $i -lt 20000 ]; do echo 'Compiling more' >&2; i=$((i+1)); done";
    script(
        &folder.join("cargo"),
        &format!("{lines}; : > {}; exit 3", built.display()),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask-front"))
        .env("CARGO", folder.join("cargo"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(first, "first\n");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(built.exists());
    fs::remove_dir_all(folder).unwrap();
}

/// Goal: a build that was killed is none that succeeded.
#[test]
fn a_killed_build_is_a_failure() {
    let killed = front("kill -9 $$");
    assert_eq!(killed.status.code(), Some(2));
    assert!(killed.stdout.is_empty());
}

/// Goal: the first line comes while cargo is still at work.
#[test]
fn lines_are_shown_as_they_come() {
    use std::io::Read;
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-slow", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    script(&folder.join("cargo"), "echo first >&2; sleep 60");
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask-front"))
        .env("CARGO", folder.join("cargo"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 6];
    child.stderr.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    assert!(
        child.try_wait().unwrap().is_none(),
        "cargo was still at work"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir_all(folder).unwrap();
}
