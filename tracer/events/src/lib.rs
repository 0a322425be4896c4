//! What a trace holds, and what must be known to understand it.
//!
//! [`event`] is what happens to a bio or to a preserved block. [`kernel`] holds the facts of a running kernel, found in its
//! types ([`btf`]), by which [`decoder`] makes of what a BPF program sent an event that means the same on all kernels. [`devices`]
//! are those of the machine, and [`prints`] the fingerprints of blocks. [`format`](mod@format) is the file that they are kept in.
//!
//! **Architecture invariant:** nothing here loads a program into the kernel; who reads traces or tests the readers
//! needs no compiler for BPF.

pub mod btf;
pub mod decoder;
pub mod devices;
pub mod event;
pub mod format;
pub mod kernel;
mod pairing;
pub mod prints;
