//! The last step of a backup: the origin after the image was copied back to it.
//!
//! What is not checked here: how the restore was made, which is a plain copy, and a restored origin that
//! something wrote to afterwards, block by block; such a one is judged by those who use it.

use std::fs;
use std::path::Path;

use cowbird_host::disk::{self, Filesystem, Partition};
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_model::SectorRange;

use crate::blocks::Compared;
use crate::checkers::{Checker, F2FS, XFS};
use crate::judgement::Judgement;
use crate::mapped::{of_range, untrusted};

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
            Filesystem::Xfs => self.check_with("xfs_repair", XFS, &path)?,
            Filesystem::F2fs => self.check_with("fsck.f2fs", F2FS, &path)?,
            Filesystem::Btrfs => {
                let note = "the btrfs on it was mounted and used, but no checker has looked at it";
                self.notes.push(note.to_owned());
            }
        }
        fs::remove_file(&path).on("remove", &path)
    }

    fn check_with(&mut self, name: &str, checker: Checker, path: &Path) -> HarnessResult<()> {
        if let Some(complaint) = checker.look_at(path)? {
            self.fault(format!("{name} finds errors: {}", complaint.first));
        }
        Ok(())
    }
}
