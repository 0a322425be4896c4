//! Files that boot loaders write to in place, below the kernel, so that the module sees nothing of it: GRUB's environment
//! block. Their blocks are in every change map, so that an update of an image copies them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use cowbird_devices::mounts;
use cowbird_devices::topology::{self, DeviceNumber};

use crate::change_map::{BLOCK_BYTES, ChangeMap};
use crate::info::{self, Device};
use crate::{fiemap, names, out};

/// From the root of a filesystem: with `/boot` on it, or of its own.
const FILES: [&str; 4] = [
    "boot/grub/grubenv",
    "boot/grub2/grubenv",
    "grub/grubenv",
    "grub2/grubenv",
];

/// Far more than such a file has.
const LIMIT_BYTES: u64 = 1 << 20;

/// Adds the blocks of such files, as far as filesystems of the origin are mounted. A file that cannot be asked about is
/// complained of, and is no reason to have no map.
///
/// # Errors
/// When nobody knows what is mounted, or where partitions lie.
pub fn add(map: &mut ChangeMap, device: &Device) -> Result<()> {
    let origin = DeviceNumber::parse(&device.origin_device).context(info::BAD_REPORT)?;
    let mounts = mounts::read()?;
    for (part, begin) in topology::parts(origin)? {
        for mount in mounts.iter().filter(|mount| mount.device == part) {
            for file in FILES {
                let path = mount.mount_point.join(file);
                if let Err(error) = add_file(map, &path, part, begin) {
                    out::complain(format_args!(
                        "{}: what a boot loader writes to it may be missing from the change map: {error:#}",
                        names::shown(&path)
                    ));
                }
            }
        }
    }
    Ok(())
}

/// `begin` is where the filesystem, which is on `part`, begins on the origin, bytes. A link, or what is mounted over it, may
/// lead to a file of another filesystem: that one does not count.
fn add_file(map: &mut ChangeMap, path: &Path, part: DeviceNumber, begin: u64) -> Result<()> {
    let is_one = fs::symlink_metadata(path).is_ok_and(|meta| {
        meta.file_type().is_file()
            && DeviceNumber::from_raw(meta.dev()) == part
            && (1..=LIMIT_BYTES).contains(&meta.len())
    });
    if !is_one {
        return Ok(());
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .context("cannot open it")?;
    let bytes = file.metadata().context("cannot look at it")?.len();
    for extent in fiemap::extents(&file, path, bytes)? {
        let first = (begin + extent.physical) / BLOCK_BYTES;
        let end = (begin + extent.physical + extent.length).div_ceil(BLOCK_BYTES);
        map.add(first..end);
    }
    Ok(())
}
