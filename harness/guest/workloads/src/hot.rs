//! Snapshot reads that race with the first write to the same blocks.
//!
//! The fault to be caught: a reader finds a block unpreserved and asks the origin for it; before
//! that read is done, the block is preserved and the waiting write released; the reader gets data
//! from the future and nobody looks again. It can happen once per block, so the workload spends
//! every block on one attempt: a writer and a reader meet before each run of untouched blocks and
//! go at the same moment, give or take a random delay that sweeps the reader's check and its I/O
//! over the time that the copy-on-write takes. Followers read around the writers' cursors, in
//! larger pieces, whose reads take longest; not ahead of them, so that the first read of a block,
//! the one that goes into the image, is a hot one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::{open_direct, size_of};
use cowbird_guest_system::race::{MAX_DELAY_US, wait_for};
use cowbird_guest_system::sys::DirectBuffer;
use cowbird_proto::message::{HotSpec, Operation, WriteMode};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};

use super::journal::JournalWriter;
use super::progress::count;
use super::shared::{Body, Parts, Shared};
use super::snapshot_view::{BLOCK_BYTES, SnapshotView};

/// Identity in the sectors that this workload writes.
const IDENTITY: u64 = 0x407;

/// Longest run of a pair, blocks: 64 KiB.
const MAX_RUN_BLOCKS: u64 = 16;

/// How far behind a cursor a follower may start to read, blocks: its reads have up to 512 KiB.
const FOLLOW_REACH_BLOCKS: u64 = 128 - MAX_RUN_BLOCKS;

/// Longest read of a follower, blocks; the last of them are those of the run under attack.
const FOLLOW_BLOCKS: u64 = FOLLOW_REACH_BLOCKS + MAX_RUN_BLOCKS;

/// Threads that follow the writers.
const FOLLOWERS: u32 = 2;

/// Bytes of one read when everything is read that is left.
const FINAL_READ_BYTES: usize = 1 << 20;

/// Prepares the threads.
pub fn prepare(spec: HotSpec) -> GuestResult<Parts> {
    let bytes = size_of(&spec.origin)?;
    if size_of(&spec.snapshot)? != bytes {
        return Err(failure(format!(
            "{} is not as large as {}",
            spec.snapshot, spec.origin
        )));
    }
    let blocks = bytes / BLOCK_BYTES as u64 * spec.sweep_percent.min(100) / 100;
    let zone_blocks = blocks / u64::from(spec.pairs.max(1));
    let arena = Arc::new(Arena {
        origin: open_direct(&spec.origin, true)?,
        snapshot: open_direct(&spec.snapshot, false)?,
        view: SnapshotView::new(bytes),
        zone_blocks,
        cursors: (0..spec.pairs)
            .map(|pair| AtomicU64::new(zone_blocks * u64::from(pair)))
            .collect(),
        sweeping: AtomicU32::new(spec.pairs),
        deadline: Instant::now() + Duration::from_millis(spec.sweep_limit_ms),
        spec,
    });
    let mut threads: Vec<Body> = Vec::new();
    for pair in 0..arena.spec.pairs {
        let meeting = Arc::new(Meeting {
            barrier: Barrier::new(2),
            run: Default::default(),
        });
        let (writer_arena, writer_meeting) = (Arc::clone(&arena), Arc::clone(&meeting));
        threads.push(Box::new(move |shared| {
            write(shared, &writer_arena, &writer_meeting, pair)
        }));
        let arena = Arc::clone(&arena);
        threads.push(Box::new(move |shared| read(shared, &arena, &meeting, pair)));
    }
    for follower in 0..FOLLOWERS {
        let arena = Arc::clone(&arena);
        threads.push(Box::new(move |shared| follow(shared, &arena, follower)));
    }
    threads.push(Box::new(move |shared| finish(shared, &arena)));
    Ok(Parts {
        golden: Vec::new(),
        threads,
    })
}

