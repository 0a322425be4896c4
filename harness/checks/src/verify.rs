//! The evidence of a cell, put before the oracle.

mod blocks;
mod ends;
mod evidence;
mod filesystem;
mod volumes;

use std::fs::{self};
use std::path::Path;

use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_model::{Oracle, WitnessLog, self_check};
use cowbird_proto::message::Observation;

pub use self::evidence::{Evidence, SnapshotEvidence, VolumesEvidence};

use crate::exhibits::{DISCARD_MODEL, map, of_range, untrusted};
use crate::judgement::Judgement;
use crate::{crypt, soak, sparse};

/// A larger disk is mapped with its holes.
const LARGE_BYTES: u64 = 64 << 30;

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

/// Each volume by itself, then whether they fit together.
fn judge_volumes(files: &CellFiles, evidence: &VolumesEvidence) -> HarnessResult<Judgement> {
    let second = files.second();
    let mut judgement = Judgement::default();
    for (name, files, volume) in [
        ("first volume", files, &evidence.volumes[0]),
        ("second volume", &second, &evidence.volumes[1]),
    ] {
        let of_one = judge(files, &Evidence::Snapshot(volume.clone()), &[])?;
        judgement.take_volume(name, of_one);
    }
    // Without a marker there is nothing to compare; that is a fault already.
    if judgement.faults.is_empty() {
        judgement.take_turns([files, &second], evidence)?;
    }
    Ok(judgement)
}

/// Whether a disk is so large that it is mostly holes, and has to be looked at as such.
fn is_large(path: &Path) -> HarnessResult<bool> {
    Ok(fs::metadata(path).on("stat", path)?.len() > LARGE_BYTES)
}
