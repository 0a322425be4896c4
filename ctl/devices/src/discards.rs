//! Origins that are members of a RAID whose parity depends on what a discard does.
//!
//! A discard of blocks that a snapshot still needs is absorbed: it never reaches the disk, and the blocks keep their content. That is what a
//! discard allows. An md RAID 4, 5 or 6 that was told otherwise (`raid456.devices_handle_discard_safely=Y`) takes the blocks for
//! zeros afterwards, and computes parity from that: a disk that fails later is reconstructed wrongly. The RAID of LVM has a parameter of its
//! own (`dm_raid`), and says nowhere in `/sys` of which level it is.

use std::fs;

use anyhow::{Result, bail};

use crate::topology::{self, DeviceNumber};

const PARAMETER: &str = "/sys/module/raid456/parameters/devices_handle_discard_safely";
const LVM_PARAMETER: &str = "/sys/module/dm_raid/parameters/devices_handle_discard_safely";

/// What the names of the parts of LVM's RAIDs have in them.
const LVM_PART: &str = "_rimage_";

/// Refuses an origin whose discards such a RAID relies on.
///
/// # Errors
/// When the origin is below one.
pub fn check(origin: DeviceNumber, name: &str) -> Result<()> {
    let believed = fs::read_to_string(PARAMETER).unwrap_or_default();
    let mut above = topology::devices_above(&origin)?;
    // What is stacked on the whole disk covers its partitions.
    for holder in topology::related(topology::whole_disk(origin), "holders") {
        above.extend(topology::devices_above(&holder)?);
    }
    let lvm_believes = fs::read_to_string(LVM_PARAMETER).unwrap_or_default();
    let parts = above
        .iter()
        .filter_map(|device| fs::read_to_string(device.sys_dir().join("dm/name")).ok());
    check_parts(name, &lvm_believes, parts)?;
    let arrays = above.into_iter().filter_map(|device| {
        let level = fs::read_to_string(device.sys_dir().join("md/level")).ok()?;
        Some((device, level))
    });
    check_arrays(name, &believed, arrays)
}

/// `parts`: names of device-mapper devices above the origin.
fn check_parts(name: &str, believed: &str, parts: impl IntoIterator<Item = String>) -> Result<()> {
    if believed.trim() != "Y" {
        return Ok(());
    }
    match parts.into_iter().find(|part| part.contains(LVM_PART)) {
        None => Ok(()),
        Some(part) => bail!(
            "{name} has a part of a RAID of LVM on it ({}), and dm_raid.devices_handle_discard_safely is set: a discard that a \
             snapshot absorbs would make its parity wrong. Take the snapshot of the logical volume itself, or clear the parameter \
             (echo N > {LVM_PARAMETER})",
            part.trim()
        ),
    }
}

/// `arrays`: those above the origin, and what `/sys` has as their level.
fn check_arrays(
    name: &str,
    believed: &str,
    arrays: impl IntoIterator<Item = (DeviceNumber, String)>,
) -> Result<()> {
    // 5 and 6 can be told to be 4, and each other.
    let relies = |level: &str| matches!(level.trim(), "raid4" | "raid5" | "raid6");
    if believed.trim() != "Y" {
        return Ok(());
    }
    for (device, level) in arrays {
        if relies(&level) {
            let array = topology::stable_name(device).map_or_else(
                |_| format!("md device {device}"),
                |path| path.display().to_string(),
            );
            bail!(
                "{name} is a member of {array}, a {}, and raid456.devices_handle_discard_safely is set: a discard that a snapshot \
                 absorbs would make its parity wrong. Take the snapshot of {array} itself, or clear the parameter (echo N > \
                 {PARAMETER})",
                level.trim()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_raids_of_lvm_are_refused_where_those_believe_in_discards() {
        let parts = || ["vg-root\n", "vg-data_rimage_1\n"].map(String::from);
        let error = check_parts("/dev/vda1", "Y\n", parts())
            .unwrap_err()
            .to_string();
        assert!(error.contains("vg-data_rimage_1"), "{error}");
        assert!(check_parts("/dev/vda1", "N\n", parts()).is_ok());
        assert!(check_parts("/dev/vda1", "Y\n", ["vg-root\n".to_owned()]).is_ok());
    }

    #[test]
    fn only_parity_that_believes_in_discards_is_refused() {
        let array = |level: &str| {
            let device = DeviceNumber {
                major: 9,
                minor: 4_000,
            };
            [(device, format!("{level}\n"))]
        };
        for level in ["raid4", "raid5", "raid6"] {
            let error = check_arrays("/dev/vda1", "Y\n", array(level))
                .unwrap_err()
                .to_string();
            assert!(error.contains(level), "{error}");
            assert!(error.starts_with("/dev/vda1 is a member of md device 9:4000"));
            assert!(check_arrays("/dev/vda1", "N\n", array(level)).is_ok());
            assert!(check_arrays("/dev/vda1", "", array(level)).is_ok());
        }
        for level in ["raid0", "raid1", "raid10", "linear"] {
            assert!(check_arrays("/dev/vda1", "Y\n", array(level)).is_ok());
        }
    }
}
