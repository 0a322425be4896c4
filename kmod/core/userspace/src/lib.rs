//! The module's pure C core, built in user space.
//!
//! Safe wrappers with the semantics of the headers in `kmod/core/`, which are
//! the reference. It exists so that property tests drive the very code that runs
//! in the kernel, and so that the harness can ask it what a COW file on some state
//! of a disk is worth ([`persist::reload`]).

pub mod cow_disk;
pub mod explore;
pub mod explore_marks;
mod ffi;
pub mod persist;

use std::fmt;

/// A refusal of the core: a positive errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

impl std::error::Error for Errno {}

fn check(result: i32) -> Result<(), Errno> {
    if result < 0 {
        Err(Errno(-result))
    } else {
        Ok(())
    }
}

/// Bytes of the character that a string begins with, or 0; `core/utf8.h`.
pub fn utf8_length(text: &std::ffi::CStr) -> u32 {
    // SAFETY: the string ends with a zero, behind which nothing is read.
    unsafe { ffi::cb_utf8_length(text.as_ptr().cast()) }
}

/// Geometry of an origin; `core/geom.h`. All units are 512-byte sectors of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Geom(ffi::Geom);

impl Geom {
    /// Origin `[start, start + sectors)` of its disk.
    pub fn new(start: u64, sectors: u64) -> Result<Self, Errno> {
        let mut geom = ffi::Geom {
            start: 0,
            sectors: 0,
        };
        // SAFETY: the pointer is to a live, writable structure of the right layout.
        check(unsafe { ffi::cb_geom_init(&raw mut geom, start, sectors) })?;
        Ok(Self(geom))
    }

    /// Number of blocks.
    pub fn block_count(&self) -> u64 {
        // SAFETY: the structure was initialised by `new` and is only read.
        unsafe { ffi::cb_geom_block_count(&raw const self.0) }
    }

    /// Sectors of one block.
    pub fn block_sectors(&self, block: u64) -> u32 {
        // SAFETY: as above.
        unsafe { ffi::cb_geom_block_sectors(&raw const self.0, block) }
    }

    /// First sector of a block on the disk.
    pub fn block_start(&self, block: u64) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::cb_geom_block_start(&raw const self.0, block) }
    }

    /// First and last block that a stretch of the disk touches.
    pub fn touched(&self, sector: u64, sectors: u64) -> Option<(u64, u64)> {
        let mut blocks = ffi::Blocks { first: 0, last: 0 };
        // SAFETY: as above; the result is written to a live structure.
        unsafe { ffi::cb_geom_touched(&raw const self.0, sector, sectors, &raw mut blocks) }
            .then_some((blocks.first, blocks.last))
    }
}

/// What a slot of the COW file keeps; `core/slotmap.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// The slot.
    pub slot: u32,
    /// The block.
    pub block: u64,
    /// What is kept of the block's [`sum`].
    pub sum: u32,
}

/// Which slot keeps which block, and by what sum that is known; `core/slotmap.h`.
pub struct SlotMap {
    map: ffi::SlotMap,
    // The C structure points into these two; boxed slices do not move.
    buckets: Box<[u32]>,
    words: Box<[u64]>,
}

impl SlotMap {
    /// A map for so many slots and an origin of so many blocks.
    pub fn new(capacity: u32, block_count: u64) -> Result<Self, Errno> {
        // SAFETY: a pure function of its argument.
        let count = unsafe { ffi::cb_slotmap_bucket_count(capacity) };
        let mut buckets = vec![0; count as usize].into_boxed_slice();
        let mut words = vec![0; capacity as usize].into_boxed_slice();
        let mut map = ffi::SlotMap::empty();
        // SAFETY: both arrays are zeroed and have the lengths that the header asks for.
        check(unsafe {
            ffi::cb_slotmap_init(
                &raw mut map,
                capacity,
                block_count,
                buckets.as_mut_ptr(),
                words.as_mut_ptr(),
            )
        })?;
        Ok(Self {
            map,
            buckets,
            words,
        })
    }

    fn raw(&mut self) -> *mut ffi::SlotMap {
        &raw mut self.map
    }

    /// All slots in use, ascending.
    pub fn entries(&self) -> Vec<Kept> {
        let mut entries: Vec<Kept> = self
            .buckets
            .iter()
            .filter(|&&bucket| bucket != 0)
            .map(|&bucket| self.kept(bucket - 1))
            .collect();
        entries.sort_unstable();
        entries
    }

    fn kept(&self, slot: u32) -> Kept {
        let (word, bits) = (self.words[slot as usize], self.map.block_bits);
        Kept {
            slot,
            block: word & ((1 << bits) - 1),
            sum: (word >> bits) as u32,
        }
    }

    /// Bits of a sum that are kept.
    pub fn sum_bits(&self) -> u32 {
        64 - self.map.block_bits
    }

    /// Records that a slot keeps a block.
    pub fn insert(&mut self, block: u64, sum: u32, slot: u32) -> Result<(), Errno> {
        // SAFETY: the map was initialised and its arrays are alive and unaliased.
        check(unsafe { ffi::cb_slotmap_insert(&raw mut self.map, block, sum, slot) })
    }

