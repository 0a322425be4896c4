//! Goal: on the running kernel, every write to a loop device is in the trace, and what is not is
//! counted.
//! Method: the program itself records a loop device while several threads write known blocks past
//! the page cache; the trace is compared with what was written.
//!
//! Not checked: bio-based drivers, reads, and content. Needs root, BPF and loop devices; without,
//! every test is skipped by name, the skips are counted, and `COWBIRD_REQUIRE_KERNEL=1` makes
//! them failures.

#![expect(clippy::print_stdout, reason = "it is how a test says what it saw")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::env;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use cowbird_events::event::{IoId, Kind, Op, Record};
use cowbird_events::format::Footer;
use cowbird_events::prints::print_of;
use cowbird_trace::probes::{self, ProbeOptions, Probes};
use cowbird_trace::record::DEFAULT_RING_BYTES;

mod machine;

use machine::{Loop, Recording, Trace, Workload};

/// Name and body of each test.
const TESTS: [(&str, fn()); 9] = [
    (
        "every_write_is_seen_at_every_stage",
        every_write_is_seen_at_every_stage,
    ),
    (
        "forced_drops_are_counted_exactly",
        forced_drops_are_counted_exactly,
    ),
    ("a_partition_is_kept_apart", a_partition_is_kept_apart),
    (
        "a_workload_has_every_write_and_what_was_alike",
        a_workload_has_every_write_and_what_was_alike,
    ),
    (
        "fingerprints_are_sealed_unless_told_otherwise",
        fingerprints_are_sealed_unless_told_otherwise,
    ),
    (
        "a_recorder_keeps_no_privileges",
        a_recorder_keeps_no_privileges,
    ),
    (
        "a_trace_cut_anywhere_still_reads",
        a_trace_cut_anywhere_still_reads,
    ),
    (
        "a_killed_recorder_leaves_a_readable_trace",
        a_killed_recorder_leaves_a_readable_trace,
    ),
    (
        "without_privileges_the_error_names_them",
        without_privileges_the_error_names_them,
    ),
];

const WRITERS: u64 = 6;
const WRITES_EACH: u64 = 1500;

fn workload() -> Workload {
    Workload {
        writers: WRITERS,
        writes_each: WRITES_EACH,
        first_block: 0,
    }
}

/// Each stage that a write to a request-based device passes.
const STAGES: [Kind; 3] = [Kind::BioQueue, Kind::RqIssue, Kind::RqComplete];

fn writes(trace: &Trace, kind: Kind) -> Vec<&Record> {
    let wanted = |record: &&Record| record.kind == kind && record.op == Op::Write;
    trace.records.iter().filter(wanted).collect()
}

/// Completions that the trace itself says are missing: a kernel may show BPF no interrupt that
/// comes while certain tasks run.
fn missing_completions(footer: &Footer) -> usize {
    usize::try_from(footer.unpaired + footer.open_requests).unwrap()
}

fn assert_sees_each_block_once(trace: &Trace, workload: &Workload, missing: usize) {
    for kind in STAGES {
        let mut blocks: Vec<u64> = writes(trace, kind)
            .iter()
            .map(|record| {
                assert_eq!((record.amount, record.status), (4096, 0), "{record:?}");
                record.sector / 8
            })
            .collect();
        blocks.sort_unstable();
        let mut expected = workload.blocks();
        if kind == Kind::RqComplete {
            assert_eq!(blocks.len() + missing, expected.len(), "at {}", kind.name());
            let seen: HashSet<u64> = blocks.iter().copied().collect();
            expected.retain(|block| seen.contains(block));
        }
        assert!(blocks == expected, "at {}", kind.name());
    }
}

/// An incomplete trace shows in the exit status.
fn assert_status_tells(status: Option<i32>, footer: &Footer) {
    let losses = footer.losses();
    let expected = if losses.is_empty() { 0 } else { 3 };
    assert_eq!(status, Some(expected), "{losses:?}");
    for loss in losses {
        println!("    {loss}");
    }
}

fn every_write_is_seen_at_every_stage() {
    let device = Loop::create();
    let recording = Recording::start(&device.path, &[]);
    workload().run(&device.path);
    let (status, trace) = recording.stop();
    let footer = trace.footer.as_ref().unwrap();
    assert_eq!(trace.defects, Vec::<String>::new(), "{footer:?}");
    assert_status_tells(status, footer);
    assert_eq!(footer.losses().len(), usize::from(footer.unseen() > 0));
    assert_sees_each_block_once(&trace, &workload(), missing_completions(footer));
    assert_eq!(footer.produced, trace.records.len() as u64);
    let queued: HashMap<IoId, u64> = writes(&trace, Kind::BioQueue)
        .iter()
        .map(|record| (record.io, record.sector))
        .collect();
    for record in writes(&trace, Kind::RqComplete) {
        assert_eq!(
            queued.get(&record.parent),
            Some(&record.sector),
            "joined wrongly: {record:?}"
        );
    }
    let misses = footer.recursion_misses;
    println!("    skipped runs {misses:?}, rescued {}", footer.rescued);
}

