//! What a case makes go wrong around the module: the kinds of faults, as data, and the guard that lets a case make those alone
//! that it declares.
//!
//! Loads, settings of queues, small machines and wrong commands of an operator are none: nothing fails by them.

use std::collections::BTreeSet;
use std::path::Path;

use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_proto::message::{InjectedFault, Request, WorkloadSpec};

/// Where the limits of control groups are.
const GROUPS: &str = "/sys/fs/cgroup/";

/// A kind of fault. The order is that of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Reads fail.
    ReadErrors,
    /// Writes fail.
    WriteErrors,
    /// Reads or writes take longer.
    Delays,
    /// Writes end well and are not done.
    LostWrites,
    /// A device shows another size.
    OtherSize,
    /// A disk is slow.
    SlowDisk,
    /// A disk does not answer.
    StoppedDisk,
    /// A disk goes and comes back.
    PulledDisk,
    /// A device that a snapshot is of is taken away inside the guest.
    TakenDevice,
    /// A control group may do little.
    LimitedGroup,
    /// A filesystem is frozen.
    Frozen,
    /// A filesystem is made read-only.
    ReadOnly,
    /// A filesystem becomes larger.
    LargerFilesystem,
    /// A filesystem is unmounted while somebody goes on to use it.
    LazyUnmount,
    /// A filesystem is shut down.
    Shutdown,
    /// A filesystem has no room for a file of the tools.
    NoRoom,
    /// A COW file becomes full.
    FullCowFile,
    /// Blocks of a COW file are overwritten below it.
    ChangedCowFile,
    /// A COW file is replaced by a copy.
    ReplacedCowFile,
    /// A COW file is deleted.
    DeletedCowFile,
    /// The origin is written to while the module is not there.
    UnseenWrites,
    /// The power is cut.
    PowerCut,
    /// The machine is powered off without a sync.
    HardPowerOff,
    /// The machine hibernates.
    Hibernation,
    /// The clock jumps.
    ClockJumps,
    /// Others take the memory.
    LittleMemory,
    /// CPUs go and come.
    CpuHotplug,
    /// A tool is killed.
    KilledTool,
    /// The kernel panics.
    KernelPanic,
    /// The guest does not answer.
    SilentGuest,
}

/// What keeps a case from making a fault that it does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// All ways to make it lead through the guest session, which looks at the declaration.
    GuestSession,
    /// The case makes it by means that others use as well, and says so before: `GuestSession::makes` looks at the declaration then.
    /// Nobody notices where it says nothing.
    Case,
}

/// What is said of a fault.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// What it is called.
    pub name: &'static str,
    /// What happens.
    pub what: &'static str,
    /// How it is made, and by which function.
    pub made: &'static str,
    /// What sees to its declaration.
    pub guard: Guard,
}

const fn guest(name: &'static str, what: &'static str, made: &'static str) -> About {
    let guard = Guard::GuestSession;
    About {
        name,
        what,
        made,
        guard,
    }
}

const fn case(name: &'static str, what: &'static str, made: &'static str) -> About {
    let guard = Guard::Case;
    About {
        name,
        what,
        made,
        guard,
    }
}

impl Fault {
    /// All of them, in their order.
    pub const ALL: [Self; 30] = [
        Self::ReadErrors,
        Self::WriteErrors,
        Self::Delays,
        Self::LostWrites,
        Self::OtherSize,
        Self::SlowDisk,
        Self::StoppedDisk,
        Self::PulledDisk,
        Self::TakenDevice,
        Self::LimitedGroup,
        Self::Frozen,
        Self::ReadOnly,
        Self::LargerFilesystem,
        Self::LazyUnmount,
        Self::Shutdown,
        Self::NoRoom,
        Self::FullCowFile,
        Self::ChangedCowFile,
        Self::ReplacedCowFile,
        Self::DeletedCowFile,
        Self::UnseenWrites,
        Self::PowerCut,
        Self::HardPowerOff,
        Self::Hibernation,
        Self::ClockJumps,
        Self::LittleMemory,
        Self::CpuHotplug,
        Self::KilledTool,
        Self::KernelPanic,
        Self::SilentGuest,
    ];

