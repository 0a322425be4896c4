//! Which sectors have a write in flight.
//!
//! Two writes in flight must never share a byte: the witness logs each in the order in which it
//! completed, the disk may have done them in the other, and then the log would not be the truth.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Ranges of sectors in use.
#[derive(Default)]
pub struct RangeLocks {
    held: Mutex<Vec<Range<u64>>>,
}

/// Ranges in use until dropped.
pub struct Held<'a> {
    locks: &'a RangeLocks,
    ranges: Vec<Range<u64>>,
}

impl RangeLocks {
    /// Takes all the ranges, which must not overlap each other, or none.
    pub fn try_hold(&self, ranges: &[Range<u64>]) -> Option<Held<'_>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |range: &Range<u64>| !held.iter().any(|other| overlaps(range, other));
        if !ranges.iter().all(free) {
            return None;
        }
        held.extend_from_slice(ranges);
        Some(Held {
            locks: self,
            ranges: ranges.to_vec(),
        })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self
            .locks
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.retain(|range| !self.ranges.contains(range));
    }
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_wait_for_each_other_and_neighbours_do_not() {
        let locks = RangeLocks::default();
        let first = locks.try_hold(&[10..20, 30..40]).unwrap();
        assert!(locks.try_hold(&[19..21, 50..51]).is_none());
        assert!(locks.try_hold(&[0..5, 35..36]).is_none());
        assert!(locks.try_hold(&[0..10, 20..30]).is_some());
        drop(first);
        assert!(locks.try_hold(&[0..50, 50..60]).is_some());
    }
}
