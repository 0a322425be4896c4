//! The COW file: created, sized and mapped to physical extents.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cowbird_abi::{COWBIRD_MAX_EXTENTS, cowbird_extent};

use crate::topology::DeviceNumber;

const MIB: u64 = 1 << 20;
/// Default size: this part of the volume ...
const DEFAULT_DIVISOR: u64 = 10;
/// ... but within these bounds.
const DEFAULT_MIN_BYTES: u64 = 4 * MIB;
const DEFAULT_MAX_BYTES: u64 = 10 << 30;

/// Extents that one FIEMAP call asks for.
const FIEMAP_BATCH: usize = 512;

// From linux/fiemap.h.
const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
const FIEMAP_FLAG_SYNC: u32 = 1;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
/// UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE,
/// DATA_TAIL and SHARED: such an extent cannot be written below the filesystem.
const FIEMAP_EXTENT_UNUSABLE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000;

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
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [FiemapExtent; FIEMAP_BATCH],
}

/// Mebibytes in bytes, or `None` past 64 bits.
pub fn mebibytes(mb: u64) -> Option<u64> {
    mb.checked_mul(MIB)
}

/// Size of the COW file for a volume when the user gives none.
pub fn default_bytes(volume_bytes: u64) -> u64 {
    (volume_bytes / DEFAULT_DIVISOR).clamp(DEFAULT_MIN_BYTES, DEFAULT_MAX_BYTES) / 4096 * 4096
}

/// A COW file. One that was just created is removed again when dropped, unless
/// [`CowFile::keep`] is called.
pub struct CowFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    keep: bool,
}

