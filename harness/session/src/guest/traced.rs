//! What is recorded of a traced cell.

use std::collections::BTreeMap;

use cowbird_checks::tracing::{Recordings, Role, WitnessedDisk};
use cowbird_host::nature::FurtherDisk;
use cowbird_proto::message::WorkloadId;
use cowbird_vm::disks::Bus;
use cowbird_vm::layout::Layout;

/// What is traced of a cell.
pub struct Tracing {
    /// The disks that have a witness.
    pub disks: Vec<WitnessedDisk>,
    /// What was recorded so far.
    pub recordings: Recordings,
    /// The devices that workloads write to directly.
    pub targets: BTreeMap<WorkloadId, Vec<String>>,
    /// Whether a workload rewrites cached pages that the kernel does not keep stable: those of a filesystem unless
    /// the queue asks for it, and before 6.7 those of a raw device whatever the queue asks for.
    pub pages_may_change: bool,
}

impl Tracing {
    /// Nothing yet, of the disks of a layout.
    pub fn of(layout: &Layout) -> Self {
        Self {
            disks: witnessed_disks(layout),
            recordings: Recordings::default(),
            targets: BTreeMap::new(),
            pages_may_change: false,
        }
    }
}

/// The disks of a layout that have a witness.
fn witnessed_disks(layout: &Layout) -> Vec<WitnessedDisk> {
    let first = layout.disk_name();
    let mut disks = vec![with_origin(first, Role::First, layout)];
    match layout.further() {
        FurtherDisk::None => {}
        FurtherDisk::SecondVolume => disks.push(with_origin("vdc", Role::Second, layout)),
        FurtherDisk::Copy => disks.push(WitnessedDisk {
            name: "vdc",
            role: Role::Mirror,
            flushes_for_fua: flushes_for_fua(layout),
            devices: Vec::new(),
        }),
    }
    disks
}

fn with_origin(name: &'static str, role: Role, layout: &Layout) -> WitnessedDisk {
    let separator = if name.starts_with("nvme") { "p" } else { "" };
    let partitions = layout.partitions().into_iter().zip(1..);
    let devices = partitions.map(|(partition, number)| {
        let path = format!("/dev/{name}{separator}{number}");
        (path, u64::from(partition.start))
    });
    WitnessedDisk {
        name,
        role,
        flushes_for_fua: flushes_for_fua(layout),
        devices: devices.collect(),
    }
}

fn flushes_for_fua(layout: &Layout) -> bool {
    layout.bus() != Bus::Nvme
}
