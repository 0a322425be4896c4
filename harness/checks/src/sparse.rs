//! Verification of files that are larger than memory: mapped, their holes known, let go of piece by piece.

use std::fs::File;
use std::path::Path;

use cowbird_host::disk;
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_model::{
    BlockSet, DiscardModel, Holes, MarkerKey, Oracle, Report, SECTOR_BYTES, Sector, SectorRange,
    WitnessLog, find_marker_sparse, self_check_sparse,
};
use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

use crate::mapped::untrusted;

/// Pieces after which what was looked at is let go of: 64 MiB of each file at most.
const PIECES_HELD: u32 = 4;

/// A mapped file.
struct Mapped {
    map: Mmap,
    /// In sectors of the file.
    holes: Vec<SectorRange>,
}

impl Mapped {
    fn open(path: &Path) -> HarnessResult<Self> {
        let file = File::open(path).on("open", path)?;
        let holes = disk::holes(&file).on("look for holes in", path)?;
        // SAFETY: nothing writes or truncates the files of a cell while the map lives: QEMU has ended, and
        // the folder belongs to this cell alone.
        let map = unsafe { MmapOptions::new().map(&file) }.on("map", path)?;
        let sectors = |(start, end): &(u64, u64)| {
            let unit = SECTOR_BYTES as u64;
            let first = start.div_ceil(unit);
            SectorRange::new(Sector(first), (end / unit).saturating_sub(first))
        };
        Ok(Self {
            map,
            holes: holes.iter().map(sectors).collect(),
        })
    }

    /// The holes in sectors of a disk on which the file begins at a place.
    fn holes_at(&self, start: Sector) -> Vec<SectorRange> {
        let moved =
            |hole: &SectorRange| SectorRange::new(Sector(hole.start.0 + start.0), hole.sectors);
        self.holes.iter().map(moved).collect()
    }

    /// Lets go of the memory; what is looked at again is read again.
    fn release(&self) {
        // SAFETY: the map is of a file and never written to, so that its pages come back as they were.
        // That the system may refuse costs memory and no more.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

/// The files of one verification.
#[derive(Debug, Clone, Copy)]
pub struct SparseFiles<'a> {
    /// The disk before the log.
    pub base: &'a Path,
    /// The log.
    pub witness: &'a Path,
    /// The copy of the snapshot.
    pub image: &'a Path,
}

/// Compares an image with the truth.
///
/// # Errors
/// Files that cannot be read, or do not fit together.
pub fn verify(
    files: SparseFiles<'_>,
    origin: SectorRange,
    key: &MarkerKey,
    zeroed: &BlockSet,
    discard: DiscardModel,
) -> HarnessResult<Report> {
    let (base, image) = (Mapped::open(files.base)?, Mapped::open(files.image)?);
    let witness = Mapped::open(files.witness)?;
    let release = &mut releasing([&base, &image, &witness]);
    let log = WitnessLog::parse_sparse(&witness.map, release).map_err(|error| untrusted(&error))?;
    let marker = find_marker_sparse(&log, key, release).map_err(|error| untrusted(&error))?;
    let oracle = Oracle::new(&base.map, &log, marker, origin, zeroed, discard)
        .map_err(|error| untrusted(&error))?;
    let holes = Holes {
        base: base.holes_at(Sector(0)),
        other: image.holes_at(origin.start),
    };
    oracle
        .verify_sparse(&image.map, &holes, release)
        .map_err(|error| untrusted(&error))
}

/// Compares a disk with its log.
///
/// # Errors
/// Files that cannot be read, or do not agree.
pub fn self_check(
    base: &Path,
    witness: &Path,
    disk: &Path,
    discard: DiscardModel,
) -> HarnessResult<()> {
    let (base, disk) = (Mapped::open(base)?, Mapped::open(disk)?);
    let witness = Mapped::open(witness)?;
    let release = &mut releasing([&base, &disk, &witness]);
    let log = WitnessLog::parse_sparse(&witness.map, release).map_err(|error| untrusted(&error))?;
    let holes = Holes {
        base: base.holes_at(Sector(0)),
        other: disk.holes_at(Sector(0)),
    };
    self_check_sparse(&base.map, &log, &disk.map, discard, &holes, release)
        .map_err(|error| untrusted(&error))
}

/// Lets go of the files after every few pieces.
fn releasing(files: [&Mapped; 3]) -> impl FnMut() {
    let mut pieces = 0;
    move || {
        pieces += 1;
        if pieces % PIECES_HELD == 0 {
            files.iter().for_each(|file| file.release());
        }
    }
}
