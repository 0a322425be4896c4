//! The clock of the guest.

use rustix::time::{ClockId, clock_gettime};

/// Time since boot, ns.
pub fn uptime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
