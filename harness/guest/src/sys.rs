//! The system calls that need `unsafe`, and the buffers that direct I/O needs.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::ioctl::{Setter, Updater, ioctl, opcode};

use cowbird_proto::message::Extent;

/// Alignment of every buffer for direct I/O: the largest logical block size in use.
pub const DIRECT_ALIGN_BYTES: usize = 4096;

/// Extents asked for in one call.
const FIEMAP_EXTENTS: usize = 256;

/// `FIEMAP_FLAG_SYNC`.
const FIEMAP_SYNC: u32 = 1;

/// `FIEMAP_EXTENT_LAST`.
const FIEMAP_EXTENT_LAST: u32 = 1;

/// `FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC`: no place on the disk yet.
pub const FIEMAP_EXTENT_NOWHERE: u32 = 2 | 4;

const BLKDISCARD: u32 = opcode::none(0x12, 119);
const BLKZEROOUT: u32 = opcode::none(0x12, 127);
const BLKGETSIZE64: u32 = opcode::read::<u64>(0x12, 114);
const FS_IOC_FIEMAP: u32 = opcode::read_write::<FiemapHeader>(b'f', 11);

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct FiemapRequest {
    header: FiemapHeader,
    extents: [FiemapExtent; FIEMAP_EXTENTS],
}

/// Physical extents from byte `from` on, and whether the last one of the file is among them. With
/// `sync`, what is not yet allocated is written first.
pub fn fiemap(
    file: &File,
    from: u64,
    sync: bool,
) -> Result<(Vec<Extent>, bool), rustix::io::Errno> {
    let mut request = FiemapRequest {
        header: FiemapHeader {
            start: from,
            length: u64::MAX - from,
            flags: if sync { FIEMAP_SYNC } else { 0 },
            extent_count: FIEMAP_EXTENTS as u32,
            ..FiemapHeader::default()
        },
        extents: [FiemapExtent::default(); FIEMAP_EXTENTS],
    };
    // SAFETY: FS_IOC_FIEMAP reads the header and writes at most `extent_count` extents behind it;
    // the request has room for exactly so many, is repr(C) and lives across the call.
    unsafe {
        ioctl(
            file,
            Updater::<FS_IOC_FIEMAP, FiemapRequest>::new(&mut request),
        )
    }?;
    let mapped = (request.header.mapped_extents as usize).min(FIEMAP_EXTENTS);
    let extents: Vec<Extent> = request.extents[..mapped]
        .iter()
        .map(|extent| Extent {
            logical: extent.logical,
            physical: extent.physical,
            length: extent.length,
            flags: extent.flags,
        })
        .collect();
    let complete = extents
        .last()
        .is_none_or(|extent| extent.flags & FIEMAP_EXTENT_LAST != 0);
    Ok((extents, complete))
}

/// Discards a range of a block device; bytes.
pub fn discard(device: impl AsFd, offset: u64, length: u64) -> Result<(), rustix::io::Errno> {
    // SAFETY: BLKDISCARD reads two u64 (start, length) from the pointer and writes nothing.
    unsafe {
        ioctl(
            device,
            Setter::<BLKDISCARD, [u64; 2]>::new([offset, length]),
        )
    }
}

/// Zeroes a range of a block device; bytes.
pub fn zero_out(device: impl AsFd, offset: u64, length: u64) -> Result<(), rustix::io::Errno> {
    // SAFETY: BLKZEROOUT reads two u64 (start, length) from the pointer and writes nothing.
    unsafe {
        ioctl(
            device,
            Setter::<BLKZEROOUT, [u64; 2]>::new([offset, length]),
        )
    }
}

/// Size of a block device, bytes.
pub fn device_bytes(device: impl AsFd) -> Result<u64, rustix::io::Errno> {
    let mut size = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to the pointer and reads nothing.
    unsafe { ioctl(device, Updater::<BLKGETSIZE64, u64>::new(&mut size)) }?;
    Ok(size)
}

/// A buffer whose start is aligned for direct I/O.
pub struct DirectBuffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl DirectBuffer {
    /// A zeroed buffer of `length` bytes.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + DIRECT_ALIGN_BYTES];
        let start = bytes.as_ptr().align_offset(DIRECT_ALIGN_BYTES);
        Self {
            bytes,
            start,
            length,
        }
    }
}

impl std::ops::Deref for DirectBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl std::ops::DerefMut for DirectBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}
