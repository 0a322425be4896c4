//! A machine in QEMU: its disks and command line, its agent and monitor, and how it ends.

pub mod accel;
pub mod agent;
mod arguments;
pub mod command;
mod console;
mod diagnosis;
pub mod disks;
pub mod emulator;
mod end;
mod exchange;
mod guard;
mod host_clock;
pub mod layout;
pub mod probe;
pub mod process;
pub mod qmp;
mod socket;
mod stuck;
mod vm;

pub use end::End;
pub use exchange::{CallError, Pending};
pub use vm::Vm;
