//! What a case can do to its guest, in the words of a case.

mod faults;
mod pace;
mod queues;
mod root;
mod shell;
mod snapshots;
mod tracing;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cowbird_proto::message::{
    Chase, Exited, GoldenFile, GuestError, KernelRecord, MountApi, MountSpec, Observation,
    PerformSpec, Reply, Request, StackKind, WorkloadId, WorkloadSpec, WorkloadState,
};
use thiserror::Error;

pub(crate) use self::faults::{FAILED, RULED};
pub(crate) use self::pace::{Begun, Pace, control, longest};
pub(crate) use self::queues::{Queue, Throttle};
pub(crate) use self::shell::{SHELL, coreutil};
pub use self::snapshots::{DeviceInfo, ModuleInfo, SeriesRecord, SnapshotSpec};
pub(crate) use self::tracing::Tracing;

use crate::cell::{in_background, shut_down_error};
use crate::disk::Partition;
use crate::error::HarnessError;
use crate::initramfs::COWBIRD_KO;
use crate::limits::Limits;
use crate::machine::Machine;
use crate::plan::PhaseClock;
use crate::power::{self, Stop};
use crate::verify::CellFiles;
use crate::vm::agent::GuestRecord;
use crate::vm::{CallError, End, Vm};

/// Bytes of one read when the snapshot is copied.
const COPY_CHUNK_BYTES: u32 = 1 << 20;

/// Pause between two looks at how far a workload is.
const WORKLOAD_POLL: Duration = Duration::from_millis(100);

/// Pages of extents or of kernel log fetched at most.
const MAX_PAGES: usize = 4096;

/// A task blocked for longer is reported by the kernel, s; below the limits of the harness, so that
/// the kernel's own report is in the evidence.
const HUNG_TASK_SECONDS: u32 = 15;

/// The kernel's memory leak detector; only kernels made for testing have it.
const LEAK_DETECTOR: &str = "/sys/kernel/debug/kmemleak";

/// Pauses before its scans. An object younger than 5 s is never reported, and one that changed since the
/// scan before is looked at again.
const LEAK_SCAN_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(6)];

/// `ENOENT`.
const ENOENT: i32 = 2;

/// `EOPNOTSUPP`: how the module says that this kernel lacks what it needs.
const UNSUPPORTED_ERRNO: i32 = 95;

/// Why a case did not come to its end.
#[derive(Debug, Error)]
pub enum CaseError {
    /// There is no guest any more.
    #[error(transparent)]
    Ended(#[from] End),
    /// The module did not do what it must.
    #[error("{0}")]
    Failed(String),
    /// This kernel cannot run this case.
    #[error("{0}")]
    Unsupported(String),
}

impl From<HarnessError> for CaseError {
    fn from(error: HarnessError) -> Self {
        Self::Ended(End::Infrastructure(error))
    }
}

/// Result of a step of a case.
pub type CaseResult<T> = Result<T, CaseError>;

/// A running workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its number.
    pub id: WorkloadId,
    /// Its golden files.
    pub golden: Vec<GoldenFile>,
}

/// What the boots before the last one left.
#[derive(Debug, Default)]
pub(crate) struct EarlierBoots {
    pub(crate) count: u32,
    pub(crate) kernel_log: Vec<KernelRecord>,
    pub(crate) record: GuestRecord,
}

/// The guest of a cell.
pub struct Driver<'a, 'p> {
    pub(crate) vm: Vm,
    pub(crate) limits: Limits,
    pub(crate) clock: &'a mut PhaseClock<'p>,
    pub(crate) info: Option<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) earlier: EarlierBoots,
    /// Number of the last record of this boot's kernel log that is kept.
    logged: Option<u64>,
    /// What is recorded beside the case, if it is traced.
    pub(crate) tracing: Option<Tracing>,
    /// Disks that do not run at their own pace.
    paced: BTreeSet<usize>,
    machine: Machine,
}

impl<'a, 'p> Driver<'a, 'p> {
    pub(crate) fn new(vm: Vm, machine: Machine, clock: &'a mut PhaseClock<'p>) -> Self {
        Self {
            vm,
            limits: machine.plan().limits.clone(),
            clock,
            info: None,
            notes: Vec::new(),
            earlier: EarlierBoots::default(),
            logged: None,
            tracing: None,
            paced: BTreeSet::new(),
            machine,
        }
    }
}

