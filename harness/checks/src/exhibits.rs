//! What the oracle is shown: the disks of a cell, mapped, in plain text and with a witness each that can be trusted;
//! and what the guest said.

use std::fs;
use std::path::Path;

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_host::nature::{FurtherDisk, Nature, OriginKind};
use cowbird_model::{Sector, SectorRange, WitnessLog, self_check};
use cowbird_proto::message::{Event, Observation};
use memmap2::{Mmap, MmapMut};

use crate::mapped::{DISCARD_MODEL, log_of_first, log_of_further, map, read_only, untrusted};
use crate::recorded::Recorded;
use crate::{crypt, sparse};

/// A larger disk is compared with its witness hole by hole, and let go of piece by piece.
const LARGE_BYTES: u64 = 64 << 30;

/// What the guest said, and what it was told to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Testimony<'a> {
    /// Reads of the snapshot that differed from an earlier one.
    pub observations: &'a [Observation],
    /// The journal, among other events.
    pub events: &'a [Event],
    /// Events of which nothing was kept.
    pub dropped: u64,
    /// The workload that was replayed, if there was one.
    pub recorded: Option<&'a Recorded>,
}

impl<'a> Testimony<'a> {
    /// The whole journal.
    ///
    /// # Errors
    /// When a part of it was not kept.
    pub(crate) fn journal(&self) -> HarnessResult<&'a [Event]> {
        if self.dropped > 0 {
            let detail = "the journal is longer than what is kept of it".to_owned();
            return Err(HarnessError::Plan { detail });
        }
        Ok(self.events)
    }
}

/// The files of a disk that has a witness, in plain text.
struct Mapped {
    files: CellFiles,
    base: Mmap,
    end: Mmap,
    witness: Mmap,
    /// Whether it agrees with its witness already.
    checked: bool,
}

impl Mapped {
    /// `cipher`: sectors on which everything is encrypted.
    fn open(
        files: &CellFiles,
        end: &Path,
        witness: &Path,
        cipher: Option<SectorRange>,
    ) -> HarnessResult<Self> {
        let base = files.base();
        let large = fs::metadata(end).on("stat", end)?.len() > LARGE_BYTES;
        if large {
            sparse::self_check(&base, witness, end, DISCARD_MODEL)?;
        }
        let [base, end, witness] = match cipher {
            None => [read_only(&base)?, read_only(end)?, read_only(witness)?],
            Some(range) => {
                let [mut base, mut end, mut log] = [map(&base)?, map(end)?, map(witness)?];
                crypt::decrypt_disk(&mut base, range);
                crypt::decrypt_disk(&mut end, range);
                crypt::decrypt_log(&mut log, range).map_err(|error| untrusted(&error))?;
                let seal = |map: MmapMut| map.make_read_only().on("seal", witness);
                [seal(base)?, seal(end)?, seal(log)?]
            }
        };
        Ok(Self {
            files: files.clone(),
            base,
            end,
            witness,
            checked: large,
        })
    }

    fn first(&self) -> HarnessResult<Disk<'_>> {
        self.disk(log_of_first(&self.witness)?)
    }

    fn further(&self) -> HarnessResult<Disk<'_>> {
        self.disk(log_of_further(&self.witness)?)
    }

    fn disk<'a>(&'a self, log: WitnessLog<'a>) -> HarnessResult<Disk<'a>> {
        if !self.checked {
            let checked = self_check(&self.base, &log, &self.end, DISCARD_MODEL);
            checked.map_err(|error| untrusted(&error))?;
        }
        Ok(Disk {
            files: self.files.clone(),
            base: &self.base,
            end: &self.end,
            log,
        })
    }
}

/// The files of a cell, opened as the nature of its disks asks for. [`Self::exhibits`] is the only way to what is in
/// them, and compares each disk with its witness.
pub struct Opened {
    nature: Nature,
    first: Mapped,
    second: Option<Mapped>,
    copy: Option<Mapped>,
}

impl Opened {
    /// Opens the disks that have a witness, and decrypts the origin if it is encrypted.
    ///
    /// # Errors
    /// Files that cannot be read, a witness that cannot be parsed, and a large disk that contradicts its witness.
    pub fn open(files: &CellFiles, nature: Nature) -> HarnessResult<Self> {
        let first = nature.first;
        let cipher = match nature.kind {
            OriginKind::Encrypted => Some(SectorRange::new(
                Sector(first.start.into()),
                first.sectors.into(),
            )),
            OriginKind::Partition | OriginKind::WholeDisk | OriginKind::Mirror => None,
        };
        let further = |of: FurtherDisk| nature.further == of;
        let second = further(FurtherDisk::SecondVolume).then(|| {
            let files = files.second();
            Mapped::open(&files, &files.origin(), &files.witness(), None)
        });
        let copy = further(FurtherDisk::Copy)
            .then(|| Mapped::open(files, &files.mirror(), &files.mirror_witness(), None));
        Ok(Self {
            nature,
            first: Mapped::open(files, &files.origin(), &files.witness(), cipher)?,
            second: second.transpose()?,
            copy: copy.transpose()?,
        })
    }

    /// The disks, each compared with its witness, and what the guest said.
    ///
    /// # Errors
    /// A witness that does not agree with its own disk cannot testify.
    pub fn exhibits<'a>(&'a self, said: Testimony<'a>) -> HarnessResult<Exhibits<'a>> {
        Ok(Exhibits {
            nature: self.nature,
            first: self.first.first()?,
            second: self.second.as_ref().map(Mapped::further).transpose()?,
            copy: self.copy.as_ref().map(Mapped::further).transpose()?,
            said,
        })
    }
}

/// A disk and its witness, which agree.
pub struct Disk<'a> {
    /// Its files, and those of the image beside it.
    pub files: CellFiles,
    /// What it held before the last boot.
    pub base: &'a [u8],
    /// What it holds at the end.
    pub end: &'a [u8],
    /// Everything that was written to it in between.
    pub log: WitnessLog<'a>,
}

/// All that claims are judged by.
pub struct Exhibits<'a> {
    /// What the disks are.
    pub nature: Nature,
    /// The first disk.
    pub first: Disk<'a>,
    second: Option<Disk<'a>>,
    copy: Option<Disk<'a>>,
    /// What the guest said.
    pub said: Testimony<'a>,
}

impl<'a> Exhibits<'a> {
    /// The disk of the second volume.
    ///
    /// # Errors
    /// When the cell has none: its case claims what its disks cannot show.
    pub fn second(&self) -> HarnessResult<&Disk<'a>> {
        present(self.second.as_ref(), "second volume")
    }

    /// The disk that began as a copy of the first.
    ///
    /// # Errors
    /// As [`Self::second`].
    pub fn copy(&self) -> HarnessResult<&Disk<'a>> {
        present(self.copy.as_ref(), "copy of the first disk")
    }

    /// What the first partition of the first disk held before the last boot, and what it ends with; nothing if it lies
    /// behind the end of the disk.
    pub(crate) fn first_partition(&self) -> Option<(&'a [u8], &'a [u8])> {
        let first = self.nature.first;
        let start = usize::try_from(first.offset_bytes()).ok()?;
        let length = usize::try_from(first.length_bytes()).ok()?;
        let of = |disk: &'a [u8]| disk.get(start..start.checked_add(length)?);
        Some((of(self.first.base)?, of(self.first.end)?))
    }
}

fn present<'b, 'a>(disk: Option<&'b Disk<'a>>, what: &str) -> HarnessResult<&'b Disk<'a>> {
    disk.ok_or_else(|| HarnessError::Plan {
        detail: format!("the case claims something of a {what}, and its layout has none"),
    })
}
