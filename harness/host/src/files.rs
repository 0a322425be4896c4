//! The files of a cell, by their names in its folder.

use std::path::PathBuf;

/// Name of the initramfs.
pub const INITRAMFS_FILE: &str = "initramfs.cpio";

/// The files of a cell.
#[derive(Debug, Clone)]
pub struct CellFiles {
    /// Folder of them all.
    pub dir: PathBuf,
}

impl CellFiles {
    /// The whole first disk before the last boot.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.dir.join("base.raw")
    }

    /// The first disk.
    #[must_use]
    pub fn origin(&self) -> PathBuf {
        self.dir.join("origin.raw")
    }

    /// The log of all writes to the first disk since the last boot.
    #[must_use]
    pub fn witness(&self) -> PathBuf {
        self.dir.join("witness.log")
    }

    /// [`Self::base`] of a boot before the last one; they count from 0.
    #[must_use]
    pub fn earlier_base(&self, boot: u32) -> PathBuf {
        self.dir.join(format!("base-{boot}.raw"))
    }

    /// [`Self::witness`] of a boot before the last one.
    #[must_use]
    pub fn earlier_witness(&self, boot: u32) -> PathBuf {
        self.dir.join(format!("witness-{boot}.log"))
    }

    /// The disk with the other half of a mirrored origin, where there is one.
    #[must_use]
    pub fn mirror(&self) -> PathBuf {
        self.dir.join("mirror.raw")
    }

    /// The disk of the COW file, where it has one of its own.
    #[must_use]
    pub fn cow_disk(&self) -> PathBuf {
        self.dir.join("cow.raw")
    }

    /// The log of all writes to [`Self::mirror`].
    #[must_use]
    pub fn mirror_witness(&self) -> PathBuf {
        self.dir.join("mirror-witness.log")
    }

    /// The files of the second volume, where there is one.
    #[must_use]
    pub fn second(&self) -> Self {
        Self {
            dir: self.dir.join("second"),
        }
    }

    /// An image of a volume as it was at one of many instants; they count from 1.
    #[must_use]
    pub fn kept_image(&self, volume: usize, number: usize) -> PathBuf {
        self.dir.join(format!("image-{volume}-{number}.raw"))
    }

    /// The second disk: the copy of the snapshot.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join("image.raw")
    }
}
