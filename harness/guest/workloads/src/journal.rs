//! The journal: every operation when it is issued and when it is seen complete.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use cowbird_guest_system::clock::uptime_ns;
use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_guest_system::port::Port;
use cowbird_proto::message::{Event, JournalEntry, Operation, WorkloadId};

use super::progress::Progress;

/// Entries of one thread that are sent together; bounds the memory and the frame.
const BATCH_ENTRIES: usize = 256;

/// Entries of one thread that are not sent yet.
pub struct Journal {
    workload: WorkloadId,
    thread: u32,
    entries: Vec<JournalEntry>,
}

impl Journal {
    /// An empty journal.
    pub fn new(workload: WorkloadId, thread: u32) -> Self {
        Self {
            workload,
            thread,
            entries: Vec::new(),
        }
    }

    /// Sends what there is.
    pub fn send(&mut self, port: &Port) {
        if self.entries.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.entries);
        port.event(Event::Journal {
            workload: self.workload,
            thread: self.thread,
            entries,
        });
    }
}

/// Writes the journal of one thread.
pub struct JournalWriter {
    progress: Arc<Progress>,
    journal: Arc<Mutex<Journal>>,
    next_op: u64,
}

impl JournalWriter {
    /// For the thread of `journal`.
    pub fn new(progress: Arc<Progress>, journal: Arc<Mutex<Journal>>) -> Self {
        Self {
            progress,
            journal,
            next_op: 0,
        }
    }

    /// Runs an operation between its two entries.
    ///
    /// # Errors
    /// When the operation fails; the journal then has its errno.
    pub fn run<T>(
        &mut self,
        what: Operation,
        operation: impl FnOnce() -> std::io::Result<T>,
    ) -> GuestResult<T> {
        let op = self.next_op;
        self.next_op += 1;
        let name = format!("{what:?}");
        self.add(JournalEntry::Issued {
            op,
            at_ns: uptime_ns(),
            what,
        });
        let result = operation();
        let errno = match &result {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(-1),
        };
        self.add(JournalEntry::Completed {
            op,
            at_ns: uptime_ns(),
            errno,
        });
        self.progress.operations.fetch_add(1, Ordering::Relaxed);
        result.context(name)
    }

    fn add(&self, entry: JournalEntry) {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.entries.push(entry);
        if journal.entries.len() >= BATCH_ENTRIES {
            journal.send(&self.progress.port);
        }
    }
}
