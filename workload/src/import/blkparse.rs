//! What `blkparse` prints in its default format:
//!
//! ```text
//!   8,0    3        1     0.000000000   697  Q   W 223490 + 8 [kjournald]
//! device cpu sequence     seconds       pid act rwbs sector + sectors [process]
//! ```
//!
//! Taken are the lines of action `Q`, a request as its submitter meant it; everything later (merges,
//! splits, issue, completion) is what the recorded kernel made of it, and the replaying one makes its own.
//! Of `rwbs`, `F` before the letter of the operation is a flush before it and behind it FUA, `S` is sync,
//! `Z` behind `W` write-zeroes where a kernel says so (`blkparse` itself shows these as writes). A request
//! without a place is a flush, or nothing if it has no `F`. Summaries, and lines of other shape, are passed
//! over, and counted as a doubt are commands to the device itself, which name no sector; a line that begins with a device must be whole.

use std::collections::BTreeSet;

use super::text::{ImportError, bad_line, lines};
use crate::operation::{Action, Builder, Extent, Flags, Sector, Workload};

/// The action that is taken.
const QUEUED: &str = "Q";

/// Words of a line up to `rwbs`.
const HEAD_WORDS: usize = 7;

const EXPECTED: &str = "line of blkparse's default format";

/// The kernel numbers what it keeps, so that what it dropped leaves no gap for `blkparse` to see.
const DOUBT: &str =
    "blkparse does not say whether requests were dropped; blktrace does when it ends (\"dropped\")";

/// Start of the line of the summary that counts gaps in the numbers.
const SKIPS: &str = "Skips: ";

const NANOSECOND_DIGITS: usize = 9;

/// Whether the first line that is not empty is of this format.
pub(super) fn recognise(file: &[u8]) -> bool {
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    file.split(|byte| *byte == b'\n')
        .map(text)
        .find(|line| !line.trim().is_empty())
        .is_some_and(|line| device(&line).is_some() && head(&line).is_some())
}

/// The device that a line is about; none for the lines of a summary.
fn device(line: &str) -> Option<&str> {
    let word = line.split_whitespace().next()?;
    let (major, minor) = word.split_once(',')?;
    let number = |text: &str| text.parse::<u32>().is_ok();
    (number(major) && number(minor)).then_some(word)
}

struct Head<'a> {
    at_ns: u64,
    action: &'a str,
    rwbs: &'a str,
}

fn head(line: &str) -> Option<Head<'_>> {
    let words: Vec<&str> = line.split_whitespace().take(HEAD_WORDS).collect();
    let [_, cpu, sequence, time, pid, action, rwbs] = words[..] else {
        return None;
    };
    for number in [cpu, sequence, pid] {
        number.parse::<u64>().ok()?;
    }
    rwbs.bytes()
        .all(|letter| letter.is_ascii_uppercase())
        .then_some(())?;
    Some(Head {
        at_ns: nanoseconds(time)?,
        action,
        rwbs,
    })
}

fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    if fraction.len() != NANOSECOND_DIGITS {
        return None;
    }
    let whole = seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
    whole.checked_add(fraction.parse().ok()?)
}

/// What `rwbs` says; no action for what is none of ours.
fn meaning(rwbs: &str) -> (Option<Action>, Flags) {
    let at = rwbs.find(['R', 'W', 'D', 'N']).unwrap_or(rwbs.len());
    let (before, rest) = rwbs.split_at(at);
    let action = match rest.chars().next() {
        Some('R') => Some(Action::Read),
        Some('W') if rest.starts_with("WZ") => Some(Action::WriteZeroes),
        Some('W') => Some(Action::Write),
        Some('D') => Some(Action::Discard),
        _ if before.contains('F') => Some(Action::Flush),
        _ => None,
    };
    let flags = Flags::default()
        .with(Flags::PREFLUSH, before.contains('F'))
        .with(Flags::FUA, rest.contains('F'))
        .with(Flags::SYNC, rest.contains('S'));
    (action, flags)
}

