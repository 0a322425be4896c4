//! Files of a cell, mapped, and what is the same for all that looks at them.

use std::fs::File;
use std::path::Path;

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_model::{DiscardModel, SectorRange, WitnessLog};
use memmap2::{Mmap, MmapMut, MmapOptions};

/// What a discard does to a witnessed disk as the command line of QEMU configures it: QEMU punches a
/// hole into the raw file. Tried with discards of every alignment, and checked in every cell.
pub const DISCARD_MODEL: DiscardModel = DiscardModel::Zeroes;

/// The bytes of a disk that a range has.
pub(crate) fn of_range(disk: &[u8], range: SectorRange) -> &[u8] {
    let (start, end) = (range.start.0 as usize * 512, range.end().0 as usize * 512);
    disk.get(start..end).unwrap_or_default()
}

/// The error of evidence that contradicts itself.
pub fn untrusted(error: &dyn std::fmt::Display) -> HarnessError {
    HarnessError::Witness {
        detail: error.to_string(),
    }
}

/// The log of the first disk, to which every case writes.
pub(crate) fn log_of_first(bytes: &[u8]) -> HarnessResult<WitnessLog<'_>> {
    WitnessLog::parse(bytes).map_err(|error| untrusted(&error))
}

/// The log of a further disk, to which nothing may have been written. Whether that is so, its comparison with the disk
/// shows.
pub(crate) fn log_of_further(bytes: &[u8]) -> HarnessResult<WitnessLog<'_>> {
    match bytes {
        [] => Ok(WitnessLog::untouched()),
        bytes => log_of_first(bytes),
    }
}

/// Maps a file; what is written to the map stays in memory.
pub fn map(path: &Path) -> HarnessResult<MmapMut> {
    let file = File::open(path).on("open", path)?;
    // SAFETY: nothing writes or truncates the files of a cell while the map lives: QEMU has ended,
    // and the folder belongs to this cell alone.
    unsafe { MmapOptions::new().map_copy(&file) }.on("map", path)
}

/// Maps a file that may be larger than memory.
pub(crate) fn read_only(path: &Path) -> HarnessResult<Mmap> {
    let file = File::open(path).on("open", path)?;
    // SAFETY: as in `map`.
    unsafe { MmapOptions::new().map(&file) }.on("map", path)
}
