//! The machine's block devices and snapshots, by what sysfs and the module say.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::{BLOCK_BYTES, BlockIndex, DeviceNumber, SECTOR_BYTES, Sector};

const SYS_CLASS_BLOCK: &str = "/sys/class/block";
const COWBIRD_INFO: &str = "/proc/cowbird-info";

/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR_BYTES;

/// Why a device could not be found.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// sysfs does not list it.
    #[error("{0} is not a block device of this machine; `lsblk` or /sys/class/block list them")]
    NotABlockDevice(String),
    /// The trace does not know it.
    #[error("the trace knows no block device {name}; it knows: {known}")]
    NotInTrace {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// sysfs could not be read.
    #[error("cannot read {path}: {reason}")]
    Sysfs {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
}

/// A whole disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Name in `/sys/class/block`.
    pub name: String,
    /// Number, `major:minor`.
    pub number: String,
    /// Number of the whole disk; its own, if it is one.
    pub disk_number: String,
    /// First sector on the whole disk.
    pub start_sector: u64,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
}

impl BlockDevice {
    /// Number of the whole disk.
    #[must_use]
    pub fn disk(&self) -> Option<DeviceNumber> {
        DeviceNumber::parse(&self.disk_number)
    }

    /// Whether it is a whole disk.
    #[must_use]
    pub fn is_disk(&self) -> bool {
        self.number == self.disk_number
    }

    /// Sectors of the whole disk that the device has: first, and one past the last.
    #[must_use]
    pub fn range(&self) -> (Sector, Sector) {
        let end = self.start_sector.saturating_add(self.sectors);
        (Sector(self.start_sector), Sector(end))
    }

    /// Sectors of the whole disk that a block of the device has: first, and one past the last.
    #[must_use]
    pub fn block_range(&self, block: BlockIndex) -> (Sector, Sector) {
        let first = block.0.saturating_mul(BLOCK_SECTORS);
        let start = self.start_sector.saturating_add(first);
        (Sector(start), Sector(start.saturating_add(BLOCK_SECTORS)))
    }
}

/// A snapshot: its minor, and the device that it was taken of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Snapshot {
    /// Number in events and in `/dev/cowbird<minor>`.
    pub minor: u32,
    /// Path of the origin.
    pub block_device: String,
    /// The origin.
    pub origin: Option<BlockDevice>,
    /// The snapshot device, while there is one.
    pub device: Option<BlockDevice>,
}

/// How full a snapshot's memory and COW file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fill {
    /// Preserved blocks in memory.
    pub memory_blocks: u64,
    /// As many fit.
    pub memory_limit_blocks: u64,
    /// Slots of the COW file in use.
    pub slots_used: u64,
    /// All slots.
    pub slots: u64,
}

fn read(path: PathBuf) -> Result<String, DeviceError> {
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(reason) => Err(DeviceError::Sysfs { path, reason }),
    }
}

fn describe(name: &str) -> Result<BlockDevice, DeviceError> {
    let directory = Path::new(SYS_CLASS_BLOCK).join(name);
    let number = read(directory.join("dev"))?;
    let partition = directory.join("partition").exists();
    let canonical = fs::canonicalize(&directory).map_err(|reason| DeviceError::Sysfs {
        path: directory.clone(),
        reason,
    })?;
    let (disk_number, start) = match (partition, canonical.parent()) {
        (true, Some(disk)) => (read(disk.join("dev"))?, read(directory.join("start"))?),
        _ => (number.clone(), "0".to_owned()),
    };
    Ok(BlockDevice {
        name: name.to_owned(),
        number,
        disk_number,
        start_sector: start.parse().unwrap_or(0),
        sectors: read(directory.join("size"))?.parse().unwrap_or(0),
    })
}

/// Every block device with a size, by name. Empty without sysfs; a device that goes away meanwhile
/// is left out.
#[must_use]
pub fn all() -> Vec<BlockDevice> {
    let Ok(entries) = fs::read_dir(SYS_CLASS_BLOCK) else {
        return Vec::new();
    };
    let mut devices: Vec<BlockDevice> = entries
        .flatten()
        .filter_map(|entry| describe(&entry.file_name().to_string_lossy()).ok())
        .filter(|device| device.sectors > 0)
        .collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

/// The device that a path or name means.
///
/// # Errors
/// When it is not a block device of this machine.
pub fn find(path_or_name: &str) -> Result<BlockDevice, DeviceError> {
    let not_found = || DeviceError::NotABlockDevice(path_or_name.to_owned());
    if !path_or_name.contains('/') {
        return describe(path_or_name).map_err(|_| not_found());
    }
    let metadata = fs::metadata(path_or_name).map_err(|_| not_found())?;
    if !metadata.file_type().is_block_device() {
        return Err(not_found());
    }
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).map_err(|_| not_found())?;
    let name = link.file_name().ok_or_else(not_found)?;
    describe(&name.to_string_lossy())
}