/// What a request is about.
enum Place {
    At(Extent),
    /// Nothing, as a flush.
    Nowhere,
    /// A command to the device itself, with its bytes: `36 (12 00 00 00 24 00 ..)`.
    Command,
}

fn place(line: &str) -> Result<Place, ()> {
    let mut words = line.split_whitespace().skip(HEAD_WORDS);
    let first = words.next().ok_or(())?;
    if first.starts_with('[') {
        return Ok(Place::Nowhere);
    }
    let start = first.parse().map_err(|_| ())?;
    let sectors = match (words.next(), words.next()) {
        (Some("+"), Some(sectors)) => sectors,
        (Some(bytes), _) if bytes.starts_with(['(', '[']) => return Ok(Place::Command),
        _ => return Err(()),
    };
    let sectors = sectors.parse().map_err(|_| ())?;
    words
        .next()
        .filter(|name| name.starts_with('['))
        .ok_or(())?;
    Ok(Place::At(Extent {
        start: Sector(start),
        sectors,
    }))
}

/// What a line of the summary says about gaps.
fn skips(line: &str) -> Option<String> {
    let rest = line.strip_prefix(SKIPS)?;
    let count = rest.split_whitespace().next()?;
    (count != "0").then(|| format!("blkparse missed {count} entries (\"Skips\")"))
}

pub(super) fn import(file: &[u8]) -> Result<Workload, ImportError> {
    let mut builder = Builder::default();
    let mut devices = BTreeSet::new();
    let mut doubts = vec![DOUBT.to_owned()];
    let mut commands = 0_u64;
    for (number, line) in lines(file)? {
        let Some(device) = device(&line) else {
            doubts.extend(skips(&line));
            continue;
        };
        let broken = || bad_line(number, EXPECTED, &line);
        let head = head(&line).ok_or_else(broken)?;
        if head.action != QUEUED {
            continue;
        }
        let (Some(mut action), flags) = meaning(head.rwbs) else {
            continue;
        };
        let extent = match place(&line).map_err(|()| broken())? {
            Place::At(extent) => extent,
            Place::Nowhere => Extent::default(),
            Place::Command => {
                commands += 1;
                continue;
            }
        };
        if extent.is_empty() && flags.has(Flags::PREFLUSH) {
            action = Action::Flush;
        }
        devices.insert(device.to_owned());
        builder.push(head.at_ns, action, flags, extent);
    }
    if commands > 0 {
        doubts.push(format!(
            "{commands} packet commands (as of `sg_raw` or `smartctl`) are left out: what they did is not known"
        ));
    }
    let names: Vec<String> = devices.into_iter().collect();
    match &names[..] {
        [] => Err(ImportError::Empty("it needs lines of action Q")),
        [name] => Ok(builder.finish(format!("blkparse of device {name}"), doubts)),
        _ => Err(ImportError::SeveralDevices(names.join(" and "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_told_by_their_side() {
        let flush = Flags::PREFLUSH;
        let of = |rwbs| meaning(rwbs);
        assert_eq!(of("R"), (Some(Action::Read), Flags::default()));
        assert_eq!(of("RAM"), (Some(Action::Read), Flags::default()));
        assert_eq!(of("WS"), (Some(Action::Write), Flags::SYNC));
        assert_eq!(
            of("WFS"),
            (Some(Action::Write), Flags::FUA.with(Flags::SYNC, true))
        );
        assert_eq!(of("FWFS"), (Some(Action::Write), Flags::ALL));
        assert_eq!(of("FF"), (Some(Action::Flush), flush));
        assert_eq!(of("FN"), (Some(Action::Flush), flush));
        assert_eq!(of("DS"), (Some(Action::Discard), Flags::SYNC));
        assert_eq!(of("WZS").0, Some(Action::WriteZeroes));
        assert_eq!(of("N").0, None);
    }
}
