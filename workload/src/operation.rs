//! What a workload consists of.

use serde::{Deserialize, Serialize};

/// Bytes of a sector.
pub const SECTOR_BYTES: u64 = 512;

/// Sectors of a block, the unit in which contents are told apart.
pub const BLOCK_SECTORS: u64 = 8;

/// Operations end here at the latest, so that places in bytes fit 63 bits.
pub const MAX_SECTOR: u64 = 1 << 54;

/// A place on the recorded device, in units of 512 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Sector(pub u64);

/// Sectors that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extent {
    /// The first one.
    pub start: Sector,
    /// How many; 0 for an operation that is not about a place.
    pub sectors: u64,
}

impl Extent {
    /// The sectors from `start` to before `end`; empty if there are none.
    #[must_use]
    pub fn between(start: Sector, end: Sector) -> Self {
        Self {
            start,
            sectors: end.0.saturating_sub(start.0),
        }
    }

    /// The sectors that hold these bytes: whole ones, because devices have no others.
    #[must_use]
    pub fn of_bytes(offset_bytes: u64, length_bytes: u64) -> Self {
        if length_bytes == 0 {
            return Self::default();
        }
        let end_bytes = offset_bytes.saturating_add(length_bytes);
        Self::between(
            Sector(offset_bytes / SECTOR_BYTES),
            Sector(end_bytes.div_ceil(SECTOR_BYTES)),
        )
    }

    /// One past the last sector.
    #[must_use]
    pub fn end(&self) -> Sector {
        Sector(self.start.0.saturating_add(self.sectors))
    }

    /// Whether it has no sectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sectors == 0
    }

    /// Whether both have a sector in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Where it begins, bytes.
    #[must_use]
    pub fn offset_bytes(&self) -> u64 {
        self.start.0 * SECTOR_BYTES
    }

    /// How long it is, bytes.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.sectors * SECTOR_BYTES
    }

    /// How many blocks it touches: so many contents a write has.
    #[must_use]
    pub fn piece_count(&self) -> u64 {
        if self.is_empty() {
            return 0;
        }
        self.end().0.div_ceil(BLOCK_SECTORS) - self.start.0 / BLOCK_SECTORS
    }

    /// Its part in each of these blocks, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Self> + use<> {
        let (start, end) = (self.start.0, self.end().0);
        let first = start / BLOCK_SECTORS;
        (first..first + self.piece_count()).map(move |block| {
            let from = (block * BLOCK_SECTORS).max(start);
            let to = ((block + 1) * BLOCK_SECTORS).min(end);
            Self::between(Sector(from), Sector(to))
        })
    }
}

/// What an operation does. The numbers are those of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Read.
    Read = 0,
    /// Write.
    Write = 1,
    /// Flush the device's cache.
    Flush = 2,
    /// Discard.
    Discard = 3,
    /// Write zeros without sending them.
    WriteZeroes = 4,
}

impl Action {
    /// Every action, by number.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Discard,
        Self::WriteZeroes,
    ];

    /// Whether it changes what the device contains.
    #[must_use]
    pub fn modifies(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes)
    }
}

/// Flags of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// Somebody waits for it.
    pub const SYNC: Self = Self(1);
    /// On stable storage when it is complete.
    pub const FUA: Self = Self(2);
    /// The device's cache is flushed before it.
    pub const PREFLUSH: Self = Self(4);
    /// All of them.
    pub const ALL: Self = Self(7);

    /// Whether all of these are set.
    #[must_use]
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// With these, if `set`.
    #[must_use]
    pub fn with(self, flags: Self, set: bool) -> Self {
        Self(self.0 | if set { flags.0 } else { 0 })
    }
}

/// What a write puts into one block, or into the part of a block that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nobody looked: taken for different from every other.
    Unknown,
    /// Zeros.
    Zeroes,
    /// The same wherever the number is the same.
    Known(u32),
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// When it was issued, after the first operation.
    pub at_ns: u64,
    /// What it does.
    pub action: Action,
    /// How.
    pub flags: Flags,
    /// Where; empty for a flush.
    pub extent: Extent,
    /// Of a write whose contents were looked at: one for each of [`Extent::pieces`]. Otherwise empty.
    pub contents: Box<[Content]>,
}

/// What was done to one device, in the order in which it was issued.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Workload {
    pub(crate) source: String,
    pub(crate) doubts: Vec<String>,
    pub(crate) operations: Vec<Operation>,
}

impl Workload {
    /// What it was made from, for people.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Every reason why operations may be missing; empty where the recorder vouches for all.
    #[must_use]
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// The operations; times never decrease.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Length of the device as far as it was used, sectors.
    #[must_use]
    pub fn space_sectors(&self) -> u64 {
        let ends = self
            .operations
            .iter()
            .map(|operation| operation.extent.end());
        ends.max().unwrap_or_default().0
    }

    /// Bytes that its writes write.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        let writes = self
            .operations
            .iter()
            .filter(|operation| operation.action == Action::Write);
        writes.map(|write| write.extent.length_bytes()).sum()
    }

    /// Cuts it to so many operations that write at most so many bytes; gives how many were cut off.
    pub fn cut(&mut self, operations: usize, written_bytes: u64) -> usize {
        let mut written = 0_u64;
        let within = self
            .operations
            .iter()
            .take(operations)
            .take_while(|operation| {
                if operation.action == Action::Write {
                    written = written.saturating_add(operation.extent.length_bytes());
                }
                written <= written_bytes
            });
        let kept = within.count();
        let cut = self.operations.len() - kept;
        self.operations.truncate(kept);
        cut
    }
}

