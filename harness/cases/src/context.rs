//! What a case finds when it starts, and what it is called in the guest.

use std::time::Duration;

use cowbird_checks::recorded::Replay;
use cowbird_checks::script_runs::ScriptRunPlan;
use cowbird_model::{Sector, SectorRange};
use cowbird_vm::disks::Bus;
use cowbird_vm::layout::{CowDisk, Layout, Third};

use crate::topology::Topology;

/// What a case finds when it starts.
#[derive(Debug, Clone)]
pub struct CaseContext {
    /// The disks.
    pub layout: Layout,
    /// Seed of everything random.
    pub seed: u64,
    /// The recorded workload, if there is one.
    pub replay: Option<Replay>,
    /// How long the long load goes on, if the plan says.
    pub soak: Option<Duration>,
    /// The scripts, for the case that has some.
    pub script_runs: Vec<ScriptRunPlan>,
    /// The topology, for a case that is made of one.
    pub topology: Option<&'static Topology>,
    /// How many snapshot instants there are, if the plan says.
    pub cuts: Option<u32>,
}

impl CaseContext {
    /// The disks.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The origin as sectors of the first disk.
    pub fn origin_range(&self) -> SectorRange {
        let origin = self.layout.snapshot_origin();
        SectorRange::new(Sector(origin.start.into()), origin.sectors.into())
    }

    /// The third partition, an ext4, as sectors of the first disk; empty without one.
    pub(super) fn third_range(&self) -> SectorRange {
        match self.layout.third {
            Some(Third::Ext4(third)) => {
                SectorRange::new(Sector(third.start.into()), third.sectors.into())
            }
            Some(Third::Zeros(_)) | None => SectorRange::new(Sector(0), 0),
        }
    }

    /// The first disk in the guest, as a name without its folder.
    pub fn disk_name(&self) -> &'static str {
        self.layout.disk_name()
    }

    /// The first partition of the first disk.
    pub fn origin(&self) -> &'static str {
        match self.layout.bus {
            Bus::Virtio => "/dev/vda1",
            Bus::Scsi => "/dev/sda1",
            Bus::Nvme => "/dev/nvme0n1p1",
        }
    }

    /// Where the COW file is when it is not on the origin: the second partition of the first disk, or a disk of its own,
    /// where there are two with the image.
    pub fn cow_home(&self) -> &'static str {
        if let Some(CowDisk::Own { .. }) = self.layout.cow_disk {
            return "/dev/vdc";
        }
        match self.layout.bus {
            Bus::Virtio => "/dev/vda2",
            Bus::Scsi => "/dev/sda2",
            Bus::Nvme => "/dev/nvme0n1p2",
        }
    }

    /// The disk for the image.
    pub fn image(&self) -> &'static str {
        match self.layout.bus {
            Bus::Virtio => "/dev/vdb",
            Bus::Scsi | Bus::Nvme => "/dev/vda",
        }
    }
}