    /// What is said of it.
    pub const fn about(self) -> About {
        match self {
            Self::ReadErrors => guest(
                "read errors",
                "reads of stretches of a device fail, and writes go through",
                "`GuestSession::inject_faults`: a table of device-mapper with `error` for reads",
            ),
            Self::WriteErrors => guest(
                "write errors",
                "writes to stretches of a device fail, and reads go through",
                "`GuestSession::inject_faults`: a table of device-mapper with `error` for writes",
            ),
            Self::Delays => guest(
                "delays",
                "reads, writes or both take longer, up to hours",
                "`GuestSession::inject_faults`: a table of device-mapper with `delay`",
            ),
            Self::LostWrites => guest(
                "lost writes",
                "writes and flushes are said to be done, and are not",
                "`GuestSession::inject_faults`: a table of device-mapper with `flakey`, which drops writes",
            ),
            Self::OtherSize => guest(
                "other size",
                "a device becomes larger or smaller while it is used",
                "`GuestSession::inject_faults_sized`: a table of device-mapper of another length",
            ),
            Self::SlowDisk => guest(
                "slow disk",
                "a disk does so many operations or bytes in a second and no more",
                "`GuestSession::throttle` and `GuestSession::set_pace`: a limit of QEMU's",
            ),
            Self::StoppedDisk => guest(
                "stopped disk",
                "a disk does not answer, and nothing fails",
                "`GuestSession::set_pace`: a limit of QEMU's of a byte in a second",
            ),
            Self::PulledDisk => guest(
                "pulled disk",
                "a disk goes while it is used, and may come back",
                "`GuestSession::unplug`: `device_del` of QEMU's monitor",
            ),
            Self::TakenDevice => case(
                "taken device",
                "a partition, mapped device, loop device or array is taken away under its snapshot",
                "`GuestSession::change_partition` and `GuestSession::unstack`",
            ),
            Self::LimitedGroup => guest(
                "limited group",
                "I/O of a control group waits for its limit, behind the hook of the module",
                "`WorkloadSpec::Throttled`, or what is written to `io.max`, `io.cost` or `io.weight`",
            ),
            Self::Frozen => guest(
                "frozen filesystem",
                "somebody else has frozen a filesystem",
                "`Request::Freeze`: `FIFREEZE`",
            ),
            Self::ReadOnly => guest(
                "read-only filesystem",
                "a mounted filesystem is made read-only",
                "`Request::Remount`: a remount",
            ),
            Self::LargerFilesystem => guest(
                "larger filesystem",
                "a mounted filesystem is made larger",
                "`Request::GrowExt4`: `EXT4_IOC_RESIZE_FS`",
            ),
            Self::LazyUnmount => guest(
                "lazy unmount",
                "a filesystem leaves the tree and goes on to be used",
                "`Request::Detach`: `umount -l`",
            ),
            Self::Shutdown => case(
                "filesystem shutdown",
                "a filesystem stops as after a crash",
                "the agent's `shutdown`: `FS_IOC_SHUTDOWN`",
            ),
            Self::NoRoom => case(
                "no room",
                "a filesystem has no room for a COW file or an image",
                "a filesystem that is too small",
            ),
            Self::FullCowFile => case(
                "full COW file",
                "more is overwritten than the COW file has slots for",
                "a COW file that is too small",
            ),
            Self::ChangedCowFile => case(
                "changed COW file",
                "blocks of a COW file that nobody holds get other content, as by a bad disk or somebody else",
                "`Request::WriteDirect` to the device below its filesystem",
            ),
            Self::ReplacedCowFile => guest(
                "replaced COW file",
                "a COW file that nobody holds is replaced by a copy",
                "`Request::ReplaceByCopy`",
            ),
            Self::DeletedCowFile => case(
                "deleted COW file",
                "a COW file that nobody holds is deleted",
                "`Request::RemoveFile`",
            ),
            Self::UnseenWrites => case(
                "unseen writes",
                "the origin is written to while the module is not there, or before a series is taken up",
                "a mount or `Request::WriteDirect`, in the same boot or another one",
            ),
            Self::PowerCut => guest(
                "power cut",
                "the power goes, and of what was not flushed some is lost or torn",
                "`GuestSession::reboot` with `Stop::PowerCut`: QEMU ends, and the disk is made from its witness",
            ),
            Self::HardPowerOff => guest(
                "power-off without a sync",
                "the kernel ends the machine, and nobody has written back before",
                "`GuestSession::reboot` with `Stop::PowerOffNow`",
            ),
            Self::Hibernation => guest(
                "hibernation",
                "memory is written to a swap area, and another kernel runs meanwhile",
                "`GuestSession::hibernate`",
            ),
            Self::ClockJumps => guest(
                "clock jumps",
                "the wall clock goes forth and back by years",
                "`GuestSession::shift_clock`",
            ),
            Self::LittleMemory => guest(
                "little memory",
                "others have taken the memory of the machine",
                "`GuestSession::take_memory`: a process that keeps pages",
            ),
            Self::CpuHotplug => guest(
                "CPU hotplug",
                "CPUs go and come",
                "`WorkloadSpec::Noise`: `online` in sysfs",
            ),
            Self::KilledTool => guest(
                "killed tool",
                "the control tool dies in the midst of its work",
                "`GuestSession::control_killed`: SIGKILL",
            ),
            Self::KernelPanic => guest(
                "kernel panic",
                "the kernel panics",
                "`Request::CrashKernel`: sysrq-c",
            ),
            Self::SilentGuest => guest(
                "silent guest",
                "the agent answers no more",
                "`Request::GoSilent`",
            ),
        }
    }

