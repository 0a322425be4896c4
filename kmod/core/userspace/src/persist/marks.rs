//! Marks of regions, from the wish to stable storage.

use super::slots::{PAYLOAD, Slot};
use super::{Layout, words};
use crate::ffi;

/// Marks of regions; `core/marks.h`.
pub struct Marks {
    marks: ffi::Marks,
    // The C structure points into these.
    _wanted: Box<[u64]>,
    _issued: Box<[u64]>,
    _stable: Box<[u64]>,
}

impl Marks {
    /// None marked.
    pub fn new(layout: &Layout) -> Self {
        let map = || vec![0u64; words(layout.0.region_count)].into_boxed_slice();
        let (mut wanted, mut issued, mut stable) = (map(), map(), map());
        let mut marks = ffi::Marks::empty();
        // SAFETY: the arrays are zeroed and have the lengths that the header asks for.
        unsafe {
            ffi::cb_marks_init(
                &raw mut marks,
                &raw const layout.0,
                wanted.as_mut_ptr(),
                issued.as_mut_ptr(),
                stable.as_mut_ptr(),
            );
        }
        Self {
            marks,
            _wanted: wanted,
            _issued: issued,
            _stable: stable,
        }
    }

    /// First block in `first..=last` that is not marked on stable storage.
    pub fn next_unstable(&self, first: u64, last: u64) -> Option<u64> {
        // SAFETY: the structure was initialised, its arrays are alive.
        let next = unsafe { ffi::cb_marks_next_unstable(&raw const self.marks, first, last) };
        (next <= last).then_some(next)
    }

    /// Asks for the regions of these blocks.
    pub fn want(&mut self, first: u64, last: u64) {
        // SAFETY: as above, and nothing else reads the arrays meanwhile.
        unsafe { ffi::cb_marks_want(&raw mut self.marks, first, last) };
    }

    /// Slots that have to be written.
    pub fn wanted_slots(&self) -> u64 {
        self.marks.wanted_slots
    }

    /// Fills a slot's payload.
    pub fn issue(&mut self, slot: u32, to: &mut Slot) {
        // SAFETY: as above; the payload has the length that the function writes.
        unsafe { ffi::cb_marks_issue(&raw mut self.marks, slot, to[PAYLOAD].as_mut_ptr()) };
    }

    /// The write of a slot has completed.
    pub fn done(&mut self, slot: u32) {
        // SAFETY: as above.
        unsafe { ffi::cb_marks_done(&raw mut self.marks, slot) };
    }
}
