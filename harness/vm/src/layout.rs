//! What is on the disks of a cell, and how they are attached.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cowbird_host::disk::{self, Filesystem, Partition};
use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_host::nature::{FurtherDisk, Nature, OriginKind};
use cowbird_host::scratch::Scratch;

use crate::disks::{Bus, Disk};

/// Where the first partition starts, sectors: 1 MiB, as partitioning tools do it.
const FIRST_SECTOR: u32 = 2048;

/// Partitions start at multiples of this, sectors.
const PARTITION_ALIGN: u32 = 2048;

/// Sectors of one MiB.
pub const MIB_SECTORS: u32 = 2048;

/// Sectors of the pool metadata of a thin volume: 4 MiB.
const METADATA_SECTORS: u32 = 4 * MIB_SECTORS;

/// Unit of the disks where a case says nothing else, bytes.
const LOGICAL_BLOCK_BYTES: u32 = 512;

/// The third partition of the first disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Third {
    /// All zeros: for the metadata of a thin pool, or for another device beside the origin.
    Zeros(Partition),
    /// An ext4 of its own.
    Ext4(Partition),
}

impl Third {
    /// Where it is.
    pub fn partition(self) -> Partition {
        match self {
            Self::Zeros(partition) | Self::Ext4(partition) => partition,
        }
    }
}

/// A disk for the COW file, which is an ext4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CowDisk {
    /// One of its own, behind all others.
    Own {
        /// Its size, MiB.
        mib: u32,
        /// Its unit, bytes.
        logical_block_bytes: u32,
    },
    /// The second disk, which then has no image.
    InPlaceOfImage {
        /// Its size, MiB.
        mib: u32,
    },
}

/// The disks of a case. The second one is the image, if nothing else is said. What two fields cannot say together is in
/// [`Layout::contradiction`].
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The origin, first partition of the first disk.
    pub origin: Partition,
    /// What it holds; else it is filled with sectors that say where they are.
    pub filesystem: Option<Filesystem>,
    /// How large that is, MiB; else as its partition.
    pub filesystem_mib: Option<u32>,
    /// The second partition, an ext4 for the COW file.
    pub cow_home: Option<Partition>,
    /// A disk for the COW file.
    pub cow_disk: Option<CowDisk>,
    /// Whether the origin is filled with sectors that say where they are, before anything else is made on it.
    pub filled: bool,
    /// The third partition.
    pub third: Option<Third>,
    /// What the origin is.
    pub kind: OriginKind,
    /// A disk beside the first one, with a witness of its own. A mirror has a copy also where none is said here.
    pub further: FurtherDisk,
    /// Whether the origin lets discards through.
    pub discards: bool,
    /// How the first disk is attached.
    pub bus: Bus,
    /// Unit of the first disk, bytes.
    pub logical_block_bytes: u32,
    /// Room for so many images on the second disk.
    pub images: u32,
    /// Length of the first disk where it is more than its partitions need, sectors: a hole.
    pub disk_sectors: Option<u32>,
    /// Memory of the machine, MiB, where a case needs more than others, or less.
    pub memory_mib: Option<u32>,
    /// Further parameters of the kernel.
    pub kernel_parameters: &'static str,
    /// What makes files below a folder that is then the first content of the filesystem, which is an ext4.
    pub content: Option<fn(&Path) -> HarnessResult<()>>,
}

impl Layout {
    /// A filesystem that holds its own COW file.
    pub fn filesystem(kind: Filesystem, mib: u32) -> Self {
        Self {
            filesystem: Some(kind),
            ..Self::raw_without_cow(mib)
        }
    }

    /// A raw origin, and an ext4 behind it for the COW file.
    pub fn raw(sectors: u32, cow_home_mib: u32) -> Self {
        let origin = Partition {
            start: FIRST_SECTOR,
            sectors,
        };
        Self {
            origin,
            cow_home: Some(Self::behind(origin, cow_home_mib * MIB_SECTORS)),
            ..Self::raw_without_cow(0)
        }
    }

