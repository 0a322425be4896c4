//! The device, its known content, and buffers of every alignment.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

pub const BLOCK: usize = 4096;
pub const SECTOR: usize = 512;

/// Opens the device past the page cache.
pub fn open_direct(device: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(device)
        .with_context(|| format!("cannot open {device}"))
}

/// Opens the device through the page cache.
pub fn open_buffered(device: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .with_context(|| format!("cannot open {device}"))
}

/// The content of sectors of the device: every 8 bytes are different, everywhere.
pub fn content(first_sector: usize, bytes: usize) -> Vec<u8> {
    let first = (first_sector * SECTOR / 8) as u64;
    (first..first + (bytes / 8) as u64)
        .flat_map(|word| {
            // The finalizer of SplitMix64.
            let mut x = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (x ^ (x >> 31)).to_le_bytes()
        })
        .collect()
}

/// A buffer that begins so many bytes behind a page boundary.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize, behind: usize) -> Self {
        let bytes = vec![0; length + 2 * BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK) + behind;
        Self {
            bytes,
            start,
            length,
        }
    }

    /// With the content that belongs to these sectors.
    pub fn of(first_sector: usize, length: usize, behind: usize) -> Self {
        let mut buffer = Self::new(length, behind);
        buffer.copy_from_slice(&content(first_sector, length));
        buffer
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}
