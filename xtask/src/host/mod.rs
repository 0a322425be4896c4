//! What this machine has: its programs, room on its disks, and threads.

mod apt_get;
mod programs;
pub mod rooms;
pub mod runtime;

pub use self::programs::*;
