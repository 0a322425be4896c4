//! Short delays of those who race with each other.

use std::time::{Duration, Instant};

/// Longest random delay of the first read: about as long as copy-on-write takes.
pub const MAX_DELAY_US: u64 = 600;

/// Waits without sleeping: a sleep is rounded up to more than the race lasts.
pub fn wait_for(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}
