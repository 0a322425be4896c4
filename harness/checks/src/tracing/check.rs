//! Recordings against the files of the cell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use cowbird_host::error::HarnessResult;
use cowbird_host::files::CellFiles;
use cowbird_host::tool::{self, TOOL_LIMIT};
use cowbird_model::{
    Agreement, AgreementInput, BoundaryMarker, JournalledWrite, SECTOR_BYTES, Sector, SectorRange,
    TraceConclusion, TraceResult, TracedDisk, WitnessLog, check_agreement, check_instants,
    check_journal,
};
use cowbird_proto::message::{
    Event, JournalEntry, LockstepWritersSpec, Operation, WorkloadId, WriteMode,
};

use crate::mapped::{map, untrusted};

use super::{
    BEGINS, ENDS, INCOMPLETE_TRACE, Recording, Recordings, WitnessedDisk, boundary_marker, events,
    without_comparison,
};

/// `cowbird-trace` ends so when a trace is not complete.
const INCOMPLETE: i32 = 3;

/// Contradictions that the text of a report lists.
const LISTED: usize = 50;

/// Everything that a traced cell leaves.
pub struct TracedCell {
    /// The tracer on the host, which decodes the traces.
    pub tracer: PathBuf,
    /// The disks that have a witness.
    pub disks: Vec<WitnessedDisk>,
    /// What was recorded.
    pub recordings: Recordings,
    /// Boots of the machine.
    pub boots: u32,
    /// The devices that workloads wrote to directly.
    pub targets: BTreeMap<WorkloadId, Vec<String>>,
    /// Whether cached pages of the raw device may change on their way to the disk.
    pub pages_may_change: bool,
    /// What the guest told.
    pub events: Vec<Event>,
}

/// Compares all recordings of a cell. The text is for the report.
///
/// # Errors
/// Only what makes a comparison impossible: unreadable files, a tracer that does not run.
pub fn check(cell: &TracedCell, files: &CellFiles) -> HarnessResult<(TraceResult, String)> {
    let recordings = &cell.recordings;
    if !recordings.failures.is_empty() {
        let reasons = recordings.failures.join("; ");
        return Ok((
            without_comparison(TraceConclusion::NoConclusion, reasons),
            String::new(),
        ));
    }
    if recordings.ended.is_empty() {
        let mut reason = recordings.omissions.join("; ");
        if reason.is_empty() {
            reason = "the case loads no module to begin with".into();
        }
        return Ok((
            without_comparison(TraceConclusion::NotTraced, reason),
            String::new(),
        ));
    }
    let mut agreement = Agreement::default();
    for recording in &recordings.ended {
        match compare(cell, files, recording)? {
            Ok(compared) => agreement.append(compared),
            // What is wrong in a recording that is whole stays wrong.
            Err(_) if agreement.contradicted() > 0 => {}
            Err(reasons) => {
                let reason = format!("{INCOMPLETE_TRACE}: {reasons}");
                return Ok((
                    without_comparison(TraceConclusion::NoConclusion, reason),
                    String::new(),
                ));
            }
        }
    }
    Ok(conclude(&agreement, recordings))
}

fn conclude(agreement: &Agreement, recordings: &Recordings) -> (TraceResult, String) {
    let mut compared = format!(
        "{} pieces of bios by content, {} by number, {} changed after their submission, {} requests, {} flushes, {} instants, {} writes of \
         the journal",
        agreement.contents,
        agreement.counted,
        agreement.changed,
        agreement.requests,
        agreement.flushes,
        agreement.instants,
        agreement.journalled
    );
    for omission in &recordings.omissions {
        compared += &format!("; {omission}");
    }
    let mut text = format!("trace, witness and journal: {compared}\n");
    for contradiction in agreement.contradictions.iter().take(LISTED) {
        text += &format!("{contradiction}\n");
    }
    let (conclusion, reason) = match agreement.contradictions.first() {
        Some(first) => (
            TraceConclusion::Contradicts,
            format!(
                "trace, witness and journal contradict each other in {} places, as {first}",
                agreement.contradicted()
            ),
        ),
        // A comparison of nothing must not agree.
        None if agreement.contents == 0 => (
            TraceConclusion::NoConclusion,
            "nothing was written between the marks".to_owned(),
        ),
        None => (TraceConclusion::Agrees, compared),
    };
    (TraceResult { conclusion, reason }, text)
}

