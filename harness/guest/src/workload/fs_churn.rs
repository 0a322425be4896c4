//! File workload on a mounted filesystem.
//!
//! Each thread has its own directory and its own files, so that it knows what it wrote. Golden
//! files are written and synced first and stay as they are until the snapshot instant has passed;
//! after it one more thread overwrites, truncates and deletes them: on the snapshot they must read
//! as before.

mod mix;

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cowbird_proto::message::{FsChurnSpec, GoldenFile, Operation, WriteMode};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::chaser::Chaser;
use super::journal::Scribe;
use super::{Body, Parts, Shared};
use crate::error::{Context, GuestResult};
use crate::sys::{self, DirectBuffer, FIEMAP_EXTENT_NOWHERE};
pub use mix::prepare as prepare_mix;

/// Longest single write, sectors: 64 KiB.
const MAX_WRITE_SECTORS: u64 = 128;

/// Golden files are this long, sectors: 512 bytes to 256 KiB.
const GOLDEN_SECTORS: (u64, u64) = (1, 512);

/// Identity of the first golden file; those of other files are far below.
const GOLDEN_IDENTITY: u64 = 1 << 60;

/// Identities that one thread may use.
const IDENTITIES_PER_THREAD: u64 = 1 << 32;

/// Pause of a thread that has nothing to do until something changes.
const IDLE_PAUSE: Duration = Duration::from_millis(10);

/// Pause between two golden files, so that they change during the whole copy.
const GOLDEN_PAUSE: Duration = Duration::from_millis(20);

/// Share of the overwrites after the instant that go on where the last one ended.
const SWEEP_PERCENT: u64 = 75;

/// Directory of the golden files below the root.
const GOLDEN_DIR: &str = "golden";

/// What a thread chooses from.
#[derive(Clone, Copy)]
enum Repertoire {
    /// Mostly overwrites.
    Churn,
    /// Everything that changes files.
    Mix {
        /// Whether files may share blocks.
        reflinks: bool,
    },
}

/// Writes the golden files and prepares the threads.
pub fn prepare(spec: FsChurnSpec) -> GuestResult<Parts> {
    prepare_threads(spec, Repertoire::Churn)
}

fn prepare_threads(spec: FsChurnSpec, repertoire: Repertoire) -> GuestResult<Parts> {
    let golden = write_golden_files(&spec)?;
    let spec = Arc::new(spec);
    let after_epoch = Arc::new(AtomicU64::new(0));
    let mut threads: Vec<Body> = Vec::new();
    for thread in 0..spec.threads {
        let spec = Arc::clone(&spec);
        let after_epoch = Arc::clone(&after_epoch);
        let chaser = Arc::new(Chaser::new(spec.threads + 1 + thread, spec.seed));
        let hunter = Arc::clone(&chaser);
        threads.push(Box::new(move |shared| hunter.run(shared)));
        threads.push(Box::new(move |shared| {
            Churner {
                repertoire,
                ..Churner::new(&spec, shared, thread, after_epoch, chaser)?
            }
            .run(shared)
        }));
    }
    let files = golden.clone();
    threads.push(Box::new(move |shared| {
        spoil_golden_files(shared, &spec, &files)
    }));
    Ok(Parts { golden, threads })
}

fn write_golden_files(spec: &FsChurnSpec) -> GuestResult<Vec<GoldenFile>> {
    let directory = PathBuf::from(&spec.root).join(GOLDEN_DIR);
    fs::create_dir_all(&directory).context(format_args!("make {}", directory.display()))?;
    let mut rng = Rng::for_part(spec.seed, GOLDEN_IDENTITY);
    let mut golden = Vec::new();
    for index in 0..u64::from(spec.golden_files) {
        let sectors = rng.between(GOLDEN_SECTORS.0, GOLDEN_SECTORS.1);
        // Not a whole number of sectors: the end of a file inside a block is worth a test.
        let bytes = sectors * SECTOR_BYTES as u64 - rng.below(SECTOR_BYTES as u64);
        let mut content = vec![0; sectors as usize * SECTOR_BYTES];
        let first = SectorIdentity {
            identity: GOLDEN_IDENTITY + index,
            sector: 0,
            generation: 0,
            seed: spec.seed,
            writer: 0,
        };
        sector::fill(first, &mut content);
        content.truncate(bytes as usize);
        let name = format!("g{index}");
        let path = directory.join(&name);
        let what = || format!("write golden file {}", path.display());
        let file = File::create(&path).context(what())?;
        file.write_all_at(&content, 0).context(what())?;
        file.sync_all().context(what())?;
        golden.push(GoldenFile {
            path: format!("{GOLDEN_DIR}/{name}"),
            bytes,
            sha256: Sha256::digest(&content).into(),
        });
    }
    let sync = || File::open(&directory).and_then(|directory| directory.sync_all());
    sync().context(format_args!("sync {}", directory.display()))?;
    Ok(golden)
}