fn forced_drops_are_counted_exactly() {
    let device = Loop::create();
    let reference = Recording::start(&device.path, &[]);
    let recording = Recording::start(&device.path, &["--ring-size", "4K"]);
    recording.suspend();
    workload().run(&device.path);
    recording.resume();
    let (status, trace) = recording.stop();
    let all = reference.stop().1;
    assert_sees_each_block_once(
        &all,
        &workload(),
        missing_completions(all.footer.as_ref().unwrap()),
    );
    let footer = trace.footer.unwrap();
    let expected = all.records.len() as u64;
    let received = trace.records.len() as u64;
    assert_eq!(
        status,
        Some(3),
        "an incomplete trace must show in the exit status"
    );
    assert!(
        received < expected / 10,
        "{received} events fitted, nothing was forced"
    );
    assert_eq!(footer.produced, expected);
    assert_eq!(footer.dropped, expected - received);
    assert_eq!(footer.dropped_per_cpu.iter().sum::<u64>(), footer.dropped);
    println!(
        "    {expected} produced, {received} received, {} dropped",
        footer.dropped
    );
}

fn a_partition_is_kept_apart() {
    let first_block = Loop::PARTITION_SECTOR / 8;
    let device = Loop::create_partitioned();
    let recording = Recording::start(&device.partition(), &[]);
    let inside = Workload {
        writers: 2,
        writes_each: 100,
        first_block,
    };
    let outside = Workload {
        writers: 2,
        writes_each: 60,
        first_block: 0,
    };
    outside.run(&device.path);
    inside.run(&device.path);
    let (status, trace) = recording.stop();
    assert_eq!(trace.defects, Vec::<String>::new());
    let footer = trace.footer.as_ref().unwrap();
    assert_status_tells(status, footer);
    assert_sees_each_block_once(&trace, &inside, missing_completions(footer));
}

/// The recording of a partition, as a workload: every write once, at its place on the partition, and what one
/// writer wrote is alike, what two wrote is not.
fn a_workload_has_every_write_and_what_was_alike() {
    let device = Loop::create_partitioned();
    let recording = Recording::start(&device.partition(), &["--fingerprints"]);
    let inside = Workload {
        writers: 3,
        writes_each: 200,
        first_block: Loop::PARTITION_SECTOR / 8,
    };
    inside.run(&device.path);
    let file = recording.file();
    let (status, _) = recording.stop();
    assert_eq!(status, Some(0));
    let arguments = ["export", "--format", "workload"];
    let workload = machine::output_of(&arguments, file.path());
    let workload = cowbird_workload::Workload::decode(&workload).unwrap();
    let mut found: Vec<(u64, cowbird_workload::Content)> = workload
        .operations()
        .iter()
        .map(|write| {
            assert_eq!(write.action, cowbird_workload::Action::Write);
            assert_eq!((write.extent.sectors, write.contents.len()), (8, 1));
            (write.extent.start.0 / 8, write.contents[0])
        })
        .collect();
    found.sort_unstable_by_key(|(block, _)| *block);
    let blocks: Vec<u64> = found.iter().map(|(block, _)| *block).collect();
    let expected: Vec<u64> = (0..inside.writers * inside.writes_each)
        .map(|index| 2 * index)
        .collect();
    assert_eq!(blocks, expected);
    let contents: Vec<_> = found.iter().map(|(_, content)| *content).collect();
    let (first, rest) = contents.split_at(inside.writers as usize);
    for (writer, content) in first.iter().enumerate() {
        assert!(matches!(content, cowbird_workload::Content::Known(_)));
        assert!(!first[..writer].contains(content), "{first:?}");
    }
    assert!(rest.chunks(first.len()).all(|turn| turn == first));
}

