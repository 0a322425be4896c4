//! Mounted filesystems, from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use crate::topology::DeviceNumber;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device number of the filesystem (anonymous for btrfs and the like).
    pub device: DeviceNumber,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its type.
    pub fs_type: String,
    /// What was mounted; often a path.
    pub source: PathBuf,
}

impl Mount {
    /// Whether a program serves it, which any user may start: its source is what he says, and to open its root may take
    /// for ever. Not those whose program has a block device, which only root can start.
    pub fn is_of_a_user(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")
    }

    /// Number of the block device that `source` names, if it names one.
    pub fn source_device(&self) -> Option<DeviceNumber> {
        if self.is_of_a_user() || !self.source.starts_with("/dev") {
            return None;
        }
        let meta = fs::metadata(&self.source).ok()?;
        meta.file_type()
            .is_block_device()
            .then(|| DeviceNumber::from_raw(meta.rdev()))
    }
}

/// All mounts of this mount namespace.
pub fn read() -> Result<Vec<Mount>> {
    let text =
        fs::read(MOUNTINFO).context("cannot read /proc/self/mountinfo; is /proc mounted?")?;
    parse(&text)
}

/// From the text of the list.
///
/// # Errors
/// When a line of it cannot be understood.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>> {
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                anyhow!(
                    "{MOUNTINFO}: cannot understand: {}",
                    String::from_utf8_lossy(line)
                )
            })
        })
        .collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw` (proc(5))
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = DeviceNumber::parse(std::str::from_utf8(fields.nth(2)?).ok()?)?;
    let mount_point = unescape(fields.nth(1)?);
    fields.find(|field| *field == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    Some(Mount {
        device,
        mount_point,
        fs_type,
        source,
    })
}

/// Undoes the octal escapes of blanks, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| {
            first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        if let Some(digits) = octal {
            bytes.push(digits.iter().fold(0u8, |value, digit| {
                value.wrapping_mul(8).wrapping_add(digit - b'0')
            }));
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Goal: what a user calls the source of his filesystem is not believed, and no path outside of `/dev` is looked at.
    #[test]
    fn the_source_of_a_users_filesystem_means_nothing() {
        let mount = |fs_type: &str, source: &str| Mount {
            device: DeviceNumber::parse("0:50").unwrap(),
            mount_point: PathBuf::from("/home/u/m"),
            fs_type: fs_type.into(),
            source: PathBuf::from(source),
        };
        assert!(mount("fuse", "/dev/vda1").is_of_a_user());
        assert!(mount("fuse.sshfs", "/dev/vda1").is_of_a_user());
        assert!(!mount("fuseblk", "/dev/vda1").is_of_a_user());
        for user in [mount("fuse.sshfs", "/dev/vda1"), mount("nfs", "/srv/disk")] {
            assert_eq!(user.source_device(), None);
        }
    }

    #[test]
    fn reads_lines_with_and_without_optional_fields() {
        let text = b"36 35 98:0 / /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw\n\
                     37 35 254:17 / /a\\040b rw - xfs /dev/vdb1 rw,attr2\n";
        let mounts = parse(text).unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].fs_type, "ext3");
        assert_eq!(
            mounts[1].device,
            DeviceNumber {
                major: 254,
                minor: 17
            }
        );
        assert_eq!(mounts[1].mount_point, PathBuf::from("/a b"));
        assert_eq!(mounts[1].source, PathBuf::from("/dev/vdb1"));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_an_error_and_not_skipped() {
        let error = parse(b"36 35 98:0 /mnt1\n").unwrap_err().to_string();
        assert!(error.contains("98:0"), "{error}");
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(
            read()
                .unwrap()
                .iter()
                .any(|mount| mount.mount_point.as_path() == Path::new("/"))
        );
    }
}
