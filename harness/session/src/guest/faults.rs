//! Faults on purpose: what goes wrong around the module, and what it must say then.

use std::time::{Duration, Instant};

use cowbird_host::initramfs::COWBIRDCTL;
use cowbird_proto::message::{Exited, FaultTarget, Reply, Request, StackKind};
use cowbird_vm::disks;
use serde_json::json;

use super::{CaseError, CaseResult, DeviceInfo, GuestSession, unexpected};
use crate::fault::Fault;

/// Time for a snapshot to fail once there is a reason; also for a disk to go or to come.
const FAULT_LIMIT: Duration = Duration::from_secs(30);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);

/// What the module says of every snapshot that has failed.
pub const FAILED: &str = "has failed and cannot be used";

/// The device of [`StackKind::FaultInjection`].
pub const FAULTY: &str = "/dev/dm-1";

impl GuestSession<'_, '_> {
    /// Puts a device on another one that can be told to fail; it is [`FAULTY`].
    pub async fn stack_faulty(&mut self, below: &str) -> CaseResult<()> {
        let path = self.stack(&[below], StackKind::FaultInjection).await?;
        if path != FAULTY {
            return Err(CaseError::Failed(format!("{path} instead of {FAULTY}")));
        }
        Ok(())
    }

    /// Tells it what to do.
    pub async fn inject_faults(&mut self, below: &str, pieces: &[FaultTarget]) -> CaseResult<()> {
        self.inject_faults_sized(below, None, pieces).await
    }

    /// The same, and how large it is.
    pub async fn inject_faults_sized(
        &mut self,
        below: &str,
        sectors: Option<u64>,
        pieces: &[FaultTarget],
    ) -> CaseResult<()> {
        let request = Request::InjectFaults {
            device: below.into(),
            sectors,
            pieces: pieces.to_vec(),
        };
        self.prepare(request).await.map(|_| ())
    }

    /// Hibernates to a device, whose content is lost, and comes back.
    pub async fn hibernate(&mut self, device: &str) -> CaseResult<()> {
        let request = Request::Hibernate {
            device: device.into(),
        };
        match self.expect(request, self.limits.copy).await? {
            Reply::Text(how) => {
                self.note(format!("the machine {how}"));
                Ok(())
            }
            reply => Err(unexpected(&reply)),
        }
    }

    /// Moves the wall clock.
    pub async fn shift_clock(&mut self, seconds: i64) -> CaseResult<()> {
        self.prepare(Request::ShiftClock { seconds })
            .await
            .map(|_| ())
    }

    /// Lets somebody else take the memory of the machine.
    pub async fn take_memory(&mut self, leave_mib: u64) -> CaseResult<()> {
        let limit = self.limits.copy;
        self.prepare_within(Request::TakeMemory { leave_mib }, limit)
            .await
            .map(|_| ())
    }

    /// Makes a mounted filesystem read-only, or writable again.
    pub async fn remount(&mut self, target: &str, read_only: bool) -> CaseResult<()> {
        let request = Request::Remount {
            target: target.into(),
            read_only,
        };
        self.expect(request, self.limits.control).await.map(|_| ())
    }

    /// Starts the control tool and kills it after a while, if it still runs.
    pub async fn control_killed(&mut self, arguments: &str, after: Duration) -> CaseResult<Exited> {
        let limit = self.limits.control;
        let request = Request::RunAndKill {
            program: COWBIRDCTL.into(),
            args: arguments.split_whitespace().map(str::to_owned).collect(),
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        };
        match self.expect(request, limit + self.limits.request).await? {
            Reply::Exited(exited) => Ok(exited),
            reply => Err(unexpected(&reply)),
        }
    }

    /// The control tool must refuse something, or fail, for a reason that names this.
    pub async fn expect_failure(&mut self, arguments: &str, named: &str) -> CaseResult<()> {
        self.expect_control_refusal(arguments, named).await
    }

    /// The module must not be unloaded now.
    pub async fn expect_module_stays(&mut self) -> CaseResult<()> {
        let name = "cowbird".to_owned();
        match self.try_request(Request::RemoveModule { name }).await? {
            Err(error) => {
                self.note(format!("refused as it must be: {error}"));
                Ok(())
            }
            Ok(_) => Err(CaseError::Failed(
                "the module was unloaded, although it has a snapshot".to_owned(),
            )),
        }
    }

    /// Waits until a snapshot has failed, for a reason that names this; what the module says of it.
    pub async fn wait_until_failed(&mut self, minor: u32, named: &str) -> CaseResult<DeviceInfo> {
        let deadline = Instant::now() + FAULT_LIMIT * self.limits.slowdown;
        loop {
            let info = self.info().await?;
            let device = info.devices.into_iter().find(|it| it.minor == minor);
            let device =
                device.ok_or_else(|| CaseError::Failed(format!("there is no snapshot {minor}")))?;
            if device.error != 0 && device.error_text.contains(named) {
                self.note(format!("failed as it must: {}", device.error_text));
                return Ok(device);
            }
            if device.error != 0 {
                return Err(CaseError::Failed(format!(
                    "the snapshot failed, but not of \"{named}\": {}",
                    device.error_text
                )));
            }
            if Instant::now() > deadline {
                return Err(CaseError::Failed(format!(
                    "the snapshot did not fail, although of \"{named}\""
                )));
            }
            self.vm.pause(POLL).await?;
        }
    }

    /// What a failed snapshot shows must be an error. `to` is somewhere to copy it to.
    pub async fn expect_unreadable(&mut self, snapshot: &str, to: &str) -> CaseResult<()> {
        match self.copy_device(snapshot, to).await {
            Err(CaseError::Failed(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(CaseError::Failed(
                "the snapshot has failed, and can still be read".to_owned(),
            )),
        }
    }

    /// Takes a disk out of the running machine; `name` is what the guest calls it.
    pub async fn unplug(&mut self, index: usize, name: &str) -> CaseResult<()> {
        self.makes(Fault::PulledDisk)?;
        let id = disks::device_id(index);
        self.vm
            .qmp()
            .execute("device_del", json!({ "id": id }))
            .await?;
        let path = format!("/sys/block/{name}/size");
        self.wait_for(Request::ReadText { path }, false).await
    }

    /// Puts it back; `partition` is the path of its last one, which the guest finds last.
    pub async fn plug(&mut self, index: usize, partition: &str) -> CaseResult<()> {
        let arguments = json!({
            "driver": "scsi-hd",
            "id": disks::device_id(index),
            "drive": disks::top_node(index),
        });
        self.vm.qmp().execute("device_add", arguments).await?;
        let path = partition.to_owned();
        self.wait_for(Request::SizeOf { path }, true).await
    }

    /// Waits until a request succeeds, or until it does not any more.
    async fn wait_for(&mut self, request: Request, succeeds: bool) -> CaseResult<()> {
        let deadline = Instant::now() + FAULT_LIMIT * self.limits.slowdown;
        while self.try_request(request.clone()).await?.is_ok() != succeeds {
            if Instant::now() > deadline {
                let state = if succeeds {
                    "fails still"
                } else {
                    "succeeds still"
                };
                return Err(CaseError::Failed(format!("{request:?} {state}")));
            }
            self.vm.pause(POLL).await?;
        }
        Ok(())
    }
}
