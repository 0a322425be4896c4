//! File workload on a mounted filesystem.
//!
//! Each thread has its own directory and its own files, so that it knows what it wrote. Golden
//! files are written and synced first and stay as they are until the snapshot instant has passed;
//! after it one more thread overwrites, truncates and deletes them: on the snapshot they must read
//! as before.

mod churner;
mod fs_ops;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_proto::message::{FsChurnSpec, FsOpsSpec, GoldenFile, Operation, WriteMode};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};
use sha2::{Digest, Sha256};

use super::racing_reader::RacingReader;
use super::shared::{Body, Parts, Shared};
use churner::{Churner, Live, Repertoire};

/// Golden files are this long, sectors: 512 bytes to 256 KiB.
const GOLDEN_SECTORS: (u64, u64) = (1, 512);

/// Identity of the first golden file; those of other files are far below.
const GOLDEN_IDENTITY: u64 = 1 << 60;

/// Pause of a thread that has nothing to do until something changes.
const IDLE_PAUSE: Duration = Duration::from_millis(10);

/// Pause between two golden files, so that they change during the whole copy.
const GOLDEN_PAUSE: Duration = Duration::from_millis(20);

/// Directory of the golden files below the root.
const GOLDEN_DIR: &str = "golden";

/// Writes the golden files and prepares the threads.
pub fn prepare(spec: FsChurnSpec) -> GuestResult<Parts> {
    prepare_threads(spec, Repertoire::Churn)
}

/// Writes the golden files and prepares the threads.
pub fn prepare_fs_ops(spec: FsOpsSpec) -> GuestResult<Parts> {
    let reflinks = spec.reflinks;
    prepare_threads(spec.files, Repertoire::Mix { reflinks })
}

fn prepare_threads(spec: FsChurnSpec, repertoire: Repertoire) -> GuestResult<Parts> {
    let golden = write_golden_files(&spec)?;
    let spec = Arc::new(spec);
    let after_epoch = Arc::new(AtomicU64::new(0));
    let mut threads: Vec<Body> = Vec::new();
    for thread in 0..spec.threads {
        let spec = Arc::clone(&spec);
        let after_epoch = Arc::clone(&after_epoch);
        let racing_reader = Arc::new(RacingReader::new(spec.threads + 1 + thread, spec.seed));
        let reader = Arc::clone(&racing_reader);
        threads.push(Box::new(move |shared| reader.run(shared)));
        threads.push(Box::new(move |shared| {
            Churner {
                repertoire,
                ..Churner::new(&spec, shared, thread, after_epoch, racing_reader)?
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
    let mut journal = shared.journal(spec.threads);
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
                journal.run(what, || {
                    let file = open()?;
                    file.write_all_at(&content, 0)?;
                    file.sync_all()
                })?;
            }
            1 => journal.run(
                Operation::Truncate {
                    identity,
                    length: 0,
                },
                || open()?.set_len(0),
            )?,
            _ => journal.run(Operation::Delete { identity }, || fs::remove_file(&path))?,
        }
        std::thread::sleep(GOLDEN_PAUSE);
    }
    Ok(())
}

impl Churner {
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
                self.journal.run(what, || File::open(path)?.sync_all())
            }
        }
    }
}
