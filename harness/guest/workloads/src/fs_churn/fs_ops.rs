//! Everything that changes files: beside what the churn does, holes, room that is allocated and not written,
//! files that share blocks with others or take their names, and each way to ask for stable storage.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use cowbird_guest_system::error::GuestResult;
use cowbird_proto::message::Operation;
use cowbird_proto::sector::SECTOR_BYTES;
use rustix::fs::{FallocateFlags, fallocate, ioctl_ficlone, syncfs};

use super::churner::{Churner, Live};
use crate::shared::Shared;

/// Identity of a thread's directory in the journal: this and the thread.
const DIRECTORY_IDENTITY: u64 = 1 << 61;

/// Identity of the whole filesystem in the journal.
const FILESYSTEM_IDENTITY: u64 = 1 << 62;

/// Longest hole or allocation, sectors: 64 KiB.
const MAX_RANGE_SECTORS: u64 = 128;

impl Churner {
    /// One operation, to the file `index` or to none.
    pub(super) fn mixed_step(
        &mut self,
        shared: &Shared,
        index: usize,
        reflinks: bool,
    ) -> GuestResult<()> {
        let has_room = self.files.len() < self.spec.files_per_thread as usize;
        match self.rng.below(100) {
            0..10 if has_room => self.create(shared),
            10..20 if has_room && reflinks => self.reflink(index),
            0..45 => self.overwrite(shared, index),
            45..57 => self.append(shared, index),
            57..63 => self.truncate(index),
            63..68 => self.lengthen(index),
            68..73 => self.rename(index),
            73..76 => self.replace(index),
            76..81 => self.delete(index),
            81..89 => self.punch_hole(index),
            89..93 => self.allocate(index),
            _ => self.sync_somehow(index),
        }
    }

    /// A new file with the blocks of another.
    fn reflink(&mut self, index: usize) -> GuestResult<()> {
        let identity = self.next_identity;
        self.next_identity += 1;
        let Live {
            identity: from,
            path: source,
            sectors,
            ..
        } = &self.files[index];
        let (from, sectors) = (*from, *sectors);
        let path = self.directory.join(format!("l{identity:x}"));
        self.journal
            .run(Operation::Reflink { identity, from }, || {
                let source = File::open(source)?;
                Ok(ioctl_ficlone(File::create_new(&path)?, source)?)
            })?;
        self.files.push(Live {
            identity,
            path,
            sectors,
            swept: 0,
        });
        Ok(())
    }

    /// The file ends with a hole.
    fn lengthen(&mut self, index: usize) -> GuestResult<()> {
        let Live {
            identity,
            path,
            sectors,
            ..
        } = &mut self.files[index];
        let limit = self.spec.max_file_bytes / SECTOR_BYTES as u64;
        let more = self.rng.between(1, MAX_RANGE_SECTORS);
        let wanted = (*sectors + more).min(limit);
        let length = wanted * SECTOR_BYTES as u64;
        let identity = *identity;
        self.journal
            .run(Operation::Truncate { identity, length }, || {
                open(path)?.set_len(length)
            })?;
        *sectors = wanted;
        Ok(())
    }

    /// The file takes the name of another, which is gone then.
    fn replace(&mut self, index: usize) -> GuestResult<()> {
        let other = self.rng.below(self.files.len() as u64) as usize;
        if other == index {
            return self.rename(index);
        }
        let to = self.files[other].path.clone();
        let Live { identity, path, .. } = &self.files[index];
        let what = Operation::Rename {
            identity: *identity,
        };
        self.journal.run(what, || fs::rename(path, &to))?;
        self.files[index].path = to;
        self.files.swap_remove(other);
        Ok(())
    }

    /// A range of the file, in bytes; `None` of an empty file.
    fn range(&mut self, index: usize) -> Option<(u64, u64)> {
        let sectors = self.files[index].sectors;
        let length = self.rng.between(1, MAX_RANGE_SECTORS.min(sectors.max(1)));
        let start = self.rng.below(sectors.checked_sub(length)? + 1);
        Some((start * SECTOR_BYTES as u64, length * SECTOR_BYTES as u64))
    }

    fn punch_hole(&mut self, index: usize) -> GuestResult<()> {
        let Some((offset, length)) = self.range(index) else {
            return Ok(());
        };
        let Live { identity, path, .. } = &self.files[index];
        let what = Operation::PunchHole {
            identity: *identity,
            offset,
            length,
        };
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.journal
            .run(what, || Ok(fallocate(open(path)?, mode, offset, length)?))
    }

    /// Room for what is a hole of the file, or behind its end.
    fn allocate(&mut self, index: usize) -> GuestResult<()> {
        let offset = self.rng.below(self.files[index].sectors + 1) * SECTOR_BYTES as u64;
        let length = self.rng.between(1, MAX_RANGE_SECTORS) * SECTOR_BYTES as u64;
        let Live { identity, path, .. } = &self.files[index];
        let what = Operation::Allocate {
            identity: *identity,
            offset,
            length,
        };
        self.journal.run(what, || {
            Ok(fallocate(
                open(path)?,
                FallocateFlags::KEEP_SIZE,
                offset,
                length,
            )?)
        })
    }

    /// One of the ways to stable storage.
    fn sync_somehow(&mut self, index: usize) -> GuestResult<()> {
        let (file, directory) = (&self.files[index], &self.directory);
        let of = |identity| Operation::Sync { identity };
        let way = self.rng.below(10);
        match way {
            0..4 => self
                .journal
                .run(of(file.identity), || File::open(&file.path)?.sync_all()),
            4..7 => self
                .journal
                .run(of(file.identity), || File::open(&file.path)?.sync_data()),
            7..9 => self
                .journal
                .run(of(DIRECTORY_IDENTITY + u64::from(self.thread)), || {
                    File::open(directory)?.sync_all()
                }),
            _ => self.journal.run(of(FILESYSTEM_IDENTITY), || {
                Ok(syncfs(File::open(directory)?)?)
            }),
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).open(path)
}
