//! The change map of one epoch, and its file format.
//!
//! ```text
//!  0  magic "COWBMAP\x01"      32  to_epoch      (u64, little endian throughout)
//!  8  uuid of the series       40  block_count
//! 24  from_epoch               48  words: bit n % 64 of word n / 64 is block n
//!                              end  crc32c of everything before (u32)
//! ```

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::durable::{self, Links};
use crate::info::hex;

const MAGIC: &[u8; 8] = b"COWBMAP\x01";
const HEADER_BYTES: usize = 48;
const CRC_BYTES: usize = 4;

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = cowbird_abi::COWBIRD_BLOCK_BYTES as u64;

/// Which blocks were written between two epochs of a series: a superset of
/// those that differ.
#[derive(Debug, PartialEq, Eq)]
pub struct ChangeMap {
    /// The series.
    pub uuid: [u8; 16],
    /// The epoch that an image must have to be brought up to date with this map.
    pub from_epoch: u64,
    /// The epoch that it has afterwards.
    pub to_epoch: u64,
    /// Blocks of the origin.
    pub block_count: u64,
    /// One bit per block.
    pub words: Vec<u64>,
}

/// The map for machines.
#[derive(Serialize)]
struct Listing {
    uuid: String,
    from_epoch: u64,
    to_epoch: u64,
    block_count: u64,
    changed_blocks: u64,
    ranges: Vec<(u64, u64)>,
}

impl ChangeMap {
    /// Number of words for so many blocks.
    pub fn words_for(block_count: u64) -> Result<usize> {
        usize::try_from(block_count.div_ceil(64))
            .context("the volume is too large for this machine")
    }

    /// Changed blocks.
    pub fn changed(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Runs of changed blocks, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let is_set = |block: u64| {
            block < self.block_count && self.words[(block / 64) as usize] >> (block % 64) & 1 != 0
        };
        let mut next = 0;
        std::iter::from_fn(move || {
            while next < self.block_count && !is_set(next) {
                // Untouched words are skipped whole: most of a volume is.
                let skip = next % 64 == 0 && self.words[(next / 64) as usize] == 0;
                next += if skip { 64 } else { 1 };
            }
            if next >= self.block_count {
                return None;
            }
            let start = next;
            while is_set(next) {
                next += 1;
            }
            Some(start..next)
        })
    }

    /// One line per run.
    pub fn render(&self) -> String {
        let mut text = format!(
            "series {} epoch {} to {}: {} of {} blocks changed\n",
            hex(&self.uuid),
            self.from_epoch,
            self.to_epoch,
            self.changed(),
            self.block_count
        );
        for range in self.ranges() {
            text += &format!("{} + {}\n", range.start, range.end - range.start);
        }
        text
    }

    /// As JSON; ranges are pairs of first block and number of blocks.
    pub fn json(&self) -> Result<String> {
        let listing = Listing {
            uuid: hex(&self.uuid),
            from_epoch: self.from_epoch,
            to_epoch: self.to_epoch,
            block_count: self.block_count,
            changed_blocks: self.changed(),
            ranges: self
                .ranges()
                .map(|range| (range.start, range.end - range.start))
                .collect(),
        };
        serde_json::to_string(&listing).context("cannot write the change map as JSON")
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.words.len() * 8 + CRC_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.uuid);
        for number in [self.from_epoch, self.to_epoch, self.block_count] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for word in &self.words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// From the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((body, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
            bail!("it is too short for a change map");
        };
        if !body.starts_with(MAGIC) || body.len() < HEADER_BYTES {
            bail!(
                "it is no change map of this version; make one with `cowbirdctl changes --output`"
            );
        }
        if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
            bail!("it is damaged or cut off (wrong checksum); make it again");
        }
        let number = |at: usize| {
            let mut raw = [0; 8];
            raw.copy_from_slice(&body[at..at + 8]);
            u64::from_le_bytes(raw)
        };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&body[8..24]);
        let (words, rest) = body[HEADER_BYTES..].as_chunks::<8>();
        let map = Self {
            uuid,
            from_epoch: number(24),
            to_epoch: number(32),
            block_count: number(40),
            words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
        };
        if !rest.is_empty() || map.words.len() != Self::words_for(map.block_count)? {
            bail!(
                "its length does not fit the {} blocks that it speaks of",
                map.block_count
            );
        }
        Ok(map)
    }

    /// Reads the file of a map of at most so many blocks.
    pub fn read(path: &Path, block_count: u64) -> Result<Self> {
        let limit = (HEADER_BYTES + Self::words_for(block_count)? * 8 + CRC_BYTES) as u64;
        let bytes = durable::read(path, limit, Links::Follow)
            .with_context(|| format!("cannot read the change map {}", path.display()))?;
        Self::decode(&bytes)
            .with_context(|| format!("cannot use the change map {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(block_count: u64, blocks: &[u64]) -> ChangeMap {
        let mut words = vec![0; ChangeMap::words_for(block_count).unwrap()];
        for block in blocks {
            words[(block / 64) as usize] |= 1 << (block % 64);
        }
        ChangeMap {
            uuid: [3; 16],
            from_epoch: 4,
            to_epoch: 5,
            block_count,
            words,
        }
    }

    #[test]
    fn ranges_are_the_runs_of_set_bits() {
        let map = map(300, &[0, 1, 63, 64, 65, 200, 299]);
        let ranges: Vec<_> = map.ranges().collect();
        assert_eq!(ranges, [0..2, 63..66, 200..201, 299..300]);
        assert_eq!(map.changed(), 7);
        assert_eq!(super::tests::map(64, &[]).ranges().count(), 0);
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let map = map(1000, &[5, 999]);
        assert_eq!(ChangeMap::decode(&map.encode()).unwrap(), map);
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let good = map(130, &[1, 129]).encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(ChangeMap::decode(&bad).is_err(), "byte {at}");
            assert!(ChangeMap::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }
}
