//! Records a running machine into a trace file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use cowbird_events::decoder::{Decoder, WireError};
use cowbird_events::devices::{self, BlockDevice, Snapshot};
use cowbird_events::event::{Kind, Record};
use cowbird_events::format::{Footer, FormatError, Meta, TraceWriter};
use cowbird_events::prints::{PrintKey, zero_prints};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

use crate::output::Draft;
use crate::privileges;
use crate::probes::{self, Counters, ProbeError, ProbeOptions, Probes};

/// Bytes of the ring buffer unless told otherwise: 90 ms of a million events a second.
pub const DEFAULT_RING_BYTES: u32 = 8 << 20;

/// Events are taken from the ring buffer after this time at the latest. The kernel wakes the
/// recorder earlier when there are many; a shorter time costs the machine more than the events do.
pub const DEFAULT_POLL: Duration = Duration::from_millis(100);

/// Pause while the last events come in.
const SETTLE_PAUSE: Duration = Duration::from_millis(1);

/// Events are in the file after this time at the latest.
const MAX_CHUNK_AGE: Duration = Duration::from_secs(1);

/// Events taken from the ring buffer before limits are looked at again.
const MAX_BATCH: usize = 65536;

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
    /// There is no key for fingerprints.
    #[error("cannot draw a key for fingerprints: {0}; record without --fingerprints")]
    Key(io::Error),
    /// Privileges stay.
    #[error("cannot give up privileges that are not needed any more: {0}")]
    Privileges(io::Error),
    /// The file cannot be written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The ring buffer cannot be waited for.
    #[error("cannot wait for events: {0}")]
    Wait(io::Error),
    /// The programs send something unknown.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What to record, and how long.
#[derive(Debug, Clone)]
pub struct RecordOptions {
    /// The trace file, for its owner alone; replaced if it is there.
    pub output: PathBuf,
    /// Only this device's block events.
    pub device: Option<BlockDevice>,
    /// Ends after this time.
    pub duration: Option<Duration>,
    /// Ends when the file has this many bytes; the last chunk and the footer come on top.
    pub size_limit: Option<u64>,
    /// Bytes of the ring buffer.
    pub ring_bytes: u32,
    /// Longest time between two looks into the ring buffer.
    pub poll: Duration,
    /// Whether the content of reads and writes is fingerprinted.
    pub fingerprints: bool,
    /// Whether fingerprints are plain, so that known contents can be found by them.
    pub plain_fingerprints: bool,
    /// At most so many events in a second.
    pub rate_limit: Option<u64>,
}

/// What a recording came to.
#[derive(Debug, Clone)]
pub struct Summary {
    /// As it stands in the file.
    pub footer: Footer,
    /// Bytes that were written.
    pub file_bytes: u64,
}

fn now_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn trimmed(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

fn describe(
    options: &RecordOptions,
    probes: &Probes,
    grid_sectors: Option<u32>,
    key: Option<&PrintKey>,
) -> Meta {
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
        fingerprint_grid: grid_sectors,
        fingerprints_sealed: key.is_some(),
        zero_prints: key.map_or_else(Vec::new, |key| zero_prints(Some(key))),
        devices: devices::all(),
        snapshots: devices::snapshots(),
    }
}

/// The events of the running kernel, as they come.
pub struct Live {
    probes: Probes,
    ring: RingBuf<MapData>,
    decoder: Decoder,
}

impl Live {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// When that fails.
    pub fn start(options: &ProbeOptions) -> Result<Self, RecordError> {
        let facts = probes::kernel_facts()?;
        let mut probes = Probes::start(options, &facts)?;
        Ok(Self {
            ring: probes.ring()?,
            probes,
            decoder: Decoder::new(facts),
        })
    }

    /// Takes what the ring buffer holds, up to a bound; says how many events that was.
    ///
    /// # Errors
    /// When an event is of no known form, and what `take` refuses.
    pub fn drain(
        &mut self,
        mut take: impl FnMut(Record) -> Result<(), RecordError>,
    ) -> Result<usize, RecordError> {
        for taken in 0..MAX_BATCH {
            let Some(event) = self.ring.next() else {
                return Ok(taken);
            };
            self.decoder.decode(&event, &mut take)?;
        }
        Ok(MAX_BATCH)
    }

    /// Sleeps until the kernel says that there are many events, or the time is over. A signal ends
    /// it early.
    ///
    /// # Errors
    /// When the ring buffer cannot be waited for.
    pub fn wait(&self, limit: Duration) -> Result<(), RecordError> {
        let timeout = Timespec::try_from(limit).ok();
        let mut ring = [PollFd::new(&self.ring, PollFlags::IN)];
        match poll(&mut ring, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(reason) => Err(RecordError::Wait(reason.into())),
        }
    }

    /// What the programs count, for each CPU.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<Counters>, RecordError> {
        Ok(self.probes.counters()?)
    }

    /// Runs of first programs that the kernel skipped so far.
    pub fn skipped(&mut self) -> u64 {
        self.probes.recursion_misses().unwrap_or(0)
    }
}

