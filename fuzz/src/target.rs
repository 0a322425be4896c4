//! A parser as the engine sees it: where its input comes from, and what must hold of it.

use std::fmt::Display;

/// A parser.
#[derive(Debug)]
pub struct Target {
    /// What to call it.
    pub name: &'static str,
    /// What it reads.
    pub reads: &'static str,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format.
    pub words: &'static [&'static [u8]],
    /// Longest input.
    pub max_bytes: usize,
    /// Most memory that an input may take.
    pub limit_bytes: usize,
    /// Puts checksums right.
    pub repair: fn(&mut [u8]),
    /// Parses an input, and looks whether everything holds. The error says what does not.
    pub check: fn(&[u8]) -> Result<Kind, String>,
}

/// Most memory for inputs of less than 64 KiB, unless the format's own bound is another.
pub const LIMIT_BYTES: usize = 64 << 20;

/// Longest input, unless the format needs more.
pub const MAX_BYTES: usize = 4 << 10;

/// What an input came to: inputs that come to something new are kept where nobody counts the code that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u64);

/// Set in the kinds of inputs that were taken for valid.
const ACCEPTED: u64 = 1 << 63;

/// Letters of a message by which its kind is known. Behind them, and in quotes, is mostly what the input says.
const KIND_LETTERS: usize = 48;

impl Kind {
    /// By the letters of a message.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        let told = text.split(['"', '`', '\'']).next().unwrap_or_default();
        let letters = told.bytes().filter(|byte| byte.is_ascii_alphabetic());
        let hash = letters.take(KIND_LETTERS).fold(1_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
        Self(hash & !ACCEPTED)
    }

    /// Whether the input was taken for valid.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        self.0 & ACCEPTED != 0
    }

    /// Of a refusal.
    pub fn refused(error: impl Display) -> Self {
        Self::of_text(&format!("{error:#}"))
    }

    /// Of what was understood, by figures: which of them are how large, roughly.
    #[must_use]
    pub fn accepted(figures: &[u64]) -> Self {
        let hash = figures.iter().fold(2_u64, |hash, figure| {
            let size = figure.checked_ilog2().map_or(0, |log| log + 1);
            (hash ^ u64::from(size)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        Self(hash | ACCEPTED)
    }
}

/// For formats without checksums.
pub fn repairs_nothing(_: &mut [u8]) {}

/// An error unless two things are the same.
///
/// # Errors
/// What is not the same.
pub fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    first: &T,
    second: &T,
) -> Result<(), String> {
    if first == second {
        return Ok(());
    }
    let shown = |value: &T| format!("{value:?}").chars().take(400).collect::<String>();
    Err(format!("{what}: {} is not {}", shown(second), shown(first)))
}

/// Puts a CRC-32C right that lies behind what it is of.
pub fn put_crc(input: &mut [u8], of: std::ops::Range<usize>, at: usize) {
    let Some(bytes) = input.get(of) else { return };
    let crc = crc32c::crc32c(bytes).to_le_bytes();
    if let Some(place) = input.get_mut(at..at + 4) {
        place.copy_from_slice(&crc);
    }
}
