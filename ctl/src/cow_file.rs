//! The COW file: created, sized, shown to lie where its filesystem says, and mapped to physical extents.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cowbird_abi::cowbird_extent;

use crate::placement::{self, Proof};
use crate::removal::{self, Content, FileId, Removal};
use crate::topology::DeviceNumber;
use crate::{allocate, durable, fiemap, names, out};

const MIB: u64 = 1 << 20;
/// Default size: this part of the volume ...
const DEFAULT_DIVISOR: u64 = 10;
/// ... but within these bounds.
const DEFAULT_MIN_BYTES: u64 = 4 * MIB;
const DEFAULT_MAX_BYTES: u64 = 10 << 30;

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
    proofs: Vec<Proof>,
    keep: bool,
}

impl CowFile {
    /// Creates the file, allocates its blocks and shows that they are where the filesystem says.
    pub fn create(path: &Path, bytes: u64) -> Result<Self> {
        let path =
            std::path::absolute(path).with_context(|| format!("bad path {}", path.display()))?;
        names::check_length(&path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(durable::PRIVATE)
            .open(&path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => anyhow!(
                    "{} exists; a COW file is always made anew, so remove it or choose another name",
                    path.display()
                ),
                _ => anyhow!(error).context(format!("cannot create the COW file {}", path.display())),
            })?;
        let mut cow = Self {
            file,
            path,
            bytes,
            proofs: Vec::new(),
            keep: false,
        };
        cow.make_room("-f")?;
        Ok(cow)
    }

    /// Creates a file without a name in an open folder, which is that of `neighbour`.
    pub fn create_unnamed(folder: &File, neighbour: &Path, bytes: u64) -> Result<Self> {
        let name = neighbour.parent().unwrap_or(Path::new("/"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(durable::PRIVATE)
            .custom_flags(libc::O_TMPFILE)
            .open(format!("/proc/self/fd/{}", folder.as_raw_fd()))
            .with_context(|| {
                format!("cannot create a file without a name in {}", name.display())
            })?;
        let mut cow = Self {
            file,
            path: name.to_owned(),
            bytes,
            proofs: Vec::new(),
            keep: true,
        };
        cow.make_room("--size")?;
        Ok(cow)
    }

    /// Opens the COW file of a series.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("cannot open the COW file {}", path.display()))?;
        let meta = file.metadata().context("cannot stat the COW file")?;
        if !meta.is_file() {
            bail!("{} is not a regular file", path.display());
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            bytes: meta.len(),
            proofs: Vec::new(),
            keep: true,
        })
    }

    fn make_room(&mut self, option: &str) -> Result<()> {
        let made = allocate::allocate(&self.file, &self.path, self.bytes, option)?;
        self.proofs = placement::prove(&self.file, &self.path, self.bytes, made)?;
        // The file of a series must be there after a power cut.
        if !self.keep {
            durable::sync_name(&self.path)
                .with_context(|| format!("cannot sync the folder of {}", self.path.display()))?;
        }
        Ok(())
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
        let extents = fiemap::extents(&self.file, &self.path, self.bytes)?;
        placement::check(&self.proofs, &extents, &self.path)?;
        Ok(extents
            .iter()
            .map(|extent| cowbird_extent {
                sector: extent.physical / 512,
                sectors: extent.length / 512,
            })
            .collect())
    }
}

impl Drop for CowFile {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let id = self.file.metadata().map(|meta| FileId::of(&meta));
        // Whoever lets go of a removed file last has to give its blocks back, for which there is a limit below.
        if let Ok(nothing) = File::open("/dev/null") {
            self.file = nothing;
        }
        // The pin may still be on it; then removal fails, and the user must know.
        let removed = id.map_err(Into::into).and_then(|id| {
            removal::remove_within(&self.path, id, Content::Left, removal::REMOVAL_LIMIT)
        });
        let why = match removed {
            Ok(Removal::Done) => return,
            Ok(Removal::Another) => "another file has its name by now".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        out::complain(format!(
            "{} was not removed: {why}",
            names::shown(&self.path)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// On a filesystem without a block device: the disk that a host's files are on may not be open to tests.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[test]
    fn default_size_is_a_tenth_within_bounds() {
        assert_eq!(default_bytes(1 << 20), DEFAULT_MIN_BYTES);
        assert_eq!(default_bytes(1 << 30), (1 << 30) / 10 / 4096 * 4096);
        assert_eq!(default_bytes(1 << 50), DEFAULT_MAX_BYTES);
    }

    #[test]
    fn an_existing_file_is_never_taken() {
        let dir = folder();
        let path = dir.path().join("cow");
        fs::write(&path, b"somebody's data").unwrap();
        let error = CowFile::create(&path, MIB).err().unwrap().to_string();
        assert!(error.contains("exists"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"somebody's data");
    }

    #[test]
    fn a_file_that_is_not_kept_goes_away() {
        let dir = folder();
        let path = dir.path().join("cow");
        drop(CowFile::create(&path, MIB).unwrap());
        assert!(!path.exists());
        CowFile::create(&path, MIB).unwrap().keep();
        assert_eq!(fs::metadata(&path).unwrap().len(), MIB);
    }

    /// Goal: a file without a name is made in the folder that was opened, whatever has its name by now.
    #[test]
    fn an_annex_is_made_in_the_open_folder() {
        let dir = folder();
        let (path, away) = (dir.path().join("folder"), dir.path().join("away"));
        fs::create_dir(&path).unwrap();
        let open = File::open(&path).unwrap();
        fs::rename(&path, &away).unwrap();
        let annex = CowFile::create_unnamed(&open, &path.join("cow"), MIB).unwrap();
        let meta = annex.file().metadata().unwrap();
        assert_eq!((meta.nlink(), meta.len()), (0, MIB));
        let place = fs::read_link(format!("/proc/self/fd/{}", annex.file().as_raw_fd())).unwrap();
        assert!(place.starts_with(&away), "{}", place.display());
        drop(annex);
        assert_eq!(fs::read_dir(&away).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_reported_and_leaves_nothing() {
        let dir = folder();
        let path = dir.path().join("cow");
        let error = CowFile::create(&path, 1 << 60).err().unwrap().to_string();
        assert!(error.contains("-f"), "{error}");
        assert!(!path.exists());
    }
}
