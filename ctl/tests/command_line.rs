//! Goal: the tool behaves on the command line as tools do: output that goes away or has no room, wrong usage, files that are not what they
//! should be. Method: the program itself, on a report that was saved.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const REPORT: &str = r#"{"version": "0.1.0", "mutant": null, "devices": [{"minor": 3,
    "cow_file": "/mnt/caf\\351/.cow", "block_device": "/dev/vda1", "cow_inode": 12,
    "max_cache": 1, "seq_id": 4, "uuid": "00ff", "error": 0, "state_name": "active snapshot",
    "origin_sectors": 4096, "cow_slots": 10, "origin_device": "254:1", "changes_from_epoch": 3,
    "cow_slots_used": 10, "preserved_blocks": 9, "memory_blocks": 3, "cow_device": "254:1",
    "cow_sector": 2048, "cow_is_pinned": true, "tracks": true, "error_text": ""}]}"#;

/// A folder with a report.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new(report: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        fs::write(folder.path().join("report"), report).expect("a report for the test");
        Self { folder }
    }

    fn report(&self) -> PathBuf {
        self.folder.path().join("report")
    }

    fn info(&self, arguments: &[&str]) -> Command {
        let mut command = tool();
        command
            .arg("info")
            .args(arguments)
            .arg("--from")
            .arg(self.report());
        command
    }
}

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cowbirdctl"))
}

fn full() -> File {
    OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full is there")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_full_disk_is_an_error_of_every_command_that_prints() {
    let fixture = Fixture::new(REPORT);
    let mut help = tool();
    help.arg("--help");
    let mut version = tool();
    version.arg("--version");
    for mut command in [fixture.info(&[]), fixture.info(&["--json"]), help, version] {
        let output = command.stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let said = said(&output);
        assert_eq!(
            said,
            "cowbirdctl: cannot write to standard output: No space left on device (os error 28)\n",
            "{command:?}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_none() {
    let fixture = Fixture::new(REPORT);
    let mut help = tool();
    help.arg("--help");
    for mut command in [fixture.info(&[]), fixture.info(&["--json"]), help] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert_eq!(said(&output), "", "{command:?}");
    }
}

#[test]
fn nobody_to_complain_to_is_no_reason_to_crash() {
    let fixture = Fixture::new("{");
    let output = fixture.info(&[]).stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let output = fixture.info(&[]).stderr(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn names_are_shown_and_one_bad_snapshot_hides_no_other() {
    let fixture = Fixture::new(&REPORT.replace("[{", r#"[{"minor": 1}, {"#));
    let output = fixture.info(&[]).output().unwrap();
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(shown.contains(r"COW file   /mnt/caf\351/.cow"), "{shown}");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("snapshot 1: "), "{}", said(&output));
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    for arguments in [
        "setup-snapshot -f 0 /dev/null /cow 0",
        "setup-snapshot -c 0 /dev/null /cow 0",
        "setup-snapshot --timeout-ms 0 /dev/null /cow 0",
        "setup-snapshots -f 0 /dev/null /cow 0",
        "transition-to-snapshot -c 0 0",
        "expand-cow-file --size 0 0",
        "reconfigure -c 0 0",
        "reload-snapshot -c 0 /dev/null /cow 0",
        "reconfigure-auto-expand --step 0 0",
    ] {
        let output = tool().args(arguments.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(said(&output).contains("0 is not in"), "{}", said(&output));
    }
}

/// Also where clap cannot see it, and whether the module is loaded or not.
#[test]
fn arguments_that_fit_no_snapshot_are_wrong_usage() {
    for (arguments, why) in [
        ("setup-snapshots /dev/a /a 0 /dev/b", "three arguments"),
        ("setup-snapshots /dev/a /a x", "\"x\" is not the number"),
        ("transition-to-snapshot x", "\"x\" is not the number"),
        (
            "transition-to-snapshot /cow 0 1",
            "\"/cow\" is not the number",
        ),
    ] {
        let output = tool().args(arguments.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(said(&output).contains(why), "{}", said(&output));
    }
}

/// Whatever is no regular file may never end, or never begin.
#[test]
fn a_pipe_is_not_waited_for() {
    let fixture = Fixture::new(REPORT);
    fs::remove_file(fixture.report()).unwrap();
    let made = Command::new("mkfifo")
        .arg(fixture.report())
        .status()
        .unwrap();
    assert!(made.success());
    let output = fixture.info(&[]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("not a regular file"),
        "{}",
        said(&output)
    );
}
