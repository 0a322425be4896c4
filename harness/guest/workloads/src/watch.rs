//! How long accesses take, those that have not ended included: a disk that does not answer must not look fast.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cowbird_guest_system::clock::uptime_ns;

/// An access that takes so long waits, us.
const WAITS_US: u64 = 1_000_000;

/// Time since boot, us; never 0.
pub fn now_us() -> u64 {
    (uptime_ns() / 1000).max(1)
}

/// All threads of a workload whose accesses are timed.
#[derive(Default)]
pub struct Watches(Mutex<Vec<Arc<Watch>>>);

/// The accesses of one thread.
#[derive(Default)]
pub struct Watch {
    /// When the oldest that has not ended was begun; 0 for none.
    oldest_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Watches {
    /// For one more thread.
    pub fn add(&self) -> Arc<Watch> {
        let watch = Arc::new(Watch::default());
        self.lock().push(Arc::clone(&watch));
        watch
    }

    /// The longest of all threads.
    pub fn longest_us(&self) -> u64 {
        let now = now_us();
        let longest = |watch: &Arc<Watch>| {
            let ended = watch.longest_us.load(Ordering::Acquire);
            ended.max(watch.age_us(now))
        };
        self.lock().iter().map(longest).max().unwrap_or_default()
    }

    /// Threads whose access takes long.
    pub fn waiting(&self) -> u32 {
        let now = now_us();
        let watches = self.lock();
        let waiting = watches.iter().filter(|watch| watch.age_us(now) >= WAITS_US);
        waiting.count() as u32
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Watch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    fn age_us(&self, now: u64) -> u64 {
        match self.oldest_us.load(Ordering::Acquire) {
            0 => 0,
            begun => now.saturating_sub(begun),
        }
    }

    /// Times one access of a thread that has one at a time.
    pub fn time<T>(&self, access: impl FnOnce() -> T) -> T {
        let begun = now_us();
        self.oldest(Some(begun));
        let result = access();
        self.ended(now_us().saturating_sub(begun));
        self.oldest(None);
        result
    }

    /// When the oldest access was begun that has not ended.
    pub fn oldest(&self, begun_us: Option<u64>) {
        self.oldest_us
            .store(begun_us.unwrap_or_default(), Ordering::Release);
    }

    /// An access has ended that took so long.
    pub fn ended(&self, took_us: u64) {
        self.longest_us.fetch_max(took_us, Ordering::AcqRel);
    }
}
