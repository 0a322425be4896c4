//! The tracer beside a case: what it recorded in the guest, and whether that agrees with the witness and the
//! journal. What agreement means is in `model`; here are the files.

mod check;
mod events;

use std::collections::BTreeSet;
use std::path::PathBuf;

use cowbird_model::{Epoch, Mark, SECTOR_BYTES, Sector, SectorRange, TraceResult, TraceStanding};

use cowbird_host::files::CellFiles;
use cowbird_vm::disks::Bus;
use cowbird_vm::layout::Layout;

pub(crate) use check::{TracedCell, check};

/// Where the marks are written: behind the partition table and before the first partition.
const MARK_SECTOR: u64 = 1024;

/// A block, which every disk can write at once.
const MARK_SECTORS: u64 = 8;

/// Words of the marks.
pub(crate) const BEGINS: &str = "begins";
pub(crate) const ENDS: &str = "ends";

/// Which of a cell's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    First,
    Second,
    Mirror,
}

/// A disk with a witness.
#[derive(Debug, Clone)]
pub(crate) struct WitnessedDisk {
    /// Its name in the guest, without the folder.
    pub(crate) name: &'static str,
    role: Role,
    bus: Bus,
    /// Devices that workloads may write to directly, and the sector of the disk at which they begin.
    devices: Vec<(String, u64)>,
}

impl WitnessedDisk {
    /// All of a layout.
    pub(crate) fn of(layout: &Layout) -> Vec<Self> {
        let first = layout.disk_name();
        let mut disks = vec![Self::with_origin(first, Role::First, layout)];
        if layout.has_second_volume() {
            disks.push(Self::with_origin("vdc", Role::Second, layout));
        }
        if layout.is_mirrored() {
            disks.push(Self {
                name: "vdc",
                role: Role::Mirror,
                bus: layout.bus(),
                devices: Vec::new(),
            });
        }
        disks
    }

    fn with_origin(name: &'static str, role: Role, layout: &Layout) -> Self {
        let separator = if name.starts_with("nvme") { "p" } else { "" };
        let partitions = layout.partitions().into_iter().zip(1..);
        let devices = partitions.map(|(partition, number)| {
            let path = format!("/dev/{name}{separator}{number}");
            (path, u64::from(partition.start))
        });
        Self {
            name,
            role,
            bus: layout.bus(),
            devices: devices.collect(),
        }
    }

    /// Whether QEMU makes a flush of FUA. Its NVMe disk takes the bit and does nothing (seen with 7.2).
    fn flushes_for_fua(&self) -> bool {
        self.bus != Bus::Nvme
    }

    /// Where in the guest the marks go.
    pub(crate) fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// Disk and witness as they were in a boot; only the first disk is kept for more than one.
    fn files(&self, files: &CellFiles, boot: u32, boots: u32) -> (PathBuf, PathBuf) {
        match self.role {
            Role::First if boot + 1 < boots => {
                (files.earlier_base(boot), files.earlier_witness(boot))
            }
            Role::First => (files.base(), files.witness()),
            Role::Second => (files.second().base(), files.second().witness()),
            Role::Mirror => (files.base(), files.mirror_witness()),
        }
    }
}

/// The mark at one end of a recording on one disk.
pub(crate) fn mark(disk: &WitnessedDisk, recording: usize, end: &str) -> Mark {
    let mut content =
        format!("cowbird: recording {recording} of {} {end}\n", disk.name).into_bytes();
    content.resize(MARK_SECTORS as usize * SECTOR_BYTES, b'.');
    Mark {
        range: SectorRange::new(Sector(MARK_SECTOR), MARK_SECTORS),
        content,
    }
}

/// One recording that came to its end.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    /// Its number in the cell, which is in its marks.
    pub(crate) number: usize,
    /// The trace on the host.
    pub(crate) file: PathBuf,
    /// The boot that it was made in; they count from 0.
    pub(crate) boot: u32,
    /// Snapshot instants that the control tool reported meanwhile.
    pub(crate) instants: BTreeSet<(u32, Epoch)>,
}

/// What a case has been traced of so far.
#[derive(Debug, Default)]
pub(crate) struct Recordings {
    /// Those that came to their end.
    pub(crate) ended: Vec<Recording>,
    /// The one under way: its number, and the instants so far.
    pub(crate) running: Option<(usize, BTreeSet<(u32, Epoch)>)>,
    /// Recordings begun.
    pub(crate) begun: usize,
    /// Why there is no trace of some part of the case, although there should be.
    pub(crate) failures: Vec<String>,
    /// Why there can be none of some part of it.
    pub(crate) omissions: Vec<String>,
}

/// How the reason begins where the tracer lost events.
const INCOMPLETE_TRACE: &str = "the trace is not complete";

/// Whether events were lost, as they are where a kernel may preempt programs and the machine is busy: the next trace may be whole.
pub(crate) fn is_incomplete(trace: &TraceResult) -> bool {
    trace.standing == TraceStanding::NoConclusion && trace.reason.starts_with(INCOMPLETE_TRACE)
}

/// A result without a comparison.
pub(crate) fn without_comparison(
    standing: TraceStanding,
    reason: impl Into<String>,
) -> TraceResult {
    TraceResult {
        standing,
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
        for (standing, reason, again) in [
            (TraceStanding::NoConclusion, lost.as_str(), true),
            (
                TraceStanding::NoConclusion,
                "the tracer does not start",
                false,
            ),
            (TraceStanding::Agrees, "17 pieces of bios by content", false),
            (TraceStanding::NotTraced, "no BTF", false),
        ] {
            let trace = without_comparison(standing, reason);
            assert_eq!(is_incomplete(&trace), again, "{reason}");
        }
    }
}
