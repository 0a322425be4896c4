//! What the host can ask, and what the guest answers.

use serde::{Deserialize, Serialize};

use super::{
    Chase, FaultTarget, GuestError, Observation, PerformSpec, StackKind, WorkloadId, WorkloadSpec,
    WorkloadState,
};

/// Which of the kernel's interfaces mounts a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountApi {
    /// `mount(2)`.
    Mount,
    /// `fsopen`, `fsmount` and `move_mount`, from 5.2 on.
    Fsmount,
}

/// A filesystem to be mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Block device.
    pub source: String,
    /// Mount point; made when it is not there.
    pub target: String,
    /// Filesystem type.
    pub fstype: String,
    /// Filesystem's own options, separated by commas.
    pub options: String,
    /// Whether nothing can be written through this mount.
    pub read_only: bool,
    /// How.
    pub api: MountApi,
}

/// What keeps a filesystem from its end when it is unmounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldBy {
    /// An open file.
    File,
    /// A mount namespace with mounts of its own, copied from those of now.
    Namespace,
}

/// What is done with a partition in the kernel's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionChange {
    /// There is one from now on.
    Add {
        /// Where it begins on the disk, bytes.
        start_bytes: u64,
        /// Its size, bytes.
        bytes: u64,
    },
    /// There is none any more; opened devices of it find nothing.
    Delete,
    /// It has another size; it stays where it is.
    Resize {
        /// Where it begins on the disk, bytes.
        start_bytes: u64,
        /// Its new size, bytes.
        bytes: u64,
    },
}

