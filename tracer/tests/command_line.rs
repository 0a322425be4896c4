//! Goal: the tool behaves on the command line as tools do: output that goes away or has no room, names that others chose, traces and workloads
//! that come through a pipe or never end. Method: the program itself, on a trace that is written here.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cowbird_events::devices::{BlockDevice, Snapshot};
use cowbird_events::event::{IoId, Kind, Op, Record};
use cowbird_events::format::{Footer, Meta, TraceWriter};
use cowbird_workload::{Action, Builder, Extent, Flags};

/// Clears the screen, turns the text around, and says so in C1 as well. As long as a task's name may be.
const COMM: &[u8; 16] = b"\x1b[2J\xc2\x9b2J\n\x07\xe2\x80\xaeab\0";

/// A folder with a trace and a workload.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("trace"), trace()).unwrap();
        let mut builder = Builder::default();
        builder.push(0, Action::Write, Flags::SYNC, Extent::of_bytes(0, 512));
        let workload = builder.finish("\x1b[2Jsomewhere", vec!["\x1b[2Jdoubt".to_owned()]);
        fs::write(folder.path().join("workload"), workload.encode()).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Every command that reads a trace and prints, `@` standing for it.
    fn printing(&self, file: &Path) -> Vec<Command> {
        [
            "info @",
            "block 1 @ --device sda",
            "verify @",
            "verify @ --json",
            "export @",
            "export @ --format csv",
            "export @ --format fio",
            "export @ --format perfetto",
        ]
        .iter()
        .map(|line| {
            let mut command = tool();
            command.args(line.split(' ').map(|word| match word {
                "@" => file.as_os_str().to_owned(),
                word => word.into(),
            }));
            command
        })
        .collect()
    }
}

fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cowbird-trace"));
    command.stdin(Stdio::null());
    command
}

