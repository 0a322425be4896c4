//! Writers on the raw origin.
//!
//! Direct writers work in pairs: one plans for both, they meet, and both submit at the same moment.
//! Most plans let the two hit one 4096-byte block in different 512-byte sectors, preferably a block
//! that nobody touched before: the module sees two writes to one unpreserved block at once. The end
//! of the device belongs to a buffered writer alone, because writeback of a page would overlap
//! direct writes to its other sectors.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::open_direct;
use cowbird_guest_system::sys::{self, DirectBuffer};
use cowbird_proto::message::{Operation, RawWritersSpec, WriteMode};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};

use super::journal::JournalWriter;
use super::progress::count;
use super::racing_reader::RacingReader;
use super::range_locks::RangeLocks;
use super::shared::{Body, Parts, Shared};

/// Identity in the sectors that this workload writes.
const IDENTITY: u64 = 0x4A11;

/// Sectors of one block.
const BLOCK_SECTORS: u64 = 8;

/// Longest write, sectors: 64 KiB.
const MAX_WRITE_SECTORS: u64 = 128;

/// Longest discard or zeroing, sectors: 512 KiB.
const MAX_DISCARD_SECTORS: u64 = 1024;

/// The buffered writer owns the last one of so many parts.
const BUFFERED_SHARE: u64 = 8;

/// Every so many writes, the buffered writer writes the end of the device.
const END_EVERY: u64 = 6;

/// The buffered writer syncs after so many writes.
const SYNC_EVERY: u64 = 16;

/// Times that a plan is changed because its sectors are in use; then the pair skips a turn.
const PLAN_TRIES: u32 = 16;

/// How often one that rests looks whether that is the end.
const REST: Duration = Duration::from_millis(10);

/// Smallest device, sectors: 1 MiB.
const MIN_SECTORS: u64 = 2048;

/// What one of a pair does in one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Write(Range<u64>),
    Discard(Range<u64>),
    ZeroOut(Range<u64>),
    Nothing,
}

impl Step {
    /// The same on whole logical blocks of so many sectors. Two steps that meet still do.
    fn on_whole(self, unit: u64) -> Self {
        let whole = |range: Range<u64>| range.start / unit * unit..range.end / unit * unit;
        match self {
            _ if whole(self.range()).is_empty() => Self::Nothing,
            Self::Write(range) => Self::Write(whole(range)),
            Self::Discard(range) => Self::Discard(whole(range)),
            Self::ZeroOut(range) => Self::ZeroOut(whole(range)),
            Self::Nothing => Self::Nothing,
        }
    }

    fn range(&self) -> Range<u64> {
        match self {
            Self::Write(range) | Self::Discard(range) | Self::ZeroOut(range) => range.clone(),
            Self::Nothing => 0..0,
        }
    }
}

/// Prepares the threads.
pub fn prepare(spec: RawWritersSpec) -> GuestResult<Parts> {
    let device = open_direct(&spec.device, true)?;
    let bytes = sys::device_bytes(&device).context(format_args!("size of {}", spec.device))?;
    let sectors = bytes / SECTOR_BYTES as u64;
    if sectors < MIN_SECTORS {
        return Err(failure(format!(
            "{} is smaller than {MIN_SECTORS} sectors",
            spec.device
        )));
    }
    // Pages of the page cache are 4096 bytes: the border lies between two.
    let border = (sectors - sectors / BUFFERED_SHARE) / BLOCK_SECTORS * BLOCK_SECTORS;
    let unit = sys::logical_block_bytes(&device)
        .context(format_args!("logical block size of {}", spec.device))?
        / SECTOR_BYTES as u64;
    let field = Arc::new(Field {
        unit,
        spec,
        device,
        sectors: border,
        locks: RangeLocks::default(),
        touched: Mutex::new(vec![false; (border / BLOCK_SECTORS) as usize]),
    });
    let mut threads: Vec<Body> = Vec::new();
    for pair in 0..field.spec.pairs {
        let meeting = Arc::new(Meeting {
            barrier: Barrier::new(2),
            turn: Mutex::default(),
        });
        for second in [false, true] {
            let thread = pair * 2 + u32::from(second);
            let reader = field.spec.pairs * 2 + 1 + thread;
            let racing_reader = Arc::new(RacingReader::new(reader, field.spec.seed));
            let writer = Writer {
                buffer: DirectBuffer::new(MAX_WRITE_SECTORS as usize * SECTOR_BYTES),
                thread,
                generation: 0,
                racing_reader: Arc::clone(&racing_reader),
            };
            threads.push(Box::new(move |shared| racing_reader.run(shared)));
            let (field, meeting) = (Arc::clone(&field), Arc::clone(&meeting));
            threads.push(Box::new(move |shared| {
                run_pair(shared, &field, &meeting, pair, writer)
            }));
        }
    }
    let owned = border..sectors;
    threads.push(Box::new(move |shared| {
        run_buffered(shared, &field.spec, &owned)
    }));
    Ok(Parts {
        golden: Vec::new(),
        threads,
    })
}

