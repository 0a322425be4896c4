//! The system calls that need `unsafe`, and the buffers that direct I/O needs.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::ioctl::{NoArg, Setter, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

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
const BLKSSZGET: u32 = opcode::none(0x12, 104);
const BLKRRPART: u32 = opcode::none(0x12, 95);
const BLKPG: u32 = opcode::none(0x12, 105);
const FIFREEZE: u32 = opcode::read_write::<i32>(b'X', 119);
const FITHAW: u32 = opcode::read_write::<i32>(b'X', 120);
const FS_IOC_SHUTDOWN: u32 = opcode::read::<u32>(b'X', 125);
const FITRIM: u32 = opcode::read_write::<[u64; 3]>(b'X', 121);
const EXT4_IOC_RESIZE_FS: u32 = opcode::write::<u64>(b'f', 16);
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

/// Logical block size of a block device, bytes.
pub fn logical_block_bytes(device: impl AsFd) -> Result<u64, rustix::io::Errno> {
    let mut size = 0_i32;
    // SAFETY: BLKSSZGET writes one int to the pointer and reads nothing.
    unsafe { ioctl(device, Updater::<BLKSSZGET, i32>::new(&mut size)) }?;
    Ok(u64::from(size.unsigned_abs()))
}

/// What `BLKPG` does with a partition.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum PartitionOperation {
    /// `BLKPG_ADD_PARTITION`.
    Add = 1,
    /// `BLKPG_DEL_PARTITION`, which asks for the number only.
    Delete = 2,
    /// `BLKPG_RESIZE_PARTITION`: the partition must begin where it is said to.
    Resize = 3,
}

/// `struct blkpg_partition`: bytes, and names that nobody reads.
#[repr(C)]
struct PartitionSize {
    start: i64,
    bytes: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct PartitionRequest {
    operation: i32,
    flags: i32,
    data_bytes: i32,
    data: *const PartitionSize,
}

/// Reads the partition table of a disk again.
pub fn read_partitions(disk: impl AsFd) -> Result<(), rustix::io::Errno> {
    // SAFETY: BLKRRPART takes no argument.
    unsafe { ioctl(disk, NoArg::<BLKRRPART>::new()) }
}

/// Adds a partition of a disk, deletes it or gives it another size, in the kernel's memory alone; bytes.
pub fn change_partition(
    disk: impl AsFd,
    operation: PartitionOperation,
    number: u32,
    start: u64,
    bytes: u64,
) -> Result<(), rustix::io::Errno> {
    let invalid = |_| rustix::io::Errno::INVAL;
    let size = PartitionSize {
        start: start.try_into().map_err(invalid)?,
        bytes: bytes.try_into().map_err(invalid)?,
        number: number.try_into().map_err(|_| rustix::io::Errno::INVAL)?,
        names: [0; 128],
    };
    let request = PartitionRequest {
        operation: operation as i32,
        flags: 0,
        data_bytes: size_of::<PartitionSize>() as i32,
        data: &raw const size,
    };
    // SAFETY: BLKPG reads one struct blkpg_ioctl_arg and the struct blkpg_partition that it points to;
    // both are repr(C) and live across the call. It writes nothing.
    unsafe { ioctl(disk, Setter::<BLKPG, PartitionRequest>::new(request)) }
}

/// Freezes the filesystem that a file lies on.
pub fn freeze(file: impl AsFd) -> Result<(), rustix::io::Errno> {
    // SAFETY: FIFREEZE takes no argument.
    unsafe { ioctl(file, NoArg::<FIFREEZE>::new()) }
}

/// Thaws the filesystem that a file lies on.
pub fn thaw(file: impl AsFd) -> Result<(), rustix::io::Errno> {
    // SAFETY: FITHAW takes no argument.
    unsafe { ioctl(file, NoArg::<FITHAW>::new()) }
}

/// Shuts a filesystem down once everything is on its disk: from then on it does nothing, until it is mounted again.
pub fn shut_down(file: impl AsFd) -> Result<(), rustix::io::Errno> {
    // SAFETY: FS_IOC_SHUTDOWN reads one u32; 0 flushes everything first.
    unsafe { ioctl(file, Setter::<FS_IOC_SHUTDOWN, u32>::new(0)) }
}

/// Discards all free space of the filesystem that a file lies on.
pub fn trim(file: impl AsFd) -> Result<(), rustix::io::Errno> {
    let mut range = [0, u64::MAX, 0];
    // SAFETY: FITRIM reads and writes one struct fstrim_range, which is three u64.
    unsafe { ioctl(file, Updater::<FITRIM, [u64; 3]>::new(&mut range)) }
}

/// Makes the ext4 that a file lies on as many of its blocks large.
pub fn resize_ext4(file: impl AsFd, blocks: u64) -> Result<(), rustix::io::Errno> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64, the number of blocks.
    unsafe { ioctl(file, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }
}

/// Lets the kernel swap to a device that is a swap area.
pub fn swap_on(device: &str) -> std::io::Result<()> {
    let path = std::ffi::CString::new(device)?;
    // SAFETY: the call reads a path, which lives across it.
    checked(unsafe { libc::swapon(path.as_ptr(), 0) })
}

/// Takes back what was swapped there, and ends it.
pub fn swap_off(device: &str) -> std::io::Result<()> {
    let path = std::ffi::CString::new(device)?;
    // SAFETY: as above.
    checked(unsafe { libc::swapoff(path.as_ptr()) })
}

fn checked(result: libc::c_int) -> std::io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Lets the calling thread run before all that have no real-time priority.
pub fn be_urgent() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads one sched_param, which lives across it; 0 is the calling thread.
    checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) })
}

