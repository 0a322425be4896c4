//! One writer for every kind of write that the kernel knows, all at the same time.
//!
//! Each writer has a zone of the device, or a file of its own in a mounted filesystem, and sweeps it
//! in order: after the snapshot instant nearly every operation is the first to touch its blocks. What
//! a kernel or a device cannot do is left out, and said. Once every writer has done enough after the
//! instant, the workload says that it is finished, and goes on.

mod area;
mod elsewhere;
mod kind;
mod way;

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::open_direct;
use cowbird_guest_system::sys::{self, DirectBuffer};
use cowbird_proto::message::{Operation, WriteKindsSpec};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES};
use rustix::fs::{FallocateFlags, fallocate};

use self::area::{Area, bytes_of, identity};
use self::kind::{KINDS, Kind, split};
use self::way::Way;
use super::journal::JournalWriter;
use super::place::place_of;
use super::progress::count;
use super::racing_reader::RacingReader;
use super::shared::{Body, Parts, Shared};

/// Sectors left out between two writes of a sweep at most.
const MAX_GAP_SECTORS: u64 = 8;

/// Operations of every writer after the instant until the workload is finished.
const ENOUGH: u64 = 24;

/// Pause between two operations of a writer: there are many writers and two CPUs.
const PAUSE: Duration = Duration::from_millis(2);

/// Threads that read on the snapshot what the writers overwrite.
const RACING_READERS: u32 = 3;

/// Prepares the threads.
pub fn prepare(spec: WriteKindsSpec) -> GuestResult<Parts> {
    if spec.fstype.is_some() {
        fs::create_dir_all(&spec.target).context(format_args!("make {}", spec.target))?;
    }
    let device = open_direct(&spec.device, false)?;
    let unit = sys::logical_block_bytes(&device)
        .context(format_args!("logical block size of {}", spec.device))?
        / SECTOR_BYTES as u64;
    let kinds: Vec<Kind> = KINDS
        .into_iter()
        .filter(|kind| spec.fstype.is_none() || *kind != Kind::ZeroOut)
        .collect();
    let racing_readers: Vec<Arc<RacingReader>> = (0..RACING_READERS)
        .map(|reader| Arc::new(RacingReader::new(kinds.len() as u32 + reader, spec.seed)))
        .collect();
    let busy = Arc::new(AtomicU32::new(kinds.len() as u32));
    let mut threads: Vec<Body> = Vec::new();
    let mut start = 0;
    for (writer, kind) in (0_u32..).zip(kinds) {
        let area = Area::prepare(&spec, kind, writer, unit, start)?;
        if spec.fstype.is_none() {
            start = area.zone.end;
        }
        let racing_reader = Arc::clone(&racing_readers[(writer % RACING_READERS) as usize]);
        let (spec, busy) = (spec.clone(), Arc::clone(&busy));
        threads.push(Box::new(move |shared| {
            run(shared, spec, kind, writer, area, racing_reader, &busy)
        }));
    }
    for racing_reader in racing_readers {
        threads.push(Box::new(move |shared| racing_reader.run(shared)));
    }
    Ok(Parts {
        golden: Vec::new(),
        threads,
    })
}

/// One writer, to its end.
fn run(
    shared: &Arc<Shared>,
    spec: WriteKindsSpec,
    kind: Kind,
    number: u32,
    area: Area,
    racing_reader: Arc<RacingReader>,
    busy: &AtomicU32,
) -> GuestResult<()> {
    let done_enough = || {
        if busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.finished.store(true, Ordering::Release);
        }
    };
    let way = match Way::open(kind, &spec, &area) {
        Ok(way) => way,
        Err(error) if is_lacking(error.errno) => {
            shared.leave_out(format!("{kind:?}: {}", error.message));
            done_enough();
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let longest = kind.sectors(kind.length().1, area.unit);
    let buffer = DirectBuffer::new(longest as usize * SECTOR_BYTES);
    buffer.use_large_pages();
    let mut writer = Writer {
        kind,
        number,
        rng: Rng::for_part(spec.seed, u64::from(number)),
        cursor: area.zone.start,
        generation: 0,
        journal: shared.journal(number),
        spec,
        area,
        way,
        buffer,
        racing_reader,
    };
    let (mut after_instant, mut passed) = (0, false);
    while !shared.stopping() {
        if !passed && shared.epoch_has_passed() {
            passed = true;
            writer.cursor = writer.area.zone.start;
        }
        match writer.step(shared) {
            // Only the first can say that it is not there; afterwards it is a failure.
            Err(error) if writer.generation == 1 && is_lacking(error.errno) => {
                shared.leave_out(format!("{kind:?}: {}", error.message));
                done_enough();
                return Ok(());
            }
            done => done?,
        }
        if passed {
            after_instant += 1;
            if after_instant == ENOUGH {
                done_enough();
            }
        }
        std::thread::sleep(PAUSE);
    }
    writer.way.settle()
}

/// Whether an error says that the kernel, the filesystem or the device does not know an operation.
fn is_lacking(errno: Option<i32>) -> bool {
    matches!(
        errno,
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EPERM)
    )
}