/// What is wrong between the logs, or why the trace is not complete.
fn compare(
    cell: &TracedCell,
    files: &CellFiles,
    recording: &Recording,
) -> HarnessResult<Result<Agreement, String>> {
    let text = match export(&cell.tracer, &recording.file)? {
        Ok(text) => text,
        Err(reasons) => return Ok(Err(reasons)),
    };
    let mut traced = events::read(&text)?;
    drop(text);
    let mut agreement = Agreement::default();
    let (mut headers, mut all_compared) = (Vec::new(), true);
    let mut between_boundaries = None;
    for disk in &cell.disks {
        let begin = boundary_marker(disk, recording.number, BEGINS);
        let end = boundary_marker(disk, recording.number, ENDS);
        let (base, witness) = disk.files(files, recording.boot, cell.boots);
        let (base, witness) = (map(&base)?, map(&witness)?);
        let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
        let of_disk = take_disk(&mut traced.disks, &begin);
        // The guest's clock starts anew with each boot, and the journal does not say in which.
        let journal = match cell.boots {
            1 => journal_of(cell, disk),
            _ => Vec::new(),
        };
        let input = AgreementInput {
            traced: &of_disk,
            log: &log,
            begin: &begin,
            end: &end,
            pages_may_change: cell.pages_may_change,
            direct: &journal,
            fua_is_flush: disk.flushes_for_fua,
        };
        match check_agreement(&input) {
            Ok((compared_of_disk, compared)) => {
                agreement.append(compared_of_disk);
                headers.extend(compared.new_headers(&base, &log));
                agreement.append(check_journal(&of_disk, &compared, &journal));
                between_boundaries.get_or_insert(compared);
            }
            Err(failed) => {
                all_compared = false;
                agreement.append(failed);
            }
        }
    }
    if let (true, Some(compared)) = (all_compared, between_boundaries) {
        traced
            .instants
            .retain(|instant| compared.has(instant.begun));
        agreement.append(check_instants(
            &traced.instants,
            &headers,
            &recording.instants,
        ));
    }
    Ok(Ok(agreement))
}

/// The disk of a trace that a mark was written to.
fn take_disk(disks: &mut BTreeMap<String, TracedDisk>, mark: &BoundaryMarker) -> TracedDisk {
    let number = disks
        .iter()
        .find(|(_, disk)| disk.has_boundary_marker(mark))
        .map(|(number, _)| number.clone());
    number
        .and_then(|number| disks.remove(&number))
        .unwrap_or_default()
}

/// The events of a trace as lines, or why it is not complete.
fn export(tracer: &Path, file: &Path) -> HarnessResult<Result<String, String>> {
    let ran = tool::run_to_end(
        "cowbird-trace",
        "run `cowbird-trace info` on the trace in the bundle",
        Command::new(tracer)
            .args(["export", "--format", "jsonl"])
            .arg(file),
        file.parent().unwrap_or(file),
        TOOL_LIMIT,
    )?;
    let said = || ran.complaints().map(|said| said.trim().to_owned());
    match ran.code {
        0 => String::from_utf8(ran.output()?)
            .map(Ok)
            .map_err(|error| ran.failed(error.to_string())),
        INCOMPLETE => Ok(Err(said()?)),
        _ => Err(ran.failed(said()?)),
    }
}

/// The direct writes to a disk that the journal has as complete.
fn journal_of(cell: &TracedCell, disk: &WitnessedDisk) -> Vec<JournalledWrite> {
    let mut open = BTreeMap::new();
    let mut writes = Vec::new();
    for event in &cell.events {
        let Event::Journal {
            workload,
            thread,
            entries,
        } = event
        else {
            continue;
        };
        let targets = cell.targets.get(workload).map_or(&[][..], Vec::as_slice);
        for entry in entries {
            match entry {
                JournalEntry::Issued { op, at_ns, what } => {
                    open.insert((*workload, *thread, *op), (*at_ns, what));
                }
                JournalEntry::Completed { op, at_ns, errno } => {
                    let issued = open.remove(&(*workload, *thread, *op));
                    let Some((issued_ns, what)) = issued.filter(|_| *errno == 0) else {
                        continue;
                    };
                    if let Some(range) = range_of(what, targets, disk) {
                        writes.push(JournalledWrite {
                            range,
                            issued_ns,
                            completed_ns: *at_ns,
                            name: format!("operation {op} of thread {thread}, a write"),
                        });
                    }
                }
            }
        }
    }
    writes
}

/// Where on the disk a direct write to a device of it went.
fn range_of(what: &Operation, targets: &[String], disk: &WitnessedDisk) -> Option<SectorRange> {
    let Operation::Write {
        identity,
        offset,
        length,
        mode,
        ..
    } = what
    else {
        return None;
    };
    use WriteMode::{Aio, DataSync, Direct, Flushed, Uring};
    if !matches!(mode, Direct | DataSync | Flushed | Aio | Uring) {
        return None;
    }
    // A workload of two devices says by the identity which.
    let second_volume = *identity == LockstepWritersSpec::identity(1);
    let target = match targets {
        [one] => one,
        [_, second] if second_volume => second,
        [first, _] => first,
        _ => return None,
    };
    let (_, start) = disk.devices.iter().find(|(path, _)| path == target)?;
    let unit = SECTOR_BYTES as u64;
    let (first, end) = (offset / unit, (offset + length).div_ceil(unit));
    Some(SectorRange::new(Sector(start + first), end - first))
}
