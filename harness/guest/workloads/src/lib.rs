//! Workloads: seeded threads that do I/O and tell the host what they issue and see complete.
//!
//! **Architecture invariant:** a workload is told everything by its specification; it knows neither the agent nor the
//! requests that start and end it.

mod fs_churn;
mod group;
mod hot;
mod journal;
mod lockstep_writers;
mod noise;
mod place;
mod programs;
mod progress;
mod raced_snapshot;
mod racing_reader;
mod range_locks;
mod raw_writers;
mod recorded;
mod shared;
mod snapshot_view;
mod stopwatch;
mod streams;
mod swapper;
mod throttled;
mod timed;
mod watch;
mod write_kinds;

pub use swapper::{SWAPPER_ARGUMENT, swap};
pub use throttled::{DELAYED_WRITER_ARGUMENT, write_delayed};
pub use timed::{GROUPED_WRITER_ARGUMENT, write_grouped};

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use cowbird_guest_system::error::{GuestResult, failure};
use cowbird_guest_system::port::Port;
use cowbird_proto::message::{Chase, Reply, WorkloadId, WorkloadSpec};

use raced_snapshot::RacedSnapshot;
use shared::{Body, Shared};

/// Threads that one workload may ask for.
const MAX_THREADS: u32 = 64;

/// All workloads of this guest.
#[derive(Default)]
pub struct Workloads {
    running: Mutex<HashMap<WorkloadId, Running>>,
    last_id: AtomicU32,
}

struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workloads {
    /// Prepares and starts a workload.
    pub fn start(&self, port: &Arc<Port>, spec: WorkloadSpec) -> GuestResult<Reply> {
        let parts = match spec {
            WorkloadSpec::FsChurn(spec) => fs_churn::prepare(spec)?,
            WorkloadSpec::RawWriters(spec) => raw_writers::prepare(spec)?,
            WorkloadSpec::Hot(spec) => hot::prepare(spec)?,
            WorkloadSpec::WriteKinds(spec) => write_kinds::prepare(spec)?,
            WorkloadSpec::Throttled(spec) => throttled::prepare(spec)?,
            WorkloadSpec::Recorded(spec) => recorded::prepare(spec)?,
            WorkloadSpec::Stopwatch(spec) => stopwatch::prepare(spec)?,
            WorkloadSpec::LockstepWriters(spec) => lockstep_writers::prepare(spec)?,
            WorkloadSpec::Noise(spec) => noise::prepare(spec)?,
            WorkloadSpec::FsOps(spec) => fs_churn::prepare_fs_ops(spec)?,
            WorkloadSpec::Programs(spec) => programs::prepare(spec)?,
            WorkloadSpec::Streams(spec) => streams::prepare(spec)?,
            WorkloadSpec::Swapper(spec) => swapper::prepare(spec)?,
            WorkloadSpec::Timed(spec) => timed::prepare(spec)?,
            WorkloadSpec::Poll(spec) => timed::prepare_poll(spec)?,
        };
        if parts.threads.len() > MAX_THREADS as usize {
            return Err(failure(format!(
                "a workload has at most {MAX_THREADS} threads"
            )));
        }
        let id = WorkloadId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1);
        let shared = Arc::new(Shared::new(
            id,
            Arc::clone(port),
            parts.threads.len() as u32,
        ));
        let mut threads: Vec<_> = parts
            .threads
            .into_iter()
            .map(|body| spawn(Arc::clone(&shared), body))
            .collect();
        let sender = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || {
            sender.send_journals_until_done()
        }));
        self.lock().insert(id, Running { shared, threads });
        Ok(Reply::WorkloadStarted {
            id,
            golden: parts.golden,
        })
    }

    /// How far a workload is.
    pub fn status(&self, id: WorkloadId) -> GuestResult<Reply> {
        Ok(Reply::Workload(self.shared(id)?.state()))
    }

    /// The snapshot instant has passed; from now on racing readers read, if there is something to chase.
    pub fn epoch_passed(&self, id: WorkloadId, chase: Option<Chase>) -> GuestResult<Reply> {
        let shared = self.shared(id)?;
        let raced = chase.map(RacedSnapshot::open).transpose()?.map(Arc::new);
        shared.pass_epoch(raced);
        Ok(Reply::Done)
    }

    /// Ends a workload. The host bounds the time.
    pub fn stop(&self, id: WorkloadId) -> GuestResult<Reply> {
        let shared = self.shared(id)?;
        shared.end();
        let running = self.lock().remove(&id);
        for thread in running.into_iter().flat_map(|running| running.threads) {
            if thread.join().is_err() {
                shared.fail(failure("a thread of the workload panicked"));
            }
        }
        Ok(Reply::Workload(shared.state()))
    }

    fn shared(&self, id: WorkloadId) -> GuestResult<Arc<Shared>> {
        self.lock()
            .get(&id)
            .map(|running| Arc::clone(&running.shared))
            .ok_or_else(|| failure(format!("no workload {id:?} runs")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkloadId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(shared: Arc<Shared>, body: Body) -> JoinHandle<()> {
    std::thread::spawn(move || {
        if let Err(error) = body(&shared) {
            shared.fail(error);
        }
        shared.thread_ended();
    })
}
