//! One thread of the file workload, with its own directory and its own files, and what it can do to one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_guest_system::sys::DirectBuffer;
use cowbird_proto::message::{FsChurnSpec, Operation, WriteMode};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};
use rustix::fs::OFlags;

use crate::journal::JournalWriter;
use crate::place::place_of;
use crate::progress::count;
use crate::racing_reader::RacingReader;
use crate::shared::Shared;

/// Longest single write, sectors: 64 KiB.
const MAX_WRITE_SECTORS: u64 = 128;

/// Identities that one thread may use.
const IDENTITIES_PER_THREAD: u64 = 1 << 32;

/// Share of the overwrites after the instant that go on where the last one ended.
const SWEEP_PERCENT: u64 = 75;

/// What a thread chooses from.
#[derive(Clone, Copy)]
pub(super) enum Repertoire {
    /// Mostly overwrites.
    Churn,
    /// Everything that changes files.
    Mix {
        /// Whether files may share blocks.
        reflinks: bool,
    },
}

/// A file that a thread has made.
pub(super) struct Live {
    pub(super) identity: u64,
    pub(super) path: PathBuf,
    pub(super) sectors: u64,
    /// Sectors from its start that were overwritten in order since the instant.
    pub(super) swept: u64,
}

/// One thread of the workload.
pub(super) struct Churner {
    pub(super) spec: FsChurnSpec,
    pub(super) repertoire: Repertoire,
    pub(super) thread: u32,
    pub(super) rng: Rng,
    pub(super) journal: JournalWriter,
    pub(super) directory: PathBuf,
    pub(super) files: Vec<Live>,
    pub(super) next_identity: u64,
    pub(super) generation: u64,
    pub(super) buffer: DirectBuffer,
    pub(super) racing_reader: Arc<RacingReader>,
    /// Bytes that all threads wrote after the snapshot instant.
    pub(super) after_epoch: Arc<AtomicU64>,
}

impl Churner {
    /// One that only churns.
    pub(super) fn new(
        spec: &FsChurnSpec,
        shared: &Arc<Shared>,
        thread: u32,
        after_epoch: Arc<AtomicU64>,
        racing_reader: Arc<RacingReader>,
    ) -> GuestResult<Self> {
        let directory = PathBuf::from(&spec.root).join(format!("t{thread}"));
        fs::create_dir_all(&directory).context(format_args!("make {}", directory.display()))?;
        Ok(Self {
            spec: spec.clone(),
            repertoire: Repertoire::Churn,
            thread,
            rng: Rng::for_part(spec.seed, u64::from(thread)),
            journal: shared.journal(thread),
            directory,
            files: Vec::new(),
            next_identity: u64::from(thread) * IDENTITIES_PER_THREAD,
            generation: 0,
            buffer: DirectBuffer::new(MAX_WRITE_SECTORS as usize * SECTOR_BYTES),
            racing_reader,
            after_epoch,
        })
    }

    pub(super) fn create(&mut self, shared: &Shared) -> GuestResult<()> {
        let identity = self.next_identity;
        self.next_identity += 1;
        let path = self.directory.join(format!("f{identity:x}"));
        self.journal
            .run(Operation::Create { identity }, || File::create_new(&path))?;
        self.files.push(Live {
            identity,
            path,
            sectors: 0,
            swept: 0,
        });
        self.append(shared, self.files.len() - 1)
    }

    pub(super) fn overwrite(&mut self, shared: &Shared, index: usize) -> GuestResult<()> {
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

    pub(super) fn append(&mut self, shared: &Shared, index: usize) -> GuestResult<()> {
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

    pub(super) fn write(
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
        let racing_reader = &self.racing_reader;
        self.journal.run(what, || {
            let file = OpenOptions::new()
                .write(true)
                .custom_flags(flags.bits() as i32)
                .open(path)?;
            // Buffered data is written who knows when: there is nothing to chase.
            if mode != WriteMode::Buffered
                && shared.epoch_has_passed()
                && let Some(place) = place_of(&file, offset, length)
            {
                racing_reader.aim(place);
            }
            file.write_all_at(bytes, offset)?;
            if mode == WriteMode::Synced {
                file.sync_data()
            } else {
                Ok(())
            }
        })?;
        count(&shared.progress.bytes_written, length);
        if shared.epoch_has_passed() {
            count(&self.after_epoch, length);
        }
        Ok(())
    }

    pub(super) fn truncate(&mut self, index: usize) -> GuestResult<()> {
        let sectors = self.rng.below(self.files[index].sectors + 1);
        let Live { identity, path, .. } = &self.files[index];
        let length = sectors * SECTOR_BYTES as u64;
        self.journal.run(
            Operation::Truncate {
                identity: *identity,
                length,
            },
            || OpenOptions::new().write(true).open(path)?.set_len(length),
        )?;
        self.files[index].sectors = sectors;
        Ok(())
    }

    pub(super) fn rename(&mut self, index: usize) -> GuestResult<()> {
        let Live { identity, path, .. } = &self.files[index];
        let to = self
            .directory
            .join(format!("r{identity:x}-{:x}", self.rng.below(1 << 20)));
        self.journal.run(
            Operation::Rename {
                identity: *identity,
            },
            || fs::rename(path, &to),
        )?;
        self.files[index].path = to;
        Ok(())
    }

    pub(super) fn delete(&mut self, index: usize) -> GuestResult<()> {
        let Live { identity, path, .. } = self.files.swap_remove(index);
        self.journal
            .run(Operation::Delete { identity }, || fs::remove_file(path))
    }
}