    /// Those that a request to the agent makes.
    pub fn of_request(request: &Request) -> Vec<Self> {
        match request {
            Request::InjectFaults {
                sectors, pieces, ..
            } => {
                let rules = pieces.iter().map(|piece| match piece.fault {
                    InjectedFault::FailReads => Self::ReadErrors,
                    InjectedFault::FailWrites => Self::WriteErrors,
                    InjectedFault::Delay { .. } => Self::Delays,
                    InjectedFault::DropWrites => Self::LostWrites,
                });
                let size = sectors.map(|_| Self::OtherSize);
                rules.chain(size).collect()
            }
            Request::StartWorkload { spec } => match spec {
                WorkloadSpec::Throttled(_) => vec![Self::LimitedGroup],
                WorkloadSpec::Noise(noise) if noise.hotplug => vec![Self::CpuHotplug],
                // A new workload is not free of faults unless it is named here.
                WorkloadSpec::FsChurn(_)
                | WorkloadSpec::RawWriters(_)
                | WorkloadSpec::Hot(_)
                | WorkloadSpec::WriteKinds(_)
                | WorkloadSpec::LockstepWriters(_)
                | WorkloadSpec::Stopwatch(_)
                | WorkloadSpec::Recorded(_)
                | WorkloadSpec::Noise(_)
                | WorkloadSpec::FsOps(_)
                | WorkloadSpec::Programs(_)
                | WorkloadSpec::Streams(_)
                | WorkloadSpec::Swapper(_)
                | WorkloadSpec::Timed(_)
                | WorkloadSpec::Poll(_) => Vec::new(),
            },
            Request::WriteText { path, .. } if is_limit(path) => vec![Self::LimitedGroup],
            Request::Timed { request } => Self::of_request(request),
            Request::RunAndKill { .. } => vec![Self::KilledTool],
            Request::Hibernate { .. } => vec![Self::Hibernation],
            Request::ShiftClock { .. } => vec![Self::ClockJumps],
            Request::TakeMemory { .. } => vec![Self::LittleMemory],
            Request::Remount {
                read_only: true, ..
            } => vec![Self::ReadOnly],
            Request::GrowExt4 { .. } => vec![Self::LargerFilesystem],
            Request::Detach { .. } => vec![Self::LazyUnmount],
            Request::ReplaceByCopy { .. } => vec![Self::ReplacedCowFile],
            Request::Freeze { .. } => vec![Self::Frozen],
            Request::PowerOffNow => vec![Self::HardPowerOff],
            Request::CrashKernel => vec![Self::KernelPanic],
            Request::GoSilent => vec![Self::SilentGuest],
            // A new request is not free of faults unless it is named here.
            Request::Ping
            | Request::InsertModule { .. }
            | Request::RemoveModule { .. }
            | Request::Run { .. }
            | Request::GiveMemory
            | Request::Remount { .. }
            | Request::Mount { .. }
            | Request::Umount { .. }
            | Request::RemoveFile { .. }
            | Request::Hold { .. }
            | Request::WriteHeld { .. }
            | Request::LetGo
            | Request::Thaw { .. }
            | Request::Stack { .. }
            | Request::Unstack { .. }
            | Request::Fiemap { .. }
            | Request::SizeOf { .. }
            | Request::ReadText { .. }
            | Request::ReadFile { .. }
            | Request::ReadPart { .. }
            | Request::WriteDirect { .. }
            | Request::ZeroOut { .. }
            | Request::WriteText { .. }
            | Request::NameAddresses { .. }
            | Request::ReadInfo
            | Request::ChangePartition { .. }
            | Request::ReadPartitions { .. }
            | Request::MakeDirty { .. }
            | Request::Perform { .. }
            | Request::CopyDevice { .. }
            | Request::WorkloadStatus { .. }
            | Request::EpochPassed { .. }
            | Request::StopWorkload { .. }
            | Request::KernelLog { .. }
            | Request::DumpBlockedTasks
            | Request::SyncAll
            | Request::PowerOff => Vec::new(),
        }
    }
}