/// What all threads share.
struct Arena {
    spec: HotSpec,
    origin: File,
    snapshot: File,
    view: SnapshotView,
    /// Each pair sweeps its own zone of the origin.
    zone_blocks: u64,
    /// Next block of every pair.
    cursors: Vec<AtomicU64>,
    /// Pairs that still sweep.
    sweeping: AtomicU32,
    deadline: Instant,
}

/// Where a writer and a reader meet; the writer says what comes next.
struct Meeting {
    barrier: Barrier,
    run: std::sync::Mutex<Option<Run>>,
}

/// Untouched blocks for one attempt.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    blocks: u64,
    reader_delay: Duration,
}

impl Run {
    fn offset(&self) -> u64 {
        self.first * BLOCK_BYTES as u64
    }

    fn bytes(&self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }
}

impl Meeting {
    fn set(&self, run: Option<Run>) {
        *self.run.lock().unwrap_or_else(|held| held.into_inner()) = run;
    }

    fn get(&self) -> Option<Run> {
        *self.run.lock().unwrap_or_else(|held| held.into_inner())
    }
}

fn write(shared: &Arc<Shared>, arena: &Arena, meeting: &Meeting, pair: u32) -> GuestResult<()> {
    let mut journal = shared.journal(pair);
    let mut rng = Rng::for_part(arena.spec.seed, u64::from(pair));
    let mut buffer = DirectBuffer::new(MAX_RUN_BLOCKS as usize * BLOCK_BYTES);
    let cursor = &arena.cursors[pair as usize];
    let end = arena.zone_blocks * u64::from(pair + 1);
    let mut generation = 0;
    let mut result = Ok(());
    while result.is_ok() {
        let first = cursor.load(Ordering::Relaxed);
        if first >= end || shared.stopping() || Instant::now() > arena.deadline {
            break;
        }
        let blocks = rng.between(1, MAX_RUN_BLOCKS).min(end - first);
        let mut delay = || Duration::from_micros(rng.below(MAX_DELAY_US));
        // One of the two waits: the reader twice as often, because its check must come late
        // enough to find the writer under way.
        let (reader_delay, own_delay) = match delay().as_micros() % 3 {
            0 => (Duration::ZERO, delay()),
            _ => (delay(), Duration::ZERO),
        };
        let run = Run {
            first,
            blocks,
            reader_delay,
        };
        generation += 1;
        let bytes = &mut buffer[..run.bytes()];
        let sector = SectorIdentity {
            identity: IDENTITY,
            sector: run.offset() / SECTOR_BYTES as u64,
            generation,
            seed: arena.spec.seed,
            writer: pair,
        };
        sector::fill(sector, bytes);
        meeting.set(Some(run));
        meeting.barrier.wait();
        wait_for(own_delay);
        result = attack(&mut journal, arena, run, generation, bytes);
        count(&shared.progress.bytes_written, run.bytes() as u64);
        cursor.store(first + blocks, Ordering::Relaxed);
        meeting.barrier.wait();
    }
    meeting.set(None);
    meeting.barrier.wait();
    arena.sweeping.fetch_sub(1, Ordering::AcqRel);
    result
}

fn attack(
    journal: &mut JournalWriter,
    arena: &Arena,
    run: Run,
    generation: u64,
    bytes: &[u8],
) -> GuestResult<()> {
    let what = Operation::Write {
        identity: IDENTITY,
        offset: run.offset(),
        length: bytes.len() as u64,
        generation,
        mode: WriteMode::Direct,
    };
    journal.run(what, || arena.origin.write_all_at(bytes, run.offset()))
}

