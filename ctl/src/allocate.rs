//! Room for a COW file: blocks that are the file's own before the module asks for them.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::progress;

const MIB: u64 = 1 << 20;

/// `f_type` of f2fs, and the request of linux/f2fs.h that keeps a file's blocks where they are: its argument is a `u32`.
const F2FS_MAGIC: i64 = 0xF2F5_2010;
const F2FS_IOC_SET_PIN_FILE: libc::c_ulong = 0x4004_F50D;

/// Zeros are written in pieces of this size ...
const CHUNK_BYTES: u64 = MIB;

/// ... and put on stable storage after so many bytes, which bounds what is written when time is up.
const SYNC_BYTES: u64 = 32 * MIB;

/// How long zeros may be written: so long for a start, and then as a disk needs that writes so many bytes in a second.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOWEST_BYTES_PER_S: u64 = 4 * MIB;

/// How the room of a file was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// The filesystem has set blocks aside.
    Reserved,
    /// Zeros were written, because the filesystem can do nothing else.
    Written,
}

/// Gives a new file its blocks. `option` is what the user chooses the size with.
///
/// # Errors
/// When there is no room, or it takes too long.
pub fn allocate(file: &File, path: &Path, bytes: u64, option: &str) -> Result<Made> {
    if file_system_type(file).context("cannot ask which filesystem the COW file is on")?
        == F2FS_MAGIC
    {
        pin(file).map_err(|error| {
            anyhow!(
                "f2fs does not keep the blocks of {} in their place ({error}), and its garbage collection would move them; \
                 put the COW file on ext4 or xfs",
                path.display()
            )
        })?;
    }
    let made = match fallocate(file, bytes) {
        Ok(()) => Made::Reserved,
        // ext2 and ext3 have no unwritten blocks.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
            let limit = limit(bytes);
            write_zeros(file, path, bytes, limit, option)?;
            Made::Written
        }
        Err(error) => return Err(refusal(error, path, bytes, option)),
    };
    file.sync_all()
        .context("cannot write the COW file's metadata to the disk")?;
    Ok(made)
}

fn file_system_type(file: &File) -> io::Result<i64> {
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the one `struct statfs` at the address.
    if unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it has succeeded.
    Ok(unsafe { found.assume_init() }.f_type)
}

/// Has f2fs leave the blocks of a file in their place; it must be empty.
fn pin(file: &File) -> io::Result<()> {
    let on: u32 = 1;
    // SAFETY: the kernel reads the one number at the address.
    if unsafe { libc::ioctl(file.as_raw_fd(), F2FS_IOC_SET_PIN_FILE, &raw const on) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn fallocate(file: &File, bytes: u64) -> io::Result<()> {
    let length =
        libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: a plain system call on an open descriptor; no memory is passed.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What went wrong, and what can be done about it.
fn refusal(error: io::Error, path: &Path, bytes: u64, option: &str) -> anyhow::Error {
    let advice = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
            format!("; choose a smaller size with {option}, or another place")
        }
        _ => String::new(),
    };
    anyhow!(
        "cannot allocate {} MiB for the COW file {}: {error}{advice}",
        bytes / MIB,
        path.display()
    )
}

fn limit(bytes: u64) -> Duration {
    PATIENCE + Duration::from_secs(bytes / SLOWEST_BYTES_PER_S)
}

fn write_zeros(file: &File, path: &Path, bytes: u64, limit: Duration, option: &str) -> Result<()> {
    let refuse = |error| refusal(error, path, bytes, option);
    if free_bytes(file).map_err(refuse)? < bytes {
        return Err(refuse(io::Error::from_raw_os_error(libc::ENOSPC)));
    }
    let begin = Instant::now();
    let progress = progress::bar(bytes);
    let zeros = vec![0; CHUNK_BYTES as usize];
    let mut at = 0;
    while at < bytes {
        let piece = &zeros[..(bytes - at).min(CHUNK_BYTES) as usize];
        file.write_all_at(piece, at).map_err(refuse)?;
        at += piece.len() as u64;
        if at % SYNC_BYTES == 0 || at == bytes {
            file.sync_data().map_err(refuse)?;
            forget_pages(file);
        }
        progress.inc(piece.len() as u64);
        if at < bytes && begin.elapsed() > limit {
            bail!(
                "the filesystem of {} cannot set blocks aside, so zeros are written, and {} of {} MiB took more than \
                 {} s; choose a smaller size with {option}, or put the COW file on ext4 or xfs",
                path.display(),
                at / MIB,
                bytes / MIB,
                limit.as_secs()
            );
        }
    }
    progress.finish_and_clear();
    Ok(())
}

/// Room on the filesystem for those who are not privileged: what is kept for root is not for a COW file.
fn free_bytes(file: &File) -> io::Result<u64> {
    let mut statistics = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the kernel writes one structure at the address.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), statistics.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was written.
    let statistics = unsafe { statistics.assume_init() };
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

/// Nobody will read these zeros through the filesystem.
fn forget_pages(file: &File) {
    // SAFETY: a plain system call on an open descriptor, and only advice.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn zeros_are_written_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cow");
        let file = File::create(&path).unwrap();
        let bytes = 33 * MIB + 4096;
        write_zeros(&file, &path, bytes, PATIENCE, "-f").unwrap();
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len() as u64, bytes);
        assert!(content.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn writing_zeros_ends_in_time_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cow");
        let file = File::create(&path).unwrap();
        let error = write_zeros(&file, &path, 64 * MIB, Duration::ZERO, "-f").unwrap_err();
        let error = error.to_string();
        assert!(error.contains("1 of 64 MiB took more than 0 s"), "{error}");
        assert_eq!(limit(10 << 30), Duration::from_secs(60 + 2560));
    }

    #[test]
    fn the_reason_is_the_true_one() {
        let said = |number| {
            let error = io::Error::from_raw_os_error(number);
            refusal(error, Path::new("/srv/cow"), 4 * MIB, "--size").to_string()
        };
        let full = said(libc::ENOSPC);
        assert!(full.contains("No space left"), "{full}");
        assert!(full.contains("a smaller size with --size"), "{full}");
        let broken = said(libc::EIO);
        assert!(broken.contains("Input/output error"), "{broken}");
        assert!(!broken.contains("--size"), "{broken}");
    }

    #[test]
    fn no_room_is_known_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cow");
        let file = File::create(&path).unwrap();
        let error = write_zeros(&file, &path, 1 << 60, PATIENCE, "-f").unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
