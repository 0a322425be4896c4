//! The disk at one point of the witness: what it held before, with the log folded over it.
//!
//! Nothing is copied. The fold is a map of extents that point into the log, so its memory is
//! proportional to the number of log entries, not to the disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::units::{BlockIndex, EntryIndex, Origin, SECTOR_BYTES, Sector, SectorRange};
use crate::witness::{Entry, EntryKind, WitnessLog};

/// What a discard does to the disk below the witness.
///
/// The log records that the guest asked, not what happened: that depends on how the disk was
/// configured. A discard at the `blklogwrites` node reaches the file below only with
/// `discard=unmap` at both; then a raw file has its range punched out and reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscardModel {
    /// The discarded sectors keep their content.
    Ignored,
    /// The discarded sectors read as zeros.
    Zeroes,
}

impl DiscardModel {
    /// Whether `entry` changes what the disk holds.
    #[must_use]
    pub fn changes_content(self, entry: &Entry<'_>) -> bool {
        match entry.kind {
            EntryKind::Write => true,
            EntryKind::Discard => self == Self::Zeroes,
            EntryKind::Flush | EntryKind::Mark => false,
        }
    }
}

/// A log that does not fit its disk.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TruthError {
    /// An entry reaches past the end of the disk.
    #[error(
        "witness entry {entry} covers {range}, but the disk has {disk_sectors} sectors; the log belongs to another disk"
    )]
    OutOfDisk {
        /// The entry.
        entry: EntryIndex,
        /// What it covers.
        range: SectorRange,
        /// Size of the disk.
        disk_sectors: u64,
    },
    /// The base is not a whole number of sectors.
    #[error("the disk image has {bytes} bytes, which is not a multiple of {SECTOR_BYTES}")]
    OddDisk {
        /// Length of the base.
        bytes: usize,
    },
}

/// Content of some sectors at the point that was folded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Zeros, by a discard.
    Zeros,
}

/// A run of sectors with one origin of their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The sectors.
    pub range: SectorRange,
    /// The entry that last wrote them, or `None` for what the disk held before the log.
    pub writer: Option<EntryIndex>,
    /// What they hold.
    pub content: Content<'a>,
}

impl Segment<'_> {
    /// The part of it that covers these sectors, which are some of its own.
    #[must_use]
    pub fn part(&self, range: SectorRange) -> Self {
        let skip = range.start.0 - self.range.start.0;
        let content = match self.content {
            Content::Zeros => Content::Zeros,
            Content::Bytes(bytes) => Content::Bytes(slice(bytes, skip, range.sectors)),
        };
        Self {
            range,
            content,
            ..*self
        }
    }
}

/// Sectors that one entry wrote last; the key of the map is their first sector.
#[derive(Clone, Copy, Debug)]
struct Extent<'a> {
    sectors: u64,
    writer: EntryIndex,
    content: Content<'a>,
}

impl<'a> Extent<'a> {
    /// The part from `skip` sectors on, `sectors` long.
    fn part(&self, skip: u64, sectors: u64) -> Self {
        let content = match self.content {
            Content::Zeros => Content::Zeros,
            Content::Bytes(bytes) => Content::Bytes(slice(bytes, skip, sectors)),
        };
        Self {
            sectors,
            writer: self.writer,
            content,
        }
    }
}

/// Sectors `skip..skip + sectors` of `bytes`.
fn slice(bytes: &[u8], skip: u64, sectors: u64) -> &[u8] {
    let from = skip as usize * SECTOR_BYTES;
    &bytes[from..from + sectors as usize * SECTOR_BYTES]
}

/// The whole disk at one point of the log.
#[derive(Clone, Debug)]
pub struct Truth<'a> {
    base: &'a [u8],
    extents: BTreeMap<u64, Extent<'a>>,
}

impl<'a> Truth<'a> {
    /// The disk after the entries before `upto`: `base` is all of it as it was before the log.
    ///
    /// # Errors
    /// A base of odd length, or an entry outside it.
    pub fn at(
        base: &'a [u8],
        log: &WitnessLog<'a>,
        upto: EntryIndex,
        discard: DiscardModel,
    ) -> Result<Self, TruthError> {
        if !base.len().is_multiple_of(SECTOR_BYTES) {
            return Err(TruthError::OddDisk { bytes: base.len() });
        }
        let mut truth = Self {
            base,
            extents: BTreeMap::new(),
        };
        for entry in log.entries().iter().take_while(|entry| entry.index < upto) {
            truth.check_range(entry)?;
            if discard.changes_content(entry) {
                truth.apply(entry);
            }
        }
        Ok(truth)
    }

