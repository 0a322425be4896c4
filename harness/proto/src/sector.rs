//! Self-describing sectors: what the workloads write, so that a wrong block explains itself.
//!
//! ```text
//!    0        8          16       24           32     40        44         508      512
//!    +--------+----------+--------+------------+------+---------+-----------+--------+
//!    | magic  | identity | sector | generation | seed | writer  | filler    | crc32c |
//!    +--------+----------+--------+------------+------+---------+-----------+--------+
//! ```
//! All little endian. `identity` is the file or volume, `sector` the 512-byte sector inside it,
//! `generation` counts the writes of one workload, `writer` is the thread; `filler` repeats a word
//! made from the others, so that no two sectors of a run are equal by chance.

use crate::rng::mix;

/// Size of one self-describing sector; also the unit of block device addresses.
pub const SECTOR_BYTES: usize = 512;

/// Start of every sector that a workload wrote.
pub const MAGIC: [u8; 8] = *b"CWBSECT1";

const CRC_AT: usize = SECTOR_BYTES - 4;
const FILLER_AT: usize = 48;

/// What a sector says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorIdentity {
    /// The file or volume.
    pub identity: u64,
    /// Index of the sector in it.
    pub sector: u64,
    /// Number of the write within the workload; grows with time for one writer.
    pub generation: u64,
    /// Seed of the cell.
    pub seed: u64,
    /// Thread that wrote it.
    pub writer: u32,
}

impl SectorIdentity {
    /// Writes the sector into `out`.
    ///
    /// # Panics
    /// When `out` is not [`SECTOR_BYTES`] long.
    pub fn write_to(&self, out: &mut [u8]) {
        assert_eq!(out.len(), SECTOR_BYTES, "a sector has {SECTOR_BYTES} bytes");
        out[..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.identity.to_le_bytes());
        out[16..24].copy_from_slice(&self.sector.to_le_bytes());
        out[24..32].copy_from_slice(&self.generation.to_le_bytes());
        out[32..40].copy_from_slice(&self.seed.to_le_bytes());
        out[40..44].copy_from_slice(&self.writer.to_le_bytes());
        out[44..FILLER_AT].fill(0);
        let word = mix(self.generation ^ self.sector.rotate_left(20) ^ self.identity);
        for chunk in out[FILLER_AT..CRC_AT].chunks_mut(8) {
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a sector back; `None` when it is not (wholly) one that a workload wrote.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SECTOR_BYTES || bytes[..8] != MAGIC {
            return None;
        }
        let crc = u32::from_le_bytes(bytes[CRC_AT..].try_into().ok()?);
        if crc32c::crc32c(&bytes[..CRC_AT]) != crc {
            return None;
        }
        let word = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?))
        };
        Some(Self {
            identity: word(8)?,
            sector: word(16)?,
            generation: word(24)?,
            seed: word(32)?,
            writer: u32::from_le_bytes(bytes[40..44].try_into().ok()?),
        })
    }
}

/// Fills `out` with consecutive sectors that start at `first`.
///
/// # Panics
/// When `out` is not a whole number of sectors.
pub fn fill(first: SectorIdentity, out: &mut [u8]) {
    assert_eq!(
        out.len() % SECTOR_BYTES,
        0,
        "a write is a whole number of sectors"
    );
    for (index, chunk) in out.chunks_mut(SECTOR_BYTES).enumerate() {
        SectorIdentity {
            sector: first.sector + index as u64,
            ..first
        }
        .write_to(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: SectorIdentity = SectorIdentity {
        identity: 5,
        sector: 77,
        generation: 9,
        seed: 42,
        writer: 3,
    };

    #[test]
    fn a_sector_reads_back_what_it_says() {
        let mut sectors = [0_u8; SECTOR_BYTES * 2];
        fill(EXAMPLE, &mut sectors);
        assert_eq!(
            SectorIdentity::parse(&sectors[..SECTOR_BYTES]),
            Some(EXAMPLE)
        );
        let second = SectorIdentity {
            sector: 78,
            ..EXAMPLE
        };
        assert_eq!(
            SectorIdentity::parse(&sectors[SECTOR_BYTES..]),
            Some(second)
        );
    }

    /// Goal: a torn sector is never taken for a whole one. Method: flip every single byte.
    #[test]
    fn every_damaged_byte_is_noticed() {
        let mut sector = [0_u8; SECTOR_BYTES];
        EXAMPLE.write_to(&mut sector);
        for at in 0..SECTOR_BYTES {
            sector[at] ^= 0x40;
            assert_eq!(SectorIdentity::parse(&sector), None, "byte {at}");
            sector[at] ^= 0x40;
        }
    }
}
