//! The cases: what is done in the guest, told as a story, and what must then be true.

mod ext4_churn;
mod hot_read;
mod incremental;
mod raw_writers;
mod self_test;
mod stacked;
mod whole_disk;

use std::future::Future;
use std::pin::Pin;

use cowbird_model::{Sector, SectorRange};
use serde::Serialize;

use crate::disk::{self, Partition};
use crate::driver::{CaseResult, Driver};
use crate::error::HarnessResult;
use crate::verify::{CellFiles, Evidence};

/// The origin in the guest.
const ORIGIN: &str = "/dev/vda1";

/// The second partition of the first disk: where the COW file is, when it is not on the origin.
const COW_HOME: &str = "/dev/vda2";

/// Where [`COW_HOME`] is mounted.
const COW_MOUNT: &str = "/mnt/cow";

/// The snapshot device.
const SNAPSHOT: &str = "/dev/cowbird0";

/// Number of [`SNAPSHOT`].
const MINOR: u32 = 0;

/// The second disk: the image.
const IMAGE: &str = "/dev/vdb";

/// Where the first partition starts, sectors: 1 MiB, as partitioning tools do it.
const FIRST_SECTOR: u32 = 2048;

/// Partitions start at multiples of this, sectors.
const PARTITION_ALIGN: u32 = 2048;

/// Sectors of one MiB.
const MIB_SECTORS: u32 = 2048;

/// How often a case is worth its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseTier {
    /// For every change.
    Quick,
    /// Once a day.
    Daily,
    /// Before a release.
    Full,
}

type Act = for<'a> fn(&'a mut Driver<'_, '_>, &'a Setting) -> ActFuture<'a>;
type ActFuture<'a> = Pin<Box<dyn Future<Output = CaseResult<Evidence>> + Send + 'a>>;

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct CaseInfo {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// What it is for, in one sentence.
    pub summary: &'static str,
    /// How often it runs.
    pub tier: CaseTier,
    /// Modules of the kernel that it needs; those that are built in count as there.
    pub needs_modules: &'static [&'static str],
    /// Whether the module under test and the control tool go into the guest.
    pub(crate) uses_module: bool,
    layout: fn() -> Layout,
    act: Act,
}

impl CaseInfo {
    /// What is on the disks.
    pub(crate) fn setting(&self, seed: u64) -> Setting {
        Setting {
            layout: (self.layout)(),
            seed,
        }
    }

    /// Does it.
    pub(crate) fn act<'a>(
        &self,
        driver: &'a mut Driver<'_, '_>,
        setting: &'a Setting,
    ) -> ActFuture<'a> {
        (self.act)(driver, setting)
    }
}

/// Modules that every guest needs, whether built in or not. What they depend on softly (ext4 on
/// crc32c, under a name that changes between kernels) the store adds.
const GUEST_MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_blk", "ext4"];

/// The order is that of the results.
static CASES: [CaseInfo; 7] = [
    CaseInfo {
        name: "ext4-churn",
        summary: "ext4 with concurrent writers, deletes and truncates while its snapshot is copied",
        tier: CaseTier::Quick,
        needs_modules: &GUEST_MODULES,
        uses_module: true,
        layout: ext4_churn::layout,
        act: |driver, setting| Box::pin(ext4_churn::act(driver, setting)),
    },
    CaseInfo {
        name: "raw-writers",
        summary: "raw partition of odd size with pairs of writers on the same blocks, and discards",
        tier: CaseTier::Quick,
        needs_modules: &GUEST_MODULES,
        uses_module: true,
        layout: raw_writers::layout,
        act: |driver, setting| Box::pin(raw_writers::act(driver, setting)),
    },
    CaseInfo {
        name: "hot-read",
        summary: "many readers of snapshot blocks that are overwritten at the same moment",
        tier: CaseTier::Quick,
        needs_modules: &GUEST_MODULES,
        uses_module: true,
        layout: hot_read::layout,
        act: |driver, setting| Box::pin(hot_read::act(driver, setting)),
    },
    CaseInfo {
        name: "incremental",
        summary: "an image kept up to date through three epochs by changed blocks alone",
        tier: CaseTier::Daily,
        needs_modules: &GUEST_MODULES,
        uses_module: true,
        layout: incremental::layout,
        act: |driver, setting| Box::pin(incremental::act(driver, setting)),
    },
    CaseInfo {
        name: "whole-disk",
        summary: "a whole disk that is written through its partitions, COW file on one of them",
        tier: CaseTier::Daily,
        needs_modules: &GUEST_MODULES,
        uses_module: true,
        layout: whole_disk::layout,
        act: |driver, setting| Box::pin(whole_disk::act(driver, setting)),
    },
    CaseInfo {
        name: "dm-linear",
        summary: "a device-mapper device, which works on bios and has no queue to freeze",
        tier: CaseTier::Daily,
        needs_modules: &[
            "virtio_pci",
            "virtio_console",
            "virtio_blk",
            "ext4",
            "dm_mod",
        ],
        uses_module: true,
        layout: raw_writers::layout,
        act: |driver, setting| Box::pin(stacked::act_linear(driver, setting)),
    },
    CaseInfo {
        name: "loop",
        summary: "a loop device with direct I/O on a partition",
        tier: CaseTier::Daily,
        needs_modules: &["virtio_pci", "virtio_console", "virtio_blk", "ext4", "loop"],
        uses_module: true,
        layout: raw_writers::layout,
        act: |driver, setting| Box::pin(stacked::act_loop(driver, setting)),
    },
];

