//! What a case can do to its guest, in the words of a case.

mod boots;
mod devices;
mod error;
mod faults;
mod kernel;
mod module_info;
mod pace;
mod queues;
mod root;
mod series_record;
mod shell;
mod snapshots;
mod traced;
mod tracing;
mod workloads;

use std::collections::BTreeSet;
use std::time::Duration;

use cowbird_host::error::HarnessError;
use cowbird_host::files::CellFiles;
use cowbird_host::limits::Limits;
use cowbird_proto::message::{Exited, GuestError, KernelRecord, Reply, Request};
use cowbird_vm::agent::GuestRecord;
use cowbird_vm::{CallError, Vm};

pub use self::error::{CaseError, CaseResult};
pub use self::error::{shut_down_error, vacuous};
pub use self::faults::{FAILED, FAULTY};
pub use self::module_info::{DeviceInfo, ModuleInfo};
pub use self::pace::{Begun, Pace, control, longest};
pub use self::queues::{Queue, Throttle};
pub use self::series_record::SeriesRecord;
pub use self::shell::{SHELL, coreutil};
pub use self::snapshots::SnapshotSpec;
pub use self::traced::Tracing;
pub use self::workloads::Workload;

use crate::fault::{Declared, Fault};
use crate::machine::Machine;
use crate::phases::PhaseClock;

/// Pages of extents or of kernel log fetched at most.
const MAX_PAGES: usize = 4096;

/// `ENOENT`.
const ENOENT: i32 = 2;

/// `EOPNOTSUPP`: how the module says that this kernel lacks what it needs.
const UNSUPPORTED_ERRNO: i32 = 95;

/// What the boots before the last one left.
#[derive(Debug, Default)]
pub struct EarlierBoots {
    /// How many there were.
    pub count: u32,
    /// Their kernel logs, one behind the other.
    pub kernel_log: Vec<KernelRecord>,
    /// What their guests told unasked.
    pub record: GuestRecord,
}

/// The guest of a cell.
pub struct GuestSession<'a, 'p> {
    /// The machine of this boot.
    pub vm: Vm,
    /// How long everything may take.
    pub limits: Limits,
    /// The phases of the cell.
    pub clock: &'a mut PhaseClock<'p>,
    /// The last `/proc/cowbird-info` that had a snapshot in it.
    pub info: Option<String>,
    /// What the reader of the verdict must know.
    pub notes: Vec<String>,
    /// The boots before this one.
    pub earlier: EarlierBoots,
    /// Number of the last record of this boot's kernel log that is kept.
    logged: Option<u64>,
    /// What is recorded beside the case, if it is traced.
    pub tracing: Option<Tracing>,
    /// Disks that do not run at their own pace.
    paced: BTreeSet<usize>,
    /// What the case may make go wrong.
    declared: Declared,
    machine: Machine,
}

impl<'a, 'p> GuestSession<'a, 'p> {
    /// The guest of a machine that was booted, and what may be made go wrong with it.
    pub fn new(
        vm: Vm,
        machine: Machine,
        clock: &'a mut PhaseClock<'p>,
        declared: Declared,
    ) -> Self {
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
            declared,
            machine,
        }
    }
}

impl GuestSession<'_, '_> {
    /// The next phase begins.
    pub fn phase(&mut self, name: &'static str) {
        self.clock.enter(name);
    }

    /// The guest.
    pub fn vm(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// Whether the kernel is of an older series than this one.
    pub fn kernel_is_before(&self, series: (u32, u32)) -> bool {
        let mut numbers = self.machine.plan().kernel_release.split(['.', '-', '+']);
        let mut next = || numbers.next().and_then(|number| number.parse().ok());
        next()
            .zip(next())
            .is_some_and(|own: (u32, u32)| own < series)
    }

    /// The files of the cell.
    pub fn files(&self) -> &CellFiles {
        self.machine.files()
    }

    /// Something that the reader of the verdict must know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The case makes a fault now, which it must have declared. What the guest session makes itself it says itself; a case says it
    /// before what only the case knows to be one.
    pub fn makes(&mut self, fault: Fault) -> CaseResult<()> {
        self.declared.make(fault).map_err(CaseError::from)
    }

    /// Notes what the case has declared and not made in this run.
    pub fn note_unmade_faults(&mut self) {
        let unmade: Vec<&str> = self
            .declared
            .unmade()
            .map(|fault| fault.about().name)
            .collect();
        if !unmade.is_empty() {
            self.note(format!("declared and not made: {}", unmade.join(", ")));
        }
    }

    /// Sends a request, if it makes nothing that the case does not declare.
    async fn call(&mut self, request: Request, limit: Duration) -> Result<Reply, CallError> {
        self.declared
            .request(&request)
            .map_err(|error| CallError::Ended(error.into()))?;
        self.vm.call(request, limit).await
    }

    /// Asks for something that has nothing to do with the module: failure is infrastructure.
    pub async fn prepare(&mut self, request: Request) -> CaseResult<Reply> {
        self.prepare_within(request, self.limits.control).await
    }

    /// As [`Self::prepare`], for what takes its time.
    pub async fn prepare_within(&mut self, request: Request, limit: Duration) -> CaseResult<Reply> {
        match self.call(request, limit).await {
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
        match self.call(request, self.limits.copy).await {
            Ok(reply) => Ok(Ok(reply)),
            Err(CallError::Ended(end)) => Err(end.into()),
            Err(CallError::Guest { error }) => Ok(Err(error)),
        }
    }

    /// Asks for something that only a faulty module can make fail.
    async fn expect(&mut self, request: Request, limit: Duration) -> CaseResult<Reply> {
        match self.call(request, limit).await {
            Ok(reply) => Ok(reply),
            Err(CallError::Ended(end)) => Err(end.into()),
            Err(CallError::Guest { error }) if error.errno == Some(UNSUPPORTED_ERRNO) => {
                Err(CaseError::Unsupported(error.message))
            }
            Err(CallError::Guest { error }) => Err(CaseError::Failed(error.message)),
        }
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
        match self.call(request, limit).await {
            Ok(Reply::Exited(exited)) => Ok(exited),
            Ok(reply) => Err(unexpected(&reply)),
            Err(CallError::Ended(end)) => Err(end.into()),
            // It did not end: that is a hang of the guest's kernel, not of the guest.
            Err(CallError::Guest { error }) => Err(self.vm.hang(error.message).await.into()),
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
