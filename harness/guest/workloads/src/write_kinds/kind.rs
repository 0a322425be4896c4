//! The kinds of writes: which there are, how long they are, and how a long one is cut into parts.

use cowbird_guest_system::async_io::{MAX_PARTS, Part};
use cowbird_proto::message::WriteMode;
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::SECTOR_BYTES;

/// Sectors of most zones: 2 MiB.
const ZONE_SECTORS: u64 = 4096;

/// Sectors of the zone of the large writes: 8 MiB.
const LARGE_ZONE_SECTORS: u64 = 16384;

/// Longest write but for the large ones, sectors: 64 KiB.
const MAX_WRITE_SECTORS: u64 = 128;

/// Large writes, sectors: 2 to 4 MiB. Longer than a request may be, so the block layer splits them.
const LARGE_SECTORS: (u64, u64) = (4096, 8192);

/// Parts of an asynchronous write that is not of tiny ones.
const ASYNC_PARTS: u64 = 8;

/// A kind of write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Through the page cache.
    Buffered,
    /// Through a shared mapping.
    Mapped,
    /// `O_DIRECT`.
    Direct,
    /// `io_submit` of several.
    Aio,
    /// `io_uring` of several.
    Uring,
    /// `O_DIRECT` with `RWF_DSYNC`: FUA where the disk has it.
    DataSync,
    /// `O_DIRECT`, then a flush.
    Flushed,
    /// `BLKDISCARD`, or `FITRIM` of a filesystem.
    Discard,
    /// `FALLOC_FL_PUNCH_HOLE`.
    PunchHole,
    /// `BLKZEROOUT`, which only devices have.
    ZeroOut,
    /// `FALLOC_FL_ZERO_RANGE`.
    ZeroRange,
    /// Megabytes at once.
    Large,
    /// Many neighbours of one logical block each, submitted together.
    Tiny,
    /// Odd sizes at odd places, shorter than a block or not much longer.
    Odd,
    /// From another mount namespace.
    Namespace,
}

pub(super) const KINDS: [Kind; 15] = [
    Kind::Buffered,
    Kind::Mapped,
    Kind::Direct,
    Kind::Aio,
    Kind::Uring,
    Kind::DataSync,
    Kind::Flushed,
    Kind::Discard,
    Kind::PunchHole,
    Kind::ZeroOut,
    Kind::ZeroRange,
    Kind::Large,
    Kind::Tiny,
    Kind::Odd,
    Kind::Namespace,
];

impl Kind {
    pub(super) fn zone_sectors(self) -> u64 {
        if self == Self::Large {
            LARGE_ZONE_SECTORS
        } else {
            ZONE_SECTORS
        }
    }

    /// Sectors of an operation whose length was drawn from [`Self::length`].
    pub(super) fn sectors(self, drawn: u64, unit: u64) -> u64 {
        if self == Self::Tiny {
            drawn * unit
        } else {
            drawn.next_multiple_of(unit)
        }
    }

    /// Length of an operation at least and at most: logical blocks of tiny ones, else sectors.
    pub(super) fn length(self) -> (u64, u64) {
        match self {
            Self::Large => LARGE_SECTORS,
            Self::Tiny => (MAX_PARTS as u64, MAX_PARTS as u64),
            Self::Odd => (1, 11),
            Self::Aio | Self::Uring => (ASYNC_PARTS, MAX_WRITE_SECTORS),
            _ => (1, MAX_WRITE_SECTORS),
        }
    }

    pub(super) fn mode(self) -> WriteMode {
        match self {
            Self::Buffered => WriteMode::Buffered,
            Self::Mapped => WriteMode::Mapped,
            Self::Aio | Self::Tiny => WriteMode::Aio,
            Self::Uring => WriteMode::Uring,
            Self::DataSync => WriteMode::DataSync,
            Self::Flushed => WriteMode::Flushed,
            _ => WriteMode::Direct,
        }
    }

    /// Whether the write is on its way to the disk when the call is made, so that it can be chased.
    pub(super) fn is_prompt(self) -> bool {
        !matches!(self, Self::Buffered | Self::Mapped)
    }
}

/// Cuts a write into parts: one logical block each for tiny ones, else at random places.
pub(super) fn split(rng: &mut Rng, kind: Kind, offset: u64, bytes: usize, unit: u64) -> Vec<Part> {
    let block = unit as usize * SECTOR_BYTES;
    let longest = match kind {
        Kind::Tiny => block,
        Kind::Aio | Kind::Uring => (bytes / ASYNC_PARTS as usize).max(block) * 2,
        _ => bytes,
    };
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < bytes {
        let blocks = rng.between(1, (longest / block) as u64) as usize;
        let last = parts.len() + 1 == MAX_PARTS;
        let end = if last {
            bytes
        } else {
            (at + blocks * block).min(bytes)
        };
        parts.push(Part {
            bytes: at..end,
            offset: offset + at as u64,
        });
        at = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the parts of a write are the write, each of whole logical blocks, and never too many.
    #[test]
    fn parts_cover_a_write_without_gap() {
        let mut rng = Rng::new(3);
        for kind in KINDS {
            for unit in [1, 8] {
                let (least, most) = kind.length();
                for drawn in [least, most, rng.between(least, most)] {
                    let bytes = kind.sectors(drawn, unit) as usize * SECTOR_BYTES;
                    let parts = split(&mut rng, kind, 4096, bytes, unit);
                    assert!(parts.len() <= MAX_PARTS, "{kind:?}");
                    let mut at = 0;
                    for part in &parts {
                        assert_eq!(part.bytes.start, at);
                        assert_eq!(part.offset, 4096 + at as u64);
                        let block = unit as usize * SECTOR_BYTES;
                        assert!(part.bytes.len().is_multiple_of(block) && !part.bytes.is_empty());
                        at = part.bytes.end;
                    }
                    assert_eq!(at, bytes, "{kind:?}");
                    assert!(kind != Kind::Tiny || parts.len() == MAX_PARTS);
                }
            }
        }
    }
}
