//! Records a running machine into a trace file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

use crate::devices::{self, BlockDevice, Snapshot};
use crate::event::Kind;
use crate::format::{Footer, FormatError, Meta, TraceWriter};
use crate::kernel::{Decoder, WireError};
use crate::probes::{self, Counters, ProbeError, ProbeOptions, Probes};

/// Bytes of the ring buffer unless told otherwise: 90 ms of a million events a second.
pub const DEFAULT_RING_BYTES: u32 = 8 << 20;

/// Time between two looks into the ring buffer.
pub const DEFAULT_POLL: Duration = Duration::from_millis(1);

/// Events are in the file after this time at the latest.
const MAX_CHUNK_AGE: Duration = Duration::from_secs(1);

/// Events taken from the ring buffer before limits are looked at again.
const MAX_BATCH: usize = 65536;

/// No thread stays longer between two programs of one event, so older marks are left over.
const MAX_MARK_AGE: Duration = Duration::from_secs(10);

/// Programs that run while they are detached end within microseconds; this is for a machine that
/// is stopped meanwhile.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Why a recording failed.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The programs do not run.
    #[error(transparent)]
    Probes(#[from] ProbeError),
    /// The file cannot be created.
    #[error("cannot create {path}: {reason}; give another file with -o")]
    Create {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The programs send something unknown.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What to record, and how long.
#[derive(Debug, Clone)]
pub struct RecordOptions {
    /// The trace file; replaced if it is there.
    pub output: PathBuf,
    /// Only this device's block events.
    pub device: Option<BlockDevice>,
    /// Ends after this time.
    pub duration: Option<Duration>,
    /// Ends when the file has this many bytes; the last chunk and the footer come on top.
    pub size_limit: Option<u64>,
    /// Bytes of the ring buffer.
    pub ring_bytes: u32,
    /// Time between two looks into the ring buffer.
    pub poll: Duration,
}

/// What a recording came to.
#[derive(Debug, Clone)]
pub struct Summary {
    /// As it stands in the file.
    pub footer: Footer,
    /// Bytes of the file.
    pub file_bytes: u64,
}

fn now_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn trimmed(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

fn describe(options: &RecordOptions, probes: &Probes) -> Meta {
    let system = rustix::system::uname();
    Meta {
        tool: concat!("cowbird-trace ", env!("CARGO_PKG_VERSION")).to_owned(),
        kernel: system.release().to_string_lossy().into_owned(),
        machine: system.machine().to_string_lossy().into_owned(),
        boot_id: trimmed("/proc/sys/kernel/random/boot_id"),
        realtime_offset_ns: now_ns(ClockId::Realtime).saturating_sub(now_ns(ClockId::Monotonic)),
        start_ns: now_ns(ClockId::Monotonic),
        filter: options.device.as_ref().map(|device| device.name.clone()),
        ring_bytes: options.ring_bytes,
        programs: probes.programs(),
        module_events: probes.has_module(),
        devices: devices::all(),
        snapshots: devices::snapshots(),
    }
}

/// A recording under way.
struct Recorder {
    probes: Probes,
    ring: RingBuf<MapData>,
    decoder: Decoder,
    writer: TraceWriter<File>,
    flushed: Instant,
    /// Every snapshot that was there at any time.
    snapshots: BTreeMap<u32, Snapshot>,
    /// A module event came of a snapshot that may be unknown.
    look_for_snapshots: bool,
}

impl Recorder {
    /// Takes what the ring buffer holds, up to a bound; says how much that was.
    fn drain(&mut self) -> Result<usize, RecordError> {
        for taken in 0..MAX_BATCH {
            let Some(event) = self.ring.next() else {
                return Ok(taken);
            };
            let record = self.decoder.decode(&event)?;
            // A new snapshot says so with a change of state.
            self.look_for_snapshots |= record.kind == Kind::State
                || record
                    .minor()
                    .is_some_and(|minor| !self.snapshots.contains_key(&minor));
            self.writer.push(record)?;
        }
        Ok(MAX_BATCH)
    }

    /// Asks the module which devices its snapshots are of, while they are there.
    fn learn_snapshots(&mut self) {
        if std::mem::take(&mut self.look_for_snapshots) {
            self.snapshots
                .extend(devices::snapshots().into_iter().map(|new| (new.minor, new)));
        }
    }

    fn tidy_if_due(&mut self) -> Result<(), RecordError> {
        if self.flushed.elapsed() >= MAX_CHUNK_AGE {
            self.writer.flush()?;
            let age = MAX_MARK_AGE.as_nanos() as u64;
            let now = now_ns(ClockId::Monotonic);
            self.probes.sweep_marks(now.saturating_sub(age))?;
            self.flushed = Instant::now();
        }
        Ok(())
    }

    /// Takes the events that were under way when the programs were detached.
    fn settle(&mut self) -> Result<Vec<Counters>, RecordError> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            while self.drain()? > 0 {}
            let counters = self.probes.counters()?;
            let made: u64 = counters
                .iter()
                .map(|cpu| cpu.produced.saturating_sub(cpu.dropped))
                .sum();
            if made == self.decoder.decoded() || Instant::now() >= deadline {
                return Ok(counters);
            }
            thread::sleep(DEFAULT_POLL);
        }
    }

    fn finish(mut self, stopped_by: &str, start: &Meta) -> Result<Summary, RecordError> {
        self.probes.detach()?;
        let counters = self.settle()?;
        let misses = self.probes.recursion_misses();
        let devices = devices::all();
        let total = |field: fn(&Counters) -> u64| counters.iter().map(field).sum::<u64>();
        let sum = Counters {
            produced: total(|cpu| cpu.produced),
            dropped: total(|cpu| cpu.dropped),
            read_faults: total(|cpu| cpu.read_faults),
            rescued: total(|cpu| cpu.rescued),
            mark_failures: total(|cpu| cpu.mark_failures),
            skipped_first: total(|cpu| cpu.skipped_first),
            skipped_second: total(|cpu| cpu.skipped_second),
        };
        let footer = Footer {
            stopped_by: stopped_by.to_owned(),
            end_ns: now_ns(ClockId::Monotonic),
            produced: sum.produced,
            received: self.decoder.decoded(),
            dropped: sum.dropped,
            dropped_per_cpu: counters.iter().map(|cpu| cpu.dropped).collect(),
            read_faults: sum.read_faults,
            recursion_misses: misses,
            rescued: sum.rescued,
            lost_to_recursion: sum.lost_to_recursion(misses.unwrap_or(0)),
            duplicates: sum.mark_failures,
            devices: (devices != start.devices).then_some(devices),
            snapshots: self.snapshots.into_values().collect(),
        };
        let file = self.writer.finish(&footer)?;
        let io = |reason| FormatError::Io {
            operation: "store",
            reason,
        };
        file.sync_all().map_err(io)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        Ok(Summary { footer, file_bytes })
    }
}

/// Records until a limit is reached or `stop` becomes true. Calls `ready` once every event from
/// then on will be in the trace.
///
/// # Errors
/// When the programs do not run or the file cannot be written. What was written until then is a
/// readable trace without a footer.
pub fn record(
    options: &RecordOptions,
    stop: &AtomicBool,
    ready: impl FnOnce(&Meta),
) -> Result<Summary, RecordError> {
    let facts = probes::kernel_facts()?;
    let probe_options = ProbeOptions {
        ring_bytes: options.ring_bytes,
        device: options.device.clone(),
    };
    let mut probes = Probes::start(&probe_options, &facts)?;
    // Only now: a recording that cannot begin must not cost the trace that was there.
    let file = File::create(&options.output).map_err(|reason| RecordError::Create {
        path: options.output.clone(),
        reason,
    })?;
    let meta = describe(options, &probes);
    let mut recorder = Recorder {
        ring: probes.ring()?,
        probes,
        decoder: Decoder::new(facts),
        writer: TraceWriter::new(file, &meta)?,
        flushed: Instant::now(),
        snapshots: BTreeMap::new(),
        look_for_snapshots: true,
    };
    ready(&meta);
    let started = Instant::now();
    let stopped_by = loop {
        let taken = recorder.drain()?;
        recorder.learn_snapshots();
        recorder.tidy_if_due()?;
        if stop.load(Ordering::Relaxed) {
            break "signal";
        }
        if options
            .duration
            .is_some_and(|limit| started.elapsed() >= limit)
        {
            break "seconds";
        }
        if options
            .size_limit
            .is_some_and(|limit| recorder.writer.written() >= limit)
        {
            break "size-limit";
        }
        if taken < MAX_BATCH {
            thread::sleep(options.poll);
        }
    };
    recorder.finish(stopped_by, &meta)
}
