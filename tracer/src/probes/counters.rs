//! What the programs count, and what the kernel counts of the runs that it skipped.

use std::os::fd::{AsRawFd, BorrowedFd};

/// What the programs count; `struct cbt_counters` in `bpf/event.h`, summed over the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counters {
    /// Events made.
    pub produced: u64,
    /// Events that found the ring buffer full.
    pub dropped: u64,
    /// Events with a field that could not be read.
    pub read_faults: u64,
    /// Events that a later program recorded because the first was skipped.
    pub rescued: u64,
    /// Events that may be there twice.
    pub mark_failures: u64,
    /// Events outside the filter that first programs saw.
    pub skipped_first: u64,
    /// Events outside the filter that second programs saw.
    pub skipped_second: u64,
    /// Events beyond the rate limit.
    pub limited: u64,
    /// When the second of the rate limit began.
    pub second_ns: u64,
    /// Events in it.
    pub second_events: u64,
}

// SAFETY: repr(C), only u64: every bit pattern is valid and there is no padding.
unsafe impl aya::Pod for Counters {}

impl Counters {
    /// Upper bound of the wanted events that no program saw, given the skipped runs of the first
    /// programs; the reasoning is in `bpf/cowbird_trace.bpf.c`.
    #[must_use]
    pub fn lost_to_recursion(&self, misses: u64) -> u64 {
        let unwanted = self.skipped_second.saturating_sub(self.skipped_first);
        misses.saturating_sub(self.rescued).saturating_sub(unwanted)
    }
}

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// Place of `recursion_misses` in `struct bpf_prog_info`, where it is since 5.12.
const RECURSION_MISSES_OFFSET: usize = 208;

/// More than `struct bpf_prog_info` has in any kernel so far.
const PROG_INFO_BYTES: usize = 512;

/// The part of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoRequest {
    fd: u32,
    info_bytes: u32,
    info: u64,
}

/// Runs of a program that the kernel skipped; `None` if it does not count them.
pub(super) fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    let mut info = [0_u8; PROG_INFO_BYTES];
    let mut request = InfoRequest {
        fd: program.as_raw_fd().cast_unsigned(),
        info_bytes: PROG_INFO_BYTES as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the request is valid for its length, and `info` for the length that it states; the
    // kernel writes no further than that.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut request,
            size_of::<InfoRequest>(),
        )
    };
    let field = RECURSION_MISSES_OFFSET..RECURSION_MISSES_OFFSET + 8;
    if result != 0 || (request.info_bytes as usize) < field.end {
        return None;
    }
    info[field].try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_counts_neither_rescued_nor_unwanted_events() {
        let counters = Counters {
            rescued: 6,
            skipped_first: 100,
            skipped_second: 103,
            ..Counters::default()
        };
        assert_eq!(counters.lost_to_recursion(10), 1);
        assert_eq!(counters.lost_to_recursion(9), 0);
        assert_eq!(counters.lost_to_recursion(0), 0);
    }
}