/// All cases.
#[must_use]
pub fn cases() -> &'static [CaseInfo] {
    &CASES
}

/// The case of that name, self-tests included.
#[must_use]
pub fn find(name: &str) -> Option<&'static CaseInfo> {
    CASES
        .iter()
        .chain(&self_test::CASES)
        .find(|case| case.name == name)
}

/// Cases that put the harness itself on trial. They need no module, and belong to no matrix.
#[must_use]
pub fn self_test_cases() -> &'static [CaseInfo] {
    &self_test::CASES
}

/// The disks of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// The origin, first partition of the first disk.
    origin: Partition,
    /// Whether it is an ext4; else it is filled with sectors that say where they are.
    origin_is_ext4: bool,
    /// The second partition, an ext4 for the COW file.
    cow_home: Option<Partition>,
    /// Whether the whole disk is the origin, and not only the first partition.
    whole_disk: bool,
}

impl Layout {
    /// Where on the snapshot the first partition, which the writers write, begins.
    fn writers_shift_bytes(&self) -> u64 {
        if self.whole_disk {
            self.origin.offset_bytes()
        } else {
            0
        }
    }

    /// An ext4 that holds its own COW file.
    fn ext4(mib: u32) -> Self {
        let origin = Partition {
            start: FIRST_SECTOR,
            sectors: mib * MIB_SECTORS,
        };
        Self {
            origin,
            origin_is_ext4: true,
            cow_home: None,
            whole_disk: false,
        }
    }

    /// A raw origin, and an ext4 behind it for the COW file.
    fn raw(sectors: u32, cow_home_mib: u32) -> Self {
        let origin = Partition {
            start: FIRST_SECTOR,
            sectors,
        };
        let start = origin.end().next_multiple_of(PARTITION_ALIGN);
        let cow_home = Partition {
            start,
            sectors: cow_home_mib * MIB_SECTORS,
        };
        Self {
            origin,
            origin_is_ext4: false,
            cow_home: Some(cow_home),
            whole_disk: false,
        }
    }

    /// A raw origin and nothing else.
    fn bare(mib: u32) -> Self {
        let origin = Partition {
            start: FIRST_SECTOR,
            sectors: mib * MIB_SECTORS,
        };
        Self {
            origin,
            origin_is_ext4: false,
            cow_home: None,
            whole_disk: false,
        }
    }

    /// The first disk. Some room is behind its last partition, so that one's end is not the other's.
    fn disk(&self) -> Partition {
        let end = self.cow_home.unwrap_or(self.origin).end();
        Partition {
            start: 0,
            sectors: end.next_multiple_of(PARTITION_ALIGN) + PARTITION_ALIGN,
        }
    }

    /// What the snapshot is taken of.
    fn snapshot_origin(&self) -> Partition {
        if self.whole_disk {
            self.disk()
        } else {
            self.origin
        }
    }

    /// Makes the disks and the files beside them.
    pub(crate) fn create(&self, files: &CellFiles, seed: u64) -> HarnessResult<()> {
        let mut partitions = vec![self.origin];
        partitions.extend(self.cow_home);
        let path = files.origin();
        disk::create_partitioned(
            &path,
            self.disk().length_bytes(),
            &partitions,
            &[self.origin],
            seed,
        )?;
        if self.origin_is_ext4 {
            disk::make_ext4(&path, self.origin, seed)?;
        }
        if let Some(partition) = self.cow_home {
            disk::make_ext4(&path, partition, seed)?;
        }
        disk::copy_sparse(&path, &files.base())?;
        disk::create_sparse(&files.image(), self.snapshot_origin().length_bytes())?;
        disk::create_sparse(&files.witness(), 0)?;
        Ok(())
    }
}

/// What a case finds when it starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    layout: Layout,
    seed: u64,
}

impl Setting {
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    fn origin_range(&self) -> SectorRange {
        let origin = self.layout.snapshot_origin();
        SectorRange::new(Sector(origin.start.into()), origin.sectors.into())
    }
}

/// A case that exercised nothing must not pass.
fn vacuous(what: &str) -> crate::driver::CaseError {
    let detail = format!("the case tested nothing: {what}; the host may be too slow");
    crate::error::HarnessError::Plan { detail }.into()
}