impl Driver<'_, '_> {
    /// Stops the machine and boots it again with the same disks. What the guest held in memory is gone: its
    /// workloads, mounts and modules.
    pub async fn reboot(&mut self, stop: Stop) -> CaseResult<()> {
        if self.machine.plan().tape.is_some() {
            let reason = "a tape is of one boot, and this case boots its machine again";
            return Err(CaseError::Unsupported(reason.to_owned()));
        }
        match stop {
            Stop::PowerOff | Stop::PowerOffNow { .. } => self.stop_tracing().await?,
            Stop::PowerCut { .. } => self.lose_tracing(),
        }
        let log = self.kernel_log(self.limits.request).await;
        self.earlier
            .kernel_log
            .extend(log.map_err(shut_down_error)?);
        match stop {
            Stop::PowerOff => {
                self.full_pace().await?;
                self.vm.power_off().await.map_err(shut_down_error)?;
            }
            Stop::PowerOffNow { within } => {
                let off = self.vm.power_off_now(within).await;
                off.map_err(shut_down_error)?;
                self.paced.clear();
            }
            // QEMU ends at once, whatever the guest does; what the disk would have lost is decided
            // from its witness.
            Stop::PowerCut { .. } => {
                self.vm.stop().await;
                self.paced.clear();
            }
        }
        self.earlier.record.append(self.vm.take_record());
        let (files, boot) = (self.machine.files().clone(), self.earlier.count);
        in_background(move || power::end_boot(&files, boot, stop)).await?;
        self.earlier.count += 1;
        self.logged = None;
        // The kernel booted before and the module is not loaded yet; what stops it now is what the
        // module left on the disk.
        self.vm = self.machine.boot().await?;
        self.watch_for_hung_tasks().await
    }

    /// The next phase begins.
    pub fn phase(&mut self, name: &'static str) {
        self.clock.enter(name);
    }

