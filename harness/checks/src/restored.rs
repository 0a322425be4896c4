//! The last step of a backup: the origin after the image was copied back to it.
//!
//! What is not checked here: how the restore was made, which is a plain copy, and a restored origin that
//! something wrote to afterwards, block by block; such a one is judged by those who use it.

use std::fs;
use std::path::Path;
use std::process::Command;

use cowbird_host::disk::{self, Filesystem, Partition};
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_host::tool::{self, TOOL_LIMIT};
use cowbird_model::SectorRange;

use crate::blocks::Compared;
use crate::judgement::Judgement;
use crate::mapped::{of_range, untrusted};

/// xfs_repair exits so when it finds errors.
const XFS_CORRUPT: i32 = 1;

/// xfs_repair exits so when the log was not replayed, as a filesystem leaves it that was not unmounted.
const XFS_DIRTY: i32 = 2;

/// From here on the exit status of fsck.f2fs says that it could not check; below it that it found errors.
const F2FS_OPERATIONAL: i32 = 8;

/// fsck.f2fs exits so whenever it gives up, be it for the filesystem or for the host.
const F2FS_FAILED: i32 = 255;

/// What fsck.f2fs complains of when it is the filesystem's fault.
const F2FS_COMPLAINTS: [&str; 5] = ["[ASSERT]", "[FIX]", "[Fail]", "superblock", "checkpoint"];

/// What is known of the restored origin.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// Whether nothing was written to it, so that it must show the instant, all blocks.
    pub untouched: bool,
    /// The filesystem that was mounted from it, used and unmounted, and must be without errors for its own checker. A btrfs is not
    /// checked, which a note of the cell says.
    pub filesystem: Option<Filesystem>,
    /// What those who used it found wrong, each in one sentence.
    pub faults: Vec<String>,
}

impl Restored {
    /// Judges the origin as it is at the end.
    pub(crate) fn check(
        &self,
        image: &Compared<'_>,
        judgement: &mut Judgement,
    ) -> HarnessResult<()> {
        let mut disk = Judgement::default();
        if self.untouched {
            let content = of_range(image.disk.end, image.origin);
            let report = image.oracle.verify(content);
            disk.take_report(&report.map_err(|error| untrusted(&error))?);
        }
        for fault in &self.faults {
            disk.fault(fault.clone());
        }
        if let Some(kind) = self.filesystem {
            disk.check_restored_filesystem(&image.disk.files, image.origin, kind)?;
        }
        judgement.take_volume("restored disk", disk);
        Ok(())
    }
}

impl Judgement {
    fn check_restored_filesystem(
        &mut self,
        files: &CellFiles,
        origin: SectorRange,
        kind: Filesystem,
    ) -> HarnessResult<()> {
        let path = files.dir.join("restored.raw");
        let sectors = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let partition = Partition {
            start: sectors(origin.start.0),
            sectors: sectors(origin.sectors),
        };
        disk::take_out(&files.origin(), partition, &path)?;
        match kind {
            Filesystem::Ext2 | Filesystem::Ext3 | Filesystem::Ext4 => {
                self.check_filesystem(&path)?;
            }
            Filesystem::Xfs => {
                if let Some(error) = xfs_error(&path)? {
                    self.fault(format!("xfs_repair finds errors: {error}"));
                }
            }
            Filesystem::F2fs => {
                if let Some(error) = f2fs_error(&path)? {
                    self.fault(format!("fsck.f2fs finds errors: {error}"));
                }
            }
            Filesystem::Btrfs => {
                let note = "the btrfs on it was mounted and used, but no checker has looked at it";
                self.notes.push(note.to_owned());
            }
        }
        fs::remove_file(&path).on("remove", &path)
    }
}

