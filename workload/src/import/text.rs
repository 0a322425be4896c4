//! Texts that other programs made, line by line, and what is wrong with them.

use thiserror::Error;

use crate::format::FormatError;

/// Characters of a line that a message shows.
const SHOWN_CHARS: usize = 80;

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

/// The lines with their numbers from 1; the last one must end.
pub(super) fn lines(file: &[u8]) -> Result<impl Iterator<Item = (usize, String)>, ImportError> {
    if file.last() != Some(&b'\n') {
        let lines = file.iter().filter(|byte| **byte == b'\n').count();
        return Err(ImportError::CutOff(lines + 1));
    }
    let lines = file.split(|byte| *byte == b'\n').enumerate();
    Ok(lines.map(|(at, line)| (at + 1, String::from_utf8_lossy(line).into_owned())))
}

/// The error of a line.
pub(super) fn bad_line(line: usize, expected: &'static str, text: &str) -> ImportError {
    ImportError::Line {
        line,
        expected,
        text: text.chars().take(SHOWN_CHARS).collect(),
    }
}
