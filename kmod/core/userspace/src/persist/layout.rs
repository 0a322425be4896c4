//! Where the metadata of a COW file lies, and the pieces that the file consists of.

use std::ops::Range;

use super::kind::Kind;
use super::slots::{PAYLOAD, SLOT_BYTES, Slot};
use crate::{Errno, Extents, check, ffi};

/// What lies where; `core/layout.h`. Slots are counted from the start of the COW file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout(pub(super) ffi::Layout);

impl Layout {
    /// For an origin and a COW file.
    pub fn new(block_count: u64, cow_slots: u64, extent_count: u32) -> Result<Self, Errno> {
        let mut layout = ffi::Layout::default();
        // SAFETY: the result is a live structure of the right layout.
        check(unsafe {
            ffi::cb_layout_init(&raw mut layout, block_count, cow_slots, extent_count)
        })?;
        Ok(Self(layout))
    }

    /// First slot and number of slots of a kind, both areas together.
    pub fn slots(&self, kind: Kind) -> Range<u64> {
        let (first, count) = match kind {
            Kind::Extents => (self.0.extents_first, self.0.extent_slots),
            Kind::State => (self.0.state_first, 2),
            Kind::Regions => (self.0.regions_first, 2 * self.0.region_slots),
            Kind::Fine => (self.0.fine_first, 2 * self.0.fine_slots),
            Kind::Index => (self.0.index_first, self.0.index_slots),
            Kind::Samples => (self.0.samples_first, 2),
        };
        first..first + count
    }

    /// Slots of a kind that belong to an epoch, numbered within the kind.
    pub fn area(&self, kind: Kind, epoch: u64) -> Range<u64> {
        let slots = self.slots(kind);
        let half = (slots.end - slots.start) / 2;
        let first = (epoch & 1) * half;
        first..first + half
    }

    /// First slot that is no metadata.
    pub fn data_first(&self) -> u64 {
        self.0.data_first
    }

    /// Blocks of the origin.
    pub fn block_count(&self) -> u64 {
        self.0.block_count
    }

    /// Regions.
    pub fn region_count(&self) -> u64 {
        self.0.region_count
    }

    /// A region has `1 << region_shift` blocks.
    pub fn region_shift(&self) -> u32 {
        self.0.region_shift
    }
}

/// The payload of extent slots for pieces of the COW file.
pub fn encode_extents(pieces: &[(u64, u64)]) -> Vec<Slot> {
    pieces
        .chunks(PAYLOAD.len() / 16)
        .map(|chunk| {
            let mut slot = [0; SLOT_BYTES];
            for (piece, at) in chunk.iter().zip((PAYLOAD.start..).step_by(16)) {
                slot[at..at + 8].copy_from_slice(&piece.0.to_le_bytes());
                slot[at + 8..at + 16].copy_from_slice(&piece.1.to_le_bytes());
            }
            slot
        })
        .collect()
}

/// Where a slot lies, as sector of the disk.
pub fn sector_of(extents: &Extents, slot: u64) -> Result<u64, Errno> {
    extents.slot(slot).map(|(sector, _)| sector)
}