    /// A raw origin and nothing else.
    pub fn raw_without_cow(mib: u32) -> Self {
        Self {
            origin: Partition {
                start: FIRST_SECTOR,
                sectors: mib * MIB_SECTORS,
            },
            filesystem: None,
            filesystem_mib: None,
            cow_home: None,
            cow_disk: None,
            filled: true,
            third: None,
            kind: OriginKind::Partition,
            further: FurtherDisk::None,
            discards: true,
            bus: Bus::Virtio,
            logical_block_bytes: LOGICAL_BLOCK_BYTES,
            images: 1,
            disk_sectors: None,
            memory_mib: None,
            kernel_parameters: "",
            content: None,
        }
    }

    /// The same with a third partition for the metadata of a thin pool.
    pub fn with_metadata(self) -> Self {
        self.with_zeros(METADATA_SECTORS / MIB_SECTORS)
    }

    /// The same with a third partition that is all zeros.
    pub fn with_zeros(self, mib: u32) -> Self {
        let last = self.cow_home.unwrap_or(self.origin);
        Self {
            third: Some(Third::Zeros(Self::behind(last, mib * MIB_SECTORS))),
            ..self
        }
    }

    /// The same with a third partition that is an ext4.
    pub fn with_third(self, mib: u32) -> Self {
        let last = self.cow_home.unwrap_or(self.origin);
        Self {
            third: Some(Third::Ext4(Self::behind(last, mib * MIB_SECTORS))),
            ..self
        }
    }

    fn behind(partition: Partition, sectors: u32) -> Partition {
        Partition {
            start: partition.end().next_multiple_of(PARTITION_ALIGN),
            sectors,
        }
    }

    /// Where on the snapshot the first partition, which the writers write, begins.
    pub fn writers_shift_bytes(&self) -> u64 {
        match self.kind {
            OriginKind::WholeDisk => self.origin.offset_bytes(),
            OriginKind::Partition | OriginKind::Mirror | OriginKind::Encrypted => 0,
        }
    }

    /// The first disk. Some room is behind its last partition, so that one's end is not the other's.
    pub fn disk(&self) -> Partition {
        let third = self.third.map(Third::partition);
        let last = third.or(self.cow_home).unwrap_or(self.origin);
        let needed = last.end().next_multiple_of(PARTITION_ALIGN) + PARTITION_ALIGN;
        Partition {
            start: 0,
            sectors: self
                .disk_sectors
                .map_or(needed, |sectors| sectors.max(needed)),
        }
    }

