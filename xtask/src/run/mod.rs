//! Runs of the matrix, which several commands make: what is wanted is checked, what its cells need is prepared, the
//! cells are run, and the results shown. Nothing here knows a command.

mod check;
mod checked;
pub mod context;
pub mod emulator;
mod execute;
pub mod guest_programs;
pub mod prepare;
pub mod script_runner;
mod show;
pub mod workload;

pub use self::check::check;
pub use self::checked::Run;
pub use self::execute::{Ended, ensure_host, ensure_rooms, execute, plan_first};
pub use self::show::{show, show_with};
