//! The terminal of whoever works in a guest. Its settings are read and changed by `stty`, as a shell script would.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use cowbird_harness::shell::Size;
use tokio::sync::{mpsc, oneshot};

/// The key that ends the session whatever the guest does: Ctrl-], as with telnet.
const LEAVE: u8 = 0x1d;

/// Bytes that are typed, or pasted, at once.
const TYPED_BYTES: usize = 1024;

/// How many of these may wait for the guest. A guest that has not taken so many does not listen.
const TYPED_QUEUE: usize = 1024;

/// Size of a terminal that does not know its own.
const USUAL: Size = Size {
    rows: 24,
    columns: 80,
};

/// The terminal while every key goes to the guest. It has its own settings again when this is dropped.
#[derive(Debug)]
pub struct RawTerminal {
    settings: String,
}

impl RawTerminal {
    /// Gives all keys to the guest, Ctrl-C among them.
    pub fn take() -> Result<Self> {
        let settings = stty(&["-g"])?;
        let taken = Self { settings };
        stty(&["raw", "-echo"])?;
        Ok(taken)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = stty(&[&self.settings]);
    }
}

/// How large the terminal is.
pub fn size() -> Result<Size> {
    let text = stty(&["size"])?;
    Ok(parse_size(&text).unwrap_or(USUAL))
}

/// Rows and columns, if both are known.
fn parse_size(text: &str) -> Option<Size> {
    let (rows, columns) = text.split_once(' ')?;
    let (rows, columns) = (rows.parse().ok()?, columns.parse().ok()?);
    (rows > 0 && columns > 0).then_some(Size { rows, columns })
}

/// Asks or changes the terminal on standard input.
fn stty(arguments: &[&str]) -> Result<String> {
    let output = Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()
        .context("cannot run stty (package coreutils)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("stty {}: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What somebody types.
pub struct Keys {
    /// For the guest.
    pub typed: mpsc::Receiver<Vec<u8>>,
    /// Ends when the terminal does, or when somebody types [`LEAVE`]: also while the guest takes nothing.
    pub left: oneshot::Receiver<()>,
}

impl Keys {
    /// Begins to read them, in a thread that nobody waits for: a read of a terminal cannot be taken back.
    pub fn read() -> Self {
        let (sender, typed) = mpsc::channel(TYPED_QUEUE);
        let (leave, left) = oneshot::channel();
        thread::spawn(move || {
            let mut bytes = [0; TYPED_BYTES];
            while let Ok(count @ 1..) = io::stdin().read(&mut bytes) {
                let (keys, leaves) = until_leave(&bytes[..count]);
                // What there is no room for is lost, as with any terminal.
                let _ = sender.try_send(keys.to_vec());
                if leaves {
                    break;
                }
            }
            drop(leave);
        });
        Self { typed, left }
    }
}

/// What is in front of the key that ends the session, and whether that was there.
fn until_leave(typed: &[u8]) -> (&[u8], bool) {
    let at = typed.iter().position(|key| *key == LEAVE);
    (&typed[..at.unwrap_or(typed.len())], at.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_without_a_size_has_the_usual_one() {
        let size = |rows, columns| Some(Size { rows, columns });
        assert_eq!(parse_size("50 132"), size(50, 132));
        for unknown in ["0 0", "24 0", "", "x y"] {
            assert_eq!(parse_size(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn what_is_typed_behind_the_leaving_key_is_not_sent() {
        assert_eq!(until_leave(b"ls\r"), (&b"ls\r"[..], false));
        assert_eq!(until_leave(b"l\x1dx"), (&b"l"[..], true));
        assert_eq!(until_leave(b"\x03"), (&b"\x03"[..], false));
    }
}