fn trace() -> Vec<u8> {
    let meta = Meta {
        tool: "cowbird-trace \x1b[2J".to_owned(),
        kernel: "6.1.0-\x1b]0;title\x07".to_owned(),
        start_ns: 1000,
        devices: vec![BlockDevice {
            name: "sda".to_owned(),
            number: "8:0".to_owned(),
            disk_number: "8:0".to_owned(),
            start_sector: 0,
            sectors: 4096,
        }],
        ..Meta::default()
    };
    let record = |at: u64| Record {
        kind: Kind::BioQueue,
        op: Op::Write,
        time_ns: 1000 + at,
        disk: 8 << 20,
        sector: 8,
        amount: 4096,
        io: IoId(at),
        tid: 5,
        comm: *COMM,
        ..Record::default()
    };
    let mut writer = TraceWriter::new(Vec::new(), &meta).unwrap();
    for at in 1..=3 {
        writer.push(record(at)).unwrap();
    }
    let footer = Footer {
        stopped_by: "signal".to_owned(),
        end_ns: 2000,
        produced: 3,
        received: 3,
        recursion_misses: Some(0),
        ..Footer::default()
    };
    writer.finish(&footer).unwrap().0
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_full_disk_is_an_error_of_every_command_that_prints() {
    let fixture = Fixture::new();
    let mut help = tool();
    help.arg("--help");
    let mut doctor = tool();
    doctor.arg("doctor");
    let mut workload = tool();
    workload.arg("info").arg(fixture.path("workload"));
    let mut commands = fixture.printing(&fixture.path("trace"));
    // Nothing can be concluded from this trace, and then nothing is printed.
    commands.retain(|command| !command.get_args().any(|argument| argument == "verify"));
    for mut command in commands.into_iter().chain([help, doctor, workload]) {
        let output = command.stdout(full()).output().unwrap();
        let said = said(&output);
        assert_ne!(output.status.code(), Some(0), "{command:?}: {said}");
        assert!(output.status.code().is_some_and(|code| code < 6), "{said}");
        assert!(
            said.contains("cowbird-trace: cannot write to standard output: No space left"),
            "{command:?}: {said}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_none() {
    let fixture = Fixture::new();
    let mut help = tool();
    help.arg("--help");
    let mut commands = fixture.printing(&fixture.path("trace"));
    commands.push(help);
    for mut command in commands {
        let calm = command.stdout(Stdio::null()).output().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        let wanted = match calm.status.code() {
            // What was written in pieces ends with the first that nobody takes.
            Some(3) if output.status.success() => Some(0),
            code => code,
        };
        assert_eq!(output.status.code(), wanted, "{command:?}");
        assert!(!said(&output).contains("annot write"), "{}", said(&output));
    }
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let doctor = tool().arg("doctor").stdout(writer).output().unwrap();
    assert!(
        doctor
            .status
            .code()
            .is_some_and(|code| [0, 1, 5].contains(&code))
    );
}

#[test]
fn nobody_to_complain_to_is_no_reason_to_crash() {
    for arguments in ["info /nowhere", "verify /nowhere", "nonsense"] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = tool()
            .args(arguments.split(' '))
            .stderr(writer)
            .output()
            .unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments}");
    }
}

/// What reaches a terminal, but for the ends of lines.
fn assert_harmless(bytes: &[u8], command: &Command) {
    let text = String::from_utf8_lossy(bytes);
    let bad = text
        .chars()
        .find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
    assert_eq!(bad, None, "{command:?}: {text:?}");
}

#[test]
fn names_of_others_do_nothing_to_a_terminal() {
    let fixture = Fixture::new();
    let mut commands = fixture.printing(&fixture.path("trace"));
    for arguments in ["info", "info --operations"] {
        let mut workload = tool();
        workload
            .args(arguments.split(' '))
            .arg(fixture.path("workload"));
        commands.push(workload);
    }
    let mut missing = tool();
    missing.args(["info", "/nowhere/\x1b[2J\n"]);
    commands.push(missing);
    for mut command in commands {
        let output = command.output().unwrap();
        assert_harmless(&output.stdout, &command);
        assert_harmless(&output.stderr, &command);
    }
    let shown = fixture.printing(&fixture.path("trace"))[1]
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(r"\033[2J\302\2332J\012"), "{shown}");
}

/// Goal: a trace and a workload can come through a pipe, although some commands read them twice.
#[test]
fn what_comes_through_a_pipe_is_read_like_a_file() {
    let fixture = Fixture::new();
    let through = |mut command: Command, name: &str| {
        let (reader, writer) = io::pipe().unwrap();
        let content = fs::read(fixture.path(name)).unwrap();
        let writing = std::thread::spawn(move || {
            let mut writer = writer;
            io::Write::write_all(&mut writer, &content).unwrap();
        });
        let output = command.stdin(reader).output().unwrap();
        writing.join().unwrap();
        output
    };
    let stdin = Path::new("/dev/stdin");
    let of_file = fixture.printing(&fixture.path("trace"));
    for (mut direct, piped) in of_file.into_iter().zip(fixture.printing(stdin)) {
        let direct = direct.output().unwrap();
        let piped = through(piped, "trace");
        assert_eq!(direct.stdout, piped.stdout, "{}", said(&piped));
        assert_eq!(direct.status, piped.status);
    }
    let mut info = tool();
    info.args(["info", "/dev/stdin"]);
    let output = through(info, "workload");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("workload of"));
}

/// Goal: what never ends is refused, not read until memory or disk is full.
#[test]
fn what_never_ends_is_refused() {
    for mut command in Fixture::new().printing(Path::new("/dev/zero")) {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(said(&output).contains("not a trace"), "{}", said(&output));
    }
}

