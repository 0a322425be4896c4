//! How fast the machine's disks are, down to one that does not answer; and how long the guest takes for something
//! meanwhile.

use std::time::{Duration, Instant};

use cowbird_host::error::HarnessError;
use cowbird_host::initramfs::COWBIRDCTL;
use cowbird_proto::message::{
    GuestError, PollSpec, Reply, Request, TimedSpec, WorkloadSpec, WorkloadState,
};
use cowbird_vm::{CallError, Pending, disks};
use serde_json::json;

use super::{CaseError, CaseResult, GuestSession, ModuleInfo, Workload, unexpected};
use crate::fault::Fault;

/// Beside what is waited for, an answer takes so much longer at most.
const ANSWER_SLACK: Duration = Duration::from_secs(5);

/// What the module says about itself.
const INFO: &str = "/proc/cowbird-info";

/// Pause between two reads of it, ms.
const INFO_PAUSE_MS: u64 = 100;

/// So long it is read to know how long that takes on an idle machine.
const BASELINE: Duration = Duration::from_secs(3);

/// Reading it may always take so long, and so many times longer than on an idle machine.
const INFO_LIMIT: Duration = Duration::from_millis(100);
const INFO_FACTOR: u32 = 5;

/// How fast a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As it is by itself.
    Full,
    /// So many operations in a second.
    Operations(u64),
    /// So many bytes in a second.
    Bytes(u64),
    /// It does not answer: of all that is submitted to it, at most one operation ends. Nothing fails, and all goes
    /// on when the disk gets another pace.
    Stopped,
}

impl Pace {
    /// What QEMU calls it: bytes and operations in a second, 0 for no limit. With a byte in a second, an
    /// operation of a sector keeps the next one waiting for more than eight minutes, which no case lasts.
    fn limits(self) -> (u64, u64) {
        match self {
            Self::Full => (0, 0),
            Self::Operations(count) => (0, count),
            Self::Bytes(bytes) => (bytes, 0),
            Self::Stopped => (1, 0),
        }
    }
}

/// Something that the guest was told to do, and does.
pub struct Begun {
    what: String,
    /// None when it has ended.
    pending: Option<Pending>,
    since: Instant,
}

/// How something ended, and after what time, as the guest measured it.
#[derive(Debug)]
pub struct Timing {
    /// The time.
    pub took: Duration,
    /// The end.
    pub result: Result<Reply, GuestError>,
}

impl Timing {
    /// Why it is no success, if it is none.
    pub fn refusal(&self) -> Option<String> {
        match &self.result {
            Ok(Reply::Exited(exited)) if exited.code != Some(0) => {
                Some(exited.stderr.trim().replace('\n', " / "))
            }
            Ok(_) => None,
            Err(error) => Some(error.message.clone()),
        }
    }
}

impl Begun {
    /// Whether its end is known.
    pub fn has_ended(&self) -> bool {
        self.pending.is_none()
    }

    /// How long ago it was begun.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// What it is.
    pub fn what(&self) -> &str {
        &self.what
    }
}

/// What the control tool is told.
pub fn control(arguments: &str, limit: Duration) -> Request {
    Request::Run {
        program: COWBIRDCTL.into(),
        args: arguments.split_whitespace().map(str::to_owned).collect(),
        timeout_ms: limit.as_millis() as u64,
    }
}

impl GuestSession<'_, '_> {
    /// Gives a disk of the machine a pace; `index` is its place among the disks. It is as fast as always again
    /// when the case has ended.
    pub async fn set_pace(&mut self, index: usize, pace: Pace) -> CaseResult<()> {
        match pace {
            Pace::Full => {}
            Pace::Operations(_) | Pace::Bytes(_) => self.makes(Fault::SlowDisk)?,
            Pace::Stopped => self.makes(Fault::StoppedDisk)?,
        }
        let (bytes, operations) = pace.limits();
        let disks = self.machine.config().disks;
        let Some(disk) = disks.get(index) else {
            let detail = format!("the machine has no disk {index}");
            return Err(HarnessError::Plan { detail }.into());
        };
        let arguments = json!({
            "id": disks::backend_path(index, disk.bus),
            "bps": bytes, "bps_rd": 0, "bps_wr": 0,
            "iops": operations, "iops_rd": 0, "iops_wr": 0,
        });
        let qmp = self.vm.qmp();
        qmp.execute("block_set_io_throttle", arguments).await?;
        match pace {
            Pace::Full => self.paced.remove(&index),
            _ => self.paced.insert(index),
        };
        Ok(())
    }

    /// All disks are as fast as always.
    pub async fn full_pace(&mut self) -> CaseResult<()> {
        for index in self.paced.clone() {
            self.set_pace(index, Pace::Full).await?;
        }
        Ok(())
    }

    /// A setting of a disk's queue; what the kernel says if it does not have it.
    pub async fn set_queue_attribute(
        &mut self,
        disk: &str,
        setting: &str,
        value: &str,
    ) -> CaseResult<Result<(), String>> {
        let request = Request::WriteText {
            path: format!("/sys/block/{disk}/queue/{setting}"),
            text: value.into(),
        };
        let set = self.try_request(request).await?;
        Ok(set.map(|_| ()).map_err(|error| error.message))
    }

