//! What lies in a COW file besides preserved blocks, and what it is worth.
//!
//! [`reload`] is the entrance for anybody who has the bytes of a disk, however they came about: it
//! runs the C code by which the module takes a series up again, and gives its answer. The other
//! items write slots, so that tests can make COW files.
//!
//! ```no_run
//! # use cowbird_core::persist::{self, Now};
//! # let (disk, header_sector): (Vec<u8>, u64) = (Vec::new(), 0);
//! let read = |sector: u64| {
//!     let at = sector as usize * 512;
//!     disk.get(at..at + 4096)?.try_into().ok()
//! };
//! match persist::reload(read, header_sector, disk.len() as u64 / 512, &Now::next_boot(0)) {
//!     Ok(series) => println!("epoch {}: {:?}", series.epoch, series.tracked.ranges()),
//!     Err(lost) => println!("tracking lost: {lost}"),
//! }
//! ```

mod kind;
mod layout;
mod marks;
mod reload;
mod samples;
mod slots;

use std::fmt;
use std::ops::Range;

use crate::Kept;
pub use crate::ffi::Sample;

pub use self::kind::Kind;
pub use self::layout::{Layout, encode_extents, sector_of};
pub use self::marks::Marks;
pub use self::reload::reload;
pub use self::samples::{SAMPLES_LAST, choose_samples, encode_samples, sample_crc};
pub use self::slots::{
    FineRule, GROUPS, GROUPS_BYTES, GROUPS_MAX, Meta, PAYLOAD, SLOT_BYTES, Slot, State, Status,
};

/// Bytes at the start of the origin whose checksum is compared after a clean save.
pub const HEAD_BYTES: usize = 65536;

/// What the one who takes a series up again knows of the present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Identity of this boot.
    pub boot_id: [u8; 16],
    /// Sectors of the origin that were written since this boot.
    pub written_sectors: u64,
    /// CRC-32C of the origin's first [`HEAD_BYTES`] (of all of it where it is shorter).
    pub head_crc: u32,
    /// Nobody counts what is written.
    pub uncounted: bool,
    /// The series that is recorded, if one is.
    pub series: Option<[u8; 16]>,
}

impl Now {
    /// Right after another boot than the one that wrote the COW file. The checksum matters only
    /// when the series was saved.
    pub fn next_boot(head_crc: u32) -> Self {
        Self {
            boot_id: *b"\xFFanother boot id",
            head_crc,
            ..Self::default()
        }
    }
}

/// Why tracking cannot go on: a full backup is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Errno of the core, positive.
    pub errno: i32,
    /// The state in the COW file would go on, and what happened since forbids it: the module has the file
    /// say so.
    pub overtaken: bool,
    /// In words.
    pub reason: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (errno {})", self.reason, self.errno)
    }
}

impl std::error::Error for Lost {}

/// What a series was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It had a snapshot.
    Snapshot,
    /// It only tracked changes.
    Incremental,
}

/// A superset of the blocks that were written since an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The epoch.
    pub from_epoch: u64,
    /// Bit `n % 64` of word `n / 64` is block `n`.
    pub words: Vec<u64>,
}

impl Changes {
    /// Whether a block is named.
    pub fn contains(&self, block: u64) -> bool {
        self.words
            .get((block / 64) as usize)
            .is_some_and(|word| word >> (block % 64) & 1 != 0)
    }

    /// Runs of blocks that are named.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for block in 0..self.words.len() as u64 * 64 {
            if !self.contains(block) {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => ranges.push(block..block + 1),
            }
        }
        ranges
    }
}

/// A series that can be taken up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Its identity.
    pub uuid: [u8; 16],
    /// The current epoch.
    pub epoch: u64,
    /// Whether it was saved, so that maps are exact and a snapshot goes on.
    pub clean: bool,
    /// What it was doing.
    pub mode: Mode,
    /// Whether its snapshot goes on: it was saved, and all of it can be read.
    pub snapshot: bool,
    /// Of a series that was saved: what the one who takes it up must find as it was.
    pub samples: Vec<Sample>,
    /// Slots of the maps that regions stand in for.
    pub unusable: u64,
    /// Blocks of the origin.
    pub block_count: u64,
    /// What was written since `tracked.from_epoch`. That is the current epoch, or, after a snapshot
    /// that ended without being saved, the one before: nobody knows whether its backup was complete.
    pub tracked: Changes,
    /// What was written since the current epoch alone. As `tracked` where that begins there.
    pub since_epoch: Changes,
    /// Of a series that was saved: what was written before the current epoch.
    pub before: Option<Changes>,
    /// Regions that are marked on disk for the current epoch.
    pub marked: Vec<u64>,
    /// Blocks of a region.
    pub region_blocks: u64,
    /// Pieces of the COW file, `(first sector on its disk, slots)`.
    pub extents: Vec<(u64, u64)>,
    /// Slots that keep preserved blocks; of a snapshot that was saved.
    pub index: Vec<Kept>,
}

impl Series {
    /// The first sample that is not what it was when the series was saved: somebody else has written, and the module
    /// refuses the series.
    pub fn changed_sample(&self, mut crc_of: impl FnMut(&Sample) -> u32) -> Option<&Sample> {
        let mut all = self.samples.iter();
        all.find(|sample| crc_of(sample) != sample.crc)
    }
}

fn words(bits: u64) -> usize {
    bits.div_ceil(64) as usize
}
