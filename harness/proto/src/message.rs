//! Messages: what host and guest say to each other, and what each is wrapped in.

mod common;
mod event;
mod request;
mod stacking;
mod workloads;

use serde::{Deserialize, Serialize};

pub use self::common::{GuestError, RequestId, WorkloadId};
pub use self::event::{Event, JournalEntry, Observation, Operation, WriteMode};
pub use self::request::{
    Exited, Extent, GoldenFile, HoldBy, KernelRecord, MountApi, MountSpec, PartitionChange, Reply,
    Request,
};
pub use self::stacking::{CRYPT_KEY, FaultTarget, InjectedFault, SPREAD_PIECES, StackKind};
pub use self::workloads::{
    Chase, EndSignal, FsChurnSpec, FsOpsSpec, HotSpec, LockstepWritersSpec, NoiseSpec, PerformSpec,
    PollSpec, ProgramSpec, ProgramsSpec, RawWritersSpec, RecordedSpec, StopwatchSpec, StreamTarget,
    StreamsSpec, SwapperSpec, ThrottledSpec, TimedMode, TimedSpec, WorkloadSpec, WorkloadState,
    WriteKindsSpec,
};

/// Everything that the guest sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromGuest {
    /// First message of every boot.
    Hello(Hello),
    /// Answer to one request.
    Response {
        /// The request.
        id: RequestId,
        /// Its outcome.
        result: Result<Reply, GuestError>,
    },
    /// Something that the guest tells unasked.
    Event(Event),
}

/// Everything that the host sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Asks for something; answered once, in any order.
    Request {
        /// Number for the answer.
        id: RequestId,
        /// What is asked.
        request: Request,
    },
}

/// First message of every boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Release of the running kernel, as `uname -r` prints it.
    pub kernel_release: String,
    /// Kernel command line.
    pub command_line: String,
    /// Time since the kernel started, ms.
    pub boot_ms: u64,
    /// CPUs online.
    pub cpus: u32,
}
