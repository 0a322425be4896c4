//! The witness: the log of writes that QEMU keeps below the guest.
//!
//! # Format
//! `blklogwrites` of QEMU writes the format of Linux `drivers/md/dm-log-writes.c`, little endian,
//! in units of the *log sector* (`sectorsize` of the superblock, 512 unless configured):
//!
//! ```text
//! log sector 0      superblock   magic u64 | version u64 | nr_entries u64 | sectorsize u32 | zeros
//! log sector 1      entry 0      sector u64 | nr_sectors u64 | flags u64 | data_len u64 | zeros
//! .. +nr_sectors    its data     absent when flags has DISCARD
//! next log sector   entry 1      ..
//! ```
//!
//! # What QEMU makes of it
//! Read in `block/blklogwrites.c` (7.2, 8.2, 10.0) and tried with 7.2:
//! - The order of the log is the order in which the requests *completed* on the disk below, since an
//!   entry is placed after the disk's answer. Requests that overlap while both are in flight may be
//!   logged in the other order than the disk took them: a workload must not issue such requests, and
//!   [`crate::self_check()`] finds the case when the overlap is still on the disk at the end.
//! - `data_len` is always 0 and FUA is never set: QEMU turns FUA into a flush. MARK is never written.
//! - Write-zeroes is an ordinary write whose data is zeros. Only a discard has no data. A discard is
//!   logged whether or not the disk below can discard: see [`crate::DiscardModel`].
//! - The superblock appears with the first flush and is rewritten on each flush and every
//!   `log-super-update-interval` entries (4096). With `cache.no-flush=on` at the `blklogwrites` node
//!   flushes are not seen there, so it may never appear.
//! - Places in the log are handed out before they are written, so a killed QEMU can leave a hole.
//! - QEMU of the 7.2 series below 7.2.9 (and others before January 2024) misplaces entries beside a
//!   concurrent write-zeroes. Such a log is corrupt; the checks here find it unless the misplaced
//!   bytes look like a header.
//!
//! # A superblock that lags
//! Entries after `nr_entries` are taken when they are provably whole: the chain of well-formed
//! headers must end exactly at the end of the file, or in nothing but zeros. Otherwise they are left
//! out, and [`WitnessLog::tail`] says why. The proof assumes that the log file was empty when QEMU
//! opened it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bytes::{is_zero, u32_at, u64_at};
use crate::units::{EntryIndex, PIECE_SECTORS, SECTOR_BYTES, Sector, SectorRange};

/// First eight bytes of the log, little endian.
pub const MAGIC: u64 = 0x006a_7366_7773_6872;
/// The only version of the format that exists.
pub const VERSION: u64 = 1;
/// The largest log sector that QEMU accepts is below this many bytes.
const MAX_LOG_SECTOR_BYTES: u32 = 1 << 24;

const FLAG_FLUSH: u64 = 1;
const FLAG_FUA: u64 = 2;
const FLAG_DISCARD: u64 = 4;
const FLAG_MARK: u64 = 8;
const FLAGS_KNOWN: u64 = FLAG_FLUSH | FLAG_FUA | FLAG_DISCARD | FLAG_MARK;

/// Bytes of an entry header that carry fields; the rest of its log sector is zero.
const ENTRY_HEADER_BYTES: usize = 32;
/// Bytes of the superblock that carry fields.
const SUPER_BYTES: usize = 28;

/// What an entry did to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A write, or a write-zeroes (data of zeros). A flush that came with it is not told apart.
    Write,
    /// A discard: no data.
    Discard,
    /// A flush without data.
    Flush,
    /// A mark put there by a tool (QEMU itself writes none).
    Mark,
}

/// One entry of the log, in sectors of 512 bytes whatever the log sector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Position in the log.
    pub index: EntryIndex,
    /// First sector on the disk.
    pub sector: Sector,
    /// Number of sectors; 0 for a flush or a mark.
    pub sectors: u64,
    /// What it did.
    pub kind: EntryKind,
    /// Whether it was to be on stable media when it completed.
    pub fua: bool,
    /// The data written, `sectors * 512` bytes; the text of a mark; empty for the others.
    pub data: &'a [u8],
}

impl Entry<'_> {
    /// The sectors of the disk that the entry covers.
    #[must_use]
    pub fn range(&self) -> SectorRange {
        SectorRange::new(self.sector, self.sectors)
    }
}

/// What follows the entries that the superblock counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    None,
    /// The superblock lagged; these entries were provably whole and are part of the log.
    Recovered {
        /// How many entries the superblock did not count.
        entries: u64,
    },
    /// Something follows that cannot be trusted, and was left out.
    Rejected {
        /// Well-formed entries before the reason to stop; they are left out, too.
        plausible: u64,
        /// Why the walk stopped.
        reason: WitnessError,
    },
}