impl CowFile {
    /// Creates the file and allocates its blocks without writing them.
    pub fn create(path: &Path, bytes: u64) -> Result<Self> {
        let path =
            std::path::absolute(path).with_context(|| format!("bad path {}", path.display()))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => anyhow!(
                    "{} exists; a COW file is always made anew, so remove it or choose another name",
                    path.display()
                ),
                _ => anyhow!(error).context(format!("cannot create the COW file {}", path.display())),
            })?;
        let cow = Self {
            file,
            path,
            bytes,
            keep: false,
        };
        cow.allocate()?;
        Ok(cow)
    }

    /// Creates a file without a name, on the filesystem and in the folder of another one.
    pub fn create_unnamed(neighbour: &Path, bytes: u64) -> Result<Self> {
        let folder = neighbour.parent().unwrap_or(Path::new("/"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_TMPFILE)
            .open(folder)
            .with_context(|| {
                format!(
                    "cannot create a file without a name in {}",
                    folder.display()
                )
            })?;
        let cow = Self {
            file,
            path: folder.to_owned(),
            bytes,
            keep: true,
        };
        cow.allocate()?;
        Ok(cow)
    }

    /// Opens the COW file of a series.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .with_context(|| format!("cannot open the COW file {}", path.display()))?;
        let bytes = file.metadata().context("cannot stat the COW file")?.len();
        Ok(Self {
            file,
            path: path.to_owned(),
            bytes,
            keep: true,
        })
    }

    fn allocate(&self) -> Result<()> {
        let length =
            libc::off_t::try_from(self.bytes).context("the COW file would be too large")?;
        // SAFETY: a plain system call on an open descriptor; no memory is passed.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, length) } < 0 {
            let error = io::Error::last_os_error();
            bail!(
                "cannot allocate {} MiB for the COW file {}: {error}; choose a smaller size with -f",
                self.bytes / MIB,
                self.path.display()
            );
        }
        self.file
            .sync_all()
            .context("cannot write the COW file's metadata to the disk")
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its absolute name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device of the filesystem that it lies on.
    pub fn device(&self) -> Result<DeviceNumber> {
        Ok(DeviceNumber::from_raw(
            self.file
                .metadata()
                .context("cannot stat the COW file")?
                .dev(),
        ))
    }

    /// Leaves the file in place.
    pub fn keep(mut self) {
        self.keep = true;
    }

    /// Physical extents in 512-byte sectors of the filesystem's device. To be
    /// called only while the file is pinned.
    pub fn extents(&self) -> Result<Vec<cowbird_extent>> {
        let mut extents = Vec::new();
        let mut next = 0;
        loop {
            let batch = self.fiemap(next)?;
            for extent in &batch {
                extents.push(self.check_extent(extent, next)?);
                next = extent.logical + extent.length;
                if extents.len() > COWBIRD_MAX_EXTENTS as usize {
                    bail!(
                        "{} has too many extents; the filesystem is too fragmented",
                        self.path.display()
                    );
                }
                if extent.flags & FIEMAP_EXTENT_LAST != 0 || next >= self.bytes {
                    return self.check_complete(extents, next);
                }
            }
            if batch.is_empty() {
                return self.check_complete(extents, next);
            }
        }
    }

    fn check_extent(&self, extent: &FiemapExtent, expected: u64) -> Result<cowbird_extent> {
        if extent.flags & FIEMAP_EXTENT_UNUSABLE != 0 || extent.logical != expected {
            bail!(
                "the filesystem of {} does not give the file plain blocks of its own \
                 (flags {:#x} at byte {}); put the COW file on ext4 or xfs",
                self.path.display(),
                extent.flags,
                extent.logical
            );
        }
        Ok(cowbird_extent {
            sector: extent.physical / 512,
            sectors: extent.length / 512,
        })
    }

    fn check_complete(
        &self,
        extents: Vec<cowbird_extent>,
        end: u64,
    ) -> Result<Vec<cowbird_extent>> {
        if end < self.bytes {
            bail!(
                "the filesystem reports only {end} of {} bytes of {}",
                self.bytes,
                self.path.display()
            );
        }
        Ok(extents)
    }

    fn fiemap(&self, start: u64) -> Result<Vec<FiemapExtent>> {
        let mut request = Box::new(Fiemap {
            start,
            length: self.bytes.saturating_sub(start),
            flags: FIEMAP_FLAG_SYNC,
            mapped_extents: 0,
            extent_count: FIEMAP_BATCH as u32,
            reserved: 0,
            extents: [FiemapExtent::default(); FIEMAP_BATCH],
        });
        // SAFETY: the structure is laid out as linux/fiemap.h says, and the kernel
        // writes at most extent_count extents into the array at its end.
        let result = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                FS_IOC_FIEMAP,
                std::ptr::from_mut(&mut *request),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error()).with_context(|| {
                format!(
                    "the filesystem of {} does not tell where its blocks are",
                    self.path.display()
                )
            });
        }
        let mapped = (request.mapped_extents as usize).min(FIEMAP_BATCH);
        Ok(request.extents[..mapped].to_vec())
    }
}

impl Drop for CowFile {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // The pin may still be on it; then removal fails, and the user must know.
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!(
                "cowbirdctl: {} was not removed: {error}",
                self.path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_size_is_a_tenth_within_bounds() {
        assert_eq!(default_bytes(1 << 20), DEFAULT_MIN_BYTES);
        assert_eq!(default_bytes(1 << 30), (1 << 30) / 10 / 4096 * 4096);
        assert_eq!(default_bytes(1 << 50), DEFAULT_MAX_BYTES);
    }

    #[test]
    fn an_existing_file_is_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cow");
        fs::write(&path, b"somebody's data").unwrap();
        let error = CowFile::create(&path, MIB).err().unwrap().to_string();
        assert!(error.contains("exists"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"somebody's data");
    }

    #[test]
    fn a_file_that_is_not_kept_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cow");
        drop(CowFile::create(&path, MIB).unwrap());
        assert!(!path.exists());
        CowFile::create(&path, MIB).unwrap().keep();
        assert_eq!(fs::metadata(&path).unwrap().len(), MIB);
    }

    #[test]
    fn a_full_disk_is_reported_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cow");
        let error = CowFile::create(&path, 1 << 60).err().unwrap().to_string();
        assert!(error.contains("-f"), "{error}");
        assert!(!path.exists());
    }
}
