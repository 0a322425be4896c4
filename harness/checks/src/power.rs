//! The power of a machine: what a disk holds after it was cut, and the files of several boots.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use cowbird_host::disk;
use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_host::nature::FurtherDisk;
use cowbird_model::{
    Content, Entry, EntryIndex, MarkerKey, Sector, SectorRange, Survival, Truth, WitnessLog,
    find_marker, self_check,
};
use cowbird_proto::rng::Rng;

use crate::mapped::{DISCARD_MODEL, log_of_first, log_of_further, map, untrusted};

/// Of 100 writes that no flush covered, so many survive whole, and so many in part.
const SURVIVES_WHOLE_PERCENT: u64 = 40;
const SURVIVES_TORN_PERCENT: u64 = 20;

/// How a machine stops.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// Powered off by its own kernel.
    PowerOff,
    /// The same without syncing first, as with a disk that does not answer, and in so much time.
    PowerOffNow {
        /// Longer is a hang.
        within: Duration,
    },
    /// The power is cut somewhere after this instant was marked on the disk.
    PowerCut {
        /// The instant.
        after: MarkerKey,
        /// Decides where, and what survives.
        seed: u64,
    },
}

/// Sectors that a disk writes together or not at all, where a machine goes on from what it holds.
/// With tears inside a block of 4096 bytes not every kernel mounts its ext4 again: 5.10 refused one
/// whose last commit block 6.18 takes for the incomplete end of the journal.
const BLOCK_SECTORS: u64 = 8;

/// What survives of the writes that a power cut leaves in doubt: some whole, some in part, some not.
/// What lies within aligned pieces of so many sectors stays together.
pub(crate) fn survival(mut rng: Rng, unit: u64) -> impl FnMut(&Entry<'_>) -> Survival {
    move |entry| {
        let dice = rng.below(100);
        if dice < SURVIVES_WHOLE_PERCENT {
            Survival::Whole
        } else if dice < SURVIVES_WHOLE_PERCENT + SURVIVES_TORN_PERCENT {
            let end = entry.sector.0 + entry.sectors;
            let pieces = (entry.sector.0 / unit..end.div_ceil(unit)).filter(|_| rng.percent(50));
            Survival::Torn(
                pieces
                    .map(|piece| {
                        let first = (piece * unit).max(entry.sector.0);
                        SectorRange::new(Sector(first), ((piece + 1) * unit).min(end) - first)
                    })
                    .collect(),
            )
        } else {
            Survival::Lost
        }
    }
}

/// Puts the files of a boot that has ended aside, and those of the next one in their place: each disk
/// as it is now, or as a cut of the power left it, and an empty witness.
///
/// # Errors
/// When files cannot be read or written, or a witness cannot be trusted; and when the disks are such that their next boot
/// could not be judged: a copy of the first one, or a second volume whose power is cut.
pub fn end_boot(
    files: &CellFiles,
    further: FurtherDisk,
    boot: u32,
    stop: Stop,
) -> HarnessResult<()> {
    let cut = matches!(stop, Stop::PowerCut { .. });
    match further {
        FurtherDisk::None => {}
        FurtherDisk::SecondVolume if !cut => {
            end_boot_of(&files.second(), boot, stop, log_of_further)?;
        }
        FurtherDisk::SecondVolume | FurtherDisk::Copy => {
            return Err(HarnessError::Plan {
                detail: format!(
                    "a machine with {further:?} as its further disk is not booted again after {stop:?}"
                ),
            });
        }
    }
    end_boot_of(files, boot, stop, log_of_first)
}

/// The same for one disk, whose log is read by `read`.
fn end_boot_of(
    files: &CellFiles,
    boot: u32,
    stop: Stop,
    read: fn(&[u8]) -> HarnessResult<WitnessLog<'_>>,
) -> HarnessResult<()> {
    let (earlier_base, earlier_witness) = (files.earlier_base(boot), files.earlier_witness(boot));
    fs::rename(files.base(), &earlier_base).on("rename", &files.base())?;
    fs::rename(files.witness(), &earlier_witness).on("rename", &files.witness())?;
    {
        let (base, witness) = (map(&earlier_base)?, map(&earlier_witness)?);
        let log = read(&witness)?;
        let origin = map(&files.origin())?;
        self_check(&base, &log, &origin, DISCARD_MODEL).map_err(|error| untrusted(&error))?;
        drop(origin);
        if let Stop::PowerCut { after, seed } = stop {
            let state = cut_power(&base, &log, &after, seed)?;
            disk::copy_sparse(&earlier_base, &files.origin())?;
            write_state(&state, &files.origin())?;
        }
    }
    disk::copy_sparse(&files.origin(), &files.base())?;
    disk::create_sparse(&files.witness(), 0).map(|_| ())
}

/// A state of the disk after a cut of the power at some time after `after`.
fn cut_power<'a>(
    base: &'a [u8],
    log: &WitnessLog<'a>,
    after: &MarkerKey,
    seed: u64,
) -> HarnessResult<Truth<'a>> {
    let marker = find_marker(log, after).map_err(|error| untrusted(&error))?;
    let mut rng = Rng::new(seed);
    // The marker's own flush must have come, or the instant itself may be lost.
    let flushed = log
        .entries()
        .iter()
        .find(|entry| entry.index > marker.entry && entry.kind == cowbird_model::EntryKind::Flush)
        .map(|flush| flush.index.0 + 1)
        .ok_or_else(|| HarnessError::Witness {
            detail: format!(
                "entry {} marks an instant and was never flushed",
                marker.entry
            ),
        })?;
    let cut = EntryIndex(rng.between(flushed, log.end().0));
    Truth::after_power_cut(base, log, cut, DISCARD_MODEL, survival(rng, BLOCK_SECTORS))
        .map_err(|error| untrusted(&error))
}

/// Writes what a log did to a disk that has the state before it.
fn write_state(state: &Truth<'_>, path: &Path) -> HarnessResult<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .on("open", path)?;
    for range in state.written() {
        for segment in state.segments(range) {
            let at = SectorRange::new(Sector(0), segment.range.start.0).bytes();
            match segment.content {
                Content::Bytes(bytes) => file.write_all_at(bytes, at),
                Content::Zeros => file.write_all_at(&vec![0; segment.range.bytes() as usize], at),
            }
            .on("write", path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cowbird_model::EntryKind;

    use super::*;

    /// Goal: what survives of a torn write is part of it, and whole pieces. Method: many writes that
    /// begin and end inside of pieces.
    #[test]
    fn a_write_is_torn_between_pieces_only() {
        for unit in [1, BLOCK_SECTORS] {
            let mut survival = survival(Rng::new(5), unit);
            let mut torn = 0;
            for first in 0..500 {
                let entry = Entry {
                    index: EntryIndex(first),
                    sector: Sector(first),
                    sectors: 1 + first % 40,
                    kind: EntryKind::Write,
                    fua: false,
                    data: &[],
                };
                let Survival::Torn(ranges) = survival(&entry) else {
                    continue;
                };
                torn += 1;
                let (start, end) = (first, first + entry.sectors);
                for range in ranges {
                    let (from, to) = (range.start.0, range.start.0 + range.sectors);
                    assert!(start <= from && from < to && to <= end, "{range:?}");
                    assert!(from == start || from.is_multiple_of(unit), "{range:?}");
                    assert!(to == end || to.is_multiple_of(unit), "{range:?}");
                }
            }
            assert!(torn > 50, "{torn} of 500 were torn");
        }
    }
}
