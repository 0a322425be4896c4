//! Whether the blocks of a COW file are where its filesystem says, on the device that it seems to be on.
//!
//! The module writes below the filesystem, to addresses that the filesystem gives. A filesystem of several devices gives
//! addresses of another device than that of its device number: a realtime file of xfs has those of the realtime device. What the
//! module wrote would destroy other files. No list of filesystems is asked: random bytes are written to the file through its filesystem,
//! before the module knows of it, and must be found on the device at the address.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::allocate::Made;
use crate::fiemap::{self, Extent};
use crate::topology::{self, DeviceNumber};

/// Bytes of a trial, and what direct reads are aligned to.
const TRIAL_BYTES: usize = 4096;

/// Trials in one file: its beginning and end, and places between.
const TRIALS: usize = 16;

// From linux/fs.h.
const FIBMAP: libc::c_ulong = 1;
const FIGETBSZ: libc::c_ulong = 2;
const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801C_581F;
const FS_XFLAG_REALTIME: u32 = 1;
const FS_JOURNAL_DATA_FL: libc::c_long = 0x4000;

/// `f_type` of ext2, ext3 and ext4.
const EXT_MAGIC: i64 = 0xEF53;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// A block that was found where the filesystem says it is; units are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Where it is in the file.
    logical: u64,
    /// Where it is on the device.
    physical: u64,
    /// Its length.
    length: u64,
}

/// Shows that a new file of `bytes` bytes lies on the device of its device number, where its filesystem says. What it holds at
/// some places is random afterwards. A file whose filesystem has no device number of a block device is not tried: it is
/// refused elsewhere.
///
/// # Errors
/// When it does not, or when that cannot be shown.
pub fn prove(file: &File, path: &Path, bytes: u64, made: Made) -> Result<Vec<Proof>> {
    let device = DeviceNumber::from_raw(file.metadata().context("cannot stat the COW file")?.dev());
    if device.major == 0 {
        return Ok(Vec::new());
    }
    refuse_realtime(file, path)?;
    if journals_data(file, device)? {
        return journalled(file, path, made);
    }
    let trials = choose(&fiemap::extents(file, path, bytes)?, bytes);
    let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    let mut written = Vec::with_capacity(trials.len());
    for &(logical, length) in &trials {
        let mut content = vec![0; length as usize];
        random
            .read_exact(&mut content)
            .context("cannot read /dev/urandom")?;
        file.write_all_at(&content, logical)
            .with_context(|| format!("cannot write to {}", path.display()))?;
        written.push(content);
    }
    file.sync_all()
        .with_context(|| format!("cannot sync {}", path.display()))?;

    let extents = fiemap::extents(file, path, bytes)?;
    let disk = open_device(device)?;
    let mut buffer = Aligned::new();
    let mut proofs = Vec::with_capacity(trials.len());
    for (&(logical, length), content) in trials.iter().zip(&written) {
        let place = extents
            .iter()
            .find_map(|extent| extent.place(logical, length));
        let Some(physical) = place else {
            bail!(
                "the filesystem of {} moves the file's blocks; put the COW file on ext4 or xfs",
                path.display()
            );
        };
        let found = buffer
            .read(&disk, physical, length as usize)
            .with_context(|| {
                format!(
                    "cannot read device {device}, which {} is on, at byte {physical}",
                    path.display()
                )
            })?;
        if found != content.as_slice() {
            bail!(
                "the blocks of {} are not on device {device}, or not where its filesystem says: what was written to byte \
                 {logical} of the file is not at byte {physical} of the device. Is the filesystem one of several devices? \
                 Put the COW file on a filesystem that has one",
                path.display()
            );
        }
        check_bmap(file, path, logical, physical)?;
        proofs.push(Proof {
            logical,
            physical,
            length,
        });
    }
    Ok(proofs)
}

/// Refuses a file whose blocks are not where they were found any more.
///
/// # Errors
/// When one is somewhere else.
pub fn check(proofs: &[Proof], extents: &[Extent], path: &Path) -> Result<()> {
    for proof in proofs {
        let place = extents
            .iter()
            .find_map(|extent| extent.place(proof.logical, proof.length));
        if place != Some(proof.physical) {
            bail!(
                "the filesystem has moved blocks of {} meanwhile; is it being defragmented? Try again",
                path.display()
            );
        }
    }
    Ok(())
}

