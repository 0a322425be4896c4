//! The operations behind the requests.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::{open_direct, size_of};
use cowbird_guest_system::sys::{self, DirectBuffer, PartitionOperation};
use cowbird_proto::message::{PartitionChange, Reply};
use cowbird_proto::rng::Rng;
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime, clock_settime};

/// Loads a module file.
pub fn insert_module(path: &str, params: &str) -> GuestResult<()> {
    let file = File::open(path).context(format_args!("open module {path}"))?;
    let params = CString::new(params)
        .map_err(|_| failure(format!("module {path}: parameters contain a zero byte")))?;
    rustix::system::finit_module(&file, &params, 0).context(format_args!("insert module {path}"))
}

/// Unloads a module.
pub fn remove_module(name: &str) -> GuestResult<()> {
    let c_name = CString::new(name).map_err(|_| failure("the module name contains a zero byte"))?;
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    rustix::system::delete_module(&c_name, nonblocking)
        .context(format_args!("remove module {name}"))
}

/// Makes a mounted ext4 larger.
pub fn grow_ext4(path: &str, blocks: u64) -> GuestResult<()> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    sys::resize_ext4(&file, blocks).context(format_args!("resize the filesystem of {path}"))
}

/// Moves the wall clock.
pub fn shift_clock(seconds: i64) -> GuestResult<()> {
    let mut now = clock_gettime(ClockId::Realtime);
    now.tv_sec = now.tv_sec.saturating_add(seconds);
    clock_settime(ClockId::Realtime, now).context(format_args!("set the clock by {seconds} s"))
}

/// Freezes the filesystem that is mounted there.
pub fn freeze(path: &str) -> GuestResult<()> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    sys::freeze(&file).context(format_args!("freeze {path}"))
}

/// Thaws the filesystem that is mounted there.
pub fn thaw(path: &str) -> GuestResult<()> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    sys::thaw(&file).context(format_args!("thaw {path}"))
}

/// Gives a file another name, and puts a copy of it in its place.
pub fn replace_by_copy(path: &str, kept: &str) -> GuestResult<()> {
    fs::rename(path, kept).context(format_args!("rename {path} to {kept}"))?;
    fs::copy(kept, path).context(format_args!("copy {kept} to {path}"))?;
    rustix::fs::sync();
    Ok(())
}

/// Removes a file.
pub fn remove_file(path: &str) -> GuestResult<()> {
    fs::remove_file(path).context(format_args!("remove {path}"))
}

/// Physical extents of a file.
pub fn fiemap(path: &str, from: u64) -> GuestResult<Reply> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    let (extents, complete) =
        sys::fiemap(&file, from, true).context(format_args!("ask for the extents of {path}"))?;
    Ok(Reply::Extents { extents, complete })
}

/// Writes to a block device with direct I/O.
pub fn write_direct(path: &str, offset: u64, content: &[u8]) -> GuestResult<()> {
    let device = open_direct(path, true)?;
    let mut buffer = DirectBuffer::new(content.len());
    buffer[..content.len()].copy_from_slice(content);
    device
        .write_all_at(&buffer[..content.len()], offset)
        .context(format_args!("write to {path}"))
}

/// Zeroes a part of a block device.
pub fn zero_out(path: &str, offset: u64, bytes: u64) -> GuestResult<()> {
    let device = open_direct(path, true)?;
    sys::zero_out(&device, offset, bytes)
        .context(format_args!("zero {bytes} bytes of {path} at {offset}"))
}

/// Reads the partition table of a disk again.
pub fn read_partitions(disk: &str) -> GuestResult<()> {
    let file = File::open(disk).context(format_args!("open {disk}"))?;
    sys::read_partitions(&file).context(format_args!("read the partition table of {disk}"))
}

/// Changes a partition as the kernel knows it.
pub fn change_partition(disk: &str, number: u32, change: PartitionChange) -> GuestResult<()> {
    let file = File::open(disk).context(format_args!("open {disk}"))?;
    let (operation, start, bytes) = match change {
        PartitionChange::Add { start_bytes, bytes } => {
            (PartitionOperation::Add, start_bytes, bytes)
        }
        PartitionChange::Delete => (PartitionOperation::Delete, 0, 0),
        PartitionChange::Resize { start_bytes, bytes } => {
            (PartitionOperation::Resize, start_bytes, bytes)
        }
    };
    sys::change_partition(&file, operation, number, start, bytes)
        .context(format_args!("{change:?} of partition {number} of {disk}"))
}

/// Writes to so many pages of a file through the page cache, each once, in no order, and no two next to each other.
pub fn make_dirty(path: &str, pages: u32, seed: u64) -> GuestResult<()> {
    const PAGE_BYTES: usize = 4096;
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .context(format_args!("open {path}"))?;
    let mut order: Vec<u64> = (0..size_of(path)? / PAGE_BYTES as u64).step_by(2).collect();
    if order.len() < pages as usize {
        return Err(failure(format!(
            "{path} has less than {pages} pages that are not next to each other"
        )));
    }
    let mut rng = Rng::new(seed);
    for taken in 0..pages as usize {
        let rest = (order.len() - taken) as u64;
        order.swap(taken, taken + rng.below(rest) as usize);
        let word = rng.next_u64().to_ne_bytes();
        let offset = order[taken] * PAGE_BYTES as u64;
        file.write_all_at(&word.repeat(PAGE_BYTES / word.len()), offset)
            .context(format_args!("write {path} at {offset}"))?;
    }
    Ok(())
}

/// Copies a block device, or so many bytes of it, to a place on another.
pub fn copy_device(
    from: &str,
    bytes: Option<u64>,
    to: &str,
    to_byte: u64,
    chunk_bytes: usize,
) -> GuestResult<u64> {
    let source = open_direct(from, false)?;
    let target = open_direct(to, true)?;
    let total = match bytes {
        Some(bytes) => bytes,
        None => size_of(from)?,
    };
    let mut buffer = DirectBuffer::new(chunk_bytes.max(sys::DIRECT_ALIGN_BYTES));
    let mut offset = 0;
    while offset < total {
        let length = (total - offset).min(buffer.len() as u64) as usize;
        let chunk = &mut buffer[..length];
        source
            .read_exact_at(chunk, offset)
            .context(format_args!("read {from} at {offset}"))?;
        let place = to_byte + offset;
        target
            .write_all_at(chunk, place)
            .context(format_args!("write {to} at {place}"))?;
        offset += length as u64;
    }
    target.sync_all().context(format_args!("sync {to}"))?;
    Ok(total)
}