    /// Puts one more entry, which changes content, over what is there.
    pub(crate) fn put(&mut self, entry: &Entry<'a>) -> Result<(), TruthError> {
        self.check_range(entry)?;
        self.apply(entry);
        Ok(())
    }

    /// Whether both states are of one disk before one log.
    pub(crate) fn has_base_of(&self, other: &Self) -> bool {
        std::ptr::eq(self.base, other.base)
    }

    /// The sectors that an entry of the log has written, ascending.
    pub fn written(&self) -> impl Iterator<Item = SectorRange> {
        self.extents
            .iter()
            .map(|(start, extent)| SectorRange::new(Sector(*start), extent.sectors))
    }

    /// Size of the disk.
    #[must_use]
    pub fn disk_sectors(&self) -> u64 {
        (self.base.len() / SECTOR_BYTES) as u64
    }

    fn check_range(&self, entry: &Entry<'_>) -> Result<(), TruthError> {
        let disk_sectors = self.disk_sectors();
        if entry.range().end().0 > disk_sectors {
            return Err(TruthError::OutOfDisk {
                entry: entry.index,
                range: entry.range(),
                disk_sectors,
            });
        }
        Ok(())
    }

    /// Puts the content of `entry` over what is there.
    fn apply(&mut self, entry: &Entry<'a>) {
        let (start, end) = (entry.sector.0, entry.range().end().0);
        // At most one extent begins before `start` and reaches into the range, because extents
        // never overlap.
        if let Some((&at, &old)) = self.extents.range(..start).next_back() {
            let old_end = at + old.sectors;
            if old_end > start {
                self.extents.insert(at, old.part(0, start - at));
                if old_end > end {
                    self.extents.insert(end, old.part(end - at, old_end - end));
                }
            }
        }
        let covered: Vec<u64> = self.extents.range(start..end).map(|(at, _)| *at).collect();
        for at in covered {
            if let Some(old) = self.extents.remove(&at)
                && at + old.sectors > end
            {
                self.extents
                    .insert(end, old.part(end - at, at + old.sectors - end));
            }
        }
        let content = match entry.kind {
            EntryKind::Write => Content::Bytes(entry.data),
            _ => Content::Zeros,
        };
        let extent = Extent {
            sectors: entry.sectors,
            writer: entry.index,
            content,
        };
        self.extents.insert(start, extent);
    }

    /// The content of `range`, in order and without a gap, cut to the disk.
    pub fn segments(&self, range: SectorRange) -> Segments<'_, 'a> {
        let end = range.end().0.min(self.disk_sectors());
        Segments {
            truth: self,
            at: range.start.0.min(end),
            end,
        }
    }

    /// The bytes of `range`; shorter when `range` reaches past the disk.
    #[must_use]
    pub fn read(&self, range: SectorRange) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.sectors.min(self.disk_sectors()) as usize);
        for segment in self.segments(range) {
            match segment.content {
                Content::Bytes(content) => bytes.extend_from_slice(content),
                Content::Zeros => bytes.resize(bytes.len() + segment.range.bytes() as usize, 0),
            }
        }
        bytes
    }

    /// The bytes of one block of `origin`; shorter for a short last block.
    #[must_use]
    pub fn block(&self, origin: &Origin, block: BlockIndex) -> Vec<u8> {
        self.read(origin.block_range(block))
    }

    /// The entry that last wrote `sector`, if any did.
    #[must_use]
    pub fn writer(&self, sector: Sector) -> Option<EntryIndex> {
        self.segments(SectorRange::new(sector, 1))
            .next()
            .and_then(|segment| segment.writer)
    }
}

/// Iterator over the segments of a range.
#[derive(Clone, Debug)]
pub struct Segments<'t, 'a> {
    truth: &'t Truth<'a>,
    at: u64,
    end: u64,
}

impl<'a> Iterator for Segments<'_, 'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        if self.at >= self.end {
            return None;
        }
        let at = self.at;
        let extents = &self.truth.extents;
        let inside = extents
            .range(..=at)
            .next_back()
            .filter(|(start, extent)| *start + extent.sectors > at);
        let segment = if let Some((start, extent)) = inside {
            let sectors = (start + extent.sectors).min(self.end) - at;
            let part = extent.part(at - start, sectors);
            Segment {
                range: SectorRange::new(Sector(at), sectors),
                writer: Some(part.writer),
                content: part.content,
            }
        } else {
            let next = extents
                .range(at..self.end)
                .next()
                .map_or(self.end, |(start, _)| *start);
            Segment {
                range: SectorRange::new(Sector(at), next - at),
                writer: None,
                content: Content::Bytes(slice(self.truth.base, at, next - at)),
            }
        };
        self.at += segment.range.sectors;
        Some(segment)
    }
}
