//! How every program of this repository meets what is outside of it.
//!
//! - [`out`] is what it says: readers that have gone, disks that are full, and control characters in names that
//!   somebody else chose.
//! - [`command_line`] is what it is told.
//! - [`foreign`] is what it reads of files that others made.
//!
//! The lints of the workspace forbid to print in another way.

pub mod command_line;
pub mod foreign;
pub mod out;
mod printable;

pub use printable::{printable, printable_json, printable_lines};
