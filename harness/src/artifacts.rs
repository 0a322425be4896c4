//! What is known at the end of a cell besides its files.

use cowbird_model::BadBlock;
use cowbird_proto::message::KernelRecord;
use cowbird_vm::agent::GuestRecord;

use crate::tape::FileDigest;

/// What is known at the end of a cell besides the files of the guest.
#[derive(Debug, Default)]
pub struct CellArtifacts {
    /// Journal, log lines, observations.
    pub record: GuestRecord,
    /// The kernel log, if the guest could still give it.
    pub kernel_log: Vec<KernelRecord>,
    /// What the kernel's memory leak detector found, if it has one.
    pub leaks: Option<String>,
    /// The last `/proc/cowbird-info`.
    pub info: Option<String>,
    /// Excerpt of a panic or splat.
    pub excerpt: String,
    /// The oracle's report.
    pub report: String,
    /// The first wrong blocks.
    pub bad: Vec<BadBlock>,
    /// What was left out, and figures that are no fault.
    pub notes: Vec<String>,
    /// The disks that a recorded cell started with.
    pub start: Option<Vec<FileDigest>>,
}
