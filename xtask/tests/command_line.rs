//! Goal: the front door behaves on the command line as tools do: output that goes away or has no room, names that others chose, files that never
//! end. Method: the program itself, with commands that neither boot nor fetch anything.

use std::fs::{self, OpenOptions};
use std::io;
use std::process::{Command, Output, Stdio};

fn xtask(cache: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.env("COWBIRD_CACHE", cache.path());
    command
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const PRINTING: [&[&str]; 6] = [
    &["cases"],
    &["cases", "--json"],
    &["kernels"],
    &["kernels", "--json"],
    &["--help"],
    &["kernels", "--prune", "--dry-run"],
];

#[test]
fn a_full_disk_is_an_error_of_every_command_that_prints() {
    let cache = folder();
    for arguments in PRINTING {
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("it is there");
        let output = xtask(&cache)
            .args(arguments)
            .stdout(full)
            .output()
            .expect("it runs");
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains("cannot write to standard output: No space left"),
            "{arguments:?}: {}",
            said(&output)
        );
    }
}

#[test]
fn readers_that_go_away_are_no_reason_to_crash() {
    let cache = folder();
    let gone = || io::pipe().expect("there are pipes").1;
    for arguments in PRINTING {
        let output = xtask(&cache)
            .args(arguments)
            .stdout(gone())
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(said(&output), "", "{arguments:?}");
    }
    for arguments in [&["merge", "/nowhere"][..], &["nonsense"]] {
        let status = xtask(&cache)
            .args(arguments)
            .stderr(gone())
            .stdout(gone())
            .status();
        assert_eq!(status.expect("it runs").code(), Some(2), "{arguments:?}");
    }
}

/// Goal: names and results of others do nothing to a terminal. Method: a folder of such a name, and results in which kernel
/// and case have one.
#[test]
fn names_of_others_do_nothing_to_a_terminal() {
    const NAME: &str = "\x1b[2J\u{9b}2J\u{202e}";
    let cache = folder();
    let missing = xtask(&cache)
        .args(["merge", &format!("/nowhere/{NAME}\n")])
        .output()
        .expect("it runs");
    let part = folder();
    let result = serde_json::json!({
        "cells_expected": 1, "seed": 1, "shard": "1/1",
        "cells": [{
            "kernel": NAME, "kernel_version": NAME, "case": NAME, "mutant": null, "seed": 1, "verdict": "mismatch",
            "reason": NAME, "notes": [NAME], "caught": null, "blocks_checked": 1, "blocks_bad": 1, "classes": {},
            "phases": [{"name": NAME, "seconds": 1.0}], "seconds": 1.0, "bundle": NAME,
        }],
    });
    fs::write(part.path().join("results.json"), result.to_string()).expect("it can be written");
    let merged = xtask(&cache)
        .arg("merge")
        .arg(part.path())
        .arg("--out")
        .arg(part.path().join("out"))
        .output()
        .expect("it runs");
    for output in [missing, merged] {
        assert_ne!(output.status.code(), Some(0));
        for text in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(text);
            let bad = text
                .chars()
                .find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
            assert_eq!(bad, None, "{text:?}");
        }
        assert!(!output.stderr.is_empty() || !output.stdout.is_empty());
    }
}

/// Goal: what never ends is refused, not read until memory is full. Method: /dev/zero wherever a file of others is named, with
/// as much memory as a sound file needs.
#[test]
fn what_never_ends_is_refused() {
    let cache = folder();
    let part = folder();
    let plan = part.path().join("results.json");
    std::os::unix::fs::symlink("/dev/zero", &plan).expect("a link can be made");
    let part = part.path().display().to_string();
    let cases = [
        (format!("merge {part}"), "longer than"),
        (
            "test-matrix --offline --workload /dev/zero".to_owned(),
            "nothing that a workload can be made of",
        ),
        ("replay /dev/zero".to_owned(), "/dev/zero"),
    ];
    for (line, reason) in cases {
        let output = Command::new("prlimit")
            .arg("--as=4294967296")
            .arg(env!("CARGO_BIN_EXE_xtask"))
            .args(line.split(' '))
            .env("COWBIRD_CACHE", cache.path())
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{line}: {}", said(&output));
        assert!(said(&output).contains(reason), "{line}: {}", said(&output));
    }
}

/// Goal: a shell that cannot be had says why, and boots nothing. Method: names that do not exist, a pattern that matches
/// several kernels, and standard input with neither a terminal nor commands.
#[test]
fn a_shell_says_what_it_lacks() {
    let cache = folder();
    let out = folder();
    let kernel = "bookworm-6.1-cloud";
    let cases: [(&[&str], &str); 6] = [
        (&[], "--kernel <GLOB>"),
        (&["--kernel", "nonsense"], "no kernel matches `nonsense`"),
        (
            &["--kernel", kernel, "--case", "nonsense"],
            "no case matches `nonsense`",
        ),
        (
            &["--kernel", kernel, "--mutant", "nonsense"],
            "no mutant is called `nonsense`",
        ),
        (
            &["--kernel", "bookworm-6.1-*"],
            "these match: bookworm-6.1-cloud ext4-churn, bookworm-6.1-generic ext4-churn",
        ),
        (
            &["--kernel", kernel],
            "standard input is no terminal and has no commands",
        ),
    ];
    for (arguments, reason) in cases {
        let output = xtask(&cache)
            .args(["shell", "--offline", "--out"])
            .arg(out.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(reason), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