    /// What its fields cannot mean together, if there is such a thing.
    #[must_use]
    pub fn contradiction(&self) -> Option<&'static str> {
        let second_volume = self.further == FurtherDisk::SecondVolume;
        let own_cow_disk = matches!(self.cow_disk, Some(CowDisk::Own { .. }));
        let cow_for_image = matches!(self.cow_disk, Some(CowDisk::InPlaceOfImage { .. }));
        let refused = [
            (
                self.kind == OriginKind::Mirror && second_volume,
                "the disk beside a mirror is its copy, and no second volume",
            ),
            (
                own_cow_disk && second_volume,
                "a second volume has no disk of its own for its COW file",
            ),
            (
                cow_for_image && self.images != 1,
                "a disk that is for the COW file has no images",
            ),
            (
                self.content.is_some() && self.filesystem != Some(Filesystem::Ext4),
                "only an ext4 begins with files",
            ),
            (
                self.filesystem_mib.is_some() && self.filesystem.is_none(),
                "what has no filesystem has no size of it",
            ),
            (
                self.filesystem_mib
                    .is_some_and(|mib| mib * MIB_SECTORS > self.origin.sectors),
                "a filesystem is not larger than its partition",
            ),
        ];
        let mut refused = refused.into_iter();
        refused.find_map(|(holds, why)| holds.then_some(why))
    }

    /// The partitions of the first disk, in their order.
    pub fn partitions(&self) -> Vec<Partition> {
        let mut partitions = vec![self.origin];
        partitions.extend(self.cow_home);
        partitions.extend(self.third.map(Third::partition));
        partitions
    }

    /// How the first disk is attached.
    pub fn bus(&self) -> Bus {
        self.bus
    }

    /// The disk beside the first one that has a witness of its own.
    pub fn further(&self) -> FurtherDisk {
        match self.kind {
            OriginKind::Mirror => FurtherDisk::Copy,
            OriginKind::Partition | OriginKind::WholeDisk | OriginKind::Encrypted => self.further,
        }
    }

    /// What a judge must know of the disks.
    pub fn nature(&self) -> Nature {
        Nature {
            kind: self.kind,
            first: self.origin,
            further: self.further(),
        }
    }

    /// The first disk in the guest, as a name without its folder.
    pub fn disk_name(&self) -> &'static str {
        match self.bus {
            Bus::Virtio => "vda",
            Bus::Scsi => "sda",
            Bus::Nvme => "nvme0n1",
        }
    }

    /// Where there are several images, one begins so many bytes behind the one before.
    pub fn image_stride_bytes(&self) -> u64 {
        let align = Partition {
            start: 0,
            sectors: PARTITION_ALIGN,
        };
        let origin = self.snapshot_origin().length_bytes();
        origin.next_multiple_of(align.length_bytes())
    }

    /// The first partition, which the writers write.
    pub fn origin(&self) -> Partition {
        self.origin
    }

    /// Whether the writers' places are places of the origin, and the origin lies on one disk as it is.
    pub fn is_plain(&self) -> bool {
        self.filesystem.is_none()
            && self.kind == OriginKind::Partition
            && self.further == FurtherDisk::None
    }

    /// What the snapshot is taken of.
    pub fn snapshot_origin(&self) -> Partition {
        match self.kind {
            OriginKind::WholeDisk => self.disk(),
            OriginKind::Partition | OriginKind::Mirror | OriginKind::Encrypted => self.origin,
        }
    }

    /// Makes the disks and the files beside them.
    pub fn create(&self, files: &CellFiles, seed: u64) -> HarnessResult<()> {
        if let Some(why) = self.contradiction() {
            return Err(HarnessError::Plan {
                detail: format!("its disks contradict themselves: {why}"),
            });
        }
        self.create_volume(files, seed)?;
        if self.further() == FurtherDisk::SecondVolume {
            let second = files.second();
            fs::create_dir_all(&second.dir).on("create", &second.dir)?;
            self.create_volume(&second, !seed)?;
        }
        Ok(())
    }

    fn create_volume(&self, files: &CellFiles, seed: u64) -> HarnessResult<()> {
        let partitions = self.partitions();
        let path = files.origin();
        disk::create_partitioned(
            &path,
            self.disk().length_bytes(),
            self.logical_block_bytes,
            &partitions,
            self.filled.then_some(self.origin).as_slice(),
            seed,
        )?;
        if let Some(kind) = self.filesystem {
            let sectors = self.filesystem_mib.map(|mib| mib * MIB_SECTORS);
            let part = Partition {
                sectors: sectors.unwrap_or(self.origin.sectors),
                ..self.origin
            };
            match self.content {
                None => disk::make_filesystem(kind, &path, part, seed)?,
                Some(make) => {
                    // Who makes it may not be allowed to look into the folder of the cell.
                    let folder = Scratch::temporary()?;
                    let everybody = fs::Permissions::from_mode(0o755);
                    fs::set_permissions(folder.path(), everybody).on("open", folder.path())?;
                    make(folder.path())?;
                    disk::make_filled_ext4(&path, part, seed, folder.path())?;
                }
            }
        }
        let third = match self.third {
            Some(Third::Ext4(partition)) => Some(partition),
            Some(Third::Zeros(_)) | None => None,
        };
        for partition in self.cow_home.into_iter().chain(third) {
            disk::make_filesystem(Filesystem::Ext4, &path, partition, seed)?;
        }
        if let Some(CowDisk::Own { mib, .. }) = self.cow_disk {
            make_ext4_disk(&files.cow_disk(), mib, seed)?;
        }
        disk::copy_sparse(&path, &files.base())?;
        if self.further() == FurtherDisk::Copy {
            disk::copy_sparse(&path, &files.mirror())?;
            disk::create_sparse(&files.mirror_witness(), 0)?;
        }
        let images_bytes = match self.images {
            1 => self.snapshot_origin().length_bytes(),
            count => u64::from(count) * self.image_stride_bytes(),
        };
        disk::create_sparse(&files.image(), images_bytes)?;
        if let Some(CowDisk::InPlaceOfImage { mib }) = self.cow_disk {
            make_ext4_disk(&files.image(), mib, seed)?;
        }
        disk::create_sparse(&files.witness(), 0)?;
        Ok(())
    }

    /// The disks as the machine gets them.
    pub fn attach(&self, files: &CellFiles) -> Vec<Disk> {
        let mut disks = self.attach_volume(files);
        match self.further() {
            FurtherDisk::None => {}
            FurtherDisk::SecondVolume => disks.extend(self.attach_volume(&files.second())),
            FurtherDisk::Copy => disks.push(Disk {
                image: files.mirror(),
                witness: Some(files.mirror_witness()),
                ..disks[0].clone()
            }),
        }
        if let Some(CowDisk::Own {
            logical_block_bytes,
            ..
        }) = self.cow_disk
        {
            disks.push(Disk {
                image: files.cow_disk(),
                witness: None,
                bus: Bus::Virtio,
                logical_block_bytes,
            });
        }
        disks
    }

    /// The disks in the guest that have a witness, as names without their folder.
    pub fn witnessed_disk_names(&self, files: &CellFiles) -> Vec<String> {
        let mut earlier_of_bus = BTreeMap::<Bus, u8>::new();
        let names = self.attach(files).into_iter().filter_map(|disk| {
            let number = earlier_of_bus.entry(disk.bus).or_default();
            let name = disk.bus.disk_name(*number);
            *number += 1;
            disk.witness.map(|_| name)
        });
        names.collect()
    }

    fn attach_volume(&self, files: &CellFiles) -> Vec<Disk> {
        vec![
            Disk {
                image: files.origin(),
                witness: Some(files.witness()),
                bus: self.bus,
                logical_block_bytes: self.logical_block_bytes,
            },
            Disk {
                image: files.image(),
                witness: None,
                bus: Bus::Virtio,
                logical_block_bytes: LOGICAL_BLOCK_BYTES,
            },
        ]
    }
}