/// Places in the file that are tried, as offset and length: the beginning of the first extent, the end of the last one, and the
/// beginnings of some between.
fn choose(extents: &[Extent], bytes: u64) -> Vec<(u64, u64)> {
    let (Some(first), Some(last)) = (extents.first(), extents.last()) else {
        return Vec::new();
    };
    let beginning = |extent: &Extent| (extent.logical, extent.length.min(TRIAL_BYTES as u64));
    let mut places = vec![beginning(first)];
    let step = extents.len().div_ceil(TRIALS - 2).max(1);
    places.extend(extents.iter().skip(step).step_by(step).map(beginning));
    // The last extent may reach beyond the end of the file.
    let end = bytes.min(last.logical + last.length);
    let length = (end - last.logical).min(TRIAL_BYTES as u64);
    places.push((end - length, length));
    places.dedup();
    places
}

fn refuse_realtime(file: &File, path: &Path) -> Result<()> {
    let mut attributes = FsXattr::default();
    // SAFETY: the kernel writes one `struct fsxattr` at the address.
    let result = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            FS_IOC_FSGETXATTR,
            std::ptr::from_mut(&mut attributes),
        )
    };
    // Most filesystems have no such flags.
    if result == 0 && attributes.xflags & FS_XFLAG_REALTIME != 0 {
        bail!(
            "{} is on the realtime device of its xfs, and the module writes to the data device only; choose a folder whose files \
             are not (xfs_io -c 'chattr -t' FOLDER), or another filesystem",
            path.display()
        );
    }
    Ok(())
}

/// Whether the filesystem may write what was written to the file once more, later, from its journal.
fn journals_data(file: &File, device: DeviceNumber) -> Result<bool> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes at most one long at the address.
    let result = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            FS_IOC_GETFLAGS,
            std::ptr::from_mut(&mut flags),
        )
    };
    if result == 0 && flags & FS_JOURNAL_DATA_FL != 0 {
        return Ok(true);
    }
    let mounts = std::fs::read(MOUNTINFO).with_context(|| format!("cannot read {MOUNTINFO}"))?;
    Ok(is_mounted_with(&mounts, device, b"data=journal"))
}

/// Whether a filesystem has this option, which is one of all its mounts.
fn is_mounted_with(mounts: &[u8], device: DeviceNumber, option: &[u8]) -> bool {
    let device = device.to_string();
    mounts.split(|&byte| byte == b'\n').any(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        fields.nth(2) == Some(device.as_bytes())
            && fields
                .next_back()
                .is_some_and(|options| options.split(|&byte| byte == b',').any(|it| it == option))
    })
}

/// A trial would stay in the journal, and be written over what the module writes there. An ext has one device only and gives
/// no addresses of others, so it needs none.
fn journalled(file: &File, path: &Path, made: Made) -> Result<Vec<Proof>> {
    let mut statistics = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel writes one structure at the address.
    if unsafe { libc::fstatfs(file.as_raw_fd(), statistics.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot look at the filesystem of {}", path.display()));
    }
    // SAFETY: it was written.
    let kind = unsafe { statistics.assume_init() }.f_type;
    if kind == EXT_MAGIC && made == Made::Reserved {
        return Ok(Vec::new());
    }
    bail!(
        "the filesystem of {} journals file data (data=journal or chattr +j); replaying the journal would overwrite preserved \
         blocks; choose another filesystem",
        path.display()
    )
}

/// The filesystem's other answer to the question where a block is, which it gives only for files whose blocks stay where they are.
fn check_bmap(file: &File, path: &Path, logical: u64, physical: u64) -> Result<()> {
    let ask = |request, number: &mut libc::c_int| {
        // SAFETY: the kernel reads and writes one int at the address.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_mut(number)) };
        if result < 0 {
            return Err(io::Error::last_os_error()).with_context(|| {
                format!(
                    "the filesystem of {} does not keep blocks of files in their places; put the COW file on ext4 or xfs",
                    path.display()
                )
            });
        }
        Ok(())
    };
    let mut unit = 0;
    ask(FIGETBSZ, &mut unit)?;
    let unit = u64::try_from(unit).unwrap_or(0).max(1);
    // It has 31 bits for both.
    let (Ok(mut block), Ok(expected)) = (
        libc::c_int::try_from(logical / unit),
        libc::c_int::try_from(physical / unit),
    ) else {
        return Ok(());
    };
    ask(FIBMAP, &mut block)?;
    if block != expected {
        bail!(
            "the filesystem of {} gives two places for byte {logical} of the file, block {block} and block {expected}; \
             put the COW file on ext4 or xfs",
            path.display()
        );
    }
    Ok(())
}

/// A block device for direct reads, which see what is on it and not what is cached of it.
fn open_device(device: DeviceNumber) -> Result<File> {
    let path = topology::stable_name(device)?;
    let disk = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT | libc::O_NONBLOCK)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if DeviceNumber::from_raw(disk.metadata()?.rdev()) != device {
        bail!("{} has become another device; try again", path.display());
    }
    Ok(disk)
}

