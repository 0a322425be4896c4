//! The evidence of a cell, put before the oracle.

mod blocks;
mod ends;
mod evidence;
mod files;
mod filesystem;
mod volumes;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use cowbird_model::{
    BadBlock, Class, DiscardModel, MAX_LISTED_BLOCKS, Marker, MarkerKey, Oracle, SectorRange,
    TraceResult, WitnessLog, find_marker, self_check,
};
use cowbird_proto::message::Observation;
use memmap2::{MmapMut, MmapOptions};

pub use self::evidence::{Evidence, ExpectedLog, SnapshotEvidence, VolumesEvidence};
pub use self::files::CellFiles;

use self::volumes::judge_volumes;
use crate::crypt;
use crate::error::{HarnessError, HarnessResult, PathContext};
use crate::soak;
use crate::sparse;
use crate::trials::TrialOutcome;

/// What a discard does to a witnessed disk as [`crate::vm::command`] configures it: QEMU punches a
/// hole into the raw file. Tried with discards of every alignment, and checked in every cell.
pub const DISCARD_MODEL: DiscardModel = DiscardModel::Zeroes;

/// A larger disk is mapped with its holes.
const LARGE_BYTES: u64 = 64 << 30;

/// The oracle's answer.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// Blocks compared.
    pub blocks_checked: u64,
    /// Blocks wrong in the image or read wrong once.
    pub blocks_bad: u64,
    /// Wrong blocks by class.
    pub classes: BTreeMap<Class, u64>,
    /// The first of the wrong blocks.
    pub bad: Vec<BadBlock>,
    /// How each script ended.
    pub trials: Vec<TrialOutcome>,
    /// Everything that is wrong, each in one sentence; empty for a pass.
    pub faults: Vec<String>,
    /// Figures that are no fault.
    pub notes: Vec<String>,
    /// What the module may say in the kernel log although it is a warning.
    pub expected_log: ExpectedLog,
    /// What became of the trace, if the cell was traced.
    pub trace: Option<TraceResult>,
    /// The report for people.
    pub text: String,
}

