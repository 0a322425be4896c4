//! What the programs of a test guest ask its kernel for: files and mounts, asynchronous and direct I/O, other programs, and
//! the port to the host.
//!
//! **Architecture invariant:** nothing here knows requests of the host or workloads: who calls it decides what is done.

pub mod async_io;
pub mod clock;
pub mod console;
pub mod error;
pub mod files;
pub mod mounts;
pub mod port;
pub mod programs;
pub mod race;
pub mod swap;
pub mod sys;