/// What the host can ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Answers [`Reply::Done`].
    Ping,
    /// Loads a module file of the initramfs.
    InsertModule {
        /// Path of the `.ko`.
        path: String,
        /// Module parameters, as on the command line of insmod.
        params: String,
    },
    /// Unloads a module; fails when it is in use.
    RemoveModule {
        /// Module name.
        name: String,
    },
    /// Runs a program of the initramfs to its end; answers [`Reply::Exited`].
    Run {
        /// Path of the program.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// After this time it is killed, which is an error, ms.
        timeout_ms: u64,
    },
    /// Starts a program, and kills it after a while; answers [`Reply::Exited`], also when it ended
    /// before.
    RunAndKill {
        /// Path of the program.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// The while, ms.
        after_ms: u64,
        /// When it has not died then it is an error, ms.
        timeout_ms: u64,
    },
    /// Hibernates and comes back, in one boot; answers [`Reply::Text`] with how far it came, and an error with
    /// `EOPNOTSUPP` where the kernel does not.
    Hibernate {
        /// The device that the image of memory goes to; its content is lost.
        device: String,
    },
    /// Moves the wall clock.
    ShiftClock {
        /// By so much, s.
        seconds: i64,
    },
    /// Takes memory until so little is available, and keeps it.
    TakeMemory {
        /// What is left, MiB.
        leave_mib: u64,
    },
    /// Gives it back.
    GiveMemory,
    /// Makes a mounted filesystem read-only, or writable again.
    Remount {
        /// Mount point.
        target: String,
        /// Whether it is to be read-only.
        read_only: bool,
    },
    /// Makes a mounted ext4 larger.
    GrowExt4 {
        /// Mount point.
        path: String,
        /// New size, blocks of 4096 bytes.
        blocks: u64,
    },
    /// Mounts a filesystem.
    Mount {
        /// Which, where and how.
        spec: MountSpec,
    },
    /// Unmounts.
    Umount {
        /// Mount point.
        target: String,
    },
    /// Takes a mount out of the tree; the filesystem lives for as long as something holds it
    /// (`umount -l`).
    Detach {
        /// Mount point.
        target: String,
    },
    /// Gives a file another name, and puts a copy of it in its place.
    ReplaceByCopy {
        /// The file.
        path: String,
        /// Its new name.
        kept: String,
    },
    /// Removes a file.
    RemoveFile {
        /// The file.
        path: String,
    },
    /// Keeps a filesystem from its end, until [`Request::LetGo`].
    Hold {
        /// A file on it; made when it is not there.
        file: String,
        /// By what.
        by: HoldBy,
    },
    /// Writes to the file of [`Request::Hold`], through what holds it.
    WriteHeld {
        /// Length, bytes.
        bytes: u64,
    },
    /// Ends [`Request::Hold`].
    LetGo,
    /// Freezes a filesystem, as `fsfreeze` does.
    Freeze {
        /// Its mount point.
        path: String,
    },
    /// Thaws it; fails when it is not frozen.
    Thaw {
        /// Its mount point.
        path: String,
    },
    /// Stacks a device on others; answers [`Reply::Text`] with the path of the new one.
    Stack {
        /// The devices below.
        devices: Vec<String>,
        /// What is put on them.
        kind: StackKind,
    },
    /// Gives the device of [`StackKind::FaultInjection`] other faults, while it is used.
    InjectFaults {
        /// The device below, as [`Request::Stack`] was told.
        device: String,
        /// Size that it shows from now on, sectors; `None` for all of the device below.
        sectors: Option<u64>,
        /// The fault targets; none is a device without faults.
        pieces: Vec<FaultTarget>,
    },
    /// Takes off what [`Request::Stack`] has put on.
    Unstack {
        /// What it was.
        kind: StackKind,
    },
    /// Physical extents of a file, after syncing it; answers [`Reply::Extents`].
    Fiemap {
        /// Path of the file.
        path: String,
        /// Extents start at this byte of the file or later (for paging).
        from_byte: u64,
    },
    /// Size of a file or block device; answers [`Reply::Bytes`].
    SizeOf {
        /// Path.
        path: String,
    },
    /// Reads a small text file; answers [`Reply::Text`].
    ReadText {
        /// Path.
        path: String,
    },
    /// Reads a small file; answers [`Reply::Content`].
    ReadFile {
        /// Path.
        path: String,
    },
    /// Reads a part of a large file; answers [`Reply::Content`], which is empty at its end.
    ReadPart {
        /// Path.
        path: String,
        /// Where the part begins.
        from_byte: u64,
    },
    /// Writes to a block device with direct I/O.
    WriteDirect {
        /// Path.
        path: String,
        /// Where, bytes.
        offset: u64,
        /// What; offset and length are multiples of the device's blocks.
        content: Vec<u8>,
    },
    /// Zeroes a part of a block device with one call.
    ZeroOut {
        /// Path.
        path: String,
        /// Where, bytes.
        offset: u64,
        /// How much, bytes.
        bytes: u64,
    },
    /// Writes a small text file (sysctl, sysfs).
    WriteText {
        /// Path.
        path: String,
        /// Content.
        text: String,
    },
    /// The functions of the kernel that addresses are in; answers [`Reply::Names`].
    NameAddresses {
        /// The addresses.
        addresses: Vec<u64>,
    },
    /// `/proc/cowbird-info`; answers [`Reply::Text`].
    ReadInfo,
    /// Changes a partition as the kernel knows it; the partition table on the disk stays as it is.
    ChangePartition {
        /// The disk.
        disk: String,
        /// Number of the partition.
        number: u32,
        /// What is done.
        change: PartitionChange,
    },
    /// Reads the partition table of a disk, which nobody uses, again.
    ReadPartitions {
        /// The disk.
        disk: String,
    },
    /// Writes to pages of a file through the page cache, and leaves them there.
    MakeDirty {
        /// The file.
        path: String,
        /// So many pages of it, each once; no two are next to each other.
        pages: u32,
        /// Seed of which, and of their content.
        seed: u64,
    },
    /// Does the tasks of one stage of a script, to their end; answers [`Reply::Performed`].
    Perform {
        /// What to do.
        spec: PerformSpec,
    },
    /// Copies a block device, or its beginning, with direct I/O; answers [`Reply::Bytes`].
    CopyDevice {
        /// Source.
        from: String,
        /// So many bytes of it; `None` for all.
        bytes: Option<u64>,
        /// Destination, at least as large.
        to: String,
        /// Where on the destination the copy begins, bytes.
        to_byte: u64,
        /// Bytes per read.
        chunk_bytes: u32,
    },
    /// Starts a workload; answers [`Reply::WorkloadStarted`].
    StartWorkload {
        /// What to run.
        spec: WorkloadSpec,
    },
    /// How far a workload is; answers [`Reply::Workload`].
    WorkloadStatus {
        /// Which.
        id: WorkloadId,
    },
    /// Tells a workload that the snapshot instant has passed: what it kept still may change now.
    EpochPassed {
        /// Which.
        id: WorkloadId,
        /// Where to read what the writers are about to overwrite; `None` for nowhere.
        chase: Option<Chase>,
    },
    /// Ends a workload and waits for it; answers [`Reply::Workload`].
    StopWorkload {
        /// Which.
        id: WorkloadId,
    },
    /// Kernel log since boot, paged; answers [`Reply::KernelLog`].
    KernelLog {
        /// Only records after this sequence number; `None` for all.
        after: Option<u64>,
    },
    /// Lets the kernel print what every blocked task waits for (sysrq-w).
    DumpBlockedTasks,
    /// Writes everything back.
    SyncAll,
    /// Syncs, answers, and powers the guest off.
    PowerOff,
    /// The same without syncing: what the kernel does at its end is all that is left to wait for.
    PowerOffNow,
    /// Does something else, and tells how long it took; answers [`Reply::Timed`].
    Timed {
        /// The other.
        request: Box<Request>,
    },
    /// Panics the kernel (sysrq-c); never answered. Only for tests of the harness.
    CrashKernel,
    /// Stops every answer and heartbeat; never answered. Only for tests of the harness.
    GoSilent,
}

