//! An image as a filesystem: its own checker, and files that must be on it.

use std::fs;
use std::path::Path;
use std::process::Command;

use cowbird_host::disk;
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::tool::{self, TOOL_LIMIT};
use cowbird_proto::message::GoldenFile;
use sha2::{Digest, Sha256};

use crate::judgement::Judgement;

/// Files that a fault names.
const LISTED_FILES: usize = 5;

/// e2fsck adds this to its exit status when it could not check to the end.
const E2FSCK_OPERATIONAL: i32 = 8;

/// From here on the exit status speaks of how e2fsck was started or ended.
const E2FSCK_USAGE: i32 = 16;

/// What e2fsck complains of when it cannot check because of what is on the image: no memory or no right to read has other words.
const OF_THE_IMAGE: [&str; 5] = [
    "super-block",
    "superblock",
    "short read",
    "unsupported feature",
    "journal",
];

impl Judgement {
    pub(crate) fn check_filesystem(&mut self, image: &Path) -> HarnessResult<()> {
        let ran = tool::run_to_end(
            "e2fsck",
            "package e2fsprogs",
            Command::new("e2fsck")
                .env("LC_ALL", "C")
                .arg("-fn")
                .arg(image),
            image.parent().unwrap_or(image),
            TOOL_LIMIT,
        )?;
        if ran.code == 0 {
            return Ok(());
        }
        let (said, complaints) = (ran.said()?, ran.complaints()?);
        if let Some(fault) = of_e2fsck(ran.code, &said, &complaints) {
            self.text += &said;
            self.text += &complaints;
            self.fault(fault);
            return Ok(());
        }
        let words = format!("exit status {}: {}", ran.code, complaints.trim());
        Err(ran.failed(words))
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

/// What is wrong with the image, if the exit status of e2fsck and its words speak of that.
fn of_e2fsck(code: i32, said: &str, complaints: &str) -> Option<String> {
    if code < E2FSCK_OPERATIONAL {
        let first = said.lines().find(|line| !line.starts_with("Pass "));
        return Some(format!(
            "e2fsck finds errors on the image (exit {code}): {}",
            first.unwrap_or("")
        ));
    }
    // A superblock that is not there at all is the image's fault, too.
    let last = complaints
        .lines()
        .rfind(|line| OF_THE_IMAGE.iter().any(|words| line.contains(words)))?;
    (code < E2FSCK_USAGE).then(|| format!("e2fsck cannot check the image: {last}"))
}

#[cfg(test)]
mod tests {
    use cowbird_host::error::HarnessError;

    use super::*;

    /// Goal: only what speaks of the image is its fault. Method: an image of zeros, one that is not there, and statuses of e2fsck's manual.
    #[test]
    fn what_cannot_be_checked_is_no_fault_unless_of_the_image() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let image = folder.path().join("image");
        let mut judgement = Judgement::default();
        let error = judgement.check_filesystem(&image).unwrap_err();
        assert!(matches!(error, HarnessError::Tool { .. }), "{error}");
        assert_eq!(judgement.faults, [""; 0]);
        fs::write(&image, vec![0; 1 << 20]).expect("an image");
        judgement.check_filesystem(&image).expect("the tool runs");
        assert!(
            judgement.faults[0].contains("cannot check"),
            "{:?}",
            judgement.faults
        );
        assert_eq!(of_e2fsck(8, "", "e2fsck: Memory allocation failed"), None);
        assert_eq!(of_e2fsck(32, "", "superblock"), None);
        assert!(of_e2fsck(12, "", "The journal superblock is corrupt").is_some());
        assert!(of_e2fsck(4, "Pass 1\nwrong", "").is_some_and(|fault| fault.ends_with("wrong")));
    }
}
