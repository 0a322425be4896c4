//! The parsers, and what must hold of each whatever its input is.
//!
//! Every check fails by a panic or by an error of its own. That it ends in time and takes no more memory than it may is
//! looked at by the engine. Where there is a writer, what was parsed and is written again must parse to the same.

mod cow;
mod recorded;
mod reports;
mod tools;

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
const LIMIT_BYTES: usize = 64 << 20;

/// Longest input, unless the format needs more.
const MAX_BYTES: usize = 4 << 10;

/// All of them.
pub const TARGETS: &[Target] = &[
    cow::FILE,
    cow::HEADER,
    cow::STATE,
    recorded::WITNESS,
    recorded::WORKLOAD,
    recorded::BLKPARSE,
    recorded::IOLOG,
    recorded::TRACE,
    recorded::BTF,
    recorded::FRAMES,
    tools::LABEL,
    tools::SERIES,
    tools::CHANGE_MAP,
    tools::INFO,
    tools::MOUNTS,
    tools::PACKAGES,
    tools::RELEASE,
    tools::MODULE,
    reports::RESULTS,
    reports::PLAN,
    reports::JOURNAL,
];

/// The target of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

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
    fn refused(error: impl Display) -> Self {
        Self::of_text(&format!("{error:#}"))
    }

    /// Of what was understood, by figures: which of them are how large, roughly.
    fn accepted(figures: &[u64]) -> Self {
        let hash = figures.iter().fold(2_u64, |hash, figure| {
            let size = figure.checked_ilog2().map_or(0, |log| log + 1);
            (hash ^ u64::from(size)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        Self(hash | ACCEPTED)
    }
}

fn repairs_nothing(_: &mut [u8]) {}

/// An error unless two things are the same.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, first: &T, second: &T) -> Result<(), String> {
    if first == second {
        return Ok(());
    }
    let shown = |value: &T| format!("{value:?}").chars().take(400).collect::<String>();
    Err(format!("{what}: {} is not {}", shown(second), shown(first)))
}

/// Puts a CRC-32C right that lies behind what it is of.
fn put_crc(input: &mut [u8], of: std::ops::Range<usize>, at: usize) {
    let Some(bytes) = input.get(of) else { return };
    let crc = crc32c::crc32c(bytes).to_le_bytes();
    if let Some(place) = input.get_mut(at..at + 4) {
        place.copy_from_slice(&crc);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Goal: names are unique, seeds are valid, and no seed is longer than its target allows.
    #[test]
    fn targets_are_consistent() {
        let names: HashSet<&str> = TARGETS.iter().map(|target| target.name).collect();
        assert_eq!(names.len(), TARGETS.len());
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            let mut accepted = 0;
            for seed in seeds {
                assert!(seed.len() <= target.max_bytes, "{}", target.name);
                let mut repaired = seed.clone();
                (target.repair)(&mut repaired);
                assert!(repaired == seed, "{}: a seed is not valid", target.name);
                let kind = crate::engine::judge(target, &seed).unwrap();
                accepted += u32::from(kind.is_accepted());
            }
            assert!(accepted > 0, "{}: no seed is taken for valid", target.name);
        }
    }
}