/// Pieces of the largest write whose contents are known one by one: 1 GiB. No bio and no call writes as much at once; what
/// says so is damaged or forged, and its contents stay unknown.
pub(crate) const MAX_KNOWN_PIECES: u64 = 1 << 18;

/// Makes a workload of operations as they come.
#[derive(Debug, Default)]
pub struct Builder {
    operations: Vec<Operation>,
}

impl Builder {
    /// Adds an operation; `at_ns` counts from anywhere. One without sectors is left out if it is not
    /// a flush, and so is one that ends behind [`MAX_SECTOR`]; tells its place, for its contents.
    pub fn push(
        &mut self,
        at_ns: u64,
        action: Action,
        flags: Flags,
        extent: Extent,
    ) -> Option<usize> {
        let extent = match action {
            Action::Flush => Extent::default(),
            _ if extent.is_empty() || extent.end().0 > MAX_SECTOR => return None,
            _ => extent,
        };
        self.operations.push(Operation {
            at_ns,
            action,
            flags,
            extent,
            contents: Box::default(),
        });
        Some(self.operations.len() - 1)
    }

    /// Says what the write with the place `at` puts into one of its pieces. What does not belong to a
    /// write or to one of its pieces is passed over.
    pub fn content(&mut self, at: usize, piece: u64, content: Content) {
        let Some(operation) = self.operations.get_mut(at) else {
            return;
        };
        if operation.action != Action::Write {
            return;
        }
        // By what the operation says its length is: a recording from elsewhere may say anything.
        let count = operation.extent.piece_count();
        if count > MAX_KNOWN_PIECES || piece >= count {
            return;
        }
        if operation.contents.is_empty() {
            operation.contents = vec![Content::Unknown; count as usize].into();
        }
        if let Some(place) = operation.contents.get_mut(piece as usize) {
            *place = content;
        }
    }

    /// The operation with the place `at`.
    #[must_use]
    pub fn operation(&self, at: usize) -> Option<&Operation> {
        self.operations.get(at)
    }

    /// The workload: in the order of time, which begins with 0. `doubts` are the reasons why operations
    /// may be missing.
    #[must_use]
    pub fn finish(mut self, source: impl Into<String>, doubts: Vec<String>) -> Workload {
        // Stable: what has the same time stays in the order in which it was told.
        self.operations.sort_by_key(|operation| operation.at_ns);
        let start = self.operations.first().map_or(0, |first| first.at_ns);
        for operation in &mut self.operations {
            operation.at_ns -= start;
        }
        Workload {
            source: source.into(),
            doubts,
            operations: self.operations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_blocks() {
        let extent = Extent::of_bytes(7 * 512, 11 * 512);
        let pieces: Vec<(u64, u64)> = extent
            .pieces()
            .map(|piece| (piece.start.0, piece.sectors))
            .collect();
        assert_eq!(pieces, [(7, 1), (8, 8), (16, 2)]);
        assert_eq!(extent.piece_count(), 3);
        assert_eq!(Extent::default().pieces().count(), 0);
    }

    #[test]
    fn bytes_are_widened_to_sectors() {
        let extent = Extent::of_bytes(1000, 30);
        assert_eq!((extent.start, extent.sectors), (Sector(1), 2));
        assert!(Extent::of_bytes(1000, 0).is_empty());
    }

    fn contents_of(builder: &Builder, at: usize) -> &[Content] {
        &builder.operation(at).expect("it was added").contents
    }

    /// Goal: one record of a forged recording takes no memory that is not there. Method: the longest write that there is,
    /// with one fingerprint: a list of its pieces would have 2^51 entries.
    #[test]
    fn a_write_of_any_length_takes_no_memory_for_its_contents() {
        let mut builder = Builder::default();
        let longest = Extent {
            start: Sector(0),
            sectors: MAX_SECTOR,
        };
        let at = builder.push(0, Action::Write, Flags::default(), longest);
        let at = at.expect("it ends at the last sector");
        builder.content(at, 1, Content::Zeroes);
        assert!(contents_of(&builder, at).is_empty());
        let known = Extent::of_bytes(0, 2 * 4096);
        let at = builder.push(1, Action::Write, Flags::default(), known);
        let at = at.expect("it is short");
        builder.content(at, 2, Content::Zeroes);
        assert!(contents_of(&builder, at).is_empty());
        builder.content(at, 1, Content::Zeroes);
        assert_eq!(
            contents_of(&builder, at),
            [Content::Unknown, Content::Zeroes]
        );
    }

    #[test]
    fn a_cut_keeps_both_bounds() {
        let mut builder = Builder::default();
        for at in 0..10 {
            let action = [Action::Write, Action::Read][at % 2];
            let extent = Extent::of_bytes(0, 4096);
            builder.push(at as u64, action, Flags::default(), extent);
        }
        let whole = builder.finish("a test", Vec::new());
        let cut_to = |operations, bytes| {
            let mut workload = whole.clone();
            let cut = workload.cut(operations, bytes);
            assert_eq!(cut + workload.operations().len(), 10);
            (workload.operations().len(), workload.written_bytes())
        };
        assert_eq!(cut_to(100, u64::MAX), (10, 5 * 4096));
        assert_eq!(cut_to(3, u64::MAX), (3, 2 * 4096));
        assert_eq!(cut_to(100, 2 * 4096), (4, 2 * 4096));
    }
}