/// Compares the image, and what readers saw, with the truth.
///
/// # Errors
/// Only what makes a judgement impossible: unreadable files, missing tools, an untrustworthy
/// witness.
pub fn judge(
    files: &CellFiles,
    evidence: &Evidence,
    observations: &[Observation],
) -> HarnessResult<Judgement> {
    if matches!(evidence, Evidence::WitnessOnly) && is_large(&files.origin())? {
        sparse::self_check(
            &files.base(),
            &files.witness(),
            &files.origin(),
            DISCARD_MODEL,
        )?;
        return Ok(Judgement::default());
    }
    let (mut base, mut origin) = (map(&files.base())?, map(&files.origin())?);
    let mut witness = map(&files.witness())?;
    let mut judgement = Judgement::default();
    let trials = match evidence {
        Evidence::Trials(trials) => Some(trials),
        _ => None,
    };
    let evidence = match evidence {
        Evidence::Snapshot(evidence) => Some(evidence),
        Evidence::WitnessOnly => None,
        Evidence::Volumes(evidence) => return judge_volumes(files, evidence),
        Evidence::Soak(evidence) => return soak::judge(files, evidence),
        Evidence::Trials(_) => None,
        Evidence::PowerCuts { cuts, boot, then } => {
            let mut judgement = judge(files, then, observations)?;
            judgement.take_power_cuts(files, cuts, *boot)?;
            return Ok(judgement);
        }
        Evidence::FailedSnapshot(text) => {
            judgement.expected_log = text;
            None
        }
    };
    if let Some(evidence) = evidence.filter(|evidence| evidence.encrypted) {
        crypt::decrypt_disk(&mut base, evidence.origin);
        crypt::decrypt_disk(&mut origin, evidence.origin);
        crypt::decrypt_log(&mut witness, evidence.origin).map_err(|error| untrusted(&error))?;
    }
    let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
    self_check(&base, &log, &origin, DISCARD_MODEL).map_err(|error| untrusted(&error))?;
    let Some(evidence) = evidence else {
        if let Some(trials) = trials {
            judgement.take_trials(&base, &log, &map(&files.image())?, trials)?;
        }
        return Ok(judgement);
    };
    judgement.expected_log = evidence.expected_log;
    if evidence.mirrored {
        judgement.check_mirror(files, &base, &origin, evidence.origin)?;
    }
    let image = map(&files.image())?;
    let Some(mut marker) = judgement.find(&log, &evidence.marker) else {
        return Ok(judgement);
    };
    if let Some(sectors) = evidence.marker_sectors {
        if marker.header.origin_sectors != sectors {
            let found = marker.header.origin_sectors;
            judgement.fault(format!(
                "the epoch is of {found} sectors, and not of {sectors}"
            ));
            return Ok(judgement);
        }
        // What is compared is the origin.
        marker.header.origin_sectors = evidence.origin.sectors;
    }
    let oracle = Oracle::new(
        &base,
        &log,
        marker,
        evidence.origin,
        &evidence.zeroed,
        DISCARD_MODEL,
    )
    .map_err(|error| untrusted(&error))?;
    let origin_bytes = usize::try_from(evidence.origin.bytes()).unwrap_or(usize::MAX);
    let content = image.get(..origin_bytes).unwrap_or(&image);
    let report = oracle.verify(content).map_err(|error| untrusted(&error))?;
    judgement.take_report(&report);
    let differing = evidence.differing_reads;
    let observed = judgement.take_observations(&oracle, &report, observations, differing)?;
    if let Some(traced) = &evidence.traced {
        // The guest counts all differing reads, and sends the content of so many only.
        let untold = differing.saturating_sub(observations.len() as u64);
        judgement.take_trace(traced, &report, &observed, untold);
    }
    for map in &evidence.maps {
        judgement.check_map(&base, &log, evidence.origin, &evidence.zeroed, map)?;
    }
    if evidence.filesystem {
        judgement.check_filesystem(&files.image())?;
        judgement.check_golden_files(&files.image(), &evidence.golden)?;
    }
    if let Some(restored) = &evidence.restored {
        let content = of_range(&origin, evidence.origin);
        judgement.check_restored(files, &oracle, content, evidence.origin, restored)?;
    }
    Ok(judgement)
}

/// Whether a disk is so large that it is mostly holes, and has to be looked at as such.
fn is_large(path: &Path) -> HarnessResult<bool> {
    Ok(fs::metadata(path).on("stat", path)?.len() > LARGE_BYTES)
}

/// The bytes of a disk that a range has.
pub(crate) fn of_range(disk: &[u8], range: SectorRange) -> &[u8] {
    let (start, end) = (range.start.0 as usize * 512, range.end().0 as usize * 512);
    disk.get(start..end).unwrap_or_default()
}

impl Judgement {
    pub(crate) fn fault(&mut self, fault: String) {
        self.text += &fault;
        self.text.push('\n');
        self.faults.push(fault);
    }

    /// Keeps the first bad blocks, for whoever wants to know more about them than the text says.
    fn name_bad(&mut self, bad: &[BadBlock]) {
        let room = MAX_LISTED_BLOCKS.saturating_sub(self.bad.len());
        self.bad.extend(bad.iter().take(room).cloned());
    }

    /// The harness looks at the right disk; that a header is not there is the module's doing.
    pub(crate) fn find(&mut self, log: &WitnessLog<'_>, key: &MarkerKey) -> Option<Marker> {
        match find_marker(log, key) {
            Ok(marker) => Some(marker),
            Err(error) => {
                self.fault(format!("no snapshot instant: {error}"));
                None
            }
        }
    }
}

pub(crate) fn untrusted(error: &dyn std::fmt::Display) -> HarnessError {
    HarnessError::Witness {
        detail: error.to_string(),
    }
}

/// Maps a file; what is written to the map stays in memory.
pub(crate) fn map(path: &Path) -> HarnessResult<MmapMut> {
    let file = File::open(path).on("open", path)?;
    // SAFETY: nothing writes or truncates the files of a cell while the map lives: QEMU has ended,
    // and the folder belongs to this cell alone.
    unsafe { MmapOptions::new().map_copy(&file) }.on("map", path)
}