/// A log that cannot be read, and where it broke.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WitnessError {
    /// The file is shorter than a superblock.
    #[error(
        "witness log: {bytes} bytes are too few for a superblock; check that QEMU was started with this log file"
    )]
    TooShort {
        /// Length of the file.
        bytes: usize,
    },
    /// The superblock is zeros.
    #[error(
        "witness log: the superblock was never written (QEMU writes it at the first flush); keep cache.no-flush off at the blklogwrites node and end QEMU by `quit`"
    )]
    NoSuperblock,
    /// Not a log of this format.
    #[error("witness log: magic {found:#x} is not {MAGIC:#x}; this is not a dm-log-writes log")]
    BadMagic {
        /// The value found.
        found: u64,
    },
    /// A version that nobody has defined yet.
    #[error("witness log: version {found} is not supported, only {VERSION}")]
    UnsupportedVersion {
        /// The value found.
        found: u64,
    },
    /// A log sector that QEMU would not accept, or smaller than 512 bytes.
    #[error("witness log: log sector of {found} bytes; expected a power of two from 512 up")]
    BadSectorSize {
        /// The value found.
        found: u32,
    },
    /// The file ends within an entry.
    #[error(
        "witness log: entry {entry} at byte {offset} needs {need} bytes, the file has {have} left; the log was cut off"
    )]
    Truncated {
        /// The entry.
        entry: EntryIndex,
        /// Where its header begins in the file.
        offset: u64,
        /// Bytes of header and data.
        need: u64,
        /// Bytes from `offset` to the end of the file.
        have: u64,
    },
    /// A place that was handed out and never written.
    #[error(
        "witness log: entry {entry} at byte {offset} was never written (its header is zeros); QEMU died with a request in flight"
    )]
    Unwritten {
        /// The entry.
        entry: EntryIndex,
        /// Where its header should be.
        offset: u64,
    },
    /// Flags that the format does not define.
    #[error("witness log: entry {entry} at byte {offset} has unknown flags {flags:#x}")]
    UnknownFlags {
        /// The entry.
        entry: EntryIndex,
        /// Where its header begins.
        offset: u64,
        /// All flags found.
        flags: u64,
    },
    /// A header that no writer of this format makes.
    #[error("witness log: entry {entry} at byte {offset} is not a header: {reason}")]
    BadHeader {
        /// The entry.
        entry: EntryIndex,
        /// Where it begins.
        offset: u64,
        /// The rule that it breaks.
        reason: &'static str,
    },
}

/// Bytes of the log after which its reader may let go of them.
const PIECE_BYTES: usize = PIECE_SECTORS as usize * SECTOR_BYTES;

/// A parsed log. It borrows the file, so an entry's data costs nothing.
#[derive(Clone, Debug)]
pub struct WitnessLog<'a> {
    log_sector_bytes: u32,
    counted: u64,
    entries: Vec<Entry<'a>>,
    tail: Tail,
}

impl<'a> WitnessLog<'a> {
    /// The log of a disk to which nothing was written. QEMU leaves its file as empty as it was: there is nothing to
    /// flush, so it writes no superblock.
    #[must_use]
    pub fn untouched() -> Self {
        Self {
            log_sector_bytes: SECTOR_BYTES as u32,
            counted: 0,
            entries: Vec::new(),
            tail: Tail::None,
        }
    }

    /// Reads a whole log.
    ///
    /// # Errors
    /// Any entry that the superblock counts and that is missing, cut off or malformed. What
    /// follows the counted entries is never an error: see [`WitnessLog::tail`].
    pub fn parse(log: &'a [u8]) -> Result<Self, WitnessError> {
        Self::parse_sparse(log, &mut || {})
    }

    /// The same of a mapped log, as [`crate::Oracle::verify_sparse`] takes it: only its headers are looked
    /// at, but a system may map what is around them.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_sparse(
        log: &'a [u8],
        after_piece: &mut dyn FnMut(),
    ) -> Result<Self, WitnessError> {
        let (log_sector_bytes, counted) = parse_super(log)?;
        let mut cursor = Cursor {
            log,
            at: log_sector_bytes as usize,
            log_sector_bytes,
        };
        let mut entries = Vec::new();
        let mut piece_end = PIECE_BYTES;
        for index in 0..counted {
            entries.push(cursor.next_entry(EntryIndex(index))?);
            if cursor.at >= piece_end {
                piece_end = cursor.at + PIECE_BYTES;
                after_piece();
            }
        }
        let tail = cursor.walk_tail(&mut entries);
        Ok(Self {
            log_sector_bytes,
            counted,
            entries,
            tail,
        })
    }

    /// The entries in log order; entry `i` has index `i`.
    #[must_use]
    pub fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// What followed the entries that the superblock counts.
    #[must_use]
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Number of entries that the superblock counts.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Bytes in a sector of the log itself.
    #[must_use]
    pub fn log_sector_bytes(&self) -> u32 {
        self.log_sector_bytes
    }

    /// The index that the next entry would get: folding up to here folds everything.
    #[must_use]
    pub fn end(&self) -> EntryIndex {
        EntryIndex(self.entries.len() as u64)
    }
}