/// Reads what the writer of the pair writes, at the same moment and once more behind it.
fn read(shared: &Arc<Shared>, arena: &Arena, meeting: &Meeting, pair: u32) -> GuestResult<()> {
    let reader = arena.spec.pairs + pair;
    let mut buffer = DirectBuffer::new(MAX_RUN_BLOCKS as usize * BLOCK_BYTES);
    let mut result = Ok(());
    loop {
        meeting.barrier.wait();
        let Some(run) = meeting.get() else {
            return result;
        };
        // After a failure it still comes to the meetings, or the writer would wait for ever.
        if result.is_ok() {
            wait_for(run.reader_delay);
            let bytes = &mut buffer[..run.bytes()];
            result = read_snapshot(shared, arena, reader, run.offset(), bytes)
                .inspect_err(|error| shared.fail(error.clone()));
        }
        meeting.barrier.wait();
        if result.is_ok() {
            let bytes = &mut buffer[..run.bytes()];
            result = read_snapshot(shared, arena, reader, run.offset(), bytes)
                .inspect_err(|error| shared.fail(error.clone()));
        }
    }
}

/// Reads large pieces around the cursor of one writer after the other.
fn follow(shared: &Arc<Shared>, arena: &Arena, follower: u32) -> GuestResult<()> {
    let reader = arena.spec.pairs * 2 + follower;
    let mut rng = Rng::for_part(arena.spec.seed, u64::from(reader));
    let mut buffer = DirectBuffer::new(FOLLOW_BLOCKS as usize * BLOCK_BYTES);
    let last = arena.view.bytes() / BLOCK_BYTES as u64;
    while arena.sweeping.load(Ordering::Acquire) > 0 {
        let pair = rng.below(u64::from(arena.spec.pairs)) as usize;
        let cursor = arena.cursors[pair].load(Ordering::Relaxed);
        let first = cursor
            .saturating_sub(rng.below(FOLLOW_REACH_BLOCKS))
            .min(last - 1);
        let end = (cursor + rng.between(1, MAX_RUN_BLOCKS)).min(last);
        let blocks = end.saturating_sub(first).max(1) as usize;
        let bytes = &mut buffer[..blocks * BLOCK_BYTES];
        read_snapshot(shared, arena, reader, first * BLOCK_BYTES as u64, bytes)?;
    }
    Ok(())
}

/// When the sweep is over: reads everything once more (most of it for the first time), then
/// writes the first reads to the image.
fn finish(shared: &Arc<Shared>, arena: &Arena) -> GuestResult<()> {
    while arena.sweeping.load(Ordering::Acquire) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let reader = arena.spec.pairs * 2 + FOLLOWERS;
    let mut buffer = DirectBuffer::new(FINAL_READ_BYTES);
    let mut offset = 0;
    while offset < arena.view.bytes() {
        let length = (arena.view.bytes() - offset).min(FINAL_READ_BYTES as u64);
        let bytes = &mut buffer[..length as usize];
        read_snapshot(shared, arena, reader, offset, bytes)?;
        offset += length;
    }
    write_image(arena, &mut buffer)?;
    shared.finished.store(true, Ordering::Release);
    Ok(())
}

fn write_image(arena: &Arena, buffer: &mut DirectBuffer) -> GuestResult<()> {
    let image = open_direct(&arena.spec.image, true)?;
    let written = arena.view.for_each_stripe(|offset, content| {
        buffer[..content.len()].copy_from_slice(content);
        image
            .write_all_at(&buffer[..content.len()], offset)
            .context(format_args!("write {} at {offset}", arena.spec.image))
    })?;
    written.map_err(|offset| failure(format!("the block at {offset} was never read")))?;
    image
        .sync_all()
        .context(format_args!("sync {}", arena.spec.image))
}

fn read_snapshot(
    shared: &Shared,
    arena: &Arena,
    reader: u32,
    offset: u64,
    bytes: &mut [u8],
) -> GuestResult<()> {
    arena
        .snapshot
        .read_exact_at(bytes, offset)
        .context(format_args!("read {} at {offset}", arena.spec.snapshot))?;
    arena.view.record(&shared.progress, reader, offset, bytes);
    Ok(())
}