struct Writer {
    kind: Kind,
    number: u32,
    spec: WriteKindsSpec,
    area: Area,
    way: Way,
    rng: Rng,
    cursor: u64,
    generation: u64,
    journal: JournalWriter,
    buffer: DirectBuffer,
    racing_reader: Arc<RacingReader>,
}

impl Writer {
    /// The next range of the sweep, in sectors of the file or device.
    fn next_range(&mut self) -> Range<u64> {
        let unit = self.area.unit;
        let (least, most) = self.kind.length();
        let limit = 1 << self.rng.between(least.ilog2().into(), most.ilog2().into());
        let drawn = self.rng.between(least, limit.max(least));
        let sectors = self.kind.sectors(drawn, unit);
        let gap = self.rng.below(MAX_GAP_SECTORS / unit + 1) * unit;
        if self.cursor + gap + sectors > self.area.zone.end {
            self.cursor = self.area.zone.start;
        } else {
            self.cursor += gap;
        }
        let end = (self.cursor + sectors).min(self.area.zone.end);
        let range = self.cursor..end;
        self.cursor = end;
        range
    }

    fn step(&mut self, shared: &Shared) -> GuestResult<()> {
        let range = self.next_range();
        self.generation += 1;
        let (offset, length) = bytes_of(&range);
        if shared.epoch_has_passed() && self.kind.is_prompt() {
            self.chase(offset, length);
        }
        // What is zeroed or discarded has content, every other time of this sweep's own.
        let is_write = !self.kind_clears() || self.generation.is_multiple_of(2);
        if is_write {
            self.write(&range)?;
            count(&shared.progress.bytes_written, length);
        } else {
            self.clear(offset, length)?;
        }
        Ok(())
    }

    fn kind_clears(&self) -> bool {
        matches!(
            self.kind,
            Kind::Discard | Kind::PunchHole | Kind::ZeroOut | Kind::ZeroRange
        )
    }

    fn chase(&self, offset: u64, length: u64) {
        let place = match &self.way {
            Way::Direct(file) | Way::Aio(file, _) | Way::Uring(file, _) if self.area.is_file => {
                place_of(file, offset, length)
            }
            _ if self.area.is_file => None,
            _ => Some(offset..offset + length),
        };
        if let Some(place) = place {
            self.racing_reader.aim(place);
        }
    }

    fn write(&mut self, range: &Range<u64>) -> GuestResult<()> {
        let (offset, length) = bytes_of(range);
        let content = &mut self.buffer[..length as usize];
        let first = identity(self.spec.seed, self.number, range.start, self.generation);
        sector::fill(first, content);
        let parts = split(
            &mut self.rng,
            self.kind,
            offset,
            content.len(),
            self.area.unit,
        );
        let what = Operation::Write {
            identity: first.identity,
            offset,
            length,
            generation: self.generation,
            mode: self.kind.mode(),
        };
        let (kind, way, generation) = (self.kind, &mut self.way, self.generation);
        self.journal.run(what, || {
            way.write(kind, content, offset, &parts, generation)
        })
    }

    fn clear(&mut self, offset: u64, length: u64) -> GuestResult<()> {
        let what = match self.kind {
            Kind::Discard | Kind::PunchHole => Operation::Discard { offset, length },
            _ => Operation::ZeroOut { offset, length },
        };
        let (kind, is_file) = (self.kind, self.area.is_file);
        let Way::Direct(file) = &self.way else {
            return Err(failure(format!("{kind:?} without a file")));
        };
        self.journal.run(what, || {
            match kind {
                Kind::Discard if is_file => sys::trim(file),
                Kind::Discard => sys::discard(file, offset, length),
                Kind::PunchHole => {
                    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(file, mode, offset, length)
                }
                Kind::ZeroOut => sys::zero_out(file, offset, length),
                _ => fallocate(file, FallocateFlags::ZERO_RANGE, offset, length),
            }
            .map_err(Into::into)
        })
    }
}