/// What is wrong with an xfs that was unmounted: the first complaint.
fn xfs_error(path: &Path) -> HarnessResult<Option<String>> {
    let ran = tool::run_to_end(
        "xfs_repair",
        "package xfsprogs",
        Command::new("xfs_repair").args(["-n", "-f"]).arg(path),
        path.parent().unwrap_or(path),
        TOOL_LIMIT,
    )?;
    let said = match ran.code {
        0 => return Ok(None),
        _ => ran.said()? + &ran.complaints()?,
    };
    let uninteresting = |line: &&str| {
        let line = line.trim_start();
        line.is_empty() || line.starts_with("Phase ") || line.starts_with("- ")
    };
    let first = said.lines().find(|line| !uninteresting(line));
    let first = first.unwrap_or("no word why").trim();
    match ran.code {
        XFS_CORRUPT | XFS_DIRTY => Ok(Some(first.to_owned())),
        code => Err(ran.failed(format!("exit status {code}: {first}"))),
    }
}

/// What is wrong with an f2fs that was unmounted: the first complaint. The checker writes nothing.
fn f2fs_error(path: &Path) -> HarnessResult<Option<String>> {
    let ran = tool::run_to_end(
        "fsck.f2fs",
        "package f2fs-tools",
        Command::new("fsck.f2fs").arg("--dry-run").arg(path),
        path.parent().unwrap_or(path),
        TOOL_LIMIT,
    )?;
    if ran.code == 0 {
        return Ok(None);
    }
    let said = ran.said()? + &ran.complaints()?;
    let complains = |line: &&str| F2FS_COMPLAINTS.iter().any(|words| line.contains(words));
    let first = said.lines().find(complains).map(str::trim);
    match (ran.code, first) {
        (code, first) if code < F2FS_OPERATIONAL => {
            Ok(Some(first.unwrap_or("no word why").to_owned()))
        }
        (F2FS_FAILED, Some(first)) => Ok(Some(first.to_owned())),
        (code, _) => {
            let last = said.trim().lines().last().unwrap_or_default().trim();
            Err(ran.failed(format!("exit status {code}: {last}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an f2fs as its tools make it is without errors, one that is damaged is not, and one that is not there is no fault of it. Method:
    /// both superblocks, or the table of segments, are overwritten.
    #[test]
    fn a_damaged_f2fs_is_seen() {
        use std::os::unix::fs::FileExt;
        let folder = tempfile::tempdir().expect("a folder for the test");
        let disk = folder.path().join("disk");
        let partition = Partition {
            start: 2048,
            sectors: 64 << 11,
        };
        disk::create_partitioned(&disk, 66 << 20, 512, &[partition], &[], 1).expect("a disk");
        disk::make_filesystem(Filesystem::F2fs, &disk, partition, 1).expect("an f2fs");
        let part = folder.path().join("part");
        // In its superblocks, and in those of the tables that a new filesystem uses.
        for damage in [0, 6 << 20] {
            disk::take_out(&disk, partition, &part).expect("the partition alone");
            assert_eq!(f2fs_error(&part).expect("the tool runs"), None);
            let file = fs::File::options()
                .write(true)
                .open(&part)
                .expect("the partition");
            file.write_all_at(&[0xEE; 256 << 10], damage)
                .expect("some damage");
            let error = f2fs_error(&part).expect("the tool runs");
            assert!(error.is_some(), "damage at {damage}");
        }
        fs::remove_file(&part).expect("it is there");
        assert!(f2fs_error(&part).is_err());
    }

    /// Goal: a filesystem as its tools make it is without errors, and one whose metadata is damaged is not.
    /// Method: an inode chunk's allocation group header is overwritten.
    #[test]
    fn a_damaged_xfs_is_seen() {
        use std::os::unix::fs::FileExt;
        let folder = tempfile::tempdir().expect("a folder for the test");
        let disk = folder.path().join("disk");
        let partition = Partition {
            start: 2048,
            sectors: 64 << 11,
        };
        disk::create_partitioned(&disk, 66 << 20, 512, &[partition], &[], 1).expect("a disk");
        disk::make_filesystem(Filesystem::Xfs, &disk, partition, 1).expect("an xfs");
        let part = folder.path().join("part");
        disk::take_out(&disk, partition, &part).expect("the partition alone");
        assert_eq!(xfs_error(&part).expect("the tool runs"), None);
        let file = fs::File::options()
            .write(true)
            .open(&part)
            .expect("the partition");
        // Sector 2 is the header of the inodes of the first allocation group.
        file.write_all_at(&[0xEE; 64], 1024).expect("some damage");
        assert!(xfs_error(&part).expect("the tool runs").is_some());
    }
}