    /// The guest.
    pub fn vm(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// Whether the kernel is of an older series than this one.
    pub(crate) fn kernel_is_before(&self, series: (u32, u32)) -> bool {
        let mut numbers = self.machine.plan().kernel_release.split(['.', '-', '+']);
        let mut next = || numbers.next().and_then(|number| number.parse().ok());
        next()
            .zip(next())
            .is_some_and(|own: (u32, u32)| own < series)
    }

    /// The files of the cell.
    pub(crate) fn files(&self) -> &CellFiles {
        self.machine.files()
    }

    /// Something that the reader of the verdict must know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Asks for something that has nothing to do with the module: failure is infrastructure.
    pub async fn prepare(&mut self, request: Request) -> CaseResult<Reply> {
        self.prepare_within(request, self.limits.control).await
    }

    /// As [`Self::prepare`], for what takes its time.
    pub async fn prepare_within(&mut self, request: Request, limit: Duration) -> CaseResult<Reply> {
        match self.vm.call(request, limit).await {
            Ok(reply) => Ok(reply),
            Err(CallError::Ended(end)) => Err(end.into()),
            Err(CallError::Guest { error }) => {
                let detail = format!("the guest cannot be prepared: {error}");
                Err(HarnessError::Plan { detail }.into())
            }
        }
    }

    /// Asks for something that may fail, which is then the answer.
    pub async fn try_request(&mut self, request: Request) -> CaseResult<Result<Reply, GuestError>> {
        match self.vm.call(request, self.limits.copy).await {
            Ok(reply) => Ok(Ok(reply)),
            Err(CallError::Ended(end)) => Err(end.into()),
            Err(CallError::Guest { error }) => Ok(Err(error)),
        }
    }

    /// Asks for something that only a faulty module can make fail.
    async fn expect(&mut self, request: Request, limit: Duration) -> CaseResult<Reply> {
        match self.vm.call(request, limit).await {
            Ok(reply) => Ok(reply),
            Err(CallError::Ended(end)) => Err(end.into()),
            Err(CallError::Guest { error }) if error.errno == Some(UNSUPPORTED_ERRNO) => {
                Err(CaseError::Unsupported(error.message))
            }
            Err(CallError::Guest { error }) => Err(CaseError::Failed(error.message)),
        }
    }

    /// Lets the kernel report blocked tasks early. Kernels without the detector do not matter.
    pub(crate) async fn watch_for_hung_tasks(&mut self) -> CaseResult<()> {
        let path = "/proc/sys/kernel/hung_task_timeout_secs".to_owned();
        let request = Request::WriteText {
            path,
            text: (HUNG_TASK_SECONDS * self.limits.slowdown).to_string(),
        };
        match self.vm.call(request, self.limits.request).await {
            Ok(_) | Err(CallError::Guest { .. }) => Ok(()),
            Err(CallError::Ended(end)) => Err(end.into()),
        }
    }

    /// Loads the module under test.
    pub async fn insert_module(&mut self) -> CaseResult<()> {
        self.insert_module_with("").await
    }

    /// The same with parameters, as on the command line of insmod.
    pub async fn insert_module_with(&mut self, params: &str) -> CaseResult<()> {
        let request = Request::InsertModule {
            path: COWBIRD_KO.into(),
            params: params.into(),
        };
        self.expect(request, self.limits.control).await?;
        self.start_tracing().await
    }

    /// Unloads the module under test.
    pub async fn remove_module(&mut self) -> CaseResult<()> {
        self.stop_tracing().await?;
        let request = Request::RemoveModule {
            name: "cowbird".into(),
        };
        let deadline = Instant::now() + self.limits.control;
        loop {
            match self.expect(request.clone(), self.limits.control).await {
                // The kernel lets go of the tracepoints some time after the recorder has ended.
                Err(CaseError::Failed(_))
                    if self.tracing.is_some() && Instant::now() < deadline =>
                {
                    tokio::time::sleep(WORKLOAD_POLL).await;
                }
                end => return end.map(|_| ()),
            }
        }
    }

    /// Mounts an ext4.
    pub async fn mount(&mut self, source: &str, target: &str, options: &str) -> CaseResult<()> {
        self.mount_as(source, target, "ext4", options).await
    }

    /// Mounts any filesystem, writable, in the old way.
    pub async fn mount_as(
        &mut self,
        source: &str,
        target: &str,
        fstype: &str,
        options: &str,
    ) -> CaseResult<()> {
        self.mount_by(MountSpec {
            source: source.into(),
            target: target.into(),
            fstype: fstype.into(),
            options: options.into(),
            read_only: false,
            api: MountApi::Mount,
        })
        .await
    }

    /// Mounts as it is told.
    pub async fn mount_by(&mut self, spec: MountSpec) -> CaseResult<()> {
        self.prepare(Request::Mount { spec }).await.map(|_| ())
    }

    /// Lets cached pages of a disk stay as they are while they are written. Otherwise a page may
    /// change between its way to the disk and its way to the witness. To be called before the
    /// disk's filesystems are mounted.
    pub async fn keep_pages_stable(&mut self, disk: &str) -> CaseResult<()> {
        let request = Request::WriteText {
            path: format!("/sys/block/{disk}/queue/stable_writes"),
            text: "1".into(),
        };
        self.prepare(request).await.map(|_| ())
    }

    /// Writes everything back.
    pub async fn sync_all(&mut self) -> CaseResult<()> {
        self.expect(Request::SyncAll, self.limits.copy)
            .await
            .map(|_| ())
    }

    /// Unmounts.
    pub async fn unmount(&mut self, target: &str) -> CaseResult<()> {
        self.expect(
            Request::Umount {
                target: target.into(),
            },
            self.limits.control,
        )
        .await
        .map(|_| ())
    }

    /// Stacks a device on others; gives its path.
    pub async fn stack(&mut self, devices: &[&str], kind: StackKind) -> CaseResult<String> {
        let request = Request::Stack {
            devices: devices.iter().map(ToString::to_string).collect(),
            kind,
        };
        match self.prepare(request).await? {
            Reply::Text(path) => Ok(path),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Takes it off again.
    pub async fn unstack(&mut self, kind: StackKind) -> CaseResult<()> {
        let request = Request::Unstack { kind };
        self.expect(request, self.limits.control).await.map(|_| ())
    }

    /// Runs a program to its good end; gives what it printed.
    pub async fn run(&mut self, program: &str, arguments: &[&str]) -> CaseResult<String> {
        let exited = self.run_to_any_end(program, arguments).await?;
        if exited.code == Some(0) {
            return Ok(exited.stdout);
        }
        let said = exited.stderr.trim().lines().last();
        Err(CaseError::Failed(format!(
            "{} {}: {}",
            program.trim_start_matches("/bin/"),
            arguments.join(" "),
            said.unwrap_or("failed without a word")
        )))
    }

    /// Runs a program to whatever end.
    pub async fn run_to_any_end(
        &mut self,
        program: &str,
        arguments: &[&str],
    ) -> CaseResult<Exited> {
        let request = Request::Run {
            program: program.into(),
            args: arguments.iter().map(ToString::to_string).collect(),
            timeout_ms: u64::try_from(self.limits.control.as_millis()).unwrap_or(u64::MAX),
        };
        // Longer than the guest's own limit, whose message has the kernel stack of the program.
        let limit = self.limits.control + self.limits.request;
        match self.vm.call(request, limit).await {
            Ok(Reply::Exited(exited)) => Ok(exited),
            Ok(reply) => Err(unexpected(&reply)),
            Err(CallError::Ended(end)) => Err(end.into()),
            // It did not end: that is a hang of the guest's kernel, not of the guest.
            Err(CallError::Guest { error }) => Err(self.vm.hang(error.message).await.into()),
        }
    }

    /// Starts a workload.
    pub async fn start_workload(&mut self, spec: WorkloadSpec) -> CaseResult<Workload> {
        let request = Request::StartWorkload { spec: spec.clone() };
        let reply = self.prepare(request).await?;
        match reply {
            Reply::WorkloadStarted { id, golden } => {
                self.note_workload(id, &spec);
                Ok(Workload { id, golden })
            }
            reply => Err(unexpected(&reply)),
        }
    }

    /// How far a workload is; one that failed is an error.
    pub async fn workload(&mut self, workload: &Workload) -> CaseResult<WorkloadState> {
        let request = Request::WorkloadStatus { id: workload.id };
        let limit = self.limits.request;
        self.workload_state(request, limit).await
    }

    /// Waits until a workload has done enough.
    pub async fn wait_until(
        &mut self,
        workload: &Workload,
        what: &str,
        limit: Duration,
        enough: impl Fn(&WorkloadState) -> bool,
    ) -> CaseResult<WorkloadState> {
        let limit = limit * self.limits.slowdown;
        let deadline = Instant::now() + limit;
        loop {
            let state = self.workload(workload).await?;
            if enough(&state) {
                return Ok(state);
            }
            if Instant::now() > deadline {
                let reason = format!("the workload did not reach \"{what}\" within {limit:?}");
                return Err(self.vm.hang(format!("{reason}: {state:?}")).await.into());
            }
            self.vm.pause(WORKLOAD_POLL).await?;
        }
    }

    /// Waits until a workload has written so much more than `written` says, and renews that.
    pub async fn wait_for_more(
        &mut self,
        workload: &Workload,
        written: &mut u64,
        bytes: u64,
        limit: Duration,
    ) -> CaseResult<()> {
        let goal = *written + bytes;
        let state = self
            .wait_until(workload, "wrote some more", limit, |state| {
                state.bytes_written >= goal
            })
            .await?;
        *written = state.bytes_written;
        Ok(())
    }

    /// Tells a workload that the snapshot instant has passed, and what its chasers may read.
    pub async fn epoch_passed(
        &mut self,
        workload: &Workload,
        chase: Option<Chase>,
    ) -> CaseResult<()> {
        self.prepare(Request::EpochPassed {
            id: workload.id,
            chase,
        })
        .await
        .map(|_| ())
    }

    /// Ends a workload.
    pub async fn stop_workload(&mut self, workload: &Workload) -> CaseResult<WorkloadState> {
        let request = Request::StopWorkload { id: workload.id };
        let limit = self.limits.stop;
        self.workload_state(request, limit).await
    }

    async fn workload_state(
        &mut self,
        request: Request,
        limit: Duration,
    ) -> CaseResult<WorkloadState> {
        let reply = self.expect(request, limit).await?;
        let Reply::Workload(state) = reply else {
            return Err(unexpected(&reply));
        };
        match &state.error {
            None => Ok(state),
            // The origin's I/O never fails because of a snapshot, and neither do its reads.
            Some(error) => Err(CaseError::Failed(format!("the workload failed: {error}"))),
        }
    }

    /// Does the tasks of one stage of a script; gives the snapshot reads that differ from a second one.
    pub async fn perform(&mut self, spec: PerformSpec) -> CaseResult<Vec<Observation>> {
        let request = Request::Perform { spec };
        match self.expect(request, self.limits.copy).await? {
            Reply::Performed(observations) => Ok(observations),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Gives the partition with a number another size.
    pub async fn resize_partition(
        &mut self,
        disk: &str,
        number: u32,
        partition: Partition,
    ) -> CaseResult<()> {
        self.prepare(Request::ResizePartition {
            disk: disk.into(),
            number,
            start_bytes: partition.offset_bytes(),
            bytes: partition.length_bytes(),
        })
        .await
        .map(|_| ())
    }

    /// Copies a device, all of it.
    pub async fn copy_device(&mut self, from: &str, to: &str) -> CaseResult<u64> {
        self.copy_device_to(from, to, 0).await
    }

    /// The same, to so many bytes behind the start of another.
    pub async fn copy_device_to(&mut self, from: &str, to: &str, to_byte: u64) -> CaseResult<u64> {
        self.copy_between(from, None, to, to_byte, COPY_CHUNK_BYTES)
            .await
    }

    /// Copies the beginning of a device to the beginning of another.
    pub async fn copy_beginning(&mut self, from: &str, bytes: u64, to: &str) -> CaseResult<u64> {
        self.copy_between(from, Some(bytes), to, 0, COPY_CHUNK_BYTES)
            .await
    }

    /// Copies a device, all of it, by reads of so many bytes.
    pub async fn copy_in_reads_of(
        &mut self,
        from: &str,
        to: &str,
        chunk_bytes: u32,
    ) -> CaseResult<u64> {
        self.copy_between(from, None, to, 0, chunk_bytes).await
    }

    async fn copy_between(
        &mut self,
        from: &str,
        bytes: Option<u64>,
        to: &str,
        to_byte: u64,
        chunk_bytes: u32,
    ) -> CaseResult<u64> {
        let request = Request::CopyDevice {
            from: from.into(),
            bytes,
            to: to.into(),
            to_byte,
            chunk_bytes,
        };
        let reply = self.expect(request, self.limits.copy).await?;
        match reply {
            Reply::Bytes(bytes) => Ok(bytes),
            reply => Err(unexpected(&reply)),
        }
    }

    /// The size of the snapshot device must be that of the origin.
    pub async fn expect_size(&mut self, path: &str, origin: Partition) -> CaseResult<()> {
        let request = Request::SizeOf { path: path.into() };
        let reply = self.expect(request, self.limits.request).await?;
        match reply {
            Reply::Bytes(bytes) if bytes == origin.length_bytes() => Ok(()),
            reply => Err(CaseError::Failed(format!(
                "{path} has {reply:?}, its origin {} bytes",
                origin.length_bytes()
            ))),
        }
    }

    /// What the kernel's memory leak detector finds now, if this kernel has one. It reports an object
    /// only when two scans, some seconds apart, find nothing that points to it.
    pub(crate) async fn memory_leaks(&mut self) -> CaseResult<Option<String>> {
        match self.read_leaks().await {
            Err(CallError::Guest { error }) if error.errno == Some(ENOENT) => return Ok(None),
            other => other.map_err(leak_error)?,
        };
        self.phase("leaks");
        for pause in LEAK_SCAN_PAUSES {
            self.vm.pause(pause).await?;
            let request = Request::WriteText {
                path: LEAK_DETECTOR.into(),
                text: "scan".into(),
            };
            let limit = self.limits.control;
            self.vm.call(request, limit).await.map_err(leak_error)?;
        }
        self.read_leaks().await.map(Some).map_err(leak_error)
    }

    async fn read_leaks(&mut self) -> Result<String, CallError> {
        let request = Request::ReadText {
            path: LEAK_DETECTOR.into(),
        };
        match self.vm.call(request, self.limits.control).await? {
            Reply::Text(text) => Ok(text),
            reply => Err(protocol(&reply).into()),
        }
    }

    /// Takes what the kernel has said so far, before its ring buffer forgets it.
    pub async fn keep_kernel_log(&mut self) -> CaseResult<()> {
        let limit = self.limits.request;
        let log = self.kernel_log(limit).await.map_err(shut_down_error)?;
        self.logged = log.last().map(|record| record.sequence).or(self.logged);
        self.earlier.kernel_log.extend(log);
        Ok(())
    }

    /// The kernel log since boot, but what was kept of it already; `limit` is for each page.
    pub async fn kernel_log(&mut self, limit: Duration) -> Result<Vec<KernelRecord>, CallError> {
        let mut all: Vec<KernelRecord> = Vec::new();
        for _ in 0..MAX_PAGES {
            let after = all.last().map(|record| record.sequence).or(self.logged);
            let request = Request::KernelLog { after };
            match self.vm.call(request, limit).await? {
                Reply::KernelLog { records, complete } => {
                    all.extend(records);
                    if complete {
                        return Ok(all);
                    }
                }
                reply => return Err(protocol(&reply).into()),
            }
        }
        Ok(all)
    }
}

/// A detector that fails, as one that ran out of memory and switched itself off, judges nothing.
fn leak_error(error: CallError) -> CaseError {
    match error {
        CallError::Ended(end) => end.into(),
        CallError::Guest { error } => {
            let detail = format!("the kernel's memory leak detector does not work: {error}");
            HarnessError::Protocol { detail }.into()
        }
    }
}

fn protocol(reply: &Reply) -> HarnessError {
    let text: String = format!("{reply:?}").chars().take(200).collect();
    HarnessError::Protocol {
        detail: format!("an answer of the wrong kind: {text}"),
    }
}

fn unexpected(reply: &Reply) -> CaseError {
    protocol(reply).into()
}
