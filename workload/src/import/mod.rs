//! Workloads from what other programs record. What a file is, its content says, not its name.

mod blkparse;
mod iolog;

use thiserror::Error;

use crate::format::{self, FormatError};
use crate::operation::Workload;

/// Start of a trace of the tracer.
const TRACE_MAGIC: &[u8] = b"CBTRACE\n";

/// Start of the first line of fio's iolog.
const IOLOG_MAGIC: &[u8] = b"fio version ";

/// Characters of a line that a message shows.
const SHOWN_CHARS: usize = 80;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A workload.
    Workload,
    /// A trace of the tracer, which makes a workload of it.
    Trace,
    /// Text that `blkparse` printed in its default format.
    Blkparse,
    /// fio's iolog.
    Iolog,
}

/// Why a file cannot be read as a workload.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImportError {
    /// It is of no known kind.
    #[error(
        "this is nothing that a workload can be made of; give a workload, a trace of cowbird-trace, the text of blkparse in its default format, or an iolog of fio"
    )]
    Unknown,
    /// A trace needs the tracer.
    #[error("this is a trace; make a workload of it with `cowbird-trace export --format workload`")]
    Trace,
    /// A damaged or future workload.
    #[error(transparent)]
    Workload(#[from] FormatError),
    /// A version of fio's iolog that nobody has described here.
    #[error("fio's iolog is of version {0}, known are 2 and 3; let fio write one of these")]
    IologVersion(String),
    /// A line is not what it must be.
    #[error("line {line} is no {expected}: \"{text}\"; correct it, or record again")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What it should be.
        expected: &'static str,
        /// The line, or its beginning.
        text: String,
    },
    /// The text ends inside a line.
    #[error("the text ends inside of line {0}: it is cut off; copy it again")]
    CutOff(usize),
    /// `blkparse` shows several devices.
    #[error(
        "it shows requests of several devices ({0}); keep the lines of one, as with `grep '^ *8,0 '`"
    )]
    SeveralDevices(String),
    /// There is nothing in it.
    #[error("it has no operation that can be replayed; {0}")]
    Empty(&'static str),
}

/// What a file is by its content; none for anything else.
#[must_use]
pub fn recognise(file: &[u8]) -> Option<Source> {
    if file.starts_with(&format::MAGIC) {
        Some(Source::Workload)
    } else if file.starts_with(TRACE_MAGIC) {
        Some(Source::Trace)
    } else if file.starts_with(IOLOG_MAGIC) {
        Some(Source::Iolog)
    } else if blkparse::recognise(file) {
        Some(Source::Blkparse)
    } else {
        None
    }
}

/// Reads a workload, or makes one of the text of another program. A trace is not read here.
///
/// # Errors
/// When the file is none of these, or not intact.
pub fn import(file: &[u8]) -> Result<Workload, ImportError> {
    match recognise(file).ok_or(ImportError::Unknown)? {
        Source::Workload => Ok(Workload::decode(file)?),
        Source::Trace => Err(ImportError::Trace),
        Source::Blkparse => blkparse::import(file),
        Source::Iolog => iolog::import(file),
    }
}

/// The lines with their numbers from 1; the last one must end.
fn lines(file: &[u8]) -> Result<impl Iterator<Item = (usize, String)>, ImportError> {
    if file.last() != Some(&b'\n') {
        let lines = file.iter().filter(|byte| **byte == b'\n').count();
        return Err(ImportError::CutOff(lines + 1));
    }
    let lines = file.split(|byte| *byte == b'\n').enumerate();
    Ok(lines.map(|(at, line)| (at + 1, String::from_utf8_lossy(line).into_owned())))
}

fn bad_line(line: usize, expected: &'static str, text: &str) -> ImportError {
    ImportError::Line {
        line,
        expected,
        text: text.chars().take(SHOWN_CHARS).collect(),
    }
}
