//! What the record of a series says of a time in which nothing tracked it.
//!
//! As long as the boot lasts in which that was, and the origin's device is not made anew, the module can tell
//! whether anything was written: the kernel counts. After that nobody can.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::boot;
use crate::info;
use crate::topology::DeviceNumber;

/// When it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untracked {
    /// Identity of the boot, in hexadecimal.
    boot: String,
    /// Which device of `/sys` the origin was: a device that is made anew has another inode there, and counts from zero.
    instance: u64,
}

impl Untracked {
    /// From now on, with the origin as it is now.
    ///
    /// # Errors
    /// When boot or device say nothing of themselves.
    pub fn now(origin: DeviceNumber) -> Result<Self> {
        let folder = origin.sys_dir();
        let meta = fs::metadata(&folder)
            .with_context(|| format!("cannot look at {}", folder.display()))?;
        Ok(Self {
            boot: info::hex(&boot::id()?),
            instance: meta.ino(),
        })
    }

    /// Why the module cannot tell whether anything was written since: it began in another boot, or with another instance of
    /// the origin's device.
    ///
    /// # Errors
    /// When boot or device say nothing of themselves.
    pub fn differs(&self, name: &Path, origin: DeviceNumber) -> Result<Option<String>> {
        let now = Self::now(origin)?;
        let name = name.display();
        Ok(if self.boot != now.boot {
            Some(format!(
                "changes of {name} were not tracked in an earlier boot and are not known; take a full backup"
            ))
        } else if self.instance != now.instance {
            Some(format!(
                "{name} was removed and came back while its changes were not tracked; take a full backup"
            ))
        } else {
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a pause within one boot is no reason for doubt, and another boot or another device is.
    #[test]
    fn boots_and_devices_are_told_apart() {
        // Any two of this machine.
        let mut devices = fs::read_dir("/sys/dev/block").unwrap().map(|entry| {
            let name = entry.unwrap().file_name();
            DeviceNumber::parse(name.to_str().unwrap()).unwrap()
        });
        let (Some(device), Some(other)) = (devices.next(), devices.next()) else {
            return;
        };
        let name = Path::new("/dev/some");
        let now = Untracked::now(device).unwrap();
        assert_eq!(now.differs(name, device).unwrap(), None);
        let said = now.differs(name, other).unwrap().unwrap();
        assert!(said.contains("removed and came back"), "{said}");
        let earlier = Untracked {
            boot: info::hex(&[0; 16]),
            ..now
        };
        let said = earlier.differs(name, device).unwrap().unwrap();
        assert!(said.contains("in an earlier boot"), "{said}");
    }
}
