//! The tracer beside a case: what it recorded in the guest, and whether that agrees with the witness and the
//! journal. What agreement means is in `model`; here are the files.

mod check;
mod events;

use std::collections::BTreeSet;
use std::path::PathBuf;

use cowbird_host::files::CellFiles;
use cowbird_model::{
    BoundaryMarker, Epoch, SECTOR_BYTES, Sector, SectorRange, TraceConclusion, TraceResult,
};

pub use check::{TracedCell, check};

/// Where the marks are written: behind the partition table and before the first partition.
const MARK_SECTOR: u64 = 1024;

/// A block, which every disk can write at once.
const MARK_SECTORS: u64 = 8;

/// Word of the mark with which a recording begins.
pub const BEGINS: &str = "begins";

/// Word of the mark with which it ends.
pub const ENDS: &str = "ends";

/// Which of a cell's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The first.
    First,
    /// That of the second volume.
    Second,
    /// The mirror of the first.
    Mirror,
}

/// A disk with a witness.
#[derive(Debug, Clone)]
pub struct WitnessedDisk {
    /// Its name in the guest, without the folder.
    pub name: &'static str,
    /// Which disk of the cell it is.
    pub role: Role,
    /// Whether QEMU makes a flush of FUA. Its NVMe disk takes the bit and does nothing (seen with 7.2).
    pub flushes_for_fua: bool,
    /// Devices that workloads may write to directly, and the sector of the disk at which they begin.
    pub devices: Vec<(String, u64)>,
}

impl WitnessedDisk {
    /// Where in the guest the marks go.
    pub fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// Disk and witness as they were in a boot; a machine with a mirror has only one.
    fn files(&self, files: &CellFiles, boot: u32, boots: u32) -> (PathBuf, PathBuf) {
        let own = match self.role {
            Role::First => files.clone(),
            Role::Second => files.second(),
            Role::Mirror => return (files.base(), files.mirror_witness()),
        };
        if boot + 1 < boots {
            (own.earlier_base(boot), own.earlier_witness(boot))
        } else {
            (own.base(), own.witness())
        }
    }
}

/// The mark at one end of a recording on one disk.
pub fn boundary_marker(disk: &WitnessedDisk, recording: usize, end: &str) -> BoundaryMarker {
    let mut content =
        format!("cowbird: recording {recording} of {} {end}\n", disk.name).into_bytes();
    content.resize(MARK_SECTORS as usize * SECTOR_BYTES, b'.');
    BoundaryMarker {
        range: SectorRange::new(Sector(MARK_SECTOR), MARK_SECTORS),
        content,
    }
}

/// One recording that came to its end.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Its number in the cell, which is in its marks.
    pub number: usize,
    /// The trace on the host.
    pub file: PathBuf,
    /// The boot that it was made in; they count from 0.
    pub boot: u32,
    /// Snapshot instants that the control tool reported meanwhile.
    pub instants: BTreeSet<(u32, Epoch)>,
}

/// What a case has been traced of so far.
#[derive(Debug, Default)]
pub struct Recordings {
    /// Those that came to their end.
    pub ended: Vec<Recording>,
    /// The one under way: its number, and the instants so far.
    pub running: Option<(usize, BTreeSet<(u32, Epoch)>)>,
    /// Recordings begun.
    pub begun: usize,
    /// Why there is no trace of some part of the case, although there should be.
    pub failures: Vec<String>,
    /// Why there can be none of some part of it.
    pub omissions: Vec<String>,
}

/// How the reason begins where the tracer lost events.
const INCOMPLETE_TRACE: &str = "the trace is not complete";

/// Whether events were lost, as they are where a kernel may preempt programs and the machine is busy: the next trace may be whole.
pub fn is_incomplete(trace: &TraceResult) -> bool {
    trace.conclusion == TraceConclusion::NoConclusion && trace.reason.starts_with(INCOMPLETE_TRACE)
}

/// A result without a comparison.
pub fn without_comparison(conclusion: TraceConclusion, reason: impl Into<String>) -> TraceResult {
    TraceResult {
        conclusion,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only a trace that lost events is worth another try; one that agrees, or that there is none of, stays as it is.
    #[test]
    fn an_incomplete_trace_is_told_from_others() {
        let lost = format!("{INCOMPLETE_TRACE}: 2 events at most lost to skipped programs");
        for (conclusion, reason, again) in [
            (TraceConclusion::NoConclusion, lost.as_str(), true),
            (
                TraceConclusion::NoConclusion,
                "the tracer does not start",
                false,
            ),
            (
                TraceConclusion::Agrees,
                "17 pieces of bios by content",
                false,
            ),
            (TraceConclusion::NotTraced, "no BTF", false),
        ] {
            let trace = without_comparison(conclusion, reason);
            assert_eq!(is_incomplete(&trace), again, "{reason}");
        }
    }
}
