//! What the threads of one workload share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cowbird_guest_system::error::GuestResult;
use cowbird_guest_system::port::Port;
use cowbird_proto::message::{Event, GoldenFile, GuestError, WorkloadId, WorkloadState};

use super::journal::{Journal, JournalWriter};
use super::progress::Progress;
use super::raced_snapshot::RacedSnapshot;
use super::watch::Watches;

/// Pause between two times that the journals of all threads are sent, whatever they hold: the
/// operation that a hanging thread waits in must be known to the host.
const JOURNAL_PERIOD: Duration = Duration::from_millis(500);

/// What the threads of one workload share.
pub struct Shared {
    pub(super) progress: Arc<Progress>,
    pub(super) finished: AtomicBool,
    pub(super) longest_us: AtomicU64,
    pub(super) watches: Watches,
    stop: AtomicBool,
    epoch_passed: AtomicBool,
    threads_running: AtomicU32,
    left_out: Mutex<Vec<String>>,
    error: Mutex<Option<GuestError>>,
    raced: Mutex<Option<Arc<RacedSnapshot>>>,
    journals: Mutex<Vec<Arc<Mutex<Journal>>>>,
}

/// The body of one thread.
pub type Body = Box<dyn FnOnce(&Arc<Shared>) -> GuestResult<()> + Send>;

/// What a workload consists of, before it runs.
pub struct Parts {
    /// Files that stay as they are until the snapshot instant.
    pub golden: Vec<GoldenFile>,
    /// Its threads.
    pub threads: Vec<Body>,
}

impl Shared {
    /// Of a workload with so many threads.
    pub fn new(id: WorkloadId, port: Arc<Port>, threads: u32) -> Self {
        Self {
            progress: Arc::new(Progress::new(id, port)),
            finished: AtomicBool::new(false),
            longest_us: AtomicU64::new(0),
            watches: Watches::default(),
            stop: AtomicBool::new(false),
            epoch_passed: AtomicBool::new(false),
            threads_running: AtomicU32::new(threads),
            left_out: Mutex::new(Vec::new()),
            error: Mutex::new(None),
            raced: Mutex::new(None),
            journals: Mutex::new(Vec::new()),
        }
    }

    /// Whether the threads should end. They also end when one of them has failed, so that a
    /// failure is seen at once and not after the end of the case.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The threads should end.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether the snapshot instant has passed.
    pub fn epoch_has_passed(&self) -> bool {
        self.epoch_passed.load(Ordering::Acquire)
    }

    /// The snapshot instant has passed; from now on racing readers read, if there is something to chase.
    pub fn pass_epoch(&self, raced: Option<Arc<RacedSnapshot>>) {
        *self.raced.lock().unwrap_or_else(PoisonError::into_inner) = raced;
        self.epoch_passed.store(true, Ordering::Release);
    }

    /// What racing readers read, once there is something.
    pub fn raced(&self) -> Option<Arc<RacedSnapshot>> {
        self.raced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A part of the workload that cannot be run here, with the reason.
    pub fn leave_out(&self, what: String) {
        self.left_out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what);
    }

    /// The first error of any thread ends the workload.
    pub fn fail(&self, error: GuestError) {
        self.end();
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error.clone());
            self.progress.port.event(Event::WorkloadFailed {
                workload: self.progress.id,
                error,
            });
        }
    }

    /// One thread has ended.
    pub fn thread_ended(&self) {
        self.threads_running.fetch_sub(1, Ordering::AcqRel);
    }

    /// How far the workload is.
    pub fn state(&self) -> WorkloadState {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkloadState {
            operations: get(&self.progress.operations),
            bytes_written: get(&self.progress.bytes_written),
            bytes_read: get(&self.progress.bytes_read),
            block_reads: get(&self.progress.block_reads),
            differing_reads: get(&self.progress.differing_reads),
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
    pub fn journal(&self, thread: u32) -> JournalWriter {
        let journal = Arc::new(Mutex::new(Journal::new(self.progress.id, thread)));
        self.lock_journals().push(Arc::clone(&journal));
        JournalWriter::new(Arc::clone(&self.progress), journal)
    }

    /// Sends the journals now and then, and a last time when no thread runs any more.
    pub fn send_journals_until_done(&self) {
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
                .send(&self.progress.port);
        }
    }

    fn lock_journals(&self) -> MutexGuard<'_, Vec<Arc<Mutex<Journal>>>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
