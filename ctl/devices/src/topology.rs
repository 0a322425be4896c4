//! Block devices, and how they lie on one another, from `/sys`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cowbird_abi::{COWBIRD_FREEZE_HARMLESS, cowbird_freeze_device};

use crate::probe;

/// The unit of sizes in `/sys`.
const SECTOR_BYTES: u64 = 512;
/// Devices stacked on each other beyond which something is wrong.
const MAX_DEPTH: usize = 16;

/// Major and minor number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl DeviceNumber {
    /// From `st_dev` or `st_rdev`.
    pub fn from_raw(raw: u64) -> Self {
        Self {
            major: libc::major(raw),
            minor: libc::minor(raw),
        }
    }

    /// From `major:minor`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    /// Its folder in `/sys`.
    pub fn sys_dir(self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{self}"))
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Folders with names of devices that outlive a boot, the best first.
const STABLE_NAMES: [&str; 4] = [
    "/dev/disk/by-partuuid",
    "/dev/mapper",
    "/dev/disk/by-id",
    "/dev/disk/by-uuid",
];

/// A name by which a device is found after another boot, if it has one; otherwise the name that
/// the kernel gave it.
pub fn stable_name(device: DeviceNumber) -> Result<PathBuf> {
    let is_it = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|meta| {
            meta.file_type().is_block_device() && DeviceNumber::from_raw(meta.rdev()) == device
        })
    };
    let mut names: Vec<PathBuf> = STABLE_NAMES
        .iter()
        .flat_map(|folder| {
            let mut names = entries(Path::new(folder));
            names.sort();
            names
        })
        .collect();
    let uevent = device.sys_dir().join("uevent");
    let text =
        fs::read_to_string(&uevent).with_context(|| format!("cannot read {}", uevent.display()))?;
    names.extend(
        text.lines()
            .find_map(|line| line.strip_prefix("DEVNAME="))
            .map(|name| Path::new("/dev").join(name)),
    );
    names
        .into_iter()
        .find(is_it)
        .with_context(|| format!("block device {device} has no name below /dev"))
}

/// The number of a snapshot, if the device is one: by the major number under which the module is registered. A name
/// says nothing, because anything can have it.
pub fn snapshot_minor(device: DeviceNumber) -> Option<u32> {
    snapshot_in(&fs::read_to_string("/proc/devices").ok()?, device)
}

/// The same with the text of `/proc/devices`: a list of character devices, and one of block devices.
fn snapshot_in(drivers: &str, device: DeviceNumber) -> Option<u32> {
    let (_, block) = drivers.split_once("Block devices:")?;
    let is_module = block.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().and_then(|major| major.parse().ok()) == Some(device.major)
            && words.next() == Some(cowbird_abi::DISK_PREFIX)
    });
    is_module.then_some(device.minor)
}

/// An origin as the user named it.
pub struct BlockDevice {
    /// Its number.
    pub number: DeviceNumber,
    /// Its size.
    pub bytes: u64,
}

/// Looks at a block device. It must answer within a bound; its size comes from `/sys`.
pub fn open_block_device(path: &Path) -> Result<BlockDevice> {
    let meta = fs::metadata(path).with_context(|| format!("cannot find {}", path.display()))?;
    if !meta.file_type().is_block_device() {
        bail!("{} is not a block device", path.display());
    }
    probe::opens(path)?;
    let number = DeviceNumber::from_raw(meta.rdev());
    let sectors = number_of_sectors(number, "size")?;
    if sectors == 0 {
        bail!("{} is empty (no medium?)", path.display());
    }
    Ok(BlockDevice {
        number,
        bytes: sectors * SECTOR_BYTES,
    })
}

/// The device that a folder of `/sys` is about.
pub fn number_in(dir: &Path) -> Option<DeviceNumber> {
    DeviceNumber::parse(&fs::read_to_string(dir.join("dev")).ok()?)
}

/// What is in a folder; nothing where it is not there.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Partitions of a disk; none for a partition.
pub fn partitions(device: DeviceNumber) -> Vec<DeviceNumber> {
    entries(&device.sys_dir())
        .iter()
        .filter(|path| path.join("partition").exists())
        .filter_map(|path| number_in(path))
        .collect()
}

/// The device and its partitions, each with the byte of the device that it begins at.
pub fn parts(device: DeviceNumber) -> Result<Vec<(DeviceNumber, u64)>> {
    let mut parts = vec![(device, 0)];
    for partition in partitions(device) {
        let start = number_of_sectors(partition, "start")?;
        parts.push((partition, start * SECTOR_BYTES));
    }
    Ok(parts)
}