    /// Takes over what another map records for its first slots, so many at a time, until the first slot without
    /// a block; gives that one.
    pub fn copy_from(&mut self, from: &Self, capacity: u32, at_once: u32) -> Result<u32, Errno> {
        let mut next = 0;
        loop {
            let end = (next + u64::from(at_once)).min(capacity.into());
            // SAFETY: both were initialised, their arrays are alive and belong to one of them only, and the
            // other one has that many slots.
            check(unsafe {
                ffi::cb_slotmap_copy(&raw mut self.map, &raw const from.map, &raw mut next, end)
            })?;
            if next < end || end == u64::from(capacity) {
                return Ok(next as u32);
            }
        }
    }

    /// Whether a block is recorded for a slot, of those that there are.
    pub fn keeps(&self, slot: u32) -> bool {
        // SAFETY: as above, read only.
        unsafe { ffi::cb_slotmap_keeps(&raw const self.map, slot) }
    }

    /// The slot of a block.
    pub fn find(&self, block: u64) -> Option<u32> {
        // SAFETY: as above, read only.
        let slot = unsafe { ffi::cb_slotmap_find(&raw const self.map, block) };
        (slot != u32::MAX).then_some(slot)
    }
}

/// The COW file as slots; `core/extents.h`.
pub struct Extents {
    extents: ffi::Extents,
    // The C structure points into it.
    _list: Box<[ffi::Extent]>,
}

impl Extents {
    /// From pieces `(sector, sectors)` of the disk, in any order.
    pub fn new(pieces: &[(u64, u64)], grid: u64, disk_sectors: u64) -> Result<Self, Errno> {
        let mut list: Box<[ffi::Extent]> = pieces
            .iter()
            .map(|&(sector, slots)| ffi::Extent {
                sector,
                slots,
                first_slot: 0,
            })
            .collect();
        let count = u32::try_from(list.len()).map_err(|_| Errno(22))?;
        let mut extents = ffi::Extents::empty();
        // SAFETY: the list has `count` elements and outlives the structure.
        check(unsafe {
            ffi::cb_extents_init(
                &raw mut extents,
                list.as_mut_ptr(),
                count,
                grid,
                disk_sectors,
            )
        })?;
        Ok(Self {
            extents,
            _list: list,
        })
    }

    /// Number of slots.
    pub fn slots(&self) -> u64 {
        self.extents.slots
    }

    /// First sector of a slot, and how many slots follow each other from it on.
    pub fn slot(&self, slot: u64) -> Result<(u64, u64), Errno> {
        let (mut sector, mut run) = (0, 0);
        // SAFETY: the list is alive; results go to live variables.
        check(unsafe {
            ffi::cb_extents_slot(&raw const self.extents, slot, &raw mut sector, &raw mut run)
        })?;
        Ok((sector, run))
    }

    /// Whether a stretch of the disk touches any slot.
    pub fn touch(&self, sector: u64, sectors: u64) -> bool {
        // SAFETY: as above, read only.
        unsafe { ffi::cb_extents_touch(&raw const self.extents, sector, sectors) }
    }
}

/// Epoch header; `core/header.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Series.
    pub uuid: [u8; 16],
    /// Number within the series.
    pub epoch: u64,
    /// Epoch whose region marks lie in the other area; 0 for none.
    pub before_epoch: u64,
    /// Where the origin begins on its disk, sectors.
    pub origin_start: u64,
    /// Size of the origin in sectors.
    pub origin_sectors: u64,
    /// Slots of the COW file.
    pub cow_slots: u64,
    /// Where the header itself lies.
    pub sector: u64,
    /// Where the slot after it lies.
    pub extents_sector: u64,
    /// First slot that is no metadata.
    pub data_first: u64,
    /// Pieces of the COW file.
    pub extent_count: u32,
    /// A region has `1 << region_shift` blocks.
    pub region_shift: u32,
    /// Flags.
    pub flags: u32,
}

/// Flag of [`Header::flags`]: the COW file lies on the disk of the origin.
pub const HEADER_COW_ON_ORIGIN: u32 = 1;

/// Flag of [`Header::flags`]: the index of the epoch has sums.
pub const HEADER_SUMS: u32 = 4;

/// Bytes of an encoded header, and of every slot.
pub const HEADER_BYTES: usize = 4096;

impl Header {
    /// The bytes on disk.
    pub fn encode(&self) -> Vec<u8> {
        let header = ffi::Header {
            uuid: self.uuid,
            epoch: self.epoch,
            before_epoch: self.before_epoch,
            origin_start: self.origin_start,
            origin_sectors: self.origin_sectors,
            cow_slots: self.cow_slots,
            sector: self.sector,
            extents_sector: self.extents_sector,
            data_first: self.data_first,
            extent_count: self.extent_count,
            region_shift: self.region_shift,
            flags: self.flags,
        };
        let mut block = vec![0xAA; HEADER_BYTES];
        // SAFETY: the block has the length that the function writes.
        unsafe { ffi::cb_header_encode(&raw const header, block.as_mut_ptr()) };
        block
    }

