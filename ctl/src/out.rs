//! Everything that this tool writes to its standard output and standard error.

use std::fmt::Display;

pub use cowbird_outside::out::{bytes, finish, json, line, text};

/// Writes one line with this program's name to standard error.
pub fn complain(line: impl Display) {
    cowbird_outside::out::complain("cowbirdctl", line);
}
