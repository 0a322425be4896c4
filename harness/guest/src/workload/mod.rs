//! Workloads: seeded threads that do I/O and tell the host what they issue and see complete.

mod chaser;
mod fs_churn;
mod group;
mod hot;
mod journal;
mod kinds;
mod noise;
mod programs;
mod range_locks;
mod raw_writers;
mod recorded;
mod snapshot_view;
mod stopwatch;
mod streams;
mod swapper;
mod throttled;
mod timed;
mod turns;
mod watch;

pub use chaser::{MAX_DELAY_US, wait_for};
pub use kinds::write_durably;
pub use swapper::{SWAPPER_ARGUMENT, swap};
pub use throttled::{DELAYED_WRITER_ARGUMENT, write_delayed};
pub use timed::{GROUPED_WRITER_ARGUMENT, write_grouped};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cowbird_proto::message::{
    Chase, Event, GoldenFile, GuestError, Reply, WorkloadId, WorkloadSpec, WorkloadState,
};

use crate::error::{GuestResult, failure};
use crate::port::Port;
use chaser::Hunt;
use journal::Journal;
use watch::Watches;

/// Pause between two times that the journals of all threads are sent, whatever they hold: the
/// operation that a hanging thread waits in must be known to the host.
const JOURNAL_PERIOD: Duration = Duration::from_millis(500);

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

/// What the threads of one workload share.
pub struct Shared {
    id: WorkloadId,
    port: Arc<Port>,
    stop: AtomicBool,
    epoch_passed: AtomicBool,
    finished: AtomicBool,
    operations: AtomicU64,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
    block_reads: AtomicU64,
    differing_reads: AtomicU64,
    longest_us: AtomicU64,
    threads_running: AtomicU32,
    left_out: Mutex<Vec<String>>,
    error: Mutex<Option<GuestError>>,
    hunt: Mutex<Option<Arc<Hunt>>>,
    journals: Mutex<Vec<Arc<Mutex<Journal>>>>,
    watches: Watches,
}

/// The body of one thread.
type Body = Box<dyn FnOnce(&Arc<Shared>) -> GuestResult<()> + Send>;

/// What a workload consists of, before it runs.
struct Parts {
    golden: Vec<GoldenFile>,
    threads: Vec<Body>,
}

impl Workloads {
    /// Prepares and starts a workload.
    pub fn start(&self, port: &Arc<Port>, spec: WorkloadSpec) -> GuestResult<Reply> {
        let parts = match spec {
            WorkloadSpec::FsChurn(spec) => fs_churn::prepare(spec)?,
            WorkloadSpec::RawWriters(spec) => raw_writers::prepare(spec)?,
            WorkloadSpec::Hot(spec) => hot::prepare(spec)?,
            WorkloadSpec::Kinds(spec) => kinds::prepare(spec)?,
            WorkloadSpec::Throttled(spec) => throttled::prepare(spec)?,
            WorkloadSpec::Recorded(spec) => recorded::prepare(spec)?,
            WorkloadSpec::Stopwatch(spec) => stopwatch::prepare(spec)?,
            WorkloadSpec::Turns(spec) => turns::prepare(spec)?,
            WorkloadSpec::Noise(spec) => noise::prepare(spec)?,
            WorkloadSpec::FsMix(spec) => fs_churn::prepare_mix(spec)?,
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

    /// The snapshot instant has passed; from now on chasers read, if there is something to chase.
    pub fn epoch_passed(&self, id: WorkloadId, chase: Option<Chase>) -> GuestResult<Reply> {
        let shared = self.shared(id)?;
        let hunt = chase.map(Hunt::open).transpose()?.map(Arc::new);
        *shared.hunt.lock().unwrap_or_else(PoisonError::into_inner) = hunt;
        shared.epoch_passed.store(true, Ordering::Release);
        Ok(Reply::Done)
    }

    /// Ends a workload. The host bounds the time.
    pub fn stop(&self, id: WorkloadId) -> GuestResult<Reply> {
        let shared = self.shared(id)?;
        shared.stop.store(true, Ordering::Release);
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
        shared.threads_running.fetch_sub(1, Ordering::AcqRel);
    })
}

impl Shared {
    fn new(id: WorkloadId, port: Arc<Port>, threads: u32) -> Self {
        Self {
            id,
            port,
            stop: AtomicBool::new(false),
            epoch_passed: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            block_reads: AtomicU64::new(0),
            differing_reads: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
            threads_running: AtomicU32::new(threads),
            left_out: Mutex::new(Vec::new()),
            error: Mutex::new(None),
            hunt: Mutex::new(None),
            journals: Mutex::new(Vec::new()),
            watches: Watches::default(),
        }
    }

    /// Whether the threads should end. They also end when one of them has failed, so that a
    /// failure is seen at once and not after the end of the case.
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn epoch_has_passed(&self) -> bool {
        self.epoch_passed.load(Ordering::Acquire)
    }

    /// What chasers read, once there is something.
    fn hunt(&self) -> Option<Arc<Hunt>> {
        self.hunt
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    /// A part of the workload that cannot be run here, with the reason.
    fn leave_out(&self, what: String) {
        self.left_out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what);
    }

    /// The first error of any thread ends the workload.
    fn fail(&self, error: GuestError) {
        self.stop.store(true, Ordering::Release);
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error.clone());
            self.port.event(Event::WorkloadFailed {
                workload: self.id,
                error,
            });
        }
    }

    fn state(&self) -> WorkloadState {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkloadState {
            operations: get(&self.operations),
            bytes_written: get(&self.bytes_written),
            bytes_read: get(&self.bytes_read),
            block_reads: get(&self.block_reads),
            differing_reads: get(&self.differing_reads),
            threads_running: self.threads_running.load(Ordering::Acquire),
            longest_us: get(&self.longest_us).max(self.watches.longest_us()),
            waiting: self.watches.waiting(),
            finished: self.finished.load(Ordering::Acquire),
            left_out: self
                .left_out
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            error: self
                .error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    /// A journal for thread number `thread`.
    fn journal(self: &Arc<Self>, thread: u32) -> journal::Scribe {
        let journal = Arc::new(Mutex::new(Journal::new(self.id, thread)));
        self.lock_journals().push(Arc::clone(&journal));
        journal::Scribe::new(Arc::clone(self), journal)
    }

    fn send_journals_until_done(&self) {
        while self.threads_running.load(Ordering::Acquire) > 0 {
            std::thread::sleep(JOURNAL_PERIOD);
            self.send_journals();
        }
        self.send_journals();
    }

    fn send_journals(&self) {
        let journals = self.lock_journals().clone();
        for journal in journals {
            journal
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .send(&self.port);
        }
    }

    fn lock_journals(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Mutex<Journal>>>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
