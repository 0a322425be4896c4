//! Topologies as data: what the origin is and lies on, who writes to it from above, and how the disk of them all treats
//! its requests. A case is made of one: see [`crate::above`].
//!
//! All topologies stand on the disks of [`layout`], so that one guest can go through all of them. On the first disk
//! are the device that is written to, the filesystem of the COW file, and a third partition for what needs one more
//! device; with an array a second disk is as the first.

use std::path::Path;

use cowbird_host::disk::{Filesystem, Partition};
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::nature::{FurtherDisk, OriginKind};
use cowbird_model::{Sector, SectorRange};
use cowbird_proto::message::StackKind;
use cowbird_session::guest::{Queue, Throttle};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::modules::modules;
use crate::names::{COW_HOME, ORIGIN};

/// The first disk.
const DISK: &str = "/dev/vda";

/// Its third partition.
const THIRD: &str = "/dev/vda3";

/// The first partition of the other disk of an array.
const OTHER: &str = "/dev/vdc1";

/// An array, and its partition.
const ARRAY: &str = "/dev/md0";
const ARRAY_PARTITION: &str = "/dev/md0p1";

/// The device-mapper devices of a guest.
const MAPPED: [&str; 4] = [FIRST_MAPPED, SECOND_MAPPED, "/dev/dm-2", "/dev/dm-3"];
const FIRST_MAPPED: &str = "/dev/dm-0";
const SECOND_MAPPED: &str = "/dev/dm-1";

/// Where the filesystem on the first partition is mounted, and the file on it that is put under a loop device.
const MOUNT: &str = "/mnt/origin";
const LOOP_FILE: &str = "loop.img";

/// Its size.
const LOOP_FILE_BYTES: usize = 26 << 20;
const LARGE_LOOP_FILE_BYTES: usize = 96 << 20;

/// The loop device.
const LOOP: &str = "/dev/loop0";

/// Sizes of the partitions, MiB.
const FIRST_MIB: u32 = 40;
const HOME_MIB: u32 = 56;
const THIRD_MIB: u32 = 40;

/// Where the partition of an array begins and ends on it, sectors: as odd as partitions may be.
pub(super) const NESTED: Partition = Partition {
    start: MIB_SECTORS,
    sectors: (FIRST_MIB - 2) * MIB_SECTORS + 5,
};

/// What the snapshots are taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The whole first disk, with the COW file on its second partition.
    Disk,
    /// A loop device on the first partition: a disk of its own, with requests, that is not partitioned.
    Loop,
    /// A logical volume on the first partition.
    Mapped,
    /// An array on the first partition.
    Array,
    /// The partition of that array.
    ArrayPartition,
}

impl Origin {
    /// Its path in the guest.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Disk => DISK,
            Self::Loop => LOOP,
            Self::Mapped => FIRST_MAPPED,
            Self::Array => ARRAY,
            Self::ArrayPartition => ARRAY_PARTITION,
        }
    }

    /// Where it is on the first disk.
    pub fn range(self, layout: &Layout) -> SectorRange {
        let of = |part: Partition| SectorRange::new(Sector(part.start.into()), part.sectors.into());
        match self {
            Self::Disk => of(layout.disk()),
            Self::Loop | Self::Mapped | Self::Array => of(layout.origin()),
            Self::ArrayPartition => of(Partition {
                start: layout.origin().start + NESTED.start,
                ..NESTED
            }),
        }
    }

    /// Where the filesystem of the COW file begins on it, bytes, if it is a part of it.
    pub(super) fn cow_home_at(self, layout: &Layout) -> Option<u64> {
        match self {
            Self::Disk => layout.cow_home.map(Partition::offset_bytes),
            Self::Loop | Self::Mapped | Self::Array | Self::ArrayPartition => None,
        }
    }

    /// What it lies on, if it is no disk of the machine: what is stacked on which devices.
    pub fn below(self) -> Option<(StackKind, &'static [&'static str])> {
        match self {
            Self::Disk => None,
            Self::Loop => Some((StackKind::Loop, &[ORIGIN])),
            Self::Mapped => Some((StackKind::Linear, &[ORIGIN])),
            Self::Array | Self::ArrayPartition => Some((StackKind::Mirror, &[ORIGIN, OTHER])),
        }
    }

    /// What it is as it lies on the first disk.
    const fn kind(self) -> OriginKind {
        match self {
            Self::Disk => OriginKind::WholeDisk,
            Self::Loop | Self::Mapped => OriginKind::Partition,
            Self::Array | Self::ArrayPartition => OriginKind::Mirror,
        }
    }

    /// Whether it is an array with a partition, or that partition.
    pub(super) fn is_partitioned(self) -> bool {
        matches!(self, Self::Array | Self::ArrayPartition)
    }

    /// The disk whose requests are few, without its folder.
    pub(super) fn queue_of(self) -> &'static str {
        match self {
            Self::Loop => "loop0",
            _ => "vda",
        }
    }
}