/// What all pairs share.
struct Field {
    spec: RawWritersSpec,
    device: File,
    /// The pairs own the sectors below.
    sectors: u64,
    /// Sectors of a logical block.
    unit: u64,
    locks: RangeLocks,
    /// By block.
    touched: Mutex<Vec<bool>>,
}

/// Where two writers meet.
struct Meeting {
    barrier: Barrier,
    turn: Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    steps: Option<[Step; 2]>,
    /// One of the two cannot go on; both leave at the next meeting.
    broken: bool,
}

fn run_pair(
    shared: &Arc<Shared>,
    field: &Field,
    meeting: &Meeting,
    pair: u32,
    mut writer: Writer,
) -> GuestResult<()> {
    let second = writer.thread % 2 == 1;
    let mut journal = shared.journal(writer.thread);
    let mut planner = Planner {
        rng: Rng::for_part(field.spec.seed, u64::from(pair)),
        cursor: field.sectors / u64::from(field.spec.pairs) * u64::from(pair),
        turns: 0,
    };
    loop {
        let mut held = None;
        if !second {
            rest(shared, &field.spec);
            let steps = if shared.stopping() {
                None
            } else {
                planner.plan(field, &mut held)
            };
            meeting.lock().steps = steps;
        }
        meeting.barrier.wait();
        let step = meeting
            .lock()
            .steps
            .as_ref()
            .map(|steps| steps[usize::from(second)].clone());
        let Some(step) = step else {
            return Ok(());
        };
        let done = writer.execute(shared, field, &mut journal, &step);
        if done.is_err() {
            meeting.lock().broken = true;
        }
        meeting.barrier.wait();
        drop(held);
        // Looked at only here, where neither can be about to change it: both leave or none.
        if meeting.lock().broken {
            return done;
        }
    }
}

/// Waits for the end, once all that was wanted is written.
fn rest(shared: &Shared, spec: &RawWritersSpec) {
    let written = || shared.progress.bytes_written.load(Ordering::Relaxed);
    while spec.rest_at_bytes > 0 && written() >= spec.rest_at_bytes && !shared.stopping() {
        thread::sleep(REST);
    }
}

impl Meeting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Planner {
    rng: Rng,
    cursor: u64,
    turns: u64,
}

impl Planner {
    /// What the two do next, with the sectors held that they do it on.
    fn plan<'a>(
        &mut self,
        field: &'a Field,
        held: &mut Option<super::range_locks::Held<'a>>,
    ) -> Option<[Step; 2]> {
        self.turns += 1;
        for _ in 0..PLAN_TRIES {
            let steps = self.propose(field).map(|step| step.on_whole(field.unit));
            *held = field.locks.try_hold(&[steps[0].range(), steps[1].range()]);
            if held.is_some() {
                field.touch(&steps);
                return Some(steps);
            }
        }
        Some([Step::Nothing, Step::Nothing])
    }

    fn propose(&mut self, field: &Field) -> [Step; 2] {
        let every = field.spec.discard_every;
        if every > 0 && self.turns.is_multiple_of(every) {
            return self.propose_discard(field);
        }
        match self.rng.below(100) {
            0..55 => self.propose_shared_block(field),
            55..80 => {
                // Two places far from each other, so that they cannot overlap.
                let half = field.sectors / 2;
                let near = self.range_in(0..half);
                let far = self.range_in(half..field.sectors);
                [Step::Write(near), Step::Write(far)]
            }
            _ => self.propose_sequential(field),
        }
    }

    /// One writer ends inside a block and the other starts there.
    fn propose_shared_block(&mut self, field: &Field) -> [Step; 2] {
        let blocks = field.sectors / BLOCK_SECTORS;
        let block = field
            .untouched_from(self.rng.below(blocks))
            .unwrap_or(self.rng.below(blocks));
        let split = block * BLOCK_SECTORS + self.rng.between(1, BLOCK_SECTORS - 1);
        let before = self.length().min(split);
        let behind = self.length().min(field.sectors - split);
        [
            Step::Write(split - before..split),
            Step::Write(split..split + behind),
        ]
    }

    /// Both continue behind the last sequential write of the pair.
    fn propose_sequential(&mut self, field: &Field) -> [Step; 2] {
        let (first, second) = (self.length(), self.length());
        if self.cursor + first + second > field.sectors {
            self.cursor = 0;
        }
        let (start, middle) = (self.cursor, self.cursor + first);
        self.cursor = middle + second;
        [Step::Write(start..middle), Step::Write(middle..self.cursor)]
    }

    fn propose_discard(&mut self, field: &Field) -> [Step; 2] {
        let half = field.sectors / 2;
        let length = self.rng.between(1, MAX_DISCARD_SECTORS.min(half));
        let mut start = self.rng.below(half - length + 1);
        let mut end = start + length;
        // Half of them whole blocks, as filesystems do it.
        if self.rng.percent(50) {
            start = start / BLOCK_SECTORS * BLOCK_SECTORS;
            end = (end / BLOCK_SECTORS * BLOCK_SECTORS).max(start + BLOCK_SECTORS);
        }
        let other = Step::Write(self.range_in(half..field.sectors));
        if self.rng.percent(50) {
            [Step::Discard(start..end), other]
        } else {
            [other, Step::ZeroOut(start..end)]
        }
    }

    fn range_in(&mut self, area: Range<u64>) -> Range<u64> {
        let length = self.length().min(area.end - area.start);
        let start = area.start + self.rng.below(area.end - area.start - length + 1);
        start..start + length
    }

    /// From one sector to 64 KiB; small ones as often as large ones.
    fn length(&mut self) -> u64 {
        let limit = 1 << self.rng.between(0, MAX_WRITE_SECTORS.ilog2().into());
        self.rng.between(1, limit)
    }
}

