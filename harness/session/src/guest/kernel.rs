//! The kernel of the guest: the module in it, its log, and its detectors of hung tasks and of leaks.

use std::time::{Duration, Instant};

use cowbird_host::error::HarnessError;
use cowbird_host::initramfs::COWBIRD_KO;
use cowbird_proto::message::{KernelRecord, Reply, Request};
use cowbird_vm::CallError;

use super::{CaseError, CaseResult, ENOENT, GuestSession, MAX_PAGES, protocol};
use crate::guest::shut_down_error;

/// Pause between two tries to unload the module.
const UNLOAD_POLL: Duration = Duration::from_millis(100);

/// A task blocked for longer is reported by the kernel, s; below the limits of the harness, so that
/// the kernel's own report is in the evidence.
const HUNG_TASK_SECONDS: u32 = 15;

/// The kernel's memory leak detector; only kernels made for testing have it.
const LEAK_DETECTOR: &str = "/sys/kernel/debug/kmemleak";

/// Pauses before its scans. An object younger than 5 s is never reported, and one that changed since the
/// scan before is looked at again.
const LEAK_SCAN_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(6)];

impl GuestSession<'_, '_> {
    /// Lets the kernel report blocked tasks early. Kernels without the detector do not matter.
    pub(super) async fn watch_for_hung_tasks(&mut self) -> CaseResult<()> {
        let path = "/proc/sys/kernel/hung_task_timeout_secs".to_owned();
        let request = Request::WriteText {
            path,
            text: (HUNG_TASK_SECONDS * self.limits.slowdown).to_string(),
        };
        match self.call(request, self.limits.request).await {
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
                    tokio::time::sleep(UNLOAD_POLL).await;
                }
                end => return end.map(|_| ()),
            }
        }
    }

    /// What the kernel's memory leak detector finds now, if this kernel has one. It reports an object
    /// only when two scans, some seconds apart, find nothing that points to it.
    pub async fn memory_leaks(&mut self) -> CaseResult<Option<String>> {
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
            self.call(request, limit).await.map_err(leak_error)?;
        }
        self.read_leaks().await.map(Some).map_err(leak_error)
    }

    async fn read_leaks(&mut self) -> Result<String, CallError> {
        let request = Request::ReadText {
            path: LEAK_DETECTOR.into(),
        };
        match self.call(request, self.limits.control).await? {
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
            match self.call(request, limit).await? {
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