/// Who writes to the origin, and through what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Above {
    /// Writers on a part of the origin, or on all of it.
    Part(&'static str),
    /// Writers on a device that is stacked on these.
    Stack {
        /// What it is.
        kind: StackKind,
        /// The devices below it.
        below: &'static [&'static str],
        /// Where it is in the guest.
        path: &'static str,
    },
    /// Writers on a loop device on a file of the filesystem on the first partition.
    File,
    /// Writers to files of a filesystem on the first partition that is mounted in their own mount namespace only.
    Unseen,
    /// The kernel, which swaps to the first partition.
    Swap,
}

impl Above {
    /// What the first partition holds.
    fn filesystem(self) -> Option<Filesystem> {
        matches!(self, Self::File | Self::Unseen).then_some(Filesystem::Ext4)
    }

    /// Whether it takes a device of the second disk.
    fn has_other_disk(self) -> bool {
        matches!(self, Self::Stack { below, .. } if below.contains(&OTHER))
    }

    /// Where the filesystem is mounted for all to see, and the file on it that is written to.
    pub fn file(self) -> Option<(&'static str, String)> {
        (self == Self::File).then(|| (MOUNT, format!("{MOUNT}/{LOOP_FILE}")))
    }

    /// The devices that the writers write to, if they do.
    pub fn devices(self) -> Option<Vec<String>> {
        let paths: &[&str] = match self {
            Self::Stack {
                kind: StackKind::Quarters,
                ..
            } => &MAPPED,
            Self::Part(path) | Self::Stack { path, .. } => &[path],
            Self::File => &[LOOP],
            Self::Unseen | Self::Swap => return None,
        };
        Some(paths.iter().map(ToString::to_string).collect())
    }
}

/// Devices that stand on one another, and the disk below them.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// What it is called.
    pub name: &'static str,
    /// Modules that the kernel needs for it.
    pub modules: &'static [&'static str],
    /// What the snapshots are taken of.
    pub origin: Origin,
    /// Who writes.
    pub above: Above,
    /// How the guest treats requests to the first disk.
    pub queue: Queue,
    /// How slow the disk is around each instant.
    pub(super) throttle: Throttle,
    /// So many times less than elsewhere is written, where writing costs so much more.
    pub costs: u64,
}

/// Few requests, which are short, so that whoever writes much waits for them.
pub(super) const SCARCE: Queue = Queue {
    nr_requests: Some(4),
    max_sectors_kb: Some(64),
    ..Queue::AS_IT_IS
};

/// A disk that writers wait for.
pub const SLOW: Throttle = Throttle {
    operations_per_second: 300,
    ..Throttle::NONE
};

const fn on_disk(name: &'static str, modules: &'static [&'static str], above: Above) -> Topology {
    Topology {
        name,
        modules,
        origin: Origin::Disk,
        above,
        queue: SCARCE,
        throttle: SLOW,
        costs: 1,
    }
}

const fn stack(kind: StackKind, below: &'static [&'static str], path: &'static str) -> Above {
    Above::Stack { kind, below, path }
}

/// Four logical volumes on a partition. A cut that waits for the submissions to one disk may wait for those to another by
/// accident, where it knows disks by a hash only; not for those to all four.
pub static LINEAR: Topology = on_disk(
    "linear",
    &modules(["dm_mod"]),
    stack(StackKind::Quarters, &[ORIGIN], FIRST_MAPPED),
);

/// An encrypted partition; the kernel's own threads submit.
pub static CRYPT: Topology = Topology {
    costs: 4,
    ..on_disk(
        "crypt",
        &modules(["dm_mod", "dm_crypt", "xts"]),
        stack(StackKind::Crypt, &[ORIGIN], FIRST_MAPPED),
    )
};

/// An encrypted partition; the writers submit.
pub static CRYPT_INLINE: Topology = Topology {
    costs: 4,
    ..on_disk(
        "crypt-inline",
        &modules(["dm_mod", "dm_crypt", "xts"]),
        stack(StackKind::CryptInline, &[ORIGIN], FIRST_MAPPED),
    )
};