    /// From bytes on disk.
    pub fn decode(block: &[u8; HEADER_BYTES]) -> Result<Self, Errno> {
        let mut header = ffi::Header::default();
        // SAFETY: the block has the length that the function reads.
        check(unsafe { ffi::cb_header_decode(&raw mut header, block.as_ptr()) })?;
        Ok(Self {
            uuid: header.uuid,
            epoch: header.epoch,
            before_epoch: header.before_epoch,
            origin_start: header.origin_start,
            origin_sectors: header.origin_sectors,
            cow_slots: header.cow_slots,
            sector: header.sector,
            extents_sector: header.extents_sector,
            data_first: header.data_first,
            extent_count: header.extent_count,
            region_shift: header.region_shift,
            flags: header.flags,
        })
    }
}

/// CRC-32C as the core computes it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    // SAFETY: pointer and length describe the slice.
    unsafe { ffi::cb_crc32c(bytes.as_ptr(), bytes.len()) }
}

/// The sum by which a preserved block is known; `core/sum.h`.
pub fn sum(block: u64, content: &[u8]) -> u32 {
    assert_eq!(content.len(), HEADER_BYTES, "a block");
    // SAFETY: the content is a block.
    unsafe { ffi::cb_sum(block, content.as_ptr()) }
}

/// The same of a block whose content comes in pieces.
pub fn sum_of_pieces<'a>(block: u64, pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut sum = ffi::Sum::default();
    // SAFETY: the sum is begun before anything else; pointer and length describe each piece.
    unsafe {
        ffi::cb_sum_begin(&raw mut sum, block);
        for piece in pieces {
            ffi::cb_sum_more(&raw mut sum, piece.as_ptr(), piece.len());
        }
        ffi::cb_sum_end(&raw const sum)
    }
}

/// Phases of a snapshot; `core/protocol.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Phase {
    /// Every write passes.
    New,
    /// Every write is held.
    Holding,
    /// Writes pass once preserved.
    Active,
    /// Writes pass once noted as changed.
    Tracking,
    /// Tracking is lost: every write passes, reads fail.
    Failed,
    /// As failed.
    Closing,
    /// As tracking, while the reads of a snapshot that was lost fail.
    Invalidated,
    /// Tracking is lost: every write is held until a disk knows it, reads fail.
    Losing,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 8] = [
        Self::New,
        Self::Holding,
        Self::Active,
        Self::Tracking,
        Self::Failed,
        Self::Closing,
        Self::Invalidated,
        Self::Losing,
    ];

    /// The phase after an event.
    pub fn next(self, event: Event) -> Result<Self, Errno> {
        // SAFETY: a pure function of two enumerators that exist in C.
        let next = unsafe { ffi::cb_phase_next(self as u32, event as u32) };
        check(next)?;
        Ok(Self::ALL[usize::try_from(next).map_err(|_| Errno(34))?])
    }

    /// What to do with a write.
    pub fn write_action(self, preserved: bool, marked: bool, advisory: bool) -> Action {
        // SAFETY: as above.
        match unsafe { ffi::cb_write_decide(self as u32, preserved, marked, advisory) } {
            0 => Action::Pass,
            1 => Action::Hold,
            2 => Action::Note,
            _ => Action::Absorb,
        }
    }

    /// Where a snapshot read finds a block.
    pub fn read_source(self, own: bool, preserved: bool, in_memory: bool) -> Source {
        // SAFETY: as above.
        match unsafe { ffi::cb_read_decide(self as u32, own, preserved, in_memory) } {
            0 => Source::Origin,
            1 => Source::Memory,
            2 => Source::Cow,
            3 => Source::Zero,
            _ => Source::Fail,
        }
    }

    /// Whether a block that came from the origin may be returned.
    pub fn read_confirmed(self, preserved: bool) -> bool {
        // SAFETY: as above.
        unsafe { ffi::cb_read_confirm(self as u32, preserved) }
    }
}

/// What happens to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on at once.
    Pass,
    /// It is kept until its blocks are preserved.
    Hold,
    /// Its blocks are noted as changed, then it goes on.
    Note,
    /// It is completed without being done.
    Absorb,
}

/// What moves a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// Start to hold writes.
    Gate,
    /// The epoch begins.
    Begin,
    /// There is no snapshot any more, changes go on to be noted.
    Track,
    /// Tracking is lost, and the snapshot with it.
    Fail,
    /// It is taken apart.
    Close,
    /// The snapshot is lost.
    Invalidate,
    /// A disk knows that tracking is lost.
    Told,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 7] = [
        Self::Gate,
        Self::Begin,
        Self::Track,
        Self::Fail,
        Self::Close,
        Self::Invalidate,
        Self::Told,
    ];
}

/// Where a block of the snapshot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The origin, provisionally.
    Origin,
    /// Memory.
    Memory,
    /// The COW file.
    Cow,
    /// Zeros: the COW file's own block.
    Zero,
    /// Nowhere: the read fails.
    Fail,
}
