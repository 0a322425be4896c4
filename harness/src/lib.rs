//! Boots kernels in QEMU, runs cases and judges them.
//!
//! A *cell* is one kernel and one case. [`run_cell`] prepares the disks that the case asks for, boots the kernel with a
//! witness below the origin's disk, drives the case over the agent protocol, and has the model
//! compare every block of the image with what the witness says. It always ends in exactly one
//! verdict.

pub mod bench;
pub mod bundle;
pub mod catalogue;
pub mod cell;
pub mod findings;
pub mod outcome;
mod page;
pub mod planned;
pub mod retold;
pub mod shell;
pub mod tape;

pub use cell::run_cell;
pub use outcome::CellOutcome;
