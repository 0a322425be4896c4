//! Recorded workloads: what was done to a device once, so that it can be done again to a test volume.
//!
//! Bytes go in and data comes out; files, devices and clocks are the business of whoever uses this:
//!
//! 1. [`Workload::decode`] and [`Workload::encode`] are the file; [`import()`] also reads what `blkparse`
//!    and fio write. A trace becomes a workload in the tracer, which knows its format.
//! 2. [`remap()`] moves the operations onto a volume of another size.
//! 3. [`Schedule`] says which operation may be issued when.
//!
//! [`Script`] is the other end of the scale: a few steps for people, and the snapshots among them.
//!
//! A workload is no evidence. The oracle judges the run in which it is replayed by the witness of that
//! run, so that an operation which the recorder missed makes the workload another one, not the verdict
//! wrong.

mod format;
pub mod import;
mod operation;
pub mod remap;
pub mod schedule;
pub mod script;

/// The longest file that anybody should take into memory to read it here.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

pub use format::{FORMAT_VERSION, FormatError};
pub use import::{ImportError, Source, import, recognise};
pub use operation::{
    Action, BLOCK_SECTORS, Builder, Content, Extent, Flags, MAX_SECTOR, Operation, SECTOR_BYTES,
    Sector, Workload,
};
pub use remap::{Fit, Remapped, remap};
pub use schedule::{Instant, Schedule, Timing, Turn};
pub use script::{Op, Script, ScriptError, Stage, Step, Task, Thread, Way};
