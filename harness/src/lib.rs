//! Boots kernels in QEMU, runs cases and judges them.
//!
//! A *cell* is one kernel and one case. [`cell::run_cell`] prepares two disks, boots the kernel
//! with the witness below the first disk, drives the case over the agent protocol, and has the
//! model compare every block of the image with what the witness says. It always ends in exactly
//! one verdict.

pub mod accel;
pub mod disk;
pub mod error;
pub mod initramfs;
pub mod kernel_log;
pub mod limits;
pub mod vm;