/// Waits for the snapshot instant, then overwrites, truncates or deletes every golden file.
fn spoil_golden_files(
    shared: &Arc<Shared>,
    spec: &FsChurnSpec,
    files: &[GoldenFile],
) -> GuestResult<()> {
    let mut scribe = shared.journal(spec.threads);
    let mut rng = Rng::for_part(spec.seed, GOLDEN_IDENTITY + 1);
    while !shared.epoch_has_passed() {
        if shared.stopping() {
            return Ok(());
        }
        std::thread::sleep(IDLE_PAUSE);
    }
    for (index, golden) in files.iter().enumerate() {
        let identity = GOLDEN_IDENTITY + index as u64;
        let path = PathBuf::from(&spec.root).join(&golden.path);
        let open = || OpenOptions::new().write(true).open(&path);
        match rng.below(3) {
            0 => {
                let content = vec![0xEE; golden.bytes as usize];
                let what = Operation::Write {
                    identity,
                    offset: 0,
                    length: golden.bytes,
                    generation: 1,
                    mode: WriteMode::Synced,
                };
                scribe.run(what, || {
                    let file = open()?;
                    file.write_all_at(&content, 0)?;
                    file.sync_all()
                })?;
            }
            1 => scribe.run(
                Operation::Truncate {
                    identity,
                    length: 0,
                },
                || open()?.set_len(0),
            )?,
            _ => scribe.run(Operation::Delete { identity }, || fs::remove_file(&path))?,
        }
        std::thread::sleep(GOLDEN_PAUSE);
    }
    Ok(())
}

/// Where on the device the start of a range of a file lies, as far as it lies in one piece; bytes.
/// `None` when it has no place yet, or it cannot be found out: then it is not chased.
pub(super) fn place_of(file: &File, offset: u64, length: u64) -> Option<Range<u64>> {
    let (extents, _) = sys::fiemap(file, offset, false).ok()?;
    let extent = extents.first()?;
    let inside = offset.checked_sub(extent.logical)?;
    let known = extent.flags & FIEMAP_EXTENT_NOWHERE == 0 && inside < extent.length;
    let start = extent.physical + inside;
    known.then(|| start..start + length.min(extent.length - inside))
}

/// A file that a thread has made.
struct Live {
    identity: u64,
    path: PathBuf,
    sectors: u64,
    /// Sectors from its start that were overwritten in order since the instant.
    swept: u64,
}

/// One thread of the workload.
struct Churner {
    spec: FsChurnSpec,
    repertoire: Repertoire,
    thread: u32,
    rng: Rng,
    scribe: Scribe,
    directory: PathBuf,
    files: Vec<Live>,
    next_identity: u64,
    generation: u64,
    buffer: DirectBuffer,
    chaser: Arc<Chaser>,
    /// Bytes that all threads wrote after the snapshot instant.
    after_epoch: Arc<AtomicU64>,
}

impl Churner {
    fn new(
        spec: &FsChurnSpec,
        shared: &Arc<Shared>,
        thread: u32,
        after_epoch: Arc<AtomicU64>,
        chaser: Arc<Chaser>,
    ) -> GuestResult<Self> {
        let directory = PathBuf::from(&spec.root).join(format!("t{thread}"));
        fs::create_dir_all(&directory).context(format_args!("make {}", directory.display()))?;
        Ok(Self {
            spec: spec.clone(),
            repertoire: Repertoire::Churn,
            thread,
            rng: Rng::for_part(spec.seed, u64::from(thread)),
            scribe: shared.journal(thread),
            directory,
            files: Vec::new(),
            next_identity: u64::from(thread) * IDENTITIES_PER_THREAD,
            generation: 0,
            buffer: DirectBuffer::new(MAX_WRITE_SECTORS as usize * SECTOR_BYTES),
            chaser,
            after_epoch,
        })
    }

    fn run(mut self, shared: &Shared) -> GuestResult<()> {
        while !shared.stopping() {
            let spent = self.after_epoch.load(Ordering::Relaxed);
            if shared.epoch_has_passed() && spent >= self.spec.budget_after_epoch_bytes {
                std::thread::sleep(IDLE_PAUSE);
                continue;
            }
            self.step(shared)?;
            std::thread::sleep(Duration::from_micros(self.spec.pause_us));
        }
        Ok(())
    }

    fn step(&mut self, shared: &Shared) -> GuestResult<()> {
        if self.files.is_empty() {
            return self.create(shared);
        }
        let index = self.rng.below(self.files.len() as u64) as usize;
        if let Repertoire::Mix { reflinks } = self.repertoire {
            return self.mixed_step(shared, index, reflinks);
        }
        match self.rng.below(100) {
            0..12 if self.files.len() < self.spec.files_per_thread as usize => self.create(shared),
            0..68 => self.overwrite(shared, index),
            68..82 => self.append(shared, index),
            82..87 => self.truncate(index),
            87..92 => self.rename(index),
            92..97 => self.delete(index),
            _ => {
                let Live { identity, path, .. } = &self.files[index];
                let what = Operation::Sync {
                    identity: *identity,
                };
                self.scribe.run(what, || File::open(path)?.sync_all())
            }
        }
    }

