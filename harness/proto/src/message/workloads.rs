//! What the guest is told to do to its disks, and how far it is.

use cowbird_workload::{Instant, Task, Timing};
use serde::{Deserialize, Serialize};

use super::GuestError;

/// What to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadSpec {
    /// Files on a mounted filesystem.
    FsChurn(FsChurnSpec),
    /// Writers on the raw origin.
    RawWriters(RawWritersSpec),
    /// Snapshot reads that race with writers.
    Hot(HotSpec),
    /// One writer for every kind of write that the kernel knows.
    WriteKinds(WriteKindsSpec),
    /// Writes that a cgroup's limit delays.
    Throttled(ThrottledSpec),
    /// Writers that write to two volumes in lockstep.
    LockstepWriters(LockstepWritersSpec),
    /// One writer whose slowest write is measured.
    Stopwatch(StopwatchSpec),
    /// What was done to another device once.
    Recorded(RecordedSpec),
    /// No I/O, but what moves other threads in time.
    Noise(NoiseSpec),
    /// Files on a mounted filesystem, and everything that can be done to them.
    FsOps(FsOpsSpec),
    /// Programs that know nothing of the harness.
    Programs(ProgramsSpec),
    /// Writers that write large direct writes, each to a stretch of its own.
    Streams(StreamsSpec),
    /// A process that needs more memory than its cgroup may have.
    Swapper(SwapperSpec),
    /// Readers and writers of which it matters how long they wait.
    Timed(TimedSpec),
    /// A file that is read again and again.
    Poll(PollSpec),
}

/// Parameters of the writers of large direct writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamsSpec {
    /// What is written to.
    pub target: StreamTarget,
    /// Seed.
    pub seed: u64,
    /// Threads.
    pub writers: u32,
    /// Length of each write, bytes.
    pub write_bytes: u32,
    /// Length of the stretch that a writer has to itself and writes from its beginning to its end, again and
    /// again, bytes: a multiple of `write_bytes`.
    pub stretch_bytes: u64,
}

/// What the writers of large direct writes write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamTarget {
    /// Block devices: each has a stretch, then each has a second one, which follows the first, and so on.
    Devices(Vec<String>),
    /// A filesystem that is mounted in a mount namespace of the writers' own and nowhere else; each stretch is a
    /// file.
    Unseen {
        /// Block device.
        device: String,
        /// Type of the filesystem.
        fstype: String,
    },
}

/// Parameters of the process that swaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapperSpec {
    /// Partition that is made a swap area, and is given up again when the workload ends.
    pub device: String,
    /// Seed.
    pub seed: u64,
    /// Memory that the process writes to again and again, MiB.
    pub used_mib: u32,
    /// Memory that its cgroup may have, MiB.
    pub limit_mib: u32,
}

/// How the accesses of a [`TimedSpec`] are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimedMode {
    /// Each thread has one direct access in flight.
    Direct,
    /// Each thread writes through the page cache, and syncs the data of each write.
    Synced,
    /// Each thread has so many direct writes in flight, which it submits without waiting where the kernel can. They
    /// are not in the journal.
    Deep(u32),
    /// Each is a process in a control group. A reader has one direct read in flight, a writer so many direct writes,
    /// which it submits from one thread. They are not in the journal.
    Grouped(u32),
}

/// Parameters of the readers and writers of which it matters how long they wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedSpec {
    /// Block devices or files; the threads are dealt to them in turn.
    pub devices: Vec<String>,
    /// Seed.
    pub seed: u64,
    /// Threads that read blocks.
    pub readers: u32,
    /// Threads that write blocks; together they write each one of a device once before they begin again.
    pub writers: u32,
    /// The first block that they read and write.
    pub first_block: u64,
    /// So many blocks are theirs.
    pub blocks: u64,
    /// How they do it.
    pub mode: TimedMode,
    /// The control group of [`TimedMode::Grouped`], a folder; its limits are in force already.
    pub group: Option<String>,
    /// Whether the writers end when each block is written.
    pub once: bool,
    /// Pause of each thread between two accesses, us.
    pub pause_us: u64,
}

/// Parameters of the reading of a file again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollSpec {
    /// The file.
    pub path: String,
    /// Pause between two reads, ms.
    pub pause_ms: u64,
}

/// Programs that run until they end or the workload is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramsSpec {
    /// All are started at once.
    pub programs: Vec<ProgramSpec>,
    /// Disk or partition, without its folder. What is written to it since the start, by whomever, is what
    /// [`WorkloadState::bytes_written`] says.
    pub device: String,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSpec {
    /// Path.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The file that it reads as its standard input, if any.
    pub input: Option<String>,
    /// It runs as the owner of this file or folder; else as root.
    pub as_owner_of: Option<String>,
    /// Each line of its standard output that is this is one of [`WorkloadState::operations`].
    pub acknowledges: String,
    /// How it is told to end.
    pub ends_by: EndSignal,
}

/// A signal that ends a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndSignal {
    /// `SIGTERM`.
    Terminate,
    /// `SIGINT`.
    Interrupt,
    /// `SIGQUIT`.
    Quit,
}

/// Parameters of the noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseSpec {
    /// Seed.
    pub seed: u64,
    /// Whether CPUs go and come back.
    pub hotplug: bool,
    /// Threads of high priority that take a CPU for a moment, now and then.
    pub spinners: u32,
}

