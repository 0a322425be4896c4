//! What the guest tells unasked: that it lives, and the journal of its workloads.

use serde::{Deserialize, Serialize};

use super::{GuestError, WorkloadId};

/// What the guest tells unasked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The guest is alive; sent every second by a thread that does no disk I/O.
    Heartbeat {
        /// Time since boot, ms.
        uptime_ms: u64,
    },
    /// One line for the log of the cell.
    Log {
        /// Text.
        line: String,
    },
    /// What one thread of a workload issued and saw complete.
    Journal {
        /// The workload.
        workload: WorkloadId,
        /// The thread.
        thread: u32,
        /// In order.
        entries: Vec<JournalEntry>,
    },
    /// The host let a program run, as for what concerns the snapshot.
    Ran {
        /// The program and its arguments.
        command: String,
        /// When it was started, ns since boot.
        started_ns: u64,
        /// When it had ended, ns since boot.
        ended_ns: u64,
    },
    /// A snapshot read that differs from the first read of the same block.
    Observation(Observation),
    /// A thread of a workload cannot go on.
    WorkloadFailed {
        /// The workload.
        workload: WorkloadId,
        /// Why.
        error: GuestError,
    },
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JournalEntry {
    /// About to be submitted.
    Issued {
        /// Number of the operation, unique within thread and workload.
        op: u64,
        /// Time since boot, ns.
        at_ns: u64,
        /// The operation.
        what: Operation,
    },
    /// The kernel reported the end.
    Completed {
        /// Number of the operation.
        op: u64,
        /// Time since boot, ns.
        at_ns: u64,
        /// 0 or the errno.
        errno: i32,
    },
}

/// An operation of a workload. Offsets and lengths in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// A write of self-describing sectors.
    Write {
        /// File or volume.
        identity: u64,
        /// Offset.
        offset: u64,
        /// Length.
        length: u64,
        /// Generation in the sectors.
        generation: u64,
        /// How it was written.
        mode: WriteMode,
    },
    /// A discard of a range of the volume.
    Discard {
        /// Offset.
        offset: u64,
        /// Length.
        length: u64,
    },
    /// Zeroing of a range of the volume.
    ZeroOut {
        /// Offset.
        offset: u64,
        /// Length.
        length: u64,
    },
    /// fsync of a file or volume.
    Sync {
        /// File or volume.
        identity: u64,
    },
    /// A new file.
    Create {
        /// File.
        identity: u64,
    },
    /// Change of the length of a file.
    Truncate {
        /// File.
        identity: u64,
        /// New length.
        length: u64,
    },
    /// A new name for a file.
    Rename {
        /// File.
        identity: u64,
    },
    /// Removal of a file.
    Delete {
        /// File.
        identity: u64,
    },
    /// A read of the snapshot device.
    SnapshotRead {
        /// Offset.
        offset: u64,
        /// Length.
        length: u64,
    },
    /// A hole in a file.
    PunchHole {
        /// File.
        identity: u64,
        /// Offset.
        offset: u64,
        /// Length.
        length: u64,
    },
    /// Room for a file that nothing is written to.
    Allocate {
        /// File.
        identity: u64,
        /// Offset.
        offset: u64,
        /// Length.
        length: u64,
    },
    /// A new file that shares the blocks of another.
    Reflink {
        /// The new file.
        identity: u64,
        /// The other.
        from: u64,
    },
}

/// How a write reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteMode {
    /// Through the page cache, later.
    Buffered,
    /// `O_DIRECT`.
    Direct,
    /// Through the page cache, then fsync.
    Synced,
    /// Through a shared mapping, later.
    Mapped,
    /// `io_submit` of several parts.
    Aio,
    /// `io_uring` of several parts.
    Uring,
    /// `O_DIRECT` with `RWF_DSYNC`.
    DataSync,
    /// `O_DIRECT`, then a flush.
    Flushed,
}

/// A snapshot read that differs from the first read of the same block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The workload.
    pub workload: WorkloadId,
    /// Index of the 4096-byte block on the origin.
    pub block: u64,
    /// Thread that read it.
    pub reader: u32,
    /// Time of the read, ns since boot.
    pub at_ns: u64,
    /// What it read: 4096 bytes, fewer for the last block.
    pub content: Vec<u8>,
}