    fn create(&mut self, shared: &Shared) -> GuestResult<()> {
        let identity = self.next_identity;
        self.next_identity += 1;
        let path = self.directory.join(format!("f{identity:x}"));
        self.scribe
            .run(Operation::Create { identity }, || File::create_new(&path))?;
        self.files.push(Live {
            identity,
            path,
            sectors: 0,
            swept: 0,
        });
        self.append(shared, self.files.len() - 1)
    }

    fn overwrite(&mut self, shared: &Shared, index: usize) -> GuestResult<()> {
        let length = self.files[index].sectors;
        if length == 0 {
            return self.append(shared, index);
        }
        // Small ones as often as large ones: each is one more chance of a race for its bytes.
        let limit = 1 << self.rng.between(0, MAX_WRITE_SECTORS.ilog2().into());
        let sectors = self.rng.between(1, length.min(limit));
        let swept = self.files[index].swept;
        // After the instant mostly where the file was not overwritten since: the first write to a
        // block is the one that matters.
        if shared.epoch_has_passed() && swept < length && self.rng.percent(SWEEP_PERCENT) {
            let sectors = sectors.min(length - swept);
            self.files[index].swept += sectors;
            return self.write(shared, index, swept, sectors);
        }
        let start = self.rng.below(length - sectors + 1);
        self.write(shared, index, start, sectors)
    }

    fn append(&mut self, shared: &Shared, index: usize) -> GuestResult<()> {
        let start = self.files[index].sectors;
        let limit = self.spec.max_file_bytes / SECTOR_BYTES as u64;
        let sectors = self.rng.between(1, MAX_WRITE_SECTORS);
        if start + sectors > limit {
            return self.truncate(index);
        }
        self.write(shared, index, start, sectors)?;
        self.files[index].sectors = start + sectors;
        Ok(())
    }

    fn write(
        &mut self,
        shared: &Shared,
        index: usize,
        start: u64,
        sectors: u64,
    ) -> GuestResult<()> {
        self.generation += 1;
        let Live { identity, path, .. } = &self.files[index];
        let bytes = &mut self.buffer[..sectors as usize * SECTOR_BYTES];
        let first = SectorIdentity {
            identity: *identity,
            sector: start,
            generation: self.generation,
            seed: self.spec.seed,
            writer: self.thread,
        };
        sector::fill(first, bytes);
        let mode = match self.rng.below(100) {
            0..30 => WriteMode::Buffered,
            30..80 => WriteMode::Direct,
            _ => WriteMode::Synced,
        };
        let offset = start * SECTOR_BYTES as u64;
        let length = bytes.len() as u64;
        let what = Operation::Write {
            identity: *identity,
            offset,
            length,
            generation: self.generation,
            mode,
        };
        let flags = if mode == WriteMode::Direct {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let chaser = &self.chaser;
        self.scribe.run(what, || {
            let file = OpenOptions::new()
                .write(true)
                .custom_flags(flags.bits() as i32)
                .open(path)?;
            // Buffered data is written who knows when: there is nothing to chase.
            if mode != WriteMode::Buffered
                && shared.epoch_has_passed()
                && let Some(place) = place_of(&file, offset, length)
            {
                chaser.point_at(place);
            }
            file.write_all_at(bytes, offset)?;
            if mode == WriteMode::Synced {
                file.sync_data()
            } else {
                Ok(())
            }
        })?;
        Shared::count(&shared.bytes_written, length);
        if shared.epoch_has_passed() {
            Shared::count(&self.after_epoch, length);
        }
        Ok(())
    }

    fn truncate(&mut self, index: usize) -> GuestResult<()> {
        let sectors = self.rng.below(self.files[index].sectors + 1);
        let Live { identity, path, .. } = &self.files[index];
        let length = sectors * SECTOR_BYTES as u64;
        self.scribe.run(
            Operation::Truncate {
                identity: *identity,
                length,
            },
            || OpenOptions::new().write(true).open(path)?.set_len(length),
        )?;
        self.files[index].sectors = sectors;
        Ok(())
    }

    fn rename(&mut self, index: usize) -> GuestResult<()> {
        let Live { identity, path, .. } = &self.files[index];
        let to = self
            .directory
            .join(format!("r{identity:x}-{:x}", self.rng.below(1 << 20)));
        self.scribe.run(
            Operation::Rename {
                identity: *identity,
            },
            || fs::rename(path, &to),
        )?;
        self.files[index].path = to;
        Ok(())
    }

    fn delete(&mut self, index: usize) -> GuestResult<()> {
        let Live { identity, path, .. } = self.files.swap_remove(index);
        self.scribe
            .run(Operation::Delete { identity }, || fs::remove_file(path))
    }
}
