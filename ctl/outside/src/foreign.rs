//! Files that others made: they may be pipes, devices or links to these, and hold anything, without end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The most that is taken from a pipe, on disk: a day of a million events a second is less.
const PIPE_BYTES: u64 = 1 << 40;

/// As much of a file as shows what it is.
pub const START_BYTES: u64 = 64 << 10;

/// Text that people and tools exchange: plans, results, journals. The results of 10,000 cells are 20 MiB.
pub const TEXT_BYTES: u64 = 512 << 20;

/// Reads a whole file of at most `limit` bytes. A pipe is read like any other file, once.
///
/// # Errors
/// When it cannot be read, or is longer.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_all(File::open(path)?, limit)
}

/// Reads all that is left, which must be at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, or is longer.
pub fn read_all(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    check_length(bytes.len() as u64, limit)?;
    Ok(bytes)
}

/// Reads a whole text of at most [`TEXT_BYTES`].
///
/// # Errors
/// When it cannot be read, is longer, or is no UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let bytes = read(path, TEXT_BYTES)?;
    String::from_utf8(bytes).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no text: there are bytes in it that are not UTF-8",
        )
    })
}

fn check_length(bytes: u64, limit: u64) -> io::Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is longer than the {limit} bytes that are read at most; is it the right file?"),
    ))
}

/// A file that is read more than once, from its start each time.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    file: File,
}

impl Input {
    /// Opens a file. What can be read only once, as a pipe, is copied to a file without a name; but no more than
    /// its start where `known` does not know that.
    ///
    /// # Errors
    /// When it cannot be opened, read or copied.
    pub fn open(path: &Path, known: impl Fn(&[u8]) -> bool) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let kind = file
            .metadata()
            .with_context(|| format!("cannot open {shown}"))?;
        let file = match kind.is_file() {
            true => file,
            false => copy_of(file, known).with_context(|| format!("cannot read {shown}"))?,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// The name by which it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, at its start.
    ///
    /// # Errors
    /// When it cannot be put there.
    pub fn rewound(&self) -> Result<&File> {
        (&self.file)
            .seek(SeekFrom::Start(0))
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok(&self.file)
    }

    /// Its first [`START_BYTES`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn start(&self) -> Result<Vec<u8>> {
        start_of(self.rewound()?).with_context(|| format!("cannot read {}", self.path.display()))
    }
}

fn start_of(file: &File) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    file.take(START_BYTES).read_to_end(&mut start)?;
    Ok(start)
}

fn copy_of(from: File, known: impl Fn(&[u8]) -> bool) -> Result<File> {
    let start = start_of(&from)?;
    let folder = std::env::temp_dir();
    let mut copy = tempfile::tempfile()
        .with_context(|| format!("it is no file, and cannot be kept in {}", folder.display()))?;
    copy.write_all(&start)?;
    if known(&start) {
        let more = io::copy(&mut from.take(PIPE_BYTES), &mut copy).with_context(|| {
            let folder = folder.display();
            format!("it is no file, and is not kept in {folder} (TMPDIR)")
        })?;
        check_length(more, PIPE_BYTES - 1)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::thread;

    use super::*;

    #[test]
    fn what_never_ends_is_not_read_to_its_end() {
        let error = read(Path::new("/dev/zero"), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("longer than the 1048576"));
        assert_eq!(read_all(&b"abc"[..], 3).unwrap(), b"abc");
        assert!(read_all(&b"abc"[..], 2).is_err());
        let zeros = Input::open(Path::new("/dev/zero"), |_| false).unwrap();
        assert_eq!(
            zeros.rewound().unwrap().metadata().unwrap().len(),
            START_BYTES
        );
    }

    /// Goal: a pipe can be read as often as a file. Method: more than its start, twice.
    #[test]
    fn a_pipe_is_read_twice() {
        let (reader, mut writer) = io::pipe().unwrap();
        let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let written = content.clone();
        let writing = thread::spawn(move || writer.write_all(&written).unwrap());
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        // The pipe of /proc is opened anew: its end comes when the writer is gone.
        let input = Input::open(&path, |start| start.len() == START_BYTES as usize).unwrap();
        writing.join().unwrap();
        for _ in 0..2 {
            let read = read_all(input.rewound().unwrap(), 1 << 20).unwrap();
            assert!(read == content);
        }
        assert_eq!(input.start().unwrap(), content[..START_BYTES as usize]);
    }

    #[test]
    fn text_that_is_none_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\xff").unwrap();
        let error = read_text(file.path()).unwrap_err().to_string();
        assert!(error.contains("no text"), "{error}");
    }
}