    /// The kernel reports tasks that are blocked for longer than this.
    pub async fn blocked_tasks_may_last(&mut self, limit: Duration) -> CaseResult<()> {
        let request = Request::WriteText {
            path: "/proc/sys/kernel/hung_task_timeout_secs".to_owned(),
            text: (limit.as_secs() * u64::from(self.limits.slowdown)).to_string(),
        };
        // Kernels without the detector do not matter.
        self.try_request(request).await.map(|_| ())
    }

    /// Begins something, whose end [`Self::ended_within`] waits for.
    pub async fn begin(&mut self, what: &str, request: Request) -> CaseResult<Begun> {
        let request = Request::Timed {
            request: Box::new(request),
        };
        self.declared.request(&request)?;
        Ok(Begun {
            what: what.to_owned(),
            pending: Some(self.vm.begin(request).await?),
            since: Instant::now(),
        })
    }

    /// How it ended, if it does within so much time from now.
    pub async fn ended_within(
        &mut self,
        begun: &mut Begun,
        limit: Duration,
    ) -> CaseResult<Option<Timing>> {
        let Some(pending) = begun.pending.as_mut() else {
            let detail = format!("the end of {} is known already", begun.what);
            return Err(HarnessError::Plan { detail }.into());
        };
        let answer = self.vm.answer_within(pending, limit).await;
        if !matches!(answer, Ok(None)) {
            begun.pending = None;
        }
        match answer {
            Ok(None) => Ok(None),
            Ok(Some(Reply::Timed { took_us, result })) => Ok(Some(Timing {
                took: Duration::from_micros(took_us),
                result: result.map(|reply| *reply),
            })),
            Ok(Some(reply)) => Err(unexpected(&reply)),
            Err(CallError::Ended(end)) => Err(end.into()),
            Err(CallError::Guest { error }) => Err(CaseError::Failed(error.message)),
        }
    }

    /// Does something that must end within `limit`, however the disks are: how, or in one sentence that it did not,
    /// and what is then still to be waited for.
    pub async fn bounded(
        &mut self,
        what: &str,
        request: Request,
        limit: Duration,
    ) -> CaseResult<Result<Timing, (String, Begun)>> {
        let mut begun = self.begin(what, request).await?;
        let limit = limit * self.limits.slowdown;
        match self.ended_within(&mut begun, limit + ANSWER_SLACK).await? {
            Some(timing) if timing.took <= limit => Ok(Ok(timing)),
            Some(timing) => {
                let took = timing.took;
                let said = timing.refusal().unwrap_or_default();
                let fault = format!("{what} took {took:.1?}, more than {limit:?}: {said}");
                Ok(Err((fault, begun)))
            }
            None => {
                let age = begun.age();
                let fault = format!("{what} has not ended after {age:.1?}, more than {limit:?}");
                Ok(Err((fault, begun)))
            }
        }
    }

    /// The same with the control tool, whose kernel stack is in the sentence when it hangs.
    pub async fn bounded_control(
        &mut self,
        arguments: &str,
        limit: Duration,
    ) -> CaseResult<Result<Timing, (String, Begun)>> {
        let most = limit * self.limits.slowdown + Duration::from_secs(1);
        let what = format!("cowbirdctl {arguments}");
        self.bounded(&what, control(arguments, most), limit).await
    }

    /// Starts to read what the module says, again and again.
    pub async fn watch_info(&mut self) -> CaseResult<Workload> {
        let spec = PollSpec {
            path: INFO.to_owned(),
            pause_ms: INFO_PAUSE_MS,
        };
        self.start_workload(WorkloadSpec::Poll(spec)).await
    }

    /// How long reading what the module says may take on this machine, which is idle now.
    pub async fn info_limit(&mut self) -> CaseResult<Duration> {
        let watch = self.watch_info().await?;
        self.vm.pause(BASELINE).await?;
        let idle = longest(&self.stop_workload(&watch).await?);
        self.note(format!("info of an idle machine takes {idle:.1?} at most"));
        Ok(INFO_LIMIT.max(idle * INFO_FACTOR))
    }

    /// Starts readers and writers of which it matters how long they wait.
    pub async fn start_timed(&mut self, spec: TimedSpec) -> CaseResult<Workload> {
        self.start_workload(WorkloadSpec::Timed(spec)).await
    }

    /// What the module says about itself, or nothing where it does not within `limit`.
    pub async fn info_within(&mut self, limit: Duration) -> CaseResult<Option<ModuleInfo>> {
        let mut begun = self.begin("info", Request::ReadInfo).await?;
        let Some(timing) = self.ended_within(&mut begun, limit).await? else {
            return Ok(None);
        };
        match timing.result {
            Ok(Reply::Text(text)) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|error| CaseError::Failed(format!("{INFO}: {error}: {text}"))),
            Ok(reply) => Err(unexpected(&reply)),
            Err(error) => Err(CaseError::Failed(error.message)),
        }
    }
}

/// The longest access of a workload whose accesses are timed.
pub fn longest(state: &WorkloadState) -> Duration {
    Duration::from_micros(state.longest_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a disk that does not answer has the least limit that QEMU knows, and one at full pace has none.
    #[test]
    fn a_pace_is_what_qemu_is_told() {
        assert_eq!(Pace::Full.limits(), (0, 0));
        assert_eq!(Pace::Stopped.limits(), (1, 0));
        assert_eq!(Pace::Operations(1).limits(), (0, 1));
        assert_eq!(Pace::Bytes(80_000).limits(), (80_000, 0));
    }
}
