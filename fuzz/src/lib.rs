//! Damaged, forged and cut-off input for every parser of foreign data.
//!
//! [`targets`] lists the parsers, each with valid input to begin with and with the properties that must hold whatever the
//! input is; [`mutate`] changes inputs; [`engine`] runs them and keeps those that reach something new, in a process that
//! [`watch`] looks after. `docs/fuzzing.md` has the table of all parsers and what was found.

pub mod coverage;
pub mod engine;
pub mod memory;
pub mod mutate;
pub mod saved;
pub mod target;
pub mod targets;
pub mod watch;
