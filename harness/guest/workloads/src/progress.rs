//! What a workload has done so far, and where it tells the host of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cowbird_guest_system::port::Port;
use cowbird_proto::message::WorkloadId;

/// What all threads of one workload have done together.
pub struct Progress {
    pub(super) id: WorkloadId,
    pub(super) port: Arc<Port>,
    pub(super) operations: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(super) block_reads: AtomicU64,
    pub(super) differing_reads: AtomicU64,
}

impl Progress {
    /// Of the workload with this number, which has done nothing yet.
    pub fn new(id: WorkloadId, port: Arc<Port>) -> Self {
        Self {
            id,
            port,
            operations: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            block_reads: AtomicU64::new(0),
            differing_reads: AtomicU64::new(0),
        }
    }
}

/// Adds to a counter.
pub fn count(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}