/// Outcome of a request that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to say but that it is done.
    Done,
    /// A size or a count, bytes.
    Bytes(u64),
    /// Text.
    Text(String),
    /// Names in the order of what was asked for.
    Names(Vec<String>),
    /// Content of a file.
    Content(Vec<u8>),
    /// A program ended by itself.
    Exited(Exited),
    /// The tasks are done. What snapshot reads differed from a second read behind them: both of each, as
    /// far as they fit an answer.
    Performed(Vec<Observation>),
    /// Physical extents of a file.
    Extents {
        /// In file order.
        extents: Vec<Extent>,
        /// Whether the last extent of the file is among them.
        complete: bool,
    },
    /// A workload runs.
    WorkloadStarted {
        /// Its number.
        id: WorkloadId,
        /// Files whose content stays until [`Request::EpochPassed`].
        golden: Vec<GoldenFile>,
    },
    /// State of a workload.
    Workload(WorkloadState),
    /// Something was done that was to be timed.
    Timed {
        /// How long it took, us.
        took_us: u64,
        /// What came of it.
        result: Result<Box<Reply>, GuestError>,
    },
    /// Part of the kernel log.
    KernelLog {
        /// In order.
        records: Vec<KernelRecord>,
        /// Whether this is the end of the log so far.
        complete: bool,
    },
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal.
    pub signal: Option<i32>,
    /// What it wrote to standard output, bounded.
    pub stdout: String,
    /// What it wrote to standard error, bounded.
    pub stderr: String,
}

/// One physical extent of a file; units are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Offset in the file.
    pub logical: u64,
    /// Offset on the device of the filesystem.
    pub physical: u64,
    /// Length.
    pub length: u64,
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
}

/// A file that must read the same on the snapshot as when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenFile {
    /// Path relative to the root of its filesystem.
    pub path: String,
    /// Size, bytes.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
}

/// One record of the kernel log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Sequence number.
    pub sequence: u64,
    /// Severity, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Time since boot, microseconds.
    pub time_us: u64,
    /// Text without the trailing newline.
    pub text: String,
}
