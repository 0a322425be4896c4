//! Where the blocks of a file lie: FIEMAP.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cowbird_abi::COWBIRD_MAX_EXTENTS;

/// Extents that one FIEMAP call asks for.
const BATCH: usize = 512;

// From linux/fiemap.h.
const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
const FIEMAP_FLAG_SYNC: u32 = 1;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
/// Allocated, and reads as zeros whatever is on the disk.
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;
/// UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE,
/// DATA_TAIL and SHARED: such an extent cannot be written below the filesystem.
const FIEMAP_EXTENT_UNUSABLE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap`, with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// A piece of a file that lies in one piece; units are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it is in the file.
    pub logical: u64,
    /// Where it is on the filesystem's device.
    pub physical: u64,
    /// Its length.
    pub length: u64,
}

impl Extent {
    /// Where on the device this byte of the file is, with so many behind it, if they are all here.
    pub fn place(&self, logical: u64, length: u64) -> Option<u64> {
        let from = logical.checked_sub(self.logical)?;
        (from + length <= self.length).then(|| self.physical + from)
    }
}

/// Extents in file order, with what is one piece but for a part that was written and a part that was not put together:
/// what this tool writes to try a file ([`crate::placement`]) would otherwise divide it.
#[derive(Default)]
struct Joined {
    extents: Vec<Extent>,
    last_flags: u32,
}

impl Joined {
    fn push(&mut self, raw: &RawExtent) {
        let differ = (self.last_flags ^ raw.flags) & FIEMAP_EXTENT_UNWRITTEN != 0;
        self.last_flags = raw.flags;
        match self.extents.last_mut() {
            Some(last) if differ && last.physical + last.length == raw.physical => {
                last.length += raw.length;
            }
            _ => self.extents.push(Extent {
                logical: raw.logical,
                physical: raw.physical,
                length: raw.length,
            }),
        }
    }
}

/// All extents of the first `bytes` bytes of a file, without holes, after it was synced.
///
/// # Errors
/// When the filesystem does not tell, or does not give the file plain blocks of its own.
pub fn extents(file: &File, path: &Path, bytes: u64) -> Result<Vec<Extent>> {
    let mut joined = Joined::default();
    let mut next = 0;
    loop {
        let batch = ask(file, path, next, bytes)?;
        for raw in &batch {
            check(raw, next, path)?;
            joined.push(raw);
            next = raw.logical + raw.length;
            if joined.extents.len() > COWBIRD_MAX_EXTENTS as usize {
                bail!(
                    "{} has too many extents; the filesystem is too fragmented",
                    path.display()
                );
            }
        }
        let is_last = batch
            .last()
            .is_none_or(|raw| raw.flags & FIEMAP_EXTENT_LAST != 0);
        if is_last && next < bytes {
            bail!(
                "the filesystem reports only {next} of {bytes} bytes of {}",
                path.display()
            );
        }
        if next >= bytes {
            return Ok(joined.extents);
        }
    }
}

fn check(raw: &RawExtent, expected: u64, path: &Path) -> Result<()> {
    if raw.flags & FIEMAP_EXTENT_UNUSABLE != 0 || raw.logical != expected || raw.length == 0 {
        bail!(
            "the filesystem of {} does not give the file plain blocks of its own \
             (flags {:#x} at byte {}); put the COW file on ext4 or xfs",
            path.display(),
            raw.flags,
            raw.logical
        );
    }
    Ok(())
}

fn ask(file: &File, path: &Path, start: u64, bytes: u64) -> Result<Vec<RawExtent>> {
    let mut request = Box::new(Fiemap {
        start,
        length: bytes.saturating_sub(start),
        flags: FIEMAP_FLAG_SYNC,
        mapped_extents: 0,
        extent_count: BATCH as u32,
        reserved: 0,
        extents: [RawExtent::default(); BATCH],
    });
    // SAFETY: the structure is laid out as linux/fiemap.h says, and the kernel
    // writes at most extent_count extents into the array at its end.
    let result = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            FS_IOC_FIEMAP,
            std::ptr::from_mut(&mut *request),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error()).with_context(|| {
            format!(
                "the filesystem of {} does not tell where its blocks are",
                path.display()
            )
        });
    }
    let mapped = (request.mapped_extents as usize).min(BATCH);
    Ok(request.extents[..mapped].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(raw: &[(u64, u64, u64, u32)]) -> Vec<(u64, u64, u64)> {
        let mut joined = Joined::default();
        for &(logical, physical, length, flags) in raw {
            joined.push(&RawExtent {
                logical,
                physical,
                length,
                flags,
                ..RawExtent::default()
            });
        }
        let parts = joined.extents.iter();
        parts
            .map(|part| (part.logical, part.physical, part.length))
            .collect()
    }

    #[test]
    fn what_a_trial_has_divided_is_put_together() {
        let (written, unwritten) = (0, FIEMAP_EXTENT_UNWRITTEN);
        assert_eq!(
            joined(&[
                (0, 50, 4, written),
                (4, 54, 96, unwritten),
                (100, 150, 4, written)
            ]),
            [(0, 50, 104)]
        );
        // Never more than that: a series of before has its extents as the filesystem gives them.
        assert_eq!(
            joined(&[(0, 50, 4, unwritten), (4, 54, 96, unwritten)]),
            [(0, 50, 4), (4, 54, 96)]
        );
        assert_eq!(
            joined(&[(0, 50, 4, written), (4, 60, 96, unwritten)]),
            [(0, 50, 4), (4, 60, 96)]
        );
    }

    #[test]
    fn a_place_lies_in_one_extent() {
        let extent = Extent {
            logical: 100,
            physical: 1100,
            length: 50,
        };
        assert_eq!(extent.place(110, 40), Some(1110));
        assert_eq!(extent.place(110, 41), None);
        assert_eq!(extent.place(99, 1), None);
    }
}
