//! Reads the file that `cowbirdctl changes --output` writes; the control tool documents its format.

use cowbird_model::{BlockIndex, BlockSet, Epoch, MarkerKey};

const MAGIC: &[u8; 8] = b"COWBMAP\x01";
const HEADER_BYTES: usize = 48;
const CRC_BYTES: usize = 4;

/// Which blocks the module says were written between two epochs of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeMap {
    /// Where it leads from.
    pub from: MarkerKey,
    /// Where it leads to.
    pub to: MarkerKey,
    /// The blocks.
    pub blocks: BlockSet,
}

impl ChangeMap {
    /// From the bytes of the file; `None` when it is something else, damaged or cut off.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
        if !body.starts_with(MAGIC) || u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        let uuid: [u8; 16] = body.get(8..24)?.try_into().ok()?;
        let key = |epoch| MarkerKey {
            uuid,
            epoch: Epoch(epoch),
        };
        let block_count = number(40)?;
        let map = body.get(HEADER_BYTES..)?;
        if map.len() as u64 != block_count.div_ceil(64) * 8 {
            return None;
        }
        let is_set = |block: &u64| map[(block / 8) as usize] >> (block % 8) & 1 != 0;
        Some(Self {
            from: key(number(24)?),
            to: key(number(32)?),
            blocks: (0..block_count).filter(is_set).map(BlockIndex).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the bits are where the control tool puts them, and damage is noticed. Method: a map
    /// written by hand from the description of the format.
    #[test]
    fn a_map_reads_as_it_is_described() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[7; 16]);
        for number in [3_u64, 4, 70] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for word in [1_u64 << 9, 1 << 5] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let map = ChangeMap::decode(&bytes).unwrap();
        assert_eq!((map.from.epoch, map.to.epoch), (Epoch(3), Epoch(4)));
        assert_eq!(map.blocks, [9, 69].map(BlockIndex).into_iter().collect());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(ChangeMap::decode(&damaged), None, "byte {at}");
            assert_eq!(ChangeMap::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