/// A number of sectors that `/sys` has of a device.
fn number_of_sectors(device: DeviceNumber, name: &str) -> Result<u64> {
    let path = device.sys_dir().join(name);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let number = text.trim().parse();
    number.with_context(|| format!("{} is no number: {text:?}", path.display()))
}

/// The disk that a partition belongs to; a disk itself.
pub fn whole_disk(device: DeviceNumber) -> DeviceNumber {
    let dir = device.sys_dir();
    if !dir.join("partition").exists() {
        return device;
    }
    fs::canonicalize(&dir)
        .ok()
        .and_then(|path| number_in(path.parent()?))
        .unwrap_or(device)
}

/// Devices that `/sys` lists as its `holders` or `slaves`.
pub fn related(device: DeviceNumber, folder: &str) -> Vec<DeviceNumber> {
    entries(&device.sys_dir().join(folder))
        .iter()
        .filter_map(|path| number_in(path))
        .collect()
}

/// The device itself, its partitions, and everything that is stacked on them:
/// whoever is mounted from one of these writes to the device.
pub fn devices_above(device: &DeviceNumber) -> Result<BTreeSet<DeviceNumber>> {
    closure(*device, |next| {
        let mut above = partitions(next);
        above.extend(related(next, "holders"));
        above
    })
}

/// The device and everything above it, as the module is told what to freeze: what has claimed one of
/// them without being a filesystem is known where it is a device, or swap.
pub fn to_freeze(device: &DeviceNumber) -> Result<Vec<cowbird_freeze_device>> {
    let swaps = swaps();
    let devices = devices_above(device)?;
    Ok(devices
        .into_iter()
        .map(|device| {
            let harmless = swaps.contains(&device)
                || !partitions(device).is_empty()
                || !related(device, "holders").is_empty();
            cowbird_freeze_device {
                major: device.major,
                minor: device.minor,
                flags: if harmless { COWBIRD_FREEZE_HARMLESS } else { 0 },
                reserved: 0,
            }
        })
        .collect())
}

/// Devices that are swapped to; what is on them is nobody's file.
fn swaps() -> BTreeSet<DeviceNumber> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| fs::metadata(line.split_ascii_whitespace().next()?).ok())
        .filter(|meta| meta.file_type().is_block_device())
        .map(|meta| DeviceNumber::from_raw(meta.rdev()))
        .collect()
}

/// Loop devices, each with the device that it shows, or whose filesystem has the file that it shows.
fn loops() -> Vec<(DeviceNumber, DeviceNumber)> {
    let shown = |dir: &PathBuf| {
        let path = fs::read_to_string(dir.join("loop/backing_file")).ok()?;
        let meta = fs::metadata(path.trim_end()).ok()?;
        let raw = if meta.file_type().is_block_device() {
            meta.rdev()
        } else {
            meta.dev()
        };
        Some((number_in(dir)?, DeviceNumber::from_raw(raw)))
    };
    loop_folders().iter().filter_map(shown).collect()
}

/// Folders of `/sys` of all loop devices.
pub fn loop_folders() -> Vec<PathBuf> {
    let is_loop = |dir: &PathBuf| {
        dir.file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b"loop"))
    };
    let mut folders = entries(Path::new("/sys/block"));
    folders.retain(is_loop);
    folders
}

/// Refuses origins of which one lies on another: while the lower one's writes are held, those of
/// the upper one never come to rest.
pub fn check_apart(origins: &[(DeviceNumber, &str)]) -> Result<()> {
    if origins.len() < 2 {
        return Ok(());
    }
    // Looked at once: a machine may have hundreds of devices.
    let loops = loops();
    for (at, (lower, lower_name)) in origins.iter().enumerate() {
        let above = closure(*lower, |next| {
            let mut above = partitions(next);
            above.extend(related(next, "holders"));
            above.extend(
                loops
                    .iter()
                    .filter_map(|&(device, shown)| (shown == next).then_some(device)),
            );
            above
        })?;
        for (other_at, (upper, upper_name)) in origins.iter().enumerate() {
            if at != other_at && above.contains(upper) {
                bail!(
                    "{upper_name} is stacked on {lower_name} or is the same device; both cannot be in one set: leave one out"
                );
            }
        }
    }
    Ok(())
}

