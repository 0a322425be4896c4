//! Names of files in text: any bytes but zero may be in a name, and not all of them in JSON or on a terminal.
//!
//! The module's report and the records of series write a name as `/proc/self/mountinfo` does: each byte that is not part of
//! valid UTF-8 is a backslash and three octal digits, and so is the backslash itself, `\134`. The report does so with all
//! its strings.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
pub use cowbird_outside::printable;

fn octal(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("\\{byte:03o}"));
    }
}

/// A name as text, from which [`unescape`] makes the same name.
pub fn escape(name: &Path) -> String {
    let mut text = String::new();
    for chunk in name.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', r"\134"));
        octal(&mut text, chunk.invalid());
    }
    text
}

/// The name that was written so.
pub fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| first == b'\\');
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// A name for people.
pub fn shown(name: &Path) -> String {
    printable(&escape(name))
}

/// Refuses a name that the module would cut off.
///
/// # Errors
/// When the module has no room for it.
pub fn check_length(name: &Path) -> Result<()> {
    let (length, room) = (
        name.as_os_str().len(),
        cowbird_abi::COWBIRD_PATH_BYTES as usize - 1,
    );
    if length > room {
        bail!(
            "{} has {length} bytes, and the module keeps names of at most {room}; choose a shorter path",
            shown(name)
        );
    }
    Ok(())
}

/// How serde reads and writes a name.
pub mod as_text {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a name.
    pub fn serialize<S: Serializer>(name: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::escape(name))
    }

    /// Reads a name.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        String::deserialize(from).map(|text| super::unescape(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn name(bytes: &[u8]) -> &Path {
        Path::new(OsStr::from_bytes(bytes))
    }

    #[test]
    fn every_name_comes_back_as_it_was() {
        let every_byte: Vec<u8> = (1..=255).collect();
        for bytes in [
            b"/srv/.cowbird".as_slice(),
            b"/srv/caf\xc3\xa9",
            b"/srv/caf\xe9/\xff",
            br"/dev/mapper/a\x2db",
            br"/srv/\134",
            br"/srv/\777\08",
            b"/srv/cut \xe2\x82",
            &every_byte,
        ] {
            let text = escape(name(bytes));
            assert_eq!(unescape(&text).as_os_str().as_bytes(), bytes, "{text}");
        }
        assert_eq!(escape(name(b"/a\xff\\")), r"/a\377\134");
    }

    #[test]
    fn what_was_written_without_escapes_is_read_as_it_is() {
        assert_eq!(
            unescape(r"/dev/mapper/a\x2db"),
            name(br"/dev/mapper/a\x2db")
        );
        assert_eq!(unescape(r"/a\999\40"), name(br"/a\999\40"));
    }

    #[test]
    fn terminals_see_no_control_characters() {
        assert_eq!(shown(name(b"/a\x1b[2J\n\xff")), r"/a\033[2J\012\377");
        assert_eq!(printable("\u{9b}é"), r"\302\233é");
    }

    #[test]
    fn a_name_that_would_be_cut_off_is_refused() {
        let longest = format!("/{}", "x".repeat(510));
        assert!(check_length(Path::new(&longest)).is_ok());
        assert!(check_length(Path::new(&(longest + "x"))).is_err());
    }
}
