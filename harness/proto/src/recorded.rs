//! What the writes of a recorded workload contain.
//!
//! Where the recording knows contents, a sector says which content it belongs to and which part of it it is,
//! so that blocks that were alike are alike; otherwise it says which operation wrote it.

use cowbird_workload::{Content, Extent, Operation};

use crate::sector::{self, SectorIdentity};

/// Identity in sectors of which nothing is known but the operation: its number from 1 is the generation.
pub const IDENTITY: u64 = 0x4EC0;

/// Identity in sectors of a known content: its number from 1 is the generation, and the sector counts from
/// the start of the content.
pub const CONTENT_IDENTITY: u64 = 0xC047;

/// Fills `out` with what a part of the operation with the number `at` writes.
///
/// # Panics
/// When the part begins or ends inside a piece of the write, or `out` is not as long as the part.
pub fn fill(operation: &Operation, at: usize, seed: u64, part: Extent, out: &mut [u8]) {
    for (index, piece) in operation.extent.pieces().enumerate() {
        if !piece.overlaps(&part) {
            continue;
        }
        let offset = (piece.offset_bytes() - part.offset_bytes()) as usize;
        let out = &mut out[offset..offset + piece.length_bytes() as usize];
        let identity = |identity, sector, generation| SectorIdentity {
            identity,
            sector,
            generation,
            seed,
            writer: 0,
        };
        let known = operation.contents.get(index);
        match known.copied().unwrap_or(Content::Unknown) {
            Content::Zeroes => out.fill(0),
            Content::Unknown => {
                sector::fill(identity(IDENTITY, piece.start.0, at as u64 + 1), out);
            }
            Content::Known(number) => {
                sector::fill(identity(CONTENT_IDENTITY, 0, u64::from(number) + 1), out);
            }
        }
    }
}