/// Everything that the device is made of, itself included.
fn devices_below(device: DeviceNumber) -> Result<BTreeSet<DeviceNumber>> {
    closure(device, |next| related(whole_disk(next), "slaves"))
}

/// Everything that can be reached by steps from a device, itself included.
///
/// # Errors
/// When that takes too many steps.
pub fn closure(
    start: DeviceNumber,
    step: impl Fn(DeviceNumber) -> Vec<DeviceNumber>,
) -> Result<BTreeSet<DeviceNumber>> {
    let mut found = BTreeSet::from([start]);
    let mut layer = vec![start];
    for _ in 0..MAX_DEPTH {
        layer = layer
            .into_iter()
            .flat_map(&step)
            .filter(|device| found.insert(*device))
            .collect();
        if layer.is_empty() {
            return Ok(found);
        }
    }
    bail!("more than {MAX_DEPTH} devices are stacked on {start}; is there a loop?")
}

/// Refuses a COW file whose writes would come back to the origin through
/// another device: they would have to be preserved themselves, without end.
pub fn check_cow_placement(origin: &DeviceNumber, cow: &DeviceNumber, path: &Path) -> Result<()> {
    if cow.major == 0 {
        bail!(
            "{} is on a filesystem without a block device of its own (tmpfs, overlay, btrfs, network); \
             choose a place on ext4 or xfs",
            path.display()
        );
    }
    let (origin_disk, cow_disk) = (whole_disk(*origin), whole_disk(*cow));
    if origin_disk == cow_disk {
        return Ok(());
    }
    if cow_disk.sys_dir().join("loop/backing_file").exists() {
        bail!(
            "{} is on a loop device, whose own writes cannot be told apart",
            path.display()
        );
    }
    if is_among(*origin, &devices_below(*cow)?, whole_disk) {
        bail!(
            "{} is on a device that is itself stacked on the origin; choose a file on the origin's \
             own filesystem or on another disk",
            path.display()
        );
    }
    Ok(())
}

/// How the identity of an encrypted device-mapper device begins, whichever program made it; that of its partitions has it behind
/// `part1-`.
const ENCRYPTED: &str = "CRYPT-";

/// Refuses a COW file on a device that is not encrypted, of an origin that is: what the origin's encryption hides from whoever
/// has the disk would lie on the other disk as it is, also after the snapshot has ended.
pub fn check_cow_secrecy(origin: &DeviceNumber, cow: &DeviceNumber, path: &Path) -> Result<()> {
    let encrypted = |device: &DeviceNumber| {
        let uuid = whole_disk(*device).sys_dir().join("dm/uuid");
        fs::read_to_string(uuid).is_ok_and(|uuid| is_encrypted(&uuid))
    };
    if discloses(&devices_below(*origin)?, &devices_below(*cow)?, encrypted) {
        bail!(
            "the origin is on an encrypted device and {} is not, so its blocks would lie there unencrypted, also after the snapshot has \
             ended; put the COW file on the origin's own filesystem or on another encrypted device, or \
             say with --plaintext-cow-file that this is meant",
            path.display()
        );
    }
    Ok(())
}

fn is_encrypted(uuid: &str) -> bool {
    let whole = match uuid.split_once('-') {
        Some((part, whole)) if part.starts_with("part") => whole,
        _ => uuid,
    };
    whole.starts_with(ENCRYPTED)
}

/// Whether something among these devices is encrypted and nothing among those is.
fn discloses(
    origin: &BTreeSet<DeviceNumber>,
    cow: &BTreeSet<DeviceNumber>,
    encrypted: impl Fn(&DeviceNumber) -> bool,
) -> bool {
    origin.iter().any(&encrypted) && !cow.iter().any(&encrypted)
}