/// Goal: whoever gives what cannot be written is told before anything takes time, and leaves nothing behind. Method: an output that is no file, with
/// a trace that is not there, and for a recording that this user may not even begin.
#[test]
fn an_output_that_cannot_be_is_refused_first() {
    let fixture = Fixture::new();
    let gone = fixture.path("gone");
    let mut report = tool();
    report.arg("report").arg(&gone).args(["-o", "/dev/stdout"]);
    let mut record = tool();
    record.args(["record", "-o", "/dev/null"]);
    for mut command in [report, record] {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let said = said(&output);
        assert!(said.contains("not a regular file"), "{said}");
    }
    let mut report = tool();
    report
        .arg("report")
        .arg(&gone)
        .arg("-o")
        .arg(fixture.path("page"));
    assert_eq!(report.output().unwrap().status.code(), Some(1));
    assert_eq!(fs::read_dir(fixture.folder.path()).unwrap().count(), 2);
}

/// Goal: a trace that somebody else made is read, and nothing else. Method: one in which every name is that of a file, a command or an
/// option, read from a folder in which such files would come to lie; all that is there is looked at before and after each command.
#[test]
fn a_foreign_trace_writes_and_runs_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (inside, victim) = (place.path().join("inside"), place.path().join("victim"));
    fs::create_dir(&inside).unwrap();
    fs::write(&victim, "somebody's data").unwrap();
    let victim_name = victim.display().to_string();
    for name in [
        "../victim",
        victim_name.as_str(),
        "$(touch ran)",
        "`touch ran`;|touch ran",
        "--output=ran",
        "",
    ] {
        let device = BlockDevice {
            name: name.to_owned(),
            number: name.to_owned(),
            disk_number: "8:0".to_owned(),
            start_sector: 1,
            sectors: u64::MAX,
        };
        let meta = Meta {
            tool: name.to_owned(),
            kernel: name.to_owned(),
            start_ns: 1000,
            snapshots: vec![Snapshot {
                minor: 0,
                block_device: name.to_owned(),
                origin: Some(device.clone()),
                device: None,
            }],
            devices: vec![device],
            ..Meta::default()
        };
        let mut comm = [0; 16];
        let length = name.len().min(15);
        comm[..length].copy_from_slice(&name.as_bytes()[..length]);
        let mut writer = TraceWriter::new(Vec::new(), &meta).unwrap();
        // A snapshot that is active, and then whatever there is, of all blocks that there could be.
        let events = [
            (Kind::State, 0, 2),
            (Kind::Change, 0, u32::MAX),
            (Kind::PreserveBegin, 7, u32::MAX),
            (Kind::PreserveComplete, u64::MAX, u32::MAX),
            (Kind::BioQueue, u64::MAX, u32::MAX),
            (Kind::BioQueue, 0, 4096),
            (Kind::BioComplete, 0, 4096),
        ];
        for (at, (kind, sector, amount)) in (1..).zip(events) {
            let record = Record {
                kind,
                op: Op::Write,
                time_ns: u64::MAX - at,
                disk: if matches!(kind, Kind::BioQueue | Kind::BioComplete) {
                    8 << 20
                } else {
                    0
                },
                sector,
                second: u64::MAX,
                amount,
                io: IoId(at),
                comm,
                ..Record::default()
            };
            writer.push(record).unwrap();
        }
        let footer = Footer {
            stopped_by: name.to_owned(),
            ..Footer::default()
        };
        let trace = writer.finish(&footer).unwrap().0;
        fs::write(inside.join("trace"), &trace).unwrap();
        let fixture = Fixture::new();
        for mut command in fixture.printing(&inside.join("trace")) {
            let output = command.current_dir(&inside).output().unwrap();
            assert!(output.status.code().is_some(), "{command:?}: {output:?}");
            assert!(!said(&output).contains("panicked"), "{}", said(&output));
            assert_eq!(
                fs::read(&victim).unwrap(),
                b"somebody's data",
                "{command:?}"
            );
            assert!(fs::read(inside.join("trace")).unwrap() == trace);
            assert_eq!(fs::read_dir(&inside).unwrap().count(), 1, "{command:?}");
            assert_eq!(
                fs::read_dir(place.path()).unwrap().count(),
                2,
                "{command:?}"
            );
        }
    }
}
