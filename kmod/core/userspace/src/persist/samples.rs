//! Samples of an origin: what a later boot compares.

use std::ffi::c_void;

use super::slots::{PAYLOAD, SLOT_BYTES, Slot};
use crate::ffi::{self, Sample};

/// Blocks that were written last, of which there may be samples.
pub const SAMPLES_LAST: usize = 64;

/// CRC-32C of whole blocks, without GRUB's environment blocks.
pub fn sample_crc(blocks: &[u8]) -> u32 {
    let (blocks, rest) = blocks.as_chunks::<SLOT_BYTES>();
    assert!(rest.is_empty(), "samples are whole blocks");
    blocks.iter().fold(0, |crc, block| {
        // SAFETY: the block has the length that the function reads.
        unsafe { ffi::cb_sample_crc(crc, block.as_ptr()) }
    })
}

unsafe extern "C" fn is_own(context: *mut c_void, sector: u64, sectors: u32) -> bool {
    // SAFETY: the context is the closure that `choose_samples` put there, alive and used by nobody else.
    let own = unsafe { &mut *context.cast::<&mut dyn FnMut(u64, u32) -> bool>() };
    own(sector, sectors)
}

/// What a clean save looks at. `written` are blocks, the last one first; `head` are the first bytes of the origin, and
/// `own` says where the module writes itself. Checksums are left to the caller.
pub fn choose_samples(
    origin_sectors: u64,
    written: &[u64],
    head: &[u8],
    mut own: impl FnMut(u64, u32) -> bool,
) -> Vec<Sample> {
    let mut own: &mut dyn FnMut(u64, u32) -> bool = &mut own;
    let of = ffi::SamplesOf {
        origin_sectors,
        written: written.as_ptr(),
        written_count: written.len() as u32,
        head: head.as_ptr(),
        head_bytes: head.len() as u32,
        own: is_own,
        context: (&raw mut own).cast(),
    };
    let mut samples = ffi::Samples::default();
    // SAFETY: the lists have the lengths that are given, and the closure lives until the end.
    unsafe { ffi::cb_samples_choose(&raw mut samples, &raw const of) };
    listed(&samples)
}

/// Writes the payload of a slot.
pub fn encode_samples(samples: &[Sample], slot: &mut Slot) {
    let mut raw = ffi::Samples::default();
    for (to, sample) in raw.list.iter_mut().zip(samples) {
        *to = *sample;
        raw.count += 1;
    }
    // SAFETY: the payload has the length that the function writes.
    unsafe { ffi::cb_samples_encode(&raw const raw, slot[PAYLOAD].as_mut_ptr()) };
}

pub(super) fn listed(samples: &ffi::Samples) -> Vec<Sample> {
    samples.list[..samples.count as usize].to_vec()
}