/// Goal: who has a trace cannot find a content in it that he knows, and what is alike can be told within one trace. Method: the
/// same blocks three times, of which each writer has one content.
fn fingerprints_are_sealed_unless_told_otherwise() {
    let device = Loop::create();
    let contents: HashSet<u64> = (1..=WRITERS)
        .map(|writer| print_of(&[writer as u8; 4096], None))
        .collect();
    let prints = |options: &[&str]| {
        let recording = Recording::start(&device.path, options);
        let workload = Workload {
            writes_each: 20,
            ..workload()
        };
        workload.run(&device.path);
        let trace = recording.stop().1;
        let prints = writes(&trace, Kind::Fingerprint);
        assert_eq!(prints.len() as u64, WRITERS * 20);
        let prints: HashSet<u64> = prints.iter().map(|record| record.second).collect();
        assert_eq!(
            prints.len() as u64,
            WRITERS,
            "alike is what was written alike"
        );
        prints
    };
    assert_eq!(
        prints(&["--fingerprints", "--plain-fingerprints"]),
        contents
    );
    let (one, other) = (prints(&["--fingerprints"]), prints(&["--fingerprints"]));
    assert!(one.is_disjoint(&contents) && other.is_disjoint(&contents));
    assert!(one.is_disjoint(&other));
}

/// Goal: a defect in what reads the events is not one of root's, and nobody else reads a trace.
fn a_recorder_keeps_no_privileges() {
    let device = Loop::create();
    let recording = Recording::start(&device.path, &["--fingerprints"]);
    let bpf = 1_u64 << 39;
    for field in ["CapEff", "CapPrm"] {
        let held = u64::from_str_radix(&recording.status(field), 16).unwrap();
        assert_eq!(held & !bpf, 0, "{field} {held:x}");
    }
    assert_eq!(recording.status("NoNewPrivs"), "1");
    let mode = recording.file().path().metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600);
    workload().run(&device.path);
    let (status, trace) = recording.stop();
    assert_status_tells(status, trace.footer.as_ref().unwrap());
}

fn a_trace_cut_anywhere_still_reads() {
    let device = Loop::create();
    let recording = Recording::start(&device.path, &[]);
    workload().run(&device.path);
    let file = recording.file();
    let (_, whole) = recording.stop();
    let bytes = std::fs::read(file.path()).unwrap();
    let mut most = 0;
    for length in (64..bytes.len()).step_by(61) {
        let cut = Trace::parse(&bytes[..length]);
        assert_eq!(
            cut.records,
            whole.records[..cut.records.len()],
            "cut at {length}"
        );
        assert!(!cut.defects.is_empty(), "cut at {length} went unnoticed");
        most = most.max(cut.records.len());
    }
    assert!(
        most > whole.records.len() / 2,
        "only {most} events were ever read"
    );
    println!(
        "    {} cuts of {} bytes",
        (bytes.len() - 64) / 61,
        bytes.len()
    );
}

fn a_killed_recorder_leaves_a_readable_trace() {
    let device = Loop::create();
    let reference = Recording::start(&device.path, &[]);
    let recording = Recording::start(&device.path, &[]);
    workload().run(&device.path);
    // Events are in the file after a second at the latest.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let trace = recording.kill();
    let whole = reference.stop().1.footer.unwrap();
    assert_sees_each_block_once(&trace, &workload(), missing_completions(&whole));
    assert_eq!(trace.defects.len(), 1, "{:?}", trace.defects);
    assert!(trace.defects[0].contains("no footer"));
}

fn without_privileges_the_error_names_them() {
    let (status, message) = machine::run_as_nobody(&["record", "--seconds", "1", "-o", "x"]);
    assert_eq!(status, Some(1), "{message}");
    assert!(
        message.contains("missing: CAP_BPF, CAP_PERFMON"),
        "{message}"
    );
    let (status, message) = machine::run_as_nobody(&["doctor"]);
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("FAIL  capabilities"), "{message}");
}

/// Why this machine cannot run the tests.
fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let options = ProbeOptions::plain(DEFAULT_RING_BYTES);
    let started = probes::kernel_facts().and_then(|facts| Probes::start(&options, &facts));
    if let Err(error) = started {
        return Some(format!("BPF: {error}"));
    }
    Loop::try_create()
        .err()
        .map(|error| format!("loop device: {error}"))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in TESTS {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = TESTS
        .iter()
        .filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())));
    let obstacle = obstacle();
    let required = env::var_os("COWBIRD_REQUIRE_KERNEL").is_some();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, test) in chosen {
        if let Some(reason) = &obstacle {
            println!("test {name} ... SKIP ({reason})");
            skipped += 1;
            continue;
        }
        match panic::catch_unwind(AssertUnwindSafe(test)) {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(panic) => {
                println!("test {name} ... FAILED: {}", text_of(&*panic));
                failed += 1;
            }
        }
    }
    println!("\ntest result: {passed} passed; {failed} failed; {skipped} SKIPPED\n");
    match failed > 0 || (required && skipped > 0) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}
