//! `mount`: a snapshot as a filesystem, beside its origin.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::signature::{self, Content};
use crate::topology::{self, BlockDevice};
use crate::{info, out, verify};

/// One way to mount a filesystem that cannot be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    fs_type: &'static str,
    options: &'static str,
}

/// The ways to mount what is there, the best first.
fn ways(content: Content) -> Option<&'static [Way]> {
    const fn way(fs_type: &'static str, options: &'static str) -> Way {
        Way { fs_type, options }
    }
    match content {
        // The driver also takes ext2 and ext3. Where nobody froze the filesystem its journal is not empty, and cannot be replayed.
        Content::Ext => Some(const { &[way("ext4", ""), way("ext4", "noload")] }),
        // The origin, which has the same UUID, may be mounted; and the log of a frozen xfs is never empty.
        Content::Xfs => Some(const { &[way("xfs", "nouuid,norecovery")] }),
        Content::F2fs => Some(const { &[way("f2fs", ""), way("f2fs", "norecovery")] }),
        Content::Other(_) => None,
    }
}

/// `cowbirdctl mount`
pub fn command(minor: u32, folder: &Path) -> Result<()> {
    let snapshot = format!("/dev/{}{minor}", cowbird_abi::DISK_PREFIX);
    let path = Path::new(&snapshot);
    let device = info::find(minor)?;
    if device.error != 0 {
        bail!("{snapshot} has failed: {}", device.error_text);
    }
    verify::before_use(&device)?;
    let BlockDevice { number, bytes } = topology::open_block_device(path)?;
    if topology::snapshot_minor(number) != Some(minor) {
        bail!(
            "{snapshot} is device {number}, which is not that of snapshot {minor}; remove it, and let udev make it anew"
        );
    }
    let file = File::open(path).with_context(|| format!("cannot open {snapshot}"))?;
    let content =
        signature::recognise(&file, bytes).with_context(|| format!("cannot read {snapshot}"))?;
    drop(file);
    let Some(ways) = content.and_then(ways) else {
        bail!(
            "{snapshot} holds {}, which this command cannot mount; use mount with its options for filesystems that are \
             read-only and not clean",
            content.map_or("nothing that is known", Content::name)
        );
    };
    let mut last = None;
    for (at, way) in ways.iter().enumerate() {
        match mount(path, folder, *way) {
            Ok(()) if at > 0 => {
                out::complain(format_args!(
                    "{snapshot} was mounted without its journal ({}): its filesystem was not frozen when the snapshot was taken, and \
                     what was being written then may look damaged",
                    way.options
                ));
                return Ok(());
            }
            Ok(()) => return Ok(()),
            Err(error) => last = Some((way, error)),
        }
    }
    match last {
        Some((way, error)) => Err(error).with_context(|| {
            format!(
                "cannot mount {snapshot} on {} as {} (ro,{}); the kernel log may say why",
                folder.display(),
                way.fs_type,
                way.options
            )
        }),
        None => Ok(()),
    }
}

fn mount(device: &Path, folder: &Path, way: Way) -> io::Result<()> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
    let (source, target) = (
        text(device.as_os_str().as_bytes())?,
        text(folder.as_os_str().as_bytes())?,
    );
    let (fs_type, options) = (text(way.fs_type.as_bytes())?, text(way.options.as_bytes())?);
    // What is in a backup is not there to be executed with more rights.
    let flags = libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOSUID;
    // SAFETY: all four strings end with a zero and outlive the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            fs_type.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xfs_is_mounted_beside_its_origin_and_without_recovery() {
        let ways = ways(Content::Xfs).unwrap();
        assert_eq!(ways.len(), 1);
        assert_eq!(ways[0].options, "nouuid,norecovery");
    }

    #[test]
    fn what_is_no_filesystem_is_not_mounted() {
        assert!(ways(Content::Other("swap space")).is_none());
    }
}
