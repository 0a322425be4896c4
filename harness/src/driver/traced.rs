//! What is recorded of a traced cell.

use std::collections::BTreeMap;

use cowbird_proto::message::WorkloadId;

use crate::tracing::{Recordings, WitnessedDisk};

/// What is traced of a cell.
pub(crate) struct Tracing {
    pub(crate) disks: Vec<WitnessedDisk>,
    pub(crate) recordings: Recordings,
    /// The devices that workloads write to directly.
    pub(crate) targets: BTreeMap<WorkloadId, Vec<String>>,
    /// Whether a workload rewrites cached pages that the kernel does not keep stable: those of a filesystem unless
    /// the queue asks for it, and before 6.7 those of a raw device whatever the queue asks for.
    pub(crate) pages_may_change: bool,
}

impl Tracing {
    pub(crate) fn of(disks: Vec<WitnessedDisk>) -> Self {
        Self {
            disks,
            recordings: Recordings::default(),
            targets: BTreeMap::new(),
            pages_may_change: false,
        }
    }
}
