//! fio's iolog (`write_iolog=`), versions 2 and 3:
//!
//! ```text
//! fio version 2 iolog            fio version 3 iolog
//! /dev/sda add                   0 /dev/sda add
//! /dev/sda open                  5 /dev/sda open
//! /dev/sda write 4096 8192       9 /dev/sda write 4096 8192
//! /dev/sda wait 1000 0           1009 /dev/sda sync 0 0
//! /dev/sda close                 1100 /dev/sda close
//! ```
//!
//! Offsets and lengths are bytes, times microseconds: in version 3 since the start, in version 2 as
//! `wait`. Every file has places of its own: several lie one behind the other, in the order of their first
//! appearance, each at a multiple of 1 MiB. `sync`, `datasync` and `sync_file_range` are flushes, `trim` is
//! a discard. A place that is no multiple of a sector is widened, because a device has no others.

use std::collections::HashMap;

use super::text::{ImportError, bad_line, lines};
use crate::operation::{Action, Builder, Extent, Flags, SECTOR_BYTES, Sector, Workload};

/// Files lie at multiples of this.
const FILE_ALIGN_SECTORS: u64 = (1 << 20) / SECTOR_BYTES;

const NANOS_PER_MICRO: u64 = 1000;

/// Files that are named one by one.
const NAMED_FILES: usize = 8;

const EXPECTED: &str = "line of fio's iolog";

const NOT_CLOSED: &str = "no file is closed at the end of the iolog, which may be cut off";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Two,
    Three,
}

struct Step {
    at_ns: u64,
    file: usize,
    action: Action,
    extent: Extent,
}

#[derive(Default)]
struct Log {
    files: Vec<String>,
    /// Where each is in `files`: there may be a hundred thousand.
    places: HashMap<String, usize>,
    steps: Vec<Step>,
    now_us: u64,
    closed: bool,
}

impl Log {
    fn file(&mut self, name: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.files.len();
        self.files.push(name.to_owned());
        self.places.insert(name.to_owned(), place);
        place
    }

    /// Takes a line; `None` when it is not one.
    fn take(&mut self, version: Version, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        if version == Version::Three {
            self.now_us = words.next()?.parse().ok()?;
        }
        let (name, action) = (words.next()?, words.next()?);
        let rest: Vec<u64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let file = self.file(name);
        self.closed = action == "close";
        let action = match (action, &rest[..]) {
            ("add" | "open" | "close", []) => return Some(()),
            ("wait", [us, _]) if version == Version::Two => {
                self.now_us = self.now_us.checked_add(*us)?;
                return Some(());
            }
            ("read", [_, _]) => Action::Read,
            ("write", [_, _]) => Action::Write,
            ("trim", [_, _]) => Action::Discard,
            ("sync" | "datasync" | "sync_file_range", [_, _]) => Action::Flush,
            _ => return None,
        };
        self.steps.push(Step {
            at_ns: self.now_us.checked_mul(NANOS_PER_MICRO)?,
            file,
            action,
            extent: Extent::of_bytes(rest[0], rest[1]),
        });
        Some(())
    }

    /// The files, or the first of them.
    fn names(&self) -> String {
        let first = self.files[..self.files.len().min(NAMED_FILES)].join(" ");
        match self.files.len().saturating_sub(NAMED_FILES) {
            0 => first,
            more => format!("{first} and {more} more"),
        }
    }

    /// Where each file begins among all of them.
    fn starts(&self) -> Vec<u64> {
        let mut lengths = vec![0_u64; self.files.len()];
        for step in &self.steps {
            lengths[step.file] = lengths[step.file].max(step.extent.end().0);
        }
        let mut next = 0_u64;
        lengths
            .into_iter()
            .map(|length| {
                let start = next;
                next =
                    start.saturating_add(length.div_ceil(FILE_ALIGN_SECTORS) * FILE_ALIGN_SECTORS);
                start
            })
            .collect()
    }
}

fn version(first: &str) -> Result<Version, ImportError> {
    let mut words = first.split_whitespace().skip(2);
    match (words.next(), words.next()) {
        (Some("2"), Some("iolog")) => Ok(Version::Two),
        (Some("3"), Some("iolog")) => Ok(Version::Three),
        (Some(other), Some("iolog")) => Err(ImportError::IologVersion(other.to_owned())),
        _ => Err(bad_line(1, "first line of fio's iolog", first)),
    }
}

pub(super) fn import(file: &[u8]) -> Result<Workload, ImportError> {
    let mut lines = lines(file)?;
    let (_, first) = lines.next().unwrap_or_default();
    let version = version(&first)?;
    let mut log = Log::default();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        log.take(version, &line)
            .ok_or_else(|| bad_line(number, EXPECTED, &line))?;
    }
    if log.steps.is_empty() {
        return Err(ImportError::Empty(
            "it needs lines with read, write, trim or sync",
        ));
    }
    let starts = log.starts();
    let mut builder = Builder::default();
    for step in &log.steps {
        let start = starts[step.file].saturating_add(step.extent.start.0);
        let extent = Extent {
            start: Sector(start),
            ..step.extent
        };
        builder.push(step.at_ns, step.action, Flags::default(), extent);
    }
    let doubts = match log.closed {
        true => Vec::new(),
        false => vec![NOT_CLOSED.to_owned()],
    };
    Ok(builder.finish(format!("fio iolog of {}", log.names()), doubts))
}