/// Makes a disk that is an ext4 as a whole.
fn make_ext4_disk(path: &Path, mib: u32, seed: u64) -> HarnessResult<()> {
    let whole = Partition {
        start: 0,
        sectors: mib * MIB_SECTORS,
    };
    disk::create_sparse(path, whole.length_bytes())?;
    disk::make_filesystem(Filesystem::Ext4, path, whole, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(_: &Path) -> HarnessResult<()> {
        Ok(())
    }

    /// Goal: disks that cannot be as they are told are refused, with the reason, before anything is made of them.
    #[test]
    fn contradictions_are_refused() {
        let raw_without_cow = Layout::raw_without_cow(8);
        let (mirror, second) = (OriginKind::Mirror, FurtherDisk::SecondVolume);
        let own = CowDisk::Own {
            mib: 8,
            logical_block_bytes: LOGICAL_BLOCK_BYTES,
        };
        let refused = [
            (
                Layout {
                    kind: mirror,
                    further: second,
                    ..raw_without_cow
                },
                "mirror",
            ),
            (
                Layout {
                    cow_disk: Some(own),
                    further: second,
                    ..raw_without_cow
                },
                "second volume",
            ),
            (
                Layout {
                    cow_disk: Some(CowDisk::InPlaceOfImage { mib: 8 }),
                    images: 2,
                    ..raw_without_cow
                },
                "images",
            ),
            (
                Layout {
                    content: Some(files),
                    ..raw_without_cow
                },
                "ext4",
            ),
            (
                Layout {
                    content: Some(files),
                    ..Layout::filesystem(Filesystem::Xfs, 8)
                },
                "ext4",
            ),
            (
                Layout {
                    filesystem_mib: Some(8),
                    ..raw_without_cow
                },
                "no filesystem",
            ),
            (
                Layout {
                    filesystem_mib: Some(9),
                    ..Layout::filesystem(Filesystem::Xfs, 8)
                },
                "larger",
            ),
        ];
        let folder = Scratch::temporary().expect("a folder for the test");
        let files = CellFiles {
            dir: folder.path().join("cell"),
        };
        for (layout, why) in refused {
            let error = layout.create(&files, 1).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            assert!(!files.dir.exists());
        }
        let allowed = [
            Layout {
                kind: mirror,
                ..raw_without_cow
            },
            Layout {
                kind: mirror,
                further: FurtherDisk::Copy,
                ..raw_without_cow
            },
            Layout {
                cow_disk: Some(own),
                ..Layout::raw(2048, 8)
            },
        ];
        for layout in allowed {
            assert_eq!(layout.contradiction(), None, "{layout:?}");
        }
    }
}