/// A mapping of a file.
pub struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
    file_offset: u64,
}

// SAFETY: the mapping is plain memory that belongs to its owner alone, whichever thread that is.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes of a file from `offset` on.
    pub fn new(
        file: impl AsFd,
        offset: u64,
        bytes: usize,
        protection: ProtFlags,
        flags: MapFlags,
    ) -> std::io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no memory of ours is replaced.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, file, offset)
        }?;
        let start = NonNull::new(start).ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(Self {
            start,
            bytes,
            file_offset: offset,
        })
    }

    /// The address of `bytes` bytes at `offset`.
    ///
    /// # Panics
    /// When they are not all in the mapping.
    pub fn address(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        assert!(
            offset
                .checked_add(bytes)
                .is_some_and(|end| end <= self.bytes),
            "the access lies in the mapping"
        );
        // SAFETY: the offset is inside the mapping, as was just looked at.
        unsafe { self.start.cast::<u8>().add(offset) }
    }

    /// Where in the mapping a byte of the file lies.
    pub fn offset_of(&self, file_offset: u64) -> usize {
        file_offset.saturating_sub(self.file_offset) as usize
    }

    /// Writes through the mapping.
    pub fn store(&mut self, offset: usize, content: &[u8]) {
        let target = self.address(offset, content.len());
        // SAFETY: the target is so many bytes of a writable mapping that nobody else has a
        // reference to, and `content` is memory of another kind.
        unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), target.as_ptr(), content.len()) };
    }

    /// Writes everything back that was stored, and waits for it.
    pub fn sync(&self) -> Result<(), rustix::io::Errno> {
        // SAFETY: the range is this mapping.
        unsafe { rustix::mm::msync(self.start.as_ptr(), self.bytes, MsyncFlags::SYNC) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and every access borrows it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// A buffer whose start is aligned for direct I/O.
pub struct DirectBuffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl DirectBuffer {
    /// Asks for pages as large as the kernel has them, so that a bio may carry megabytes.
    pub fn use_large_pages(&self) {
        // SAFETY: advice about memory that this buffer owns; the kernel may refuse it, and the
        // buffer is then as it was.
        let _ = unsafe {
            rustix::mm::madvise(
                self.as_ptr().cast_mut().cast(),
                self.length,
                rustix::mm::Advice::LinuxHugepage,
            )
        };
    }

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
