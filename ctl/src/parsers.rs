//! The parsers of what others may have written, as functions of its bytes: `cowbird-fuzz` calls them. Where this tool writes
//! the same format, they write it again.

use std::io::Cursor;

use anyhow::{Context, Result};

use crate::change_map::ChangeMap;
use crate::image::Label;
use crate::info::Report;
use crate::mounts;
use crate::series::Series;

/// The label of an image: whether it is the same when it was written and is parsed again.
///
/// # Errors
/// When it is none.
pub fn label(bytes: &[u8]) -> Result<bool> {
    let label = Label::parse(bytes)?;
    let again = label.text().and_then(|text| Label::parse(&text));
    Ok(again.is_ok_and(|again| again == label))
}

/// The record of a series, likewise.
///
/// # Errors
/// When it is none.
pub fn series(bytes: &[u8]) -> Result<bool> {
    let series = Series::parse(bytes)?;
    let again = series
        .text()
        .and_then(|text| Series::parse(text.as_bytes()));
    Ok(again.is_ok_and(|again| again == series))
}

/// A change map.
#[derive(Debug, PartialEq, Eq)]
pub struct Map {
    /// Blocks of the origin.
    pub block_count: u64,
    /// Blocks that changed, as it is told.
    pub changed: u64,
    /// Runs of these, `(first block, blocks)`.
    pub ranges: Vec<(u64, u64)>,
    /// The file, written again.
    pub written: Vec<u8>,
}

/// The file of a change map.
///
/// # Errors
/// When it is none.
pub fn change_map(bytes: &[u8]) -> Result<Map> {
    let map = ChangeMap::parse(bytes, bytes.len() as u64)?;
    let mut written = Cursor::new(Vec::new());
    map.write(&mut written).context("cannot write it again")?;
    Ok(Map {
        block_count: map.block_count,
        changed: map.changed(),
        ranges: map
            .ranges()
            .map(|range| (range.start, range.end - range.start))
            .collect(),
        written: written.into_inner(),
    })
}

/// The module's report: how many snapshots can be understood, and why others cannot.
///
/// # Errors
/// When it is none.
pub fn report(bytes: &[u8]) -> Result<(usize, Vec<String>)> {
    let report = Report::parse(bytes)?;
    Ok((report.devices().count(), report.complaints().collect()))
}

/// The list of mounts: how many there are.
///
/// # Errors
/// When a line of it is none.
pub fn mounts(bytes: &[u8]) -> Result<usize> {
    Ok(mounts::parse(bytes)?.len())
}
