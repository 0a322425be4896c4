//! Changes of an input: bits, bytes, integers at the edge, pieces moved, cut, doubled or taken from another input, and
//! words of the format.

use cowbird_proto::rng::Rng;

/// Values at which arithmetic goes wrong.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// The same in text.
const WORDS: [&[u8]; 12] = [
    b"0",
    b"-1",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9223372036854775808",
    b"4294967296",
    b"1e999",
    b"null",
    b"\n",
    b"\xFF",
    b"\"",
    b"{}",
];

/// Most changes at once.
const MOST: u64 = 8;

/// What inputs are changed with.
pub struct Mutator<'a> {
    /// Words of the format.
    pub words: &'a [&'a [u8]],
    /// Longest input.
    pub max_bytes: usize,
}

impl Mutator<'_> {
    /// Changes an input; `other` gives pieces.
    pub fn change(&self, rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
        // Mostly few changes: many make nonsense that is refused at once.
        let count = match rng.percent(40) {
            true => 1,
            false => 1 + rng.below(MOST).min(rng.below(MOST)),
        };
        for _ in 0..count {
            self.change_once(rng, input, other);
        }
        input.truncate(self.max_bytes);
    }

    fn change_once(&self, rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
        if input.is_empty() {
            input.extend_from_slice(other);
            return;
        }
        let at = place(rng, input.len());
        match rng.below(15) {
            0 | 1 => input[at] ^= 1 << rng.below(8),
            2 => input[at] = rng.next_u64() as u8,
            3 => input[at] = input[at].wrapping_add(rng.between(1, 16) as u8),
            4 => input[at] = input[at].wrapping_sub(rng.between(1, 16) as u8),
            5 | 6 => put(rng, input, at),
            7 => input.truncate(at),
            8 => {
                let end = end_of_piece(rng, at, input.len());
                input.drain(at..end);
            }
            9 => {
                let piece = input[at..end_of_piece(rng, at, input.len())].to_vec();
                self.insert(input, at, &piece);
            }
            10 => {
                let piece = input[at..end_of_piece(rng, at, input.len())].to_vec();
                let to = place(rng, input.len());
                let end = (to + piece.len()).min(input.len());
                input[to..end].copy_from_slice(&piece[..end - to]);
            }
            11 if !other.is_empty() => {
                let from = place(rng, other.len());
                let piece = &other[from..end_of_piece(rng, from, other.len())];
                self.insert(input, at, piece);
            }
            12 if !other.is_empty() => {
                // The head of one and the tail of the other.
                let from = at.min(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let all = WORDS.len() + self.words.len();
                let which = place(rng, all);
                let word = WORDS
                    .get(which)
                    .copied()
                    .unwrap_or_else(|| self.words[which - WORDS.len()]);
                if rng.percent(50) {
                    self.insert(input, at, word);
                } else {
                    let end = (at + word.len()).min(input.len());
                    input[at..end].copy_from_slice(&word[..end - at]);
                }
            }
        }
    }

    fn insert(&self, input: &mut Vec<u8>, at: usize, piece: &[u8]) {
        if input.len() + piece.len() <= self.max_bytes {
            input.splice(at..at, piece.iter().copied());
        }
    }
}

fn place(rng: &mut Rng, length: usize) -> usize {
    rng.below(length as u64) as usize
}

/// Mostly short.
fn end_of_piece(rng: &mut Rng, at: usize, length: usize) -> usize {
    let longest = if rng.percent(80) { 16 } else { length as u64 };
    (at + 1 + rng.below(longest) as usize).min(length)
}

/// An integer at the edge, or beside it, of 1 to 8 bytes.
fn put(rng: &mut Rng, input: &mut [u8], at: usize) {
    let edge = EDGES[place(rng, EDGES.len())];
    let value = match rng.below(4) {
        0 => edge.wrapping_add(1),
        1 => edge.wrapping_sub(1),
        _ => edge,
    };
    let bytes = 1 << rng.below(4);
    // Fields lie at multiples of their size, mostly.
    let at = if rng.percent(70) {
        at / bytes * bytes
    } else {
        at
    };
    let end = (at + bytes).min(input.len());
    input[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the same seed makes the same inputs, and none is too long.
    #[test]
    fn a_seed_decides_everything() {
        let make = || {
            let mutator = Mutator {
                words: &[b"word"],
                max_bytes: 100,
            };
            let mut rng = Rng::new(3);
            let mut inputs = vec![b"abcdefgh".to_vec()];
            for at in 0..2000 {
                let mut input = inputs[at / 2].clone();
                mutator.change(&mut rng, &mut input, b"other");
                assert!(input.len() <= 100);
                inputs.push(input);
            }
            inputs
        };
        assert!(make() == make());
    }
}