/// Parameters of the recorded workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSpec {
    /// Block device.
    pub device: String,
    /// The workload file, already moved onto a device of this size.
    pub file: String,
    /// Seed.
    pub seed: u64,
    /// How fast it is replayed.
    pub timing: Timing,
    /// Where in it the snapshot is taken.
    pub instant: Instant,
}

/// One stage of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerformSpec {
    /// Block device that is changed.
    pub device: String,
    /// Block device that is read.
    pub snapshot: String,
    /// What to do, in the order in which it begins.
    pub tasks: Vec<Task>,
    /// Seed of the contents, and of the pauses where several threads meet.
    pub seed: u64,
    /// Generation of the first task's sectors; the others' follow.
    pub generation: u64,
}

/// Parameters of the workload of all kinds of write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteKindsSpec {
    /// Block device; or the directory in a mounted filesystem where each writer has a file.
    pub target: String,
    /// The block device in both cases: a writer in a mount namespace of its own opens or mounts it.
    pub device: String,
    /// Type of the filesystem; `None` for the block device itself.
    pub fstype: Option<String>,
    /// Seed.
    pub seed: u64,
}

/// Parameters of the throttled workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottledSpec {
    /// Block device.
    pub device: String,
    /// The whole disk that the limit is for.
    pub disk: String,
    /// Seed.
    pub seed: u64,
    /// Blocks that are written, all submitted at once.
    pub blocks: u32,
    /// The limit.
    pub bytes_per_second: u64,
}

/// Parameters of the lockstep writers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockstepWritersSpec {
    /// Block devices: in each round the first is written, then the second.
    pub devices: [String; 2],
    /// Seed.
    pub seed: u64,
    /// Threads.
    pub writers: u32,
    /// Blocks that a writer has on each volume.
    pub slots: u32,
}

impl LockstepWritersSpec {
    /// The block that a writer writes in a round, on both volumes; rounds count from 1.
    #[must_use]
    pub fn block(&self, writer: u32, round: u64) -> u64 {
        let slots = u64::from(self.slots);
        u64::from(writer) * slots + round % slots
    }

    /// Identity in the sectors of a volume, which is 0 or 1.
    #[must_use]
    pub fn identity(volume: usize) -> u64 {
        0x7047 + volume as u64
    }
}

/// Parameters of the file workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsChurnSpec {
    /// Mount point.
    pub root: String,
    /// Seed.
    pub seed: u64,
    /// Threads, each in its own directory.
    pub threads: u32,
    /// Files that a thread keeps at most.
    pub files_per_thread: u32,
    /// Longest file, bytes.
    pub max_file_bytes: u64,
    /// Golden files.
    pub golden_files: u32,
    /// Data written after [`Request::EpochPassed`] by all threads together, bytes; then the
    /// threads only sync and idle. Bounds what the COW file must hold.
    pub budget_after_epoch_bytes: u64,
    /// Pause of each thread after each operation, us.
    pub pause_us: u64,
}

/// Parameters of the file workload that does everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsOpsSpec {
    /// What it has in common with the other one.
    pub files: FsChurnSpec,
    /// Whether files come to share blocks; a filesystem that cannot do that is an error then.
    pub reflinks: bool,
}

/// Parameters of the raw workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawWritersSpec {
    /// Block device.
    pub device: String,
    /// Seed.
    pub seed: u64,
    /// Pairs of direct writers.
    pub pairs: u32,
    /// Every this many operations a pair discards or zeroes a range; 0 for never.
    pub discard_every: u64,
    /// When they have written so many bytes, the writers rest until they are stopped; 0 for never.
    pub rest_at_bytes: u64,
}

/// Parameters of the stopwatch: one writer, one block at a time, and how long the slowest one takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopwatchSpec {
    /// Block device.
    pub device: String,
    /// Seed.
    pub seed: u64,
    /// Between two writes, µs.
    pub pause_us: u64,
}

/// Parameters of the hot workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotSpec {
    /// Origin.
    pub origin: String,
    /// Snapshot device.
    pub snapshot: String,
    /// Where the first read of every block goes.
    pub image: String,
    /// Seed.
    pub seed: u64,
    /// Pairs of one writer and one reader.
    pub pairs: u32,
    /// Share of the origin that the writers sweep, percent; the rest is only read.
    pub sweep_percent: u64,
    /// The sweep ends after this time at the latest, ms.
    pub sweep_limit_ms: u64,
}

/// Snapshot reads that follow the writers of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chase {
    /// Snapshot device.
    pub snapshot: String,
    /// Where on it the device (or filesystem) of the writers begins, bytes.
    pub shift_bytes: u64,
}

/// State of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadState {
    /// Operations completed.
    pub operations: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes read from the snapshot device.
    pub bytes_read: u64,
    /// Snapshot reads of a block (by any thread), counted per block.
    pub block_reads: u64,
    /// Reads of a block that differed from the first read of it.
    pub differing_reads: u64,
    /// Threads that still run.
    pub threads_running: u32,
    /// Of accesses that are timed, the longest so far, those that have not ended included; us.
    pub longest_us: u64,
    /// Of threads whose accesses are timed, those whose access has not ended for a second or more.
    pub waiting: u32,
    /// Whether the workload did all that it was asked to do (the hot one has an end).
    pub finished: bool,
    /// What this kernel or device cannot do and was therefore left out, each with the reason.
    pub left_out: Vec<String>,
    /// First error.
    pub error: Option<GuestError>,
}
