//! Whether two block devices have blocks in common, however they are stacked.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::topology::{self, DeviceNumber};

/// How devices lie on one another.
trait Devices {
    /// Partitions of a disk.
    fn partitions(&self, device: DeviceNumber) -> Vec<DeviceNumber>;
    /// The disk of a partition.
    fn whole_disk(&self, device: DeviceNumber) -> DeviceNumber;
    /// What is stacked on it: device-mapper, md, bcache.
    fn holders(&self, device: DeviceNumber) -> Vec<DeviceNumber>;
    /// What it is stacked on.
    fn slaves(&self, device: DeviceNumber) -> Vec<DeviceNumber>;
    /// Loop devices that show this device. One that shows a file is another matter: its blocks are those of the file.
    fn loops(&self, device: DeviceNumber) -> Vec<DeviceNumber>;
    /// The device that a loop device shows.
    fn backing(&self, device: DeviceNumber) -> Option<DeviceNumber>;
}

/// As the kernel has them, in `/sys`.
struct Sys {
    /// Loop devices that show a device, with that device. Looked at once: a machine may have hundreds of devices.
    loops: Vec<(DeviceNumber, DeviceNumber)>,
}

impl Sys {
    fn new() -> Self {
        let shown = |dir: &PathBuf| Some((topology::number_in(dir)?, shown_device(dir)?));
        Self {
            loops: topology::loop_folders().iter().filter_map(shown).collect(),
        }
    }
}

/// The block device that a loop device shows, if it is one.
fn shown_device(dir: &Path) -> Option<DeviceNumber> {
    let name = fs::read_to_string(dir.join("loop/backing_file")).ok()?;
    let meta = fs::metadata(name.trim_end_matches('\n')).ok()?;
    meta.file_type()
        .is_block_device()
        .then(|| DeviceNumber::from_raw(meta.rdev()))
}

impl Devices for Sys {
    fn partitions(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
        topology::partitions(device)
    }

    fn whole_disk(&self, device: DeviceNumber) -> DeviceNumber {
        topology::whole_disk(device)
    }

    fn holders(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
        topology::related(device, "holders")
    }

    fn slaves(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
        topology::related(device, "slaves")
    }

    fn loops(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
        let of_device = |&(number, shown): &(_, _)| (shown == device).then_some(number);
        self.loops.iter().filter_map(of_device).collect()
    }

    fn backing(&self, device: DeviceNumber) -> Option<DeviceNumber> {
        let of_device = |&(number, shown): &(_, _)| (number == device).then_some(shown);
        self.loops.iter().find_map(of_device)
    }
}

/// Whether a write to one of them may change what the other one shows.
///
/// # Errors
/// When devices are stacked too deeply.
pub fn overlap(one: DeviceNumber, other: DeviceNumber) -> Result<bool> {
    overlap_in(&Sys::new(), one, other)
}

fn overlap_in(devices: &impl Devices, one: DeviceNumber, other: DeviceNumber) -> Result<bool> {
    Ok(reach(devices, one)?.contains(&other) || reach(devices, other)?.contains(&one))
}

/// Everything that is stacked on these devices, and they themselves.
fn above(
    devices: &impl Devices,
    from: impl IntoIterator<Item = DeviceNumber>,
) -> Result<BTreeSet<DeviceNumber>> {
    let mut all = BTreeSet::new();
    for device in from {
        all.extend(topology::closure(device, |next| {
            let mut above = devices.partitions(next);
            above.extend(devices.holders(next));
            above.extend(devices.loops(next));
            above
        })?);
    }
    Ok(all)
}

/// The devices through which blocks of this one are written. Neighbours are not among them: another partition of its disk, or another
/// logical volume of its group.
fn reach(devices: &impl Devices, device: DeviceNumber) -> Result<BTreeSet<DeviceNumber>> {
    let below = topology::closure(device, |next| {
        let disk = devices.whole_disk(next);
        let mut below = devices.slaves(next);
        below.extend((disk != next).then_some(disk));
        below.extend(devices.backing(next));
        below
    })?;
    let mut all = above(devices, [device])?;
    for &next in &below {
        all.insert(next);
        all.extend(above(devices, devices.loops(next))?);
        let disk = devices.whole_disk(next);
        if disk != next {
            // What is stacked on the whole disk covers its partitions.
            all.extend(above(devices, devices.holders(disk))?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `vda` with three partitions; a volume group on `vda2` with two volumes, one of which has partitions by kpartx; a RAID of
    /// `vdb` and `vdc` with a partition; a loop device on `vda1`; device-mapper on the whole of `vdd`, which has a partition.
    struct Made;

    const PARTITIONS: [(u32, u32); 5] = [(1, 11), (1, 12), (1, 13), (30, 31), (4, 41)];
    const HOLDERS: [(u32, u32); 6] = [(12, 21), (12, 22), (21, 23), (2, 30), (3, 30), (4, 50)];
    const LOOPS: [(u32, u32); 1] = [(11, 60)];

    fn number(minor: u32) -> DeviceNumber {
        DeviceNumber { major: 1, minor }
    }

    fn of(list: &[(u32, u32)], device: DeviceNumber) -> Vec<DeviceNumber> {
        let upper = list.iter().filter(|(below, _)| number(*below) == device);
        upper.map(|(_, above)| number(*above)).collect()
    }

    fn under(list: &[(u32, u32)], device: DeviceNumber) -> Vec<DeviceNumber> {
        let lower = list.iter().filter(|(_, above)| number(*above) == device);
        lower.map(|(below, _)| number(*below)).collect()
    }

    impl Devices for Made {
        fn partitions(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
            of(&PARTITIONS, device)
        }
        fn whole_disk(&self, device: DeviceNumber) -> DeviceNumber {
            under(&PARTITIONS, device).pop().unwrap_or(device)
        }
        fn holders(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
            of(&HOLDERS, device)
        }
        fn slaves(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
            under(&HOLDERS, device)
        }
        fn loops(&self, device: DeviceNumber) -> Vec<DeviceNumber> {
            of(&LOOPS, device)
        }
        fn backing(&self, device: DeviceNumber) -> Option<DeviceNumber> {
            under(&LOOPS, device).pop()
        }
    }

    #[test]
    fn devices_overlap_if_one_is_above_or_below_the_other() {
        for (one, other, expected) in [
            (1, 1, true),
            (1, 11, true),
            // Neighbours on a disk, in a group, on other disks.
            (11, 12, false),
            (21, 22, false),
            (1, 2, false),
            // A volume, its group's partition and disk, and what is on it.
            (21, 12, true),
            (21, 1, true),
            (21, 13, false),
            (23, 21, true),
            (23, 22, false),
            (23, 1, true),
            // A partition of a RAID, its members, and a member's neighbour.
            (31, 2, true),
            (31, 3, true),
            (2, 3, false),
            // A loop device shows the partition.
            (60, 11, true),
            (60, 1, true),
            (60, 12, false),
            // Stacked on the whole disk, and so on its partition.
            (50, 41, true),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let found = overlap_in(&Made, number(one), number(other)).unwrap();
                assert_eq!(found, expected, "{one} and {other}");
            }
        }
    }
}
