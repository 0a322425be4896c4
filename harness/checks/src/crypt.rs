//! The origin of an encrypted device: what the witness saw below dm-crypt, in plain text.
//!
//! The disk, the same disk before boot and the witness's log are decrypted in place at the origin's
//! sectors; the oracle then judges as if the writes had never been encrypted. AES-XTS is that of
//! IEEE 1619 with the number of the 512-byte sector as the tweak, which dm-crypt calls `plain64`.

use aes::Aes128;
use aes::cipher::consts::{U16, U32};
use aes::cipher::{Array, KeyInit};
use cowbird_model::{EntryKind, SECTOR_BYTES, SectorRange, WitnessError, WitnessLog};
use cowbird_proto::message::CRYPT_KEY;
use xts_mode::{Xts128, get_tweak_default};

/// Decrypts the origin on a disk.
pub fn decrypt_disk(disk: &mut [u8], origin: SectorRange) {
    let cipher = Xts::new(&CRYPT_KEY);
    let from = (origin.start.0 as usize * SECTOR_BYTES).min(disk.len());
    let to = (origin.end().0 as usize * SECTOR_BYTES).min(disk.len());
    for (sector, bytes) in (0..).zip(disk[from..to].chunks_exact_mut(SECTOR_BYTES)) {
        cipher.decrypt_sector(sector, bytes);
    }
}

/// Decrypts what a log says was written to the origin.
///
/// # Errors
/// A log that cannot be read.
pub fn decrypt_log(bytes: &mut [u8], origin: SectorRange) -> Result<(), WitnessError> {
    let cipher = Xts::new(&CRYPT_KEY);
    let start = bytes.as_ptr() as usize;
    let log = WitnessLog::parse(bytes)?;
    let written: Vec<(usize, SectorRange)> = log
        .entries()
        .iter()
        .filter(|entry| entry.kind == EntryKind::Write)
        .filter_map(|entry| {
            let range = entry.range().intersect(&origin)?;
            let skipped = (range.start.0 - entry.sector.0) as usize * SECTOR_BYTES;
            // The entry's data is a part of `bytes`.
            Some((entry.data.as_ptr() as usize - start + skipped, range))
        })
        .collect();
    for (at, range) in written {
        let first = range.start.0 - origin.start.0;
        let data = &mut bytes[at..at + range.bytes() as usize];
        for (sector, bytes) in (first..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
            cipher.decrypt_sector(sector, bytes);
        }
    }
    Ok(())
}

/// The cipher, and the number of the sector as its tweak.
struct Xts(Xts128<Aes128>);

impl Xts {
    /// The first half of the key is for the data, the second one for the tweak.
    fn new(key: &[u8; 32]) -> Self {
        let (data, tweak) = Array::<u8, U32>(*key).split::<U16>();
        Self(Xts128::new(Aes128::new(&data), Aes128::new(&tweak)))
    }

    fn decrypt_sector(&self, sector: u64, bytes: &mut [u8]) {
        self.0
            .decrypt_sector(bytes, get_tweak_default(sector.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: it is the XTS of the standard. Method: vector 2 of IEEE 1619-2007, annex B: keys of
    /// 0x11 and 0x22, data unit 0x3333333333, 32 bytes of 0x44.
    #[test]
    fn a_vector_of_the_standard_decrypts() {
        let mut key = [0x11; 32];
        key[16..].fill(0x22);
        let cipher = "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0";
        let mut bytes: Vec<u8> = (0..cipher.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&cipher[at..at + 2], 16).unwrap())
            .collect();
        Xts::new(&key).decrypt_sector(0x33_3333_3333, &mut bytes);
        assert_eq!(bytes, [0x44; 32]);
    }
}