/// A thin volume, data and metadata of which are on the origin.
pub static THIN: Topology = Topology {
    // Shorter than the pool's blocks, at which device-mapper splits already.
    queue: Queue {
        max_sectors_kb: Some(16),
        ..SCARCE
    },
    throttle: Throttle {
        operations_per_second: 1000,
        ..SLOW
    },
    costs: 2,
    ..on_disk(
        "thin",
        &modules(["dm_mod", "dm_thin_pool"]),
        stack(StackKind::Thin, &[ORIGIN, THIRD], SECOND_MAPPED),
    )
};

/// A striped logical volume, both stripes of which are on the origin.
pub static STRIPED: Topology = on_disk(
    "striped",
    &modules(["dm_mod"]),
    stack(StackKind::Striped, &[ORIGIN, THIRD], FIRST_MAPPED),
);

/// A RAID 1, one half of which is on the origin.
pub static RAID1: Topology = on_disk(
    "raid1",
    &modules(["md_mod", "raid1"]),
    stack(StackKind::Mirror, &[ORIGIN, OTHER], ARRAY),
);

/// A RAID 5, two members of which are on the origin.
pub static RAID5: Topology = Topology {
    // It writes page by page.
    throttle: Throttle {
        operations_per_second: 3000,
        ..SLOW
    },
    costs: 2,
    ..on_disk(
        "raid5",
        &modules(["md_mod", "raid456"]),
        stack(StackKind::Parity, &[ORIGIN, THIRD, OTHER], ARRAY),
    )
};

/// A loop device on a file of a filesystem on the origin.
pub static LOOP_ON_FILE: Topology = on_disk("loop", &modules(["loop"]), Above::File);

/// A filesystem on the origin that the tools do not see.
pub static UNSEEN: Topology = on_disk("unseen", &modules([]), Above::Unseen);

/// A swap area on the origin.
pub static SWAP: Topology = Topology {
    costs: 16,
    ..on_disk("swap", &modules([]), Above::Swap)
};

/// An array that is written to through its partition.
pub static ARRAY_ABOVE: Topology = Topology {
    origin: Origin::Array,
    ..on_disk(
        "array",
        &modules(["md_mod", "raid1"]),
        Above::Part(ARRAY_PARTITION),
    )
};

/// The partition of an array.
pub static ARRAY_PART: Topology = Topology {
    origin: Origin::ArrayPartition,
    ..on_disk(
        "array-partition",
        &modules(["md_mod", "raid1"]),
        Above::Part(ARRAY_PARTITION),
    )
};

/// A logical volume on a whole disk.
pub static DISK_ABOVE: Topology = Topology {
    origin: Origin::Loop,
    ..on_disk(
        "disk",
        &modules(["loop", "dm_mod"]),
        stack(StackKind::Linear, &[LOOP], FIRST_MAPPED),
    )
};

/// An encrypted logical volume; the writers submit.
pub static MAPPED_ABOVE: Topology = Topology {
    origin: Origin::Mapped,
    costs: 4,
    ..on_disk(
        "mapped",
        &modules(["dm_mod", "dm_crypt", "xts"]),
        stack(StackKind::CryptInline, &[FIRST_MAPPED], SECOND_MAPPED),
    )
};

/// A logical volume on an array.
pub static VOLUME_ON_ARRAY: Topology = Topology {
    origin: Origin::Array,
    ..on_disk(
        "volume-on-array",
        &modules(["md_mod", "raid1", "dm_mod"]),
        stack(StackKind::Linear, &[ARRAY], FIRST_MAPPED),
    )
};

impl Topology {
    /// The disks.
    pub fn layout(&self) -> Layout {
        let raw = Layout::raw(FIRST_MIB * MIB_SECTORS, HOME_MIB).with_zeros(THIRD_MIB);
        Layout {
            content: self.above.file().map(|_| make_loop_file as _),
            filesystem: self.above.filesystem(),
            kind: self.origin.kind(),
            further: match self.above.has_other_disk() {
                true => FurtherDisk::Copy,
                false => FurtherDisk::None,
            },
            ..raw
        }
    }
}

/// The content of a filesystem with a file for a loop device: no byte of it is a hole.
fn make_loop_file(folder: &Path) -> HarnessResult<()> {
    let path = folder.join(LOOP_FILE);
    std::fs::write(&path, vec![0xC0; LOOP_FILE_BYTES]).on("write", &path)
}

/// The same with room for writers that have more to themselves, and for their files beside it.
pub(super) fn make_large_loop_file(folder: &Path) -> HarnessResult<()> {
    let path = folder.join(LOOP_FILE);
    std::fs::write(&path, vec![0xC0; LARGE_LOOP_FILE_BYTES]).on("write", &path)
}

/// Who stands beside: the filesystem of the COW file.
pub const BESIDE: &str = COW_HOME;