impl Field {
    fn untouched_from(&self, block: u64) -> Option<u64> {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |index: &usize| !touched[*index];
        let start = block as usize;
        (start..touched.len())
            .chain(0..start)
            .find(free)
            .map(|index| index as u64)
    }

    fn touch(&self, steps: &[Step; 2]) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        for range in steps
            .iter()
            .map(Step::range)
            .filter(|range| !range.is_empty())
        {
            let blocks = range.start / BLOCK_SECTORS..range.end.div_ceil(BLOCK_SECTORS);
            touched[blocks.start as usize..blocks.end as usize].fill(true);
        }
    }
}

struct Writer {
    buffer: DirectBuffer,
    /// Number among all writers; that of the second of a pair is odd.
    thread: u32,
    generation: u64,
    racing_reader: Arc<RacingReader>,
}

impl Writer {
    fn execute(
        &mut self,
        shared: &Shared,
        field: &Field,
        journal: &mut JournalWriter,
        step: &Step,
    ) -> GuestResult<()> {
        let range = step.range();
        let offset = range.start * SECTOR_BYTES as u64;
        let length = (range.end - range.start) * SECTOR_BYTES as u64;
        let device = &field.device;
        let racing_reader = Arc::clone(&self.racing_reader);
        let chase = || {
            if shared.epoch_has_passed() {
                racing_reader.aim(offset..offset + length);
            }
        };
        match step {
            Step::Nothing => Ok(()),
            Step::Write(_) => {
                self.generation += 1;
                let bytes = &mut self.buffer[..length as usize];
                let first = SectorIdentity {
                    identity: IDENTITY,
                    sector: range.start,
                    generation: self.generation,
                    seed: field.spec.seed,
                    writer: self.thread,
                };
                sector::fill(first, bytes);
                let what = write_operation(offset, length, self.generation, WriteMode::Direct);
                chase();
                journal.run(what, || device.write_all_at(bytes, offset))?;
                count(&shared.progress.bytes_written, length);
                Ok(())
            }
            Step::Discard(_) => {
                chase();
                journal.run(Operation::Discard { offset, length }, || {
                    sys::discard(device, offset, length).map_err(Into::into)
                })
            }
            Step::ZeroOut(_) => {
                chase();
                journal.run(Operation::ZeroOut { offset, length }, || {
                    sys::zero_out(device, offset, length).map_err(Into::into)
                })
            }
        }
    }
}

fn write_operation(offset: u64, length: u64, generation: u64, mode: WriteMode) -> Operation {
    Operation::Write {
        identity: IDENTITY,
        offset,
        length,
        generation,
        mode,
    }
}

/// Writes through the page cache to the sectors that it owns alone.
fn run_buffered(
    shared: &Arc<Shared>,
    spec: &RawWritersSpec,
    owned: &Range<u64>,
) -> GuestResult<()> {
    let thread = spec.pairs * 2;
    let mut journal = shared.journal(thread);
    let mut rng = Rng::for_part(spec.seed, u64::from(thread));
    let device = OpenOptions::new()
        .write(true)
        .open(&spec.device)
        .context(format_args!("open {}", spec.device))?;
    let mut buffer = vec![0; MAX_WRITE_SECTORS as usize * SECTOR_BYTES];
    let mut generation = 0_u64;
    loop {
        rest(shared, spec);
        if shared.stopping() {
            break;
        }
        generation += 1;
        let sectors = rng
            .between(1, MAX_WRITE_SECTORS)
            .min(owned.end - owned.start);
        let last_start = owned.end - sectors;
        // The last block may be a short one: it is worth more than its share.
        let start = if generation.is_multiple_of(END_EVERY) {
            last_start
        } else {
            owned.start + rng.below(last_start - owned.start + 1)
        };
        let bytes = &mut buffer[..sectors as usize * SECTOR_BYTES];
        let first = SectorIdentity {
            identity: IDENTITY,
            sector: start,
            generation,
            seed: spec.seed,
            writer: thread,
        };
        sector::fill(first, bytes);
        let offset = start * SECTOR_BYTES as u64;
        let length = bytes.len() as u64;
        let what = write_operation(offset, length, generation, WriteMode::Buffered);
        journal.run(what, || device.write_all_at(bytes, offset))?;
        count(&shared.progress.bytes_written, length);
        if generation.is_multiple_of(SYNC_EVERY) {
            journal.run(Operation::Sync { identity: IDENTITY }, || device.sync_all())?;
        }
    }
    journal.run(Operation::Sync { identity: IDENTITY }, || device.sync_all())
}
