//! Whether the COW file of a series that was taken up again is the one that was in use.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, anyhow};

use crate::info::Device;
use crate::module::{Loaded, Module};
use crate::topology::DeviceNumber;
use crate::{mounts, names};

/// What became of a COW file that the module does not hold.
#[derive(Debug, PartialEq, Eq)]
pub enum Verified {
    Now,
    /// Its filesystem is not mounted.
    Later,
}

/// Devices of all filesystems that are mounted.
pub fn mounted() -> Result<Vec<DeviceNumber>> {
    Ok(mounts::read()?.iter().map(|mount| mount.device).collect())
}

/// Hands the COW file of a series over, if its filesystem is mounted.
///
/// # Errors
/// When the file is not there, or is another one.
pub fn where_mounted(
    device: &Device,
    mounted: &[DeviceNumber],
    module: &impl Module,
) -> Result<Verified> {
    let on = DeviceNumber::parse(&device.cow_device);
    match Reach::of(is_reachable(device), on, mounted) {
        Reach::Later => Ok(Verified::Later),
        Reach::There => module.verify(device).map(|()| Verified::Now),
        Reach::Missing => Err(anyhow!(
            "the COW file {} is not there, although its filesystem is mounted; rename it back, or destroy minor {} and \
             take a full backup",
            names::shown(&device.cow_file),
            device.minor
        )),
    }
}

/// Whoever reads a snapshot that was taken up again has its COW file verified first, if its filesystem is mounted: what
/// lies in the blocks of a file that was removed is somebody else's.
///
/// # Errors
/// When the file is not there, or is another one.
pub fn before_use(device: &Device) -> Result<()> {
    if device.cow_is_pinned || !device.tracks {
        return Ok(());
    }
    where_mounted(device, &mounted()?, &Loaded)
        .map(drop)
        .with_context(|| format!("snapshot {} cannot be trusted", device.minor))
}

/// Where a COW file is to be looked for.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    /// Under its name.
    There,
    /// Nowhere, before its filesystem is mounted.
    Later,
    /// Nowhere, although its filesystem is mounted.
    Missing,
}

impl Reach {
    fn of(is_there: bool, device: Option<DeviceNumber>, mounted: &[DeviceNumber]) -> Self {
        match device {
            _ if is_there => Self::There,
            Some(device) if mounted.contains(&device) => Self::Missing,
            _ => Self::Later,
        }
    }
}

/// Whether the COW file's name leads to a file on the device that it must be on.
fn is_reachable(device: &Device) -> bool {
    let on = DeviceNumber::parse(&device.cow_device);
    fs::symlink_metadata(&device.cow_file)
        .is_ok_and(|meta| on == Some(DeviceNumber::from_raw(meta.dev())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a COW file that was removed is not taken for one whose filesystem comes later.
    #[test]
    fn a_file_that_is_missing_is_told_from_one_that_comes_later() {
        let number = |text| DeviceNumber::parse(text).unwrap();
        let (home, other) = (number("254:1"), number("254:2"));
        let reach = |there, mounted: &[DeviceNumber]| Reach::of(there, Some(home), mounted);
        assert_eq!(reach(false, &[other, home]), Reach::Missing);
        assert_eq!(reach(false, &[other]), Reach::Later);
        assert_eq!(reach(true, &[other, home]), Reach::There);
        assert_eq!(Reach::of(false, None, &[home]), Reach::Later);
    }
}
