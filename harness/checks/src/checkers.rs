//! Checkers of filesystems: what each complains of on an image, and whether that speaks of the image at all.
//!
//! A checker that is not content is the image's fault unless its words say that the host lacked something: a doubt is looked at by people,
//! and not repeated until it is gone. A checker that crashes has crashed on the image.

use std::path::Path;
use std::process::Command;

use cowbird_host::error::HarnessResult;
use cowbird_host::tool::{self, TOOL_LIMIT};

/// A program that checks an image and changes nothing on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checker {
    tool: &'static str,
    hint: &'static str,
    arguments: &'static [&'static str],
    /// How lines begin that are no complaints.
    noise: &'static [&'static str],
    /// Exit statuses that speak of how it was started or ended.
    not_of_the_image: &'static [i32],
}

/// Of ext2, ext3 and ext4. 16 is a wrong command line, 32 that somebody stopped it, 128 that a library is missing.
pub(crate) const EXT: Checker = Checker {
    tool: "e2fsck",
    hint: "package e2fsprogs",
    arguments: &["-fn"],
    noise: &["Pass ", "e2fsck 1."],
    not_of_the_image: &[16, 32, 128],
};

/// Of xfs.
pub(crate) const XFS: Checker = Checker {
    tool: "xfs_repair",
    hint: "package xfsprogs",
    arguments: &["-n", "-f"],
    noise: &["Phase ", "- "],
    not_of_the_image: &[],
};

/// Of f2fs.
pub(crate) const F2FS: Checker = Checker {
    tool: "fsck.f2fs",
    hint: "package f2fs-tools",
    arguments: &["--dry-run"],
    noise: &["Info:"],
    not_of_the_image: &[],
};

/// Words of the system, and of the checkers, for what the host lacks.
const OF_THE_HOST: [&str; 10] = [
    "Cannot allocate memory",
    "Memory allocation failed",
    "No space left on device",
    "No such file or directory",
    "Permission denied",
    "Resource temporarily unavailable",
    "Too many open files",
    "cannot create worker threads",
    "Failed to get the device stat",
    "Failed to open the device",
];

/// What a checker is not content with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// The first line of it, with the exit status.
    pub(crate) first: String,
    /// All that it said.
    pub(crate) all: String,
}

impl Checker {
    /// What it complains of on an image.
    ///
    /// # Errors
    /// When it cannot be run, does not end in time, or lacks something of the host.
    pub(crate) fn look_at(&self, image: &Path) -> HarnessResult<Option<Complaint>> {
        let ran = tool::run_to_end(
            self.tool,
            self.hint,
            Command::new(self.tool)
                .env("LC_ALL", "C")
                .args(self.arguments)
                .arg(image),
            image.parent().unwrap_or(image),
            TOOL_LIMIT,
        )?;
        if ran.code == 0 {
            return Ok(None);
        }
        let all = ran.said()? + &ran.complaints()?;
        self.judge(ran.code, all)
            .map(Some)
            .map_err(|words| ran.failed(words))
    }

