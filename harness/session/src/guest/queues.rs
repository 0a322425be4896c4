//! How a disk of the guest treats its requests, and how fast it is.

use cowbird_proto::message::Request;
use cowbird_vm::disks;
use serde_json::json;

use super::{CaseError, CaseResult, GuestSession};
use crate::fault::Fault;

/// How the guest treats requests to a disk; what is `None` stays as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Who orders the requests.
    pub scheduler: Option<&'static str>,
    /// Requests of each queue.
    pub nr_requests: Option<u32>,
    /// Longest request, KiB.
    pub max_sectors_kb: Option<u32>,
    /// How long a request of a reader may take before cached writes have to wait, us; 0: they never have to. Kernels
    /// without that throttling (and queues where it is off for good) are left as they are.
    pub wbt_lat_usec: Option<u32>,
}

impl Queue {
    /// As the kernel has it.
    pub const AS_IT_IS: Self = Self {
        scheduler: None,
        nr_requests: None,
        max_sectors_kb: None,
        wbt_lat_usec: None,
    };
}

/// How slow a disk is: what QEMU lets through in a second; 0 for as much as comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// Reads and writes.
    pub operations_per_second: u64,
    /// Bytes of both.
    pub bytes_per_second: u64,
}

impl Throttle {
    /// Not slow.
    pub const NONE: Self = Self {
        operations_per_second: 0,
        bytes_per_second: 0,
    };
}

impl GuestSession<'_, '_> {
    /// Sets up the queue of a disk, which is named without its folder.
    pub async fn set_queue(&mut self, disk: &str, queue: Queue) -> CaseResult<()> {
        // First: another scheduler has requests of its own.
        if let Some(scheduler) = queue.scheduler {
            self.set_of_queue(disk, "scheduler", scheduler).await?;
        }
        let numbers = [
            ("nr_requests", queue.nr_requests),
            ("max_sectors_kb", queue.max_sectors_kb),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                self.set_of_queue(disk, name, &number.to_string()).await?;
            }
        }
        if let Some(microseconds) = queue.wbt_lat_usec {
            let request = setting(disk, "wbt_lat_usec", &microseconds.to_string());
            if let Err(error) = self.try_request(request).await? {
                self.note(format!("cached writes are throttled as ever: {error}"));
            }
        }
        Ok(())
    }

    async fn set_of_queue(&mut self, disk: &str, name: &str, value: &str) -> CaseResult<()> {
        self.prepare(setting(disk, name, value)).await.map(|_| ())
    }

    /// Makes a disk slow, or as fast as it was; `index` counts the disks of the machine.
    pub async fn throttle(&mut self, index: usize, throttle: Throttle) -> CaseResult<()> {
        if self.machine.plan().tape.is_some() {
            let reason =
                "a tape does not have how slow QEMU makes a disk, and this case changes that";
            return Err(CaseError::Unsupported(reason.to_owned()));
        }
        if throttle != Throttle::NONE {
            self.makes(Fault::SlowDisk)?;
        }
        let bus = self.machine.bus_of(index)?;
        let arguments = json!({
            "id": disks::backend_path(index, bus),
            "bps": throttle.bytes_per_second,
            "bps_rd": 0,
            "bps_wr": 0,
            "iops": throttle.operations_per_second,
            "iops_rd": 0,
            "iops_wr": 0,
        });
        let qmp = self.vm.qmp();
        qmp.execute("block_set_io_throttle", arguments).await?;
        Ok(())
    }
}

fn setting(disk: &str, name: &str, value: &str) -> Request {
    Request::WriteText {
        path: format!("/sys/block/{disk}/queue/{name}"),
        text: value.to_owned(),
    }
}
