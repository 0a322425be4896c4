//! What tells a block device from another one that gets its name, from `/sys`.
//!
//! Names outlive a boot, and so do mistakes: `/dev/sdb` is another disk when a cable moves, a disk that was
//! cloned brings its partitions' UUIDs along, a multipath name is given out anew. Of everything that a device
//! says of itself this keeps what its maker or creator has given it, and nothing that may change while it
//! stays the same device.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use cowbird_outside::printable;
use serde::{Deserialize, Serialize};

use crate::probe;
use crate::topology::{self, DeviceNumber};

/// Longest value that is kept, bytes; a record has a bound.
const LIMIT_BYTES: usize = 512;

/// Where a disk says what it is: name in a record, file in the disk's folder.
const OF_DISKS: [(&str, &str); 6] = [
    ("wwid", "wwid"),
    ("wwid", "device/wwid"),
    ("serial", "serial"),
    ("serial", "device/serial"),
    ("dm-uuid", "dm/uuid"),
    ("md-uuid", "md/uuid"),
];

/// What a device says of itself. Two of the same device agree in all that both have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(BTreeMap<String, String>);

impl Identity {
    /// Of a device that is there now. What it does not say is left out.
    pub fn of(device: DeviceNumber) -> Self {
        let disk = topology::whole_disk(device);
        let mut identity = Self::of_disk(&disk.sys_dir());
        if disk != device {
            identity.add_partition(&device.sys_dir());
        }
        identity
    }

    fn of_disk(folder: &Path) -> Self {
        let mut identity = Self::default();
        for (name, file) in OF_DISKS {
            identity.add(name, value(&folder.join(file)));
        }
        identity
    }

    fn add_partition(&mut self, folder: &Path) {
        self.add("partition", value(&folder.join("partition")));
        let uevent = fs::read_to_string(folder.join("uevent")).unwrap_or_default();
        let uuid = uevent
            .lines()
            .find_map(|line| line.strip_prefix("PARTUUID="));
        self.add("partuuid", uuid.map(str::to_owned));
    }

    fn add(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| value.len() <= LIMIT_BYTES) {
            self.0.entry(name.to_owned()).or_insert(value);
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In what another device differs from this one. What only one of them says is no difference: it
    /// depends on the kernel and its drivers.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        self.0.iter().find_map(|(name, was)| {
            let is = other.0.get(name).filter(|is| *is != was)?;
            Some(Difference {
                name: name.clone(),
                was: was.clone(),
                is: is.clone(),
            })
        })
    }
}

/// One value that a device had, and has not.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    name: String,
    was: String,
    is: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its {} is {}, and was {}",
            printable(&self.name),
            printable(&self.is),
            printable(&self.was)
        )
    }
}

/// The content of a file; nothing where it is empty or cannot be read, or where nothing answers in time.
fn value(path: &Path) -> Option<String> {
    if !path.exists() || !probe::can_be_read(path) {
        return None;
    }
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    // Drivers pad what they pass on, some with zeros.
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(files: &[(&str, &str)]) -> Identity {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        Identity::of_disk(dir.path())
    }

    /// Goal: another device is told apart, and the same one is not, whatever its driver says more or less of it.
    #[test]
    fn devices_differ_in_what_both_say() {
        let first = disk(&[("serial", "A1\n"), ("device/wwid", "naa.5000  \0\n")]);
        assert_eq!(first.difference(&first), None);
        assert_eq!(first.difference(&disk(&[("serial", " A1 ")])), None);
        assert_eq!(first.difference(&disk(&[])), None);
        assert_eq!(disk(&[("serial", "\n")]), Identity::default());

        let other = disk(&[("serial", "A2"), ("device/wwid", "naa.5000")]);
        let difference = first.difference(&other).unwrap().to_string();
        assert_eq!(difference, "its serial is A2, and was A1");
        let volume = |uuid| disk(&[("dm/uuid", uuid)]);
        assert!(volume("LVM-a").difference(&volume("LVM-b")).is_some());
    }

    /// Goal: of two partitions of one disk, each has the other's serial and still is not the other.
    #[test]
    fn partitions_of_one_disk_differ() {
        let partition = |number: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("partition"), number).unwrap();
            fs::write(
                dir.path().join("uevent"),
                format!("DEVNAME=sda{number}\nPARTUUID=ab-0{number}\n"),
            )
            .unwrap();
            let mut identity = disk(&[("serial", "A1")]);
            identity.add_partition(dir.path());
            identity
        };
        let difference = partition("1").difference(&partition("2")).unwrap();
        assert_eq!(difference.name, "partition");
        assert_eq!(partition("1").difference(&partition("1")), None);
    }

    /// Goal: a value of any length leaves a record that can be read.
    #[test]
    fn values_have_a_bound() {
        assert!(disk(&[("serial", &"x".repeat(LIMIT_BYTES + 1))]).is_empty());
        let odd = disk(&[("serial", "a\u{1b}[2J\"b")]);
        let text = serde_json::to_string(&odd).unwrap();
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), odd);
    }
}