fn parse_super(log: &[u8]) -> Result<(u32, u64), WitnessError> {
    if log.len() < SECTOR_BYTES {
        return Err(WitnessError::TooShort { bytes: log.len() });
    }
    let magic = u64_at(log, 0);
    if magic != MAGIC {
        return Err(if is_zero(&log[..SUPER_BYTES]) {
            WitnessError::NoSuperblock
        } else {
            WitnessError::BadMagic { found: magic }
        });
    }
    let version = u64_at(log, 8);
    if version != VERSION {
        return Err(WitnessError::UnsupportedVersion { found: version });
    }
    let found = u32_at(log, 24);
    if !found.is_power_of_two() || found < SECTOR_BYTES as u32 || found >= MAX_LOG_SECTOR_BYTES {
        return Err(WitnessError::BadSectorSize { found });
    }
    Ok((found, u64_at(log, 16)))
}

/// Walks the entries; `at` is always the start of a header.
struct Cursor<'a> {
    log: &'a [u8],
    at: usize,
    log_sector_bytes: u32,
}

impl<'a> Cursor<'a> {
    fn next_entry(&mut self, index: EntryIndex) -> Result<Entry<'a>, WitnessError> {
        let unit = self.log_sector_bytes as usize;
        let offset = self.at as u64;
        let rest = self.log.get(self.at..).unwrap_or_default();
        let truncated = |need: u64| WitnessError::Truncated {
            entry: index,
            offset,
            need,
            have: rest.len() as u64,
        };
        let bad = |reason| WitnessError::BadHeader {
            entry: index,
            offset,
            reason,
        };
        let header = rest.get(..unit).ok_or_else(|| truncated(unit as u64))?;
        if is_zero(header) {
            return Err(WitnessError::Unwritten {
                entry: index,
                offset,
            });
        }
        let (sector, sectors) = (u64_at(header, 0), u64_at(header, 8));
        let (flags, data_len) = (u64_at(header, 16), u64_at(header, 24));
        if flags & !FLAGS_KNOWN != 0 {
            return Err(WitnessError::UnknownFlags {
                entry: index,
                offset,
                flags,
            });
        }
        let kind = kind_of(flags, sectors, data_len, &header[ENTRY_HEADER_BYTES..]).map_err(bad)?;
        let scale = u64::from(self.log_sector_bytes) / SECTOR_BYTES as u64;
        let units = sector.checked_mul(scale).zip(sectors.checked_mul(scale));
        let (sector, sectors) = units
            .filter(|(start, length)| start.checked_add(*length).is_some())
            .ok_or_else(|| bad("the range does not fit 64 bits"))?;
        let data_bytes = if kind == EntryKind::Write {
            sectors.saturating_mul(SECTOR_BYTES as u64)
        } else {
            0
        };
        let need = data_bytes.saturating_add(unit as u64);
        if need > rest.len() as u64 {
            return Err(truncated(need));
        }
        let data = match kind {
            EntryKind::Mark => &header[ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + data_len as usize],
            _ => &rest[unit..need as usize],
        };
        self.at += need as usize;
        let sector = Sector(sector);
        Ok(Entry {
            index,
            sector,
            sectors,
            kind,
            fua: flags & FLAG_FUA != 0,
            data,
        })
    }

    /// Appends the entries after the counted ones when they are provably whole.
    fn walk_tail(&mut self, entries: &mut Vec<Entry<'a>>) -> Tail {
        let counted = entries.len();
        let reason = loop {
            let rest = self.log.get(self.at..).unwrap_or_default();
            if is_zero(rest) {
                break None;
            }
            match self.next_entry(EntryIndex(entries.len() as u64)) {
                Ok(entry) => entries.push(entry),
                Err(reason) => break Some(reason),
            }
        };
        let found = (entries.len() - counted) as u64;
        match reason {
            None if found == 0 => Tail::None,
            None => Tail::Recovered { entries: found },
            Some(reason) => {
                entries.truncate(counted);
                Tail::Rejected {
                    plausible: found,
                    reason,
                }
            }
        }
    }
}

/// What a header with these fields means, or which rule it breaks.
fn kind_of(
    flags: u64,
    sectors: u64,
    data_len: u64,
    padding: &[u8],
) -> Result<EntryKind, &'static str> {
    let text = if flags & FLAG_MARK != 0 {
        usize::try_from(data_len).ok()
    } else {
        Some(0)
    };
    let padding = text
        .and_then(|text| padding.get(text..))
        .ok_or("a mark longer than a sector")?;
    if !is_zero(padding) {
        return Err("bytes after the fields are not zero");
    }
    if flags & FLAG_MARK != 0 {
        return if sectors == 0 {
            Ok(EntryKind::Mark)
        } else {
            Err("a mark with sectors")
        };
    }
    if data_len != 0 {
        return Err("a length of text without the mark flag");
    }
    match (flags & FLAG_DISCARD != 0, sectors) {
        (true, 0) => Err("a discard of nothing"),
        (true, _) => Ok(EntryKind::Discard),
        (false, 0) if flags & FLAG_FLUSH != 0 => Ok(EntryKind::Flush),
        (false, 0) => Err("a write of nothing"),
        (false, _) => Ok(EntryKind::Write),
    }
}