/// A recording under way.
struct Recorder {
    live: Live,
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
        let Self {
            live,
            writer,
            snapshots,
            look_for_snapshots,
            ..
        } = self;
        live.drain(|record| {
            // A new snapshot says so with a change of state.
            *look_for_snapshots |= record.kind == Kind::State
                || record
                    .minor()
                    .is_some_and(|minor| !snapshots.contains_key(&minor));
            Ok(writer.push(record)?)
        })
    }

    /// Asks the module which devices its snapshots are of, while they are there.
    fn learn_snapshots(&mut self) {
        if !std::mem::take(&mut self.look_for_snapshots) {
            return;
        }
        for new in devices::snapshots() {
            // Its device comes last when it is set up.
            self.look_for_snapshots |= new.device.is_none();
            let known = self.snapshots.entry(new.minor).or_default();
            let device = new.device.clone().or(known.device.take());
            *known = Snapshot { device, ..new };
        }
    }

    fn tidy_if_due(&mut self) -> Result<(), RecordError> {
        if self.flushed.elapsed() >= MAX_CHUNK_AGE {
            self.writer.flush()?;
            self.flushed = Instant::now();
        }
        Ok(())
    }

    /// Takes the events that were under way when the programs were detached.
    fn settle(&mut self) -> Result<Vec<Counters>, RecordError> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            while self.drain()? > 0 {}
            let counters = self.live.probes.counters()?;
            let made: u64 = counters
                .iter()
                .map(|cpu| cpu.produced.saturating_sub(cpu.dropped + cpu.limited))
                .sum();
            if made == self.live.decoder.decoded() || Instant::now() >= deadline {
                return Ok(counters);
            }
            thread::sleep(SETTLE_PAUSE);
        }
    }

    fn finish(mut self, stopped_by: &str, start: &Meta) -> Result<Summary, RecordError> {
        self.live.probes.detach()?;
        let counters = self.settle()?;
        let misses = self.live.probes.recursion_misses();
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
            limited: total(|cpu| cpu.limited),
            ..Counters::default()
        };
        let footer = Footer {
            stopped_by: stopped_by.to_owned(),
            end_ns: now_ns(ClockId::Monotonic),
            produced: sum.produced,
            received: self.live.decoder.decoded(),
            records: Some(self.live.decoder.records()),
            limited: sum.limited,
            dropped: sum.dropped,
            dropped_per_cpu: counters.iter().map(|cpu| cpu.dropped).collect(),
            read_faults: sum.read_faults,
            recursion_misses: misses,
            rescued: sum.rescued,
            lost_to_recursion: sum.lost_to_recursion(misses.unwrap_or(0)),
            duplicates: sum.mark_failures,
            unpaired: self.live.decoder.pairing().missing(),
            open_requests: self.live.decoder.pairing().open(),
            devices: (devices != start.devices).then_some(devices),
            snapshots: self.snapshots.into_values().collect(),
        };
        let (file, file_bytes) = self.writer.finish(&footer)?;
        store(&file).map_err(|reason| FormatError::Io {
            operation: "store",
            reason,
        })?;
        Ok(Summary { footer, file_bytes })
    }
}

/// Brings a trace to stable storage. A pipe or a terminal is none, and cannot be told to be one.
fn store(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error)
            if error.kind() == io::ErrorKind::InvalidInput && !file.metadata()?.is_file() =>
        {
            Ok(())
        }
        done => done,
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
    let sealed = options.fingerprints && !options.plain_fingerprints;
    let print_key = sealed.then(PrintKey::random).transpose();
    let probe_options = ProbeOptions {
        print_key: print_key.map_err(RecordError::Key)?,
        ring_bytes: options.ring_bytes,
        device: options.device.clone(),
        fingerprints: options.fingerprints,
        rate_limit: options.rate_limit,
    };
    let grid_sectors = options.fingerprints.then(|| probe_options.grid_sectors());
    let creating = |reason| RecordError::Create {
        path: options.output.clone(),
        reason,
    };
    // First, as programs take seconds to load. It takes the place of the trace that was there only when they run: a recording that
    // cannot begin must not cost that.
    let draft = Draft::create(&options.output).map_err(creating)?;
    let file = draft.file().map_err(creating)?;
    let mut live = Live::start(&probe_options)?;
    let key = probe_options.print_key.as_ref();
    let meta = describe(options, &live.probes, grid_sectors, key);
    let writer = TraceWriter::new(file, &meta)?;
    draft.put_in_place().map_err(creating)?;
    privileges::give_up().map_err(RecordError::Privileges)?;
    live.decoder.begin_at(meta.start_ns);
    let mut recorder = Recorder {
        live,
        writer,
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
            let left = options.duration.map_or(options.poll, |limit| {
                limit.saturating_sub(started.elapsed())
            });
            recorder.live.wait(left.min(options.poll))?;
        }
    };
    recorder.finish(stopped_by, &meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a trace may go down a pipe. Method: the end of a recording, on what can be synced and on what cannot.
    #[test]
    fn only_what_is_storage_is_synced() {
        let (_reader, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        assert!(writer.sync_all().is_err(), "why this is needed");
        store(&writer).unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        store(&null).unwrap();
        store(&tempfile::tempfile().unwrap()).unwrap();
    }
}
