//! Workloads from what other programs record. What a file is, its content says, not its name.

mod blkparse;
mod iolog;
mod text;

use crate::format;
use crate::operation::Workload;

pub use text::ImportError;

/// Start of a trace of the tracer.
const TRACE_MAGIC: &[u8] = b"CBTRACE\n";

/// Start of the first line of fio's iolog.
const IOLOG_MAGIC: &[u8] = b"fio version ";

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
