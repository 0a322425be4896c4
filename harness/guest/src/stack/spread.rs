//! A large device of which only a few pieces are anywhere: those of a small one, spread over it. And the way
//! back, by which a large device is written, read and copied where it is something.

use std::fs;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_proto::message::SPREAD_PIECES;

use super::dm::{self, Target};

/// Pieces begin at multiples of a block on both, sectors.
const BLOCK_SECTORS: u64 = 8;

pub fn spread_name(number: u8) -> String {
    format!("spread-{number}")
}

pub fn gathered_name(number: u8) -> String {
    format!("gathered-{number}")
}

/// Spreads a device over so many sectors; gives the path of the large one.
pub fn spread(device: &str, number: u8, sectors: u64) -> GuestResult<String> {
    let table = spread_table(&dm::number(device)?, dm::sectors_of(device)?, sectors)?;
    dm::create(&spread_name(number), &table)
}

/// Gathers what was spread, so many sectors; gives the path of the small one.
pub fn gather(device: &str, number: u8, sectors: u64) -> GuestResult<String> {
    let below = dm::number(device)?;
    let table = gather_table(&below, dm::sectors_of(device)?, sectors)?;
    // A snapshot can only be read.
    let path = format!("/sys/dev/block/{below}/ro");
    let read_only = fs::read_to_string(&path).context(format_args!("read {path}"))?;
    if read_only.trim() == "1" {
        dm::create_read_only(&gathered_name(number), &table)
    } else {
        dm::create(&gathered_name(number), &table)
    }
}

/// Where the pieces of a device begin; one more, for its end.
fn starts(sectors: u64) -> impl Iterator<Item = u64> {
    let piece = sectors / SPREAD_PIECES / BLOCK_SECTORS * BLOCK_SECTORS;
    (0..SPREAD_PIECES)
        .map(move |index| index * piece)
        .chain([sectors])
}

/// Length and place of each piece, on the small device and on the large one.
fn pieces(small: u64, large: u64) -> GuestResult<Vec<(u64, u64, u64)>> {
    let from: Vec<u64> = starts(small).collect();
    let pieces: Vec<_> = from
        .windows(2)
        .zip(starts(large))
        .map(|(piece, to)| (piece[1] - piece[0], piece[0], to))
        .collect();
    let fits = pieces
        .iter()
        .zip(starts(large).skip(1))
        .all(|(&(sectors, _, to), next)| sectors > 0 && to + sectors <= next);
    if fits {
        Ok(pieces)
    } else {
        Err(failure(format!(
            "{small} sectors cannot be spread over {large}"
        )))
    }
}

fn spread_table(number: &str, small: u64, large: u64) -> GuestResult<Vec<Target>> {
    let mut targets = Vec::new();
    let mut at = 0;
    let zeros = |start: u64, end: u64| Target {
        start,
        sectors: end - start,
        kind: "zero",
        parameters: String::new(),
    };
    for (sectors, from, to) in pieces(small, large)? {
        if to > at {
            targets.push(zeros(at, to));
        }
        targets.push(Target {
            start: to,
            sectors,
            kind: "linear",
            parameters: format!("{number} {from}"),
        });
        at = to + sectors;
    }
    if large > at {
        targets.push(zeros(at, large));
    }
    Ok(targets)
}

fn gather_table(number: &str, large: u64, small: u64) -> GuestResult<Vec<Target>> {
    let piece = |(sectors, start, to): (u64, u64, u64)| Target {
        start,
        sectors,
        kind: "linear",
        parameters: format!("{number} {to}"),
    };
    Ok(pieces(small, large)?.into_iter().map(piece).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: both tables have no gap, and what is gathered is what was spread. Method: sizes that can and cannot
    /// be divided evenly.
    #[test]
    fn what_is_spread_is_gathered_again() {
        for (small, large) in [(98_304, 1 << 32), (98_304, 137_438_953_472), (4099, 70_001)] {
            let spread = spread_table("254:1", small, large).unwrap();
            let gathered = gather_table("254:2", large, small).unwrap();
            for (targets, size) in [(&spread, large), (&gathered, small)] {
                let mut at = 0;
                for target in targets {
                    assert_eq!(target.start, at);
                    at += target.sectors;
                }
                assert_eq!(at, size);
            }
            let linear = spread.iter().filter(|target| target.kind == "linear");
            for (there, back) in linear.zip(&gathered) {
                assert_eq!(there.sectors, back.sectors);
                assert_eq!(there.parameters, format!("254:1 {}", back.start));
                assert_eq!(back.parameters, format!("254:2 {}", there.start));
                assert_eq!(there.start % BLOCK_SECTORS, 0);
            }
            assert_eq!(gathered.len() as u64, SPREAD_PIECES);
        }
        assert!(spread_table("254:1", 4096, 4095).is_err());
        assert!(spread_table("254:1", 16, 4096).is_err());
    }
}
