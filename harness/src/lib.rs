//! Boots kernels in QEMU, runs cases and judges them.
//!
//! A *cell* is one kernel and one case. [`run_cell`] prepares the disks that the case asks for, boots the kernel with a
//! witness below the origin's disk, drives the case over the agent protocol, and has the model
//! compare every block of the image with what the witness says. It always ends in exactly one
//! verdict.

pub mod artifacts;
pub mod bench;
pub mod bundle;
pub mod catalogue;
pub mod cell;
mod html_report;
pub mod outcome;
pub mod planned;
pub mod reproducer;
pub mod shell;
pub mod tape;

pub use cell::run_cell;
pub use outcome::CellOutcome;
