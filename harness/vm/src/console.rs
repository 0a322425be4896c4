//! The serial console, as far as it is written.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::limits::MAX_CONSOLE_BYTES;

/// The serial console, read as it grows.
pub(super) struct Console {
    path: PathBuf,
    pub text: String,
    read_bytes: u64,
}

impl Console {
    /// Makes the file, empty.
    pub fn create(path: PathBuf) -> HarnessResult<Self> {
        File::create(&path).on("create", &path)?;
        Ok(Self {
            path,
            text: String::new(),
            read_bytes: 0,
        })
    }

    /// Reads what is new.
    pub fn refresh(&mut self) -> HarnessResult<()> {
        if self.read_bytes >= MAX_CONSOLE_BYTES {
            return Ok(());
        }
        let mut file = File::open(&self.path).on("open", &self.path)?;
        file.seek(SeekFrom::Start(self.read_bytes))
            .on("seek in", &self.path)?;
        let mut bytes = Vec::new();
        file.take(MAX_CONSOLE_BYTES - self.read_bytes)
            .read_to_end(&mut bytes)
            .on("read", &self.path)?;
        self.read_bytes += bytes.len() as u64;
        self.text.push_str(&String::from_utf8_lossy(&bytes));
        Ok(())
    }
}
