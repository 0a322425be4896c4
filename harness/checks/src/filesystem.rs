//! An image as a filesystem: its own checker, and files that must be on it.

use std::fs;
use std::path::Path;
use std::process::Command;

use cowbird_host::disk;
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_proto::message::GoldenFile;
use sha2::{Digest, Sha256};

use crate::checkers::EXT;
use crate::judgement::Judgement;

/// Files that a fault names.
const LISTED_FILES: usize = 5;

impl Judgement {
    pub(crate) fn check_filesystem(&mut self, image: &Path) -> HarnessResult<()> {
        if let Some(complaint) = EXT.look_at(image)? {
            self.text += &complaint.all;
            self.fault(format!(
                "e2fsck finds errors on the image ({})",
                complaint.first
            ));
        }
        Ok(())
    }

    pub(crate) fn check_golden_files(
        &mut self,
        image: &Path,
        golden: &[GoldenFile],
    ) -> HarnessResult<()> {
        let folder = image.with_extension("golden");
        fs::create_dir_all(&folder).on("create", &folder)?;
        let mut wrong = Vec::new();
        for file in golden {
            let name = file.path.replace('/', "_");
            let target = folder.join(&name);
            // Debugfs writes nothing and still succeeds when the file is not there.
            fs::write(&target, []).on("create", &target)?;
            disk::run(
                "debugfs",
                "package e2fsprogs",
                Command::new("debugfs")
                    .arg("-R")
                    .arg(format!("dump /{} {name}", file.path))
                    .arg(image)
                    .current_dir(&folder),
            )?;
            let content = fs::read(&target).on("read", &target)?;
            let digest: [u8; 32] = Sha256::digest(&content).into();
            if digest != file.sha256 {
                wrong.push(format!(
                    "{} ({} of {} bytes)",
                    file.path,
                    content.len(),
                    file.bytes
                ));
            }
        }
        if !wrong.is_empty() {
            self.fault(format!(
                "{} of {} files that were synced before the snapshot differ on the image: {}",
                wrong.len(),
                golden.len(),
                wrong
                    .iter()
                    .take(LISTED_FILES)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        Ok(())
    }
}
