//! Everything that a program writes to its standard output and standard error.
//!
//! Output may go away (`cowbirdctl info | true`) or have no room (`> /dev/full`). Neither may keep a command from its
//! work, so nobody who prints looks at the result: the first failure is kept, nothing is written after it, and
//! [`finish`] tells at the end what became of it.
//!
//! ```
//! use cowbird_outside::{out, say};
//!
//! say!("{} blocks of {}", 3, "a name\x1b[2J of somebody else");
//! out::finish().expect("there was room");
//! ```

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow};

use crate::{printable, printable_json, printable_lines};

static OUTPUT: Mutex<Sink> = Mutex::new(Sink { failure: None });

/// Prints one line to standard output; control characters in it are escaped. Arguments as of `format!`.
#[macro_export]
macro_rules! say {
    ($($arguments:tt)*) => { $crate::out::line(format_args!($($arguments)*)) };
}

/// What was written to so far.
#[derive(Default)]
struct Sink {
    /// Why nothing is written any more.
    failure: Option<io::Error>,
}

impl Sink {
    fn write(&mut self, to: &mut impl Write, bytes: &[u8]) {
        if self.failure.is_none() {
            self.failure = to.write_all(bytes).and_then(|()| to.flush()).err();
        }
    }

    /// A reader that has gone has seen what it wanted.
    fn verdict(&self) -> Result<()> {
        match &self.failure {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(anyhow!("cannot write to standard output: {error}"))
            }
            _ => Ok(()),
        }
    }
}

fn output() -> MutexGuard<'static, Sink> {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes bytes as they are.
pub fn bytes(bytes: &[u8]) {
    output().write(&mut io::stdout().lock(), bytes);
}

/// Writes text of any number of lines as it is.
pub fn text(text: &str) {
    bytes(text.as_bytes());
}

/// Writes a JSON text and ends its line. Machines read what was there, and terminals show it harmlessly.
pub fn json(text: &str) {
    bytes((printable_json(text.strip_suffix('\n').unwrap_or(text)) + "\n").as_bytes());
}

/// Writes text of any number of lines for people; control characters in it are escaped.
pub fn lines(text: &str) {
    bytes(printable_lines(text).as_bytes());
}

/// Writes one line; control characters in it are escaped.
pub fn line(line: impl Display) {
    text(&(printable(&line.to_string()) + "\n"));
}

/// Writes one line with the program's name to standard error; control characters in it are escaped. If that fails
/// there is nobody left to tell.
pub fn complain(program: &str, line: impl Display) {
    note(format_args!("{program}: {line}"));
}

/// Writes one line to standard error; control characters in it are escaped.
pub fn note(line: impl Display) {
    // In one piece: the kernel log takes each write for a message.
    raw_note(&(printable(&line.to_string()) + "\n"));
}

/// Writes lines to standard error; control characters in them are escaped. The last one is ended.
pub fn note_lines(text: &str) {
    raw_note(&(printable_lines(text.strip_suffix('\n').unwrap_or(text)) + "\n"));
}

fn raw_note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Whether all output was written, or nobody wanted the rest.
///
/// # Errors
/// When output could not be written for another reason than that its reader has gone.
pub fn finish() -> Result<()> {
    output().verdict()
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_full_disk_is_an_error_and_a_closed_pipe_is_none() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::default();
        sink.write(&mut full, b"lost");
        let mut kept = Vec::new();
        sink.write(&mut kept, b"after a failure");
        assert!(
            kept.is_empty(),
            "half an output is worse than its beginning"
        );
        let error = sink.verdict().unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");

        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = Sink::default();
        sink.write(&mut writer, b"unread");
        assert!(sink.failure.is_some());
        assert!(sink.verdict().is_ok());
    }
}
