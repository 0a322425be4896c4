//! Fingerprints, and the key that keeps them from being recognised.
//!
//! A fingerprint is the XXH64 (seed 0) of a block or of a part of one. Whoever has a plain one can look for known files and
//! try all contents of little entropy, and traces are sent around. So it is sealed: SipHash-2-4 of it, with a key that is drawn for
//! one recording and forgotten. Blocks that are alike have the same sealed fingerprint within that trace, which is all that a replay and
//! the checks of a trace need. `tracer/bpf/prints.h` computes the same.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use xxhash_rust::xxh64::xxh64;

use crate::devices::BLOCK_SECTORS;
use crate::event::BLOCK_BYTES;

/// Seed of the fingerprints.
const SEED: u64 = 0;

const SECTOR_BYTES: usize = 512;

/// The initial state of SipHash: "somepseudorandomlygeneratedbytes".
const INITIAL: [u64; 4] = [
    0x736f_6d65_7073_6575,
    0x646f_7261_6e64_6f6d,
    0x6c79_6765_6e65_7261,
    0x7465_6462_7974_6573,
];

/// The key of one recording. It is never printed or stored.
#[derive(Clone)]
pub struct PrintKey([u64; 2]);

impl std::fmt::Debug for PrintKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrintKey")
    }
}

impl PrintKey {
    /// One that nobody knows.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0_u8; 16];
        let taken = getrandom(&mut bytes, GetRandomFlags::empty())?;
        if taken != bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let number = u128::from_ne_bytes(bytes);
        Ok(Self([number as u64, (number >> 64) as u64]))
    }

    /// The two halves, for the programs in the kernel.
    #[must_use]
    pub fn halves(&self) -> [u64; 2] {
        self.0
    }

    fn seal(&self, print: u64) -> u64 {
        let [low, high] = self.0;
        let [a, b, c, d] = INITIAL;
        let mut state = [low ^ a, high ^ b, low ^ c, high ^ d];
        // One word, and the length of it.
        for word in [print, 8 << 56] {
            state[3] ^= word;
            round(&mut state);
            round(&mut state);
            state[0] ^= word;
        }
        state[2] ^= 0xFF;
        for _ in 0..4 {
            round(&mut state);
        }
        state.into_iter().fold(0, |all, word| all ^ word)
    }
}

fn round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *c = c.wrapping_add(*d);
    *b = b.rotate_left(13) ^ *a;
    *d = d.rotate_left(16) ^ *c;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*b);
    *a = a.wrapping_add(*d);
    *b = b.rotate_left(17) ^ *c;
    *d = d.rotate_left(21) ^ *a;
    *c = c.rotate_left(32);
}

/// The fingerprint of some content in a recording with this key, or in one without.
#[must_use]
pub fn print_of(content: &[u8], key: Option<&PrintKey>) -> u64 {
    let plain = xxh64(content, SEED);
    key.map_or(plain, |key| key.seal(plain))
}

/// The fingerprints of zeros: of one sector, of two, and so on up to those of a block.
#[must_use]
pub fn zero_prints(key: Option<&PrintKey>) -> Vec<u64> {
    let zeros = [0; BLOCK_BYTES as usize];
    let of_sectors = |sectors: usize| print_of(&zeros[..sectors * SECTOR_BYTES], key);
    (1..=BLOCK_SECTORS as usize).map(of_sectors).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of eight bytes in the appendix of the paper on SipHash.
    #[test]
    fn a_seal_is_siphash() {
        let key = PrintKey([0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908]);
        assert_eq!(key.seal(0x0706_0504_0302_0100), 0x93F5_F579_9A93_2462);
    }

    /// Goal: a known content cannot be found in a recording, and equal contents can be told in one.
    #[test]
    fn two_recordings_have_nothing_in_common() {
        let (one, other) = (PrintKey::random().unwrap(), PrintKey::random().unwrap());
        let content = [7; 4096];
        let sealed = print_of(&content, Some(&one));
        assert_eq!(sealed, print_of(&content, Some(&one)));
        assert_ne!(sealed, print_of(&content, Some(&other)));
        assert_ne!(sealed, print_of(&content, None));
        assert_ne!(sealed, print_of(&[8; 4096], Some(&one)));
        let zeros = zero_prints(Some(&one));
        assert_eq!(zeros.len(), 8);
        assert!(!zeros.contains(&xxh64(&[0; 4096], 0)));
        assert_eq!(format!("{one:?}"), "PrintKey", "a key is not printed");
    }
}