/// Memory for direct reads.
#[repr(align(4096))]
struct Page([u8; TRIAL_BYTES]);

struct Aligned(Box<Page>);

impl Aligned {
    fn new() -> Self {
        Self(Box::new(Page([0; TRIAL_BYTES])))
    }

    fn read(&mut self, disk: &File, at: u64, length: usize) -> io::Result<&[u8]> {
        let piece = &mut self.0.0[..length];
        disk.read_exact_at(piece, at)?;
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, length: u64) -> Extent {
        Extent {
            logical,
            physical: 1 << 30 | logical,
            length,
        }
    }

    #[test]
    fn beginning_and_end_are_tried_and_a_bounded_number_between() {
        assert_eq!(choose(&[], 0), []);
        assert_eq!(choose(&[extent(0, 4096)], 4096), [(0, 4096)]);
        assert_eq!(
            choose(&[extent(0, 1 << 20)], 1 << 20),
            [(0, 4096), ((1 << 20) - 4096, 4096)]
        );
        assert_eq!(
            choose(&[extent(0, 1024), extent(1024, 8192)], 9216),
            [(0, 1024), (1024, 4096), (5120, 4096)]
        );
        assert_eq!(
            choose(&[extent(0, 4096), extent(4096, 65536)], 16384),
            [(0, 4096), (4096, 4096), (12288, 4096)]
        );
        for count in [3, 14, 15, 16, 17, 1000, 1001] {
            let extents: Vec<Extent> = (0..count).map(|at| extent(at * 8192, 8192)).collect();
            let places = choose(&extents, count * 8192);
            assert!(places.len() <= TRIALS, "{count}: {}", places.len());
            assert_eq!(places.first(), Some(&(0, 4096)));
            assert_eq!(places.last(), Some(&(count * 8192 - 4096, 4096)));
        }
    }

    #[test]
    fn a_block_that_has_moved_is_noticed() {
        let proof = Proof {
            logical: 8192,
            physical: 1 << 30 | 8192,
            length: 4096,
        };
        let path = Path::new("/srv/cow");
        assert!(check(&[proof], &[extent(0, 1 << 20)], path).is_ok());
        let moved = Extent {
            physical: 4096,
            ..extent(0, 1 << 20)
        };
        assert!(check(&[proof], &[moved], path).is_err());
        assert!(check(&[proof], &[extent(0, 8192)], path).is_err());
    }

    #[test]
    fn options_of_a_filesystem_are_found() {
        let mounts = b"36 35 8:3 / / rw - ext4 /dev/sda3 rw,errors=remount-ro\n\
                       37 36 8:4 / /a rw shared:7 - ext4 /dev/sda4 rw,data=journal\n";
        let device = |minor| DeviceNumber { major: 8, minor };
        assert!(is_mounted_with(mounts, device(4), b"data=journal"));
        assert!(!is_mounted_with(mounts, device(3), b"data=journal"));
        assert!(!is_mounted_with(mounts, device(4), b"data"));
    }
}