/// Whether one of these devices shares blocks with the origin: it is the origin, its disk, or a partition
/// of it. Another partition of the same disk does not.
fn is_among(
    origin: DeviceNumber,
    devices: &BTreeSet<DeviceNumber>,
    disk_of: impl Fn(DeviceNumber) -> DeviceNumber,
) -> bool {
    devices
        .iter()
        .any(|&device| device == origin || device == disk_of(origin) || disk_of(device) == origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_parse_and_print() {
        let number = DeviceNumber::parse("254:17\n").unwrap();
        assert_eq!(
            number,
            DeviceNumber {
                major: 254,
                minor: 17
            }
        );
        assert_eq!(number.to_string(), "254:17");
        assert!(DeviceNumber::parse("254").is_none());
    }

    /// Goal: a device is a snapshot by its number alone. Method: a list as the kernel writes it, with a character device and
    /// another driver whose names are like the module's.
    #[test]
    fn a_snapshot_is_known_by_its_number() {
        let drivers = "Character devices:\n  1 mem\n248 cowbird\n\nBlock devices:\n  8 sd\n251 cowbird\n252 cowbird2\n254 virtblk\n";
        let minor = |major| snapshot_in(drivers, DeviceNumber { major, minor: 7 });
        assert_eq!(minor(251), Some(7));
        for other in [1, 8, 248, 252, 254] {
            assert_eq!(minor(other), None, "{other}");
        }
        let without = drivers.replace("251 cowbird\n", "");
        assert_eq!(
            snapshot_in(
                &without,
                DeviceNumber {
                    major: 251,
                    minor: 7
                }
            ),
            None
        );
    }

    #[test]
    fn a_closure_ends_even_in_a_loop() {
        let a = DeviceNumber { major: 1, minor: 1 };
        let b = DeviceNumber { major: 1, minor: 2 };
        let found = closure(a, |next| vec![if next == a { b } else { a }]).unwrap();
        assert_eq!(found, BTreeSet::from([a, b]));
        let endless = closure(a, |next| {
            vec![DeviceNumber {
                major: 1,
                minor: next.minor + 1,
            }]
        });
        assert!(endless.is_err());
    }

    #[test]
    fn what_is_no_block_device_is_refused() {
        let error = open_block_device(Path::new("/dev/null"))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("not a block device"), "{error}");
        assert!(open_block_device(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_cow_file_needs_a_block_device() {
        let origin = DeviceNumber {
            major: 254,
            minor: 1,
        };
        let tmpfs = DeviceNumber {
            major: 0,
            minor: 33,
        };
        assert!(check_cow_placement(&origin, &tmpfs, Path::new("/tmp/cow")).is_err());
        assert!(check_cow_placement(&origin, &origin, Path::new("/mnt/cow")).is_ok());
    }

    #[test]
    fn what_is_encrypted_stays_so() {
        for uuid in [
            "CRYPT-LUKS2-0a1b-root\n",
            "CRYPT-PLAIN-swap",
            "part1-CRYPT-LUKS1-0a1b-root",
        ] {
            assert!(is_encrypted(uuid), "{uuid}");
        }
        for uuid in ["LVM-CRYPT-x", "", "mpath-1", "part1-mpath-1"] {
            assert!(!is_encrypted(uuid), "{uuid}");
        }
        // A logical volume on an encrypted device on a disk; another disk; another encrypted device on it.
        let device = |major, minor| DeviceNumber { major, minor };
        let (disk, crypt, volume) = (device(254, 0), device(253, 0), device(253, 1));
        let (other_disk, other_crypt) = (device(254, 16), device(253, 2));
        let encrypted = |found: &DeviceNumber| [crypt, other_crypt].contains(found);
        let discloses = |origin: &[DeviceNumber], cow: &[DeviceNumber]| {
            let set = |devices: &[DeviceNumber]| devices.iter().copied().collect();
            discloses(&set(origin), &set(cow), encrypted)
        };
        assert!(discloses(&[volume, crypt, disk], &[other_disk]));
        assert!(discloses(&[volume, crypt, disk], &[disk]));
        assert!(!discloses(&[volume, crypt, disk], &[volume, crypt, disk]));
        assert!(!discloses(&[crypt, disk], &[other_crypt, other_disk]));
        assert!(!discloses(&[disk], &[other_disk]));
    }

    #[test]
    fn of_a_disk_only_the_same_partition_counts() {
        let device = |major, minor| DeviceNumber { major, minor };
        // Partitions 1 to 15 of disk 254:0; device-mapper is 253.
        let disk_of = |found: DeviceNumber| match found.major {
            254 => device(254, 0),
            _ => found,
        };
        let lies_on = |origin, below: &[DeviceNumber]| {
            is_among(origin, &below.iter().copied().collect(), disk_of)
        };
        let volume = device(253, 0);
        assert!(!lies_on(device(254, 1), &[volume, device(254, 2)]));
        assert!(lies_on(device(254, 2), &[volume, device(254, 2)]));
        assert!(lies_on(device(254, 0), &[volume, device(254, 2)]));
        assert!(lies_on(device(254, 1), &[volume, device(254, 0)]));
        assert!(lies_on(volume, &[device(253, 1), volume]));
    }
}
