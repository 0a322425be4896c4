//! One fixed workload, whose events are the same on every kernel: how many of each kind, in which order, where,
//! and with which fingerprints. What must be in the trace is worked out here, from the workload alone.
//!
//! The workload is such that block layers have nothing to decide: one thread, one direct operation at a time,
//! so nothing can be merged; aligned and at most 128 KiB, so nothing is split; no flushes, which each kernel
//! makes a different number of requests of. What others do to the device meanwhile is not counted.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use cowbird_events::devices;
use cowbird_events::event::{IoId, Kind, Op, Record};
use cowbird_outside::say;
use xxhash_rust::xxh64::xxh64;

use crate::recording::Recording;
use crate::target::{BLOCK, Buffer, SECTOR, content, open_direct};

/// Operations; every third one reads what the one before it wrote.
const OPERATIONS: usize = 384;

/// Bytes of the operations, in turn.
const LENGTHS: [usize; 5] = [BLOCK, 2 * BLOCK, 32 * BLOCK, 3 * BLOCK, 16 * BLOCK];

/// Each write has so much of the device to itself, bytes.
const ROOM: usize = 32 * BLOCK;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Operation {
    op: Op,
    sector: usize,
    bytes: usize,
}

fn workload() -> Vec<Operation> {
    (0..OPERATIONS)
        .map(|number| {
            let read = number % 3 == 2;
            let place = if read { number - 1 } else { number };
            Operation {
                op: if read { Op::Read } else { Op::Write },
                sector: (place - place / 3) * ROOM / SECTOR,
                bytes: LENGTHS[place % LENGTHS.len()],
            }
        })
        .collect()
}

/// One event, with its place counted from the start of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Event {
    kind: Kind,
    op: Op,
    sector: usize,
    bytes: usize,
    print: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, op, .. } = self;
        write!(f, "{} {}", kind.name(), op.name())?;
        write!(f, " {} {} {:016x}", self.sector, self.bytes, self.print)
    }
}

/// What the trace must have of an operation: fingerprints follow the event at which content was looked at.
fn events_of(operation: Operation) -> Vec<Event> {
    let Operation { op, sector, bytes } = operation;
    let event = |kind| Event {
        kind,
        op,
        sector,
        bytes,
        print: 0,
    };
    let prints = (0..bytes / BLOCK).map(|block| {
        let sector = sector + block * BLOCK / SECTOR;
        Event {
            kind: Kind::Fingerprint,
            op,
            sector,
            bytes: BLOCK,
            print: xxh64(&content(sector, BLOCK), 0),
        }
    });
    let (of_write, of_read): (Vec<Event>, Vec<Event>) = match op {
        Op::Write => (prints.collect(), Vec::new()),
        _ => (Vec::new(), prints.collect()),
    };
    let mut events = vec![event(Kind::BioQueue)];
    events.extend(of_write);
    events.extend([event(Kind::RqIssue), event(Kind::RqComplete)]);
    events.extend(of_read);
    events
}

/// The events of this thread's bios and of the requests that they became.
fn ours(records: &[Record], start: usize) -> Result<Vec<Event>> {
    let me = rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned();
    let mut ios = std::collections::HashSet::<IoId>::new();
    let mut events = Vec::new();
    for record in records {
        let is_ours = match record.kind {
            Kind::BioQueue => record.tid == me,
            Kind::RqIssue | Kind::RqComplete => ios.contains(&record.parent),
            Kind::Fingerprint => ios.contains(&record.io),
            _ => false,
        };
        if !is_ours {
            continue;
        }
        if record.kind != Kind::Fingerprint {
            ios.insert(record.io);
        }
        events.push(Event {
            kind: record.kind,
            op: record.op,
            sector: usize::try_from(record.sector)? - start,
            bytes: record.amount as usize,
            print: match record.kind {
                Kind::Fingerprint => record.second,
                _ => 0,
            },
        });
    }
    Ok(events)
}

fn perform(device: &str, operations: &[Operation]) -> Result<()> {
    let file = open_direct(device)?;
    for operation in operations {
        let Operation { op, sector, bytes } = *operation;
        let at = (sector * SECTOR) as u64;
        match op {
            Op::Write => file.write_all_at(&Buffer::of(sector, bytes, 0), at)?,
            _ => file.read_exact_at(&mut Buffer::new(bytes, 0), at)?,
        }
    }
    Ok(())
}

/// One line that is the same wherever the events are.
fn summary(events: &[Event]) -> String {
    let mut counts = BTreeMap::<String, u64>::new();
    let mut text = String::new();
    for event in events {
        let name = format!("{} {}", event.op.name(), event.kind.name());
        *counts.entry(name).or_default() += 1;
        text += &format!("{event}\n");
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    format!(
        "{}; digest {:016x}",
        counts.join(", "),
        xxh64(text.as_bytes(), 0)
    )
}

/// Runs the trial.
pub fn run(tracer: &Path, device: &str) -> Result<()> {
    let start = usize::try_from(devices::find(device)?.start_sector)?;
    let operations = workload();
    let expected: Vec<Event> = operations.iter().copied().flat_map(events_of).collect();
    let recording = Recording::start(tracer, device, &["--fingerprints", "--plain-fingerprints"])?;
    perform(device, &operations)?;
    let trace = recording.stop()?;
    let found = ours(&trace.records, start)?;
    let differ = expected.iter().zip(&found).position(|(a, b)| a != b);
    if let Some(at) = differ {
        anyhow::bail!("event {at} is {}, not {}", found[at], expected[at]);
    }
    ensure!(
        expected.len() == found.len(),
        "{} events, not {}",
        found.len(),
        expected.len()
    );
    say!("{}", summary(&found));
    Ok(())
}
