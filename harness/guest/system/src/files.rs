//! Files and devices that are opened, read or written whole or in one piece.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::{ReadWriteFlags, pwritev2};

use crate::error::{Context, GuestResult};
use crate::sys;

/// Longest text file that can be read or that a page of text may hold.
const TEXT_LIMIT_BYTES: u64 = 512 << 10;

/// Size of a file or block device, bytes.
pub fn size_of(path: &str) -> GuestResult<u64> {
    use std::os::unix::fs::FileTypeExt;
    let file = File::open(path).context(format_args!("open {path}"))?;
    let metadata = file.metadata().context(format_args!("stat {path}"))?;
    if metadata.file_type().is_block_device() {
        sys::device_bytes(&file).context(format_args!("ask for the size of {path}"))
    } else {
        Ok(metadata.len())
    }
}

/// Reads a small text file.
pub fn read_text(path: &str) -> GuestResult<String> {
    Ok(String::from_utf8_lossy(&read_file(path)?).into_owned())
}

/// Reads a small file.
pub fn read_file(path: &str) -> GuestResult<Vec<u8>> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    let mut bytes = Vec::new();
    file.take(TEXT_LIMIT_BYTES)
        .read_to_end(&mut bytes)
        .context(format_args!("read {path}"))?;
    Ok(bytes)
}

/// Reads the part of a file that begins at `from_byte`; nothing behind its end.
pub fn read_part(path: &str, from_byte: u64) -> GuestResult<Vec<u8>> {
    let mut file = File::open(path).context(format_args!("open {path}"))?;
    file.seek(SeekFrom::Start(from_byte))
        .context(format_args!("seek in {path}"))?;
    let mut bytes = Vec::new();
    file.take(TEXT_LIMIT_BYTES)
        .read_to_end(&mut bytes)
        .context(format_args!("read {path}"))?;
    Ok(bytes)
}

/// Writes a small text file, and makes its folder.
pub fn write_text(path: &str, text: &str) -> GuestResult<()> {
    if let Some(folder) = std::path::Path::new(path).parent() {
        fs::create_dir_all(folder).context(format_args!("make the folder of {path}"))?;
    }
    fs::write(path, text).context(format_args!("write {path}"))
}

/// Opens a file or device for direct I/O.
pub fn open_direct(path: &str, write: bool) -> GuestResult<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)
        .context(format_args!("open {path} for direct I/O"))
}

/// A write that is on stable storage when it returns.
pub fn write_durably(file: &File, content: &[u8], offset: u64) -> io::Result<()> {
    let written = pwritev2(
        file,
        &[IoSlice::new(content)],
        offset,
        ReadWriteFlags::DSYNC,
    )?;
    if written == content.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}