/// Whether a file is a limit of a control group's I/O.
fn is_limit(path: &str) -> bool {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    path.starts_with(GROUPS) && name.is_some_and(|name| name.starts_with("io."))
}

/// What somebody who drives a guest may make, and has made.
#[derive(Debug)]
pub struct Declared {
    who: String,
    faults: Vec<Fault>,
    made: BTreeSet<Fault>,
}

impl Declared {
    /// The declaration of a case, which is named in what is refused.
    pub fn by(who: &str, faults: &[Fault]) -> Self {
        Self {
            who: who.to_owned(),
            faults: faults.to_vec(),
            made: BTreeSet::new(),
        }
    }

    /// A fault is made now.
    ///
    /// # Errors
    /// When it is not declared.
    pub fn make(&mut self, fault: Fault) -> HarnessResult<()> {
        if self.faults.contains(&fault) {
            self.made.insert(fault);
            return Ok(());
        }
        let (who, name) = (&self.who, fault.about().name);
        let detail = format!(
            "`{who}` makes a fault that it does not declare, {name}: add `Fault::{fault:?}` to what its case is `making`"
        );
        Err(HarnessError::Plan { detail })
    }

    /// A request is sent now.
    ///
    /// # Errors
    /// When it makes what is not declared.
    pub fn request(&mut self, request: &Request) -> HarnessResult<()> {
        let faults = Fault::of_request(request);
        faults.into_iter().try_for_each(|fault| self.make(fault))
    }

    /// What was declared and not made.
    pub fn unmade(&self) -> impl Iterator<Item = Fault> {
        let faults = self.faults.iter().copied();
        faults.filter(|fault| !self.made.contains(fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use cowbird_proto::message::FaultTarget;

    fn fault(sectors: Option<u64>, rules: &[InjectedFault]) -> Request {
        let piece = |fault: &InjectedFault| FaultTarget {
            start: 0,
            sectors: 1,
            fault: *fault,
        };
        Request::InjectFaults {
            device: "/dev/vda1".to_owned(),
            sectors,
            pieces: rules.iter().map(piece).collect(),
        }
    }

    #[test]
    fn all_are_there_once_and_in_order() {
        assert!(Fault::ALL.is_sorted());
        assert_eq!(Fault::ALL.len(), Fault::SilentGuest as usize + 1);
        let names: BTreeSet<&str> = Fault::ALL.map(|fault| fault.about().name).into();
        assert_eq!(names.len(), Fault::ALL.len());
    }

    /// Goal: no case makes what it does not declare, and what it declares and does not make is known.
    #[test]
    fn what_is_not_declared_is_refused() {
        let mut declared = Declared::by("my-case", &[Fault::ReadErrors, Fault::PowerCut]);
        declared
            .request(&fault(None, &[InjectedFault::FailReads]))
            .expect("it is declared");
        declared
            .request(&fault(None, &[]))
            .expect("rules that go are no fault");
        declared.request(&Request::Ping).expect("no fault");
        let both = fault(None, &[InjectedFault::FailReads, InjectedFault::FailWrites]);
        let said = declared.request(&both).expect_err("one is not declared");
        assert_eq!(
            said.to_string(),
            "`my-case` makes a fault that it does not declare, write errors: add `Fault::WriteErrors` to what its case is `making`"
        );
        let hidden = Request::Timed {
            request: Box::new(fault(Some(8), &[])),
        };
        declared.request(&hidden).expect_err("it has another size");
        assert_eq!(declared.unmade().collect::<Vec<_>>(), [Fault::PowerCut]);
    }

    #[test]
    fn limits_of_groups_are_files_of_theirs() {
        assert!(is_limit("/sys/fs/cgroup/slow/io.max"));
        assert!(is_limit("/sys/fs/cgroup/io.cost.qos"));
        assert!(!is_limit("/sys/fs/cgroup/cgroup.subtree_control"));
        assert!(!is_limit("/tmp/io.max"));
    }
}