    /// What an exit status other than 0 and the words before it mean; `Err` if they do not speak of the image.
    fn judge(&self, code: i32, all: String) -> Result<Complaint, String> {
        let of_the_host = |line: &&str| OF_THE_HOST.iter().any(|words| line.contains(words));
        if let Some(line) = all.lines().find(of_the_host) {
            return Err(format!("exit status {code}: {}", line.trim()));
        }
        let interesting = |line: &&str| {
            let line = line.trim_start();
            !line.is_empty() && !self.noise.iter().any(|noise| line.starts_with(noise))
        };
        let first = all.lines().find(interesting).map_or("", str::trim);
        let first = format!("exit status {code}: {first}");
        match self.not_of_the_image.contains(&code) {
            true => Err(first),
            false => Ok(Complaint { first, all }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use cowbird_host::disk::{self, Filesystem, Partition};
    use cowbird_host::error::HarnessError;

    use super::*;

    const ALL: [(Filesystem, Checker); 3] = [
        (Filesystem::Ext4, EXT),
        (Filesystem::Xfs, XFS),
        (Filesystem::F2fs, F2FS),
    ];

    /// An image of a filesystem as its tools make it.
    fn image(folder: &Path, kind: Filesystem) -> PathBuf {
        let disk = folder.join("disk");
        let partition = Partition {
            start: 2048,
            sectors: 64 << 11,
        };
        disk::create_partitioned(&disk, 66 << 20, 512, &[partition], &[], 1).expect("a disk");
        disk::make_filesystem(kind, &disk, partition, 1).expect("a filesystem");
        let image = folder.join("image");
        disk::take_out(&disk, partition, &image).expect("an image");
        image
    }

    /// Goal: a sound filesystem is without a complaint, a damaged one is not, with the words that speak of it, and an image that is not
    /// there is the host's affair. Method: each kind of filesystem, then with its first MiB overwritten, then away; before that the superblock
    /// of an ext4 with a field that contradicts its checksum, and an xfs with one damaged header.
    #[test]
    fn each_checker_sees_what_is_damaged() {
        for (kind, checker) in ALL {
            let folder = tempfile::tempdir().expect("a folder for the test");
            let image = image(folder.path(), kind);
            assert_eq!(checker.look_at(&image).expect("it runs"), None, "{kind:?}");
            let file = OpenOptions::new()
                .write(true)
                .open(&image)
                .expect("it is there");
            if kind == Filesystem::Ext4 {
                // s_r_blocks_count_lo: e2fsck says so on its standard output, and exits as if it could not check.
                file.write_all_at(&[0xff; 4], 1024 + 8)
                    .expect("it can be written");
                let complaint = checker.look_at(&image).expect("it runs").expect("it sees");
                assert!(complaint.all.contains("superblock"), "{complaint:?}");
            }
            if kind == Filesystem::Xfs {
                // Sector 2 is the header of the inodes of the first allocation group.
                file.write_all_at(&[0xEE; 64], 1024)
                    .expect("it can be written");
                let complaint = checker.look_at(&image).expect("it runs");
                assert!(complaint.is_some());
            }
            file.write_all_at(&vec![0xa5; 1 << 20], 0)
                .expect("it can be written");
            let complaint = checker.look_at(&image).expect("it runs").expect("it sees");
            assert!(!complaint.first.contains("Info:"), "{complaint:?}");
            assert!(complaint.first.len() > "exit status 4: ".len());
            fs::remove_file(&image).expect("it is there");
            let error = checker.look_at(&image).expect_err("it is not there");
            assert!(matches!(error, HarnessError::Tool { .. }), "{error}");
        }
    }

    /// Goal: what speaks of the host is no complaint, and what does not is one, a crash included.
    #[test]
    fn only_what_speaks_of_the_image_counts() {
        let judge = |checker: Checker, code, words: &str| checker.judge(code, words.to_owned());
        assert!(judge(EXT, 8, "e2fsck: Memory allocation failed").is_err());
        assert!(judge(EXT, 32, "Pass 1\nwrong").is_err());
        assert!(judge(XFS, 1, "fatal error -- cannot create worker threads").is_err());
        let wrong = judge(EXT, 4, "e2fsck 1.47.0\nPass 1: x\nwrong\n").expect("a complaint");
        assert_eq!(wrong.first, "exit status 4: wrong");
        let crash = judge(XFS, tool::CRASHED + 11, "Phase 1 - find").expect("a complaint");
        assert_eq!(crash.first, "exit status 139: ");
        let f2fs = "Info: superblock features = 0 :\n[ASSERT] (x:1) y\n";
        let f2fs = judge(F2FS, 255, f2fs).expect("a complaint");
        assert_eq!(f2fs.first, "exit status 255: [ASSERT] (x:1) y");
    }
}