/// The device of a trace that a path or name means.
///
/// # Errors
/// When the trace has none of that name.
pub fn find_in<'a>(
    devices: &'a [BlockDevice],
    path_or_name: &str,
) -> Result<&'a BlockDevice, DeviceError> {
    let name = path_or_name.strip_prefix("/dev/").unwrap_or(path_or_name);
    devices
        .iter()
        .find(|device| device.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
            DeviceError::NotInTrace {
                name: name.to_owned(),
                known: names.join(" "),
            }
        })
}

/// The name for people of a place on a disk: the partition that holds it, otherwise the disk,
/// otherwise the number.
#[must_use]
pub fn name_of(devices: &[BlockDevice], disk: DeviceNumber, sector: Sector) -> String {
    let on_disk = || devices.iter().filter(|device| device.disk() == Some(disk));
    let holds = |device: &&BlockDevice| {
        let (first, end) = device.range();
        !device.is_disk() && first <= sector && sector < end
    };
    on_disk()
        .find(holds)
        .or_else(|| on_disk().find(|device| device.is_disk()))
        .map_or_else(|| disk.to_string(), |device| device.name.clone())
}

/// What `/proc/cowbird-info` says of a snapshot, as far as it matters here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct InfoDevice {
    minor: u32,
    block_device: String,
    origin_device: String,
    max_cache: u64,
    cow_slots: u64,
    cow_slots_used: u64,
    preserved_blocks: u64,
    stored_blocks: u64,
}

fn info_devices() -> Vec<InfoDevice> {
    #[derive(Deserialize)]
    struct Info {
        devices: Vec<InfoDevice>,
    }
    fs::read_to_string(COWBIRD_INFO)
        .ok()
        .and_then(|text| serde_json::from_str::<Info>(&text).ok())
        .map_or_else(Vec::new, |info| info.devices)
}

/// The module's snapshots; empty if it is not loaded.
#[must_use]
pub fn snapshots() -> Vec<Snapshot> {
    info_devices()
        .into_iter()
        .map(|device| Snapshot {
            origin: by_number(&device.origin_device),
            device: describe(&format!("cowbird{}", device.minor)).ok(),
            minor: device.minor,
            block_device: device.block_device,
        })
        .collect()
}

/// How full the memory and the COW file of each snapshot are, by minor.
#[must_use]
pub fn fills() -> Vec<(u32, Fill)> {
    info_devices()
        .into_iter()
        .map(|device| {
            let fill = Fill {
                memory_blocks: device.preserved_blocks.saturating_sub(device.stored_blocks),
                memory_limit_blocks: device.max_cache / BLOCK_BYTES,
                slots_used: device.cow_slots_used,
                slots: device.cow_slots,
            };
            (device.minor, fill)
        })
        .collect()
}

/// The device with this number, `major:minor`.
fn by_number(number: &str) -> Option<BlockDevice> {
    let link = fs::read_link(format!("/sys/dev/block/{number}")).ok()?;
    describe(&link.file_name()?.to_string_lossy()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, number: &str, start: u64, sectors: u64) -> BlockDevice {
        BlockDevice {
            name: name.to_owned(),
            number: number.to_owned(),
            disk_number: "8:0".to_owned(),
            start_sector: start,
            sectors,
        }
    }

    #[test]
    fn names_the_partition_that_holds_a_sector() {
        let devices = [
            device("sda", "8:0", 0, 1000),
            device("sda1", "8:1", 64, 100),
        ];
        let disk = DeviceNumber::parse("8:0").unwrap();
        assert_eq!(name_of(&devices, disk, Sector(63)), "sda");
        assert_eq!(name_of(&devices, disk, Sector(64)), "sda1");
        assert_eq!(name_of(&devices, disk, Sector(163)), "sda1");
        assert_eq!(name_of(&devices, disk, Sector(164)), "sda");
        assert_eq!(name_of(&devices, DeviceNumber(1), Sector(0)), "0:1");
        let (first, end) = devices[1].block_range(BlockIndex(2));
        assert_eq!((first, end), (Sector(80), Sector(88)));
    }

    #[test]
    fn refuses_what_is_no_block_device() {
        for name in ["/dev/null", "/nowhere", "no-such-disk"] {
            let error = find(name).unwrap_err();
            assert!(error.to_string().contains(name));
        }
    }
}
