//! Whether the disks have room for what a command makes: a full disk is found before an hour of work, and not by it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::repo;

/// Room for the disks of running cells, the evidence of some failed ones, and what is built.
pub const ROOM_BYTES: u64 = 4 << 30;

/// Room in the cache for a few modules that are built.
const CACHE_BYTES: u64 = 128 << 20;

/// Room for a kernel that is not there: its packages, unpacked with headers, its image and a build root.
const KERNEL_BYTES: u64 = 700 << 20;

/// Room for an initramfs, and what goes into a filesystem that a case begins with.
const TEMP_BYTES: u64 = 64 << 20;

/// Room for what cargo builds anew after a change; a first build takes more, and says so itself.
const TARGET_BYTES: u64 = 512 << 20;

/// The folders that a command fills. Every one fills that for temporary files.
#[derive(Debug)]
pub struct Rooms<'a> {
    /// That of its results, and what it needs there.
    pub out: Option<(&'a Path, u64)>,
    /// The cache of kernels, and how many kernels or roots are still to be made.
    pub cache: Option<(&'a Path, usize)>,
    /// Whether cargo builds something.
    pub target: bool,
    /// What to do besides making room for the results.
    pub instead: &'static str,
}

impl Default for Rooms<'_> {
    /// Of a command that builds something, and has neither results nor a use for the cache.
    fn default() -> Self {
        Self {
            out: None,
            cache: None,
            target: true,
            instead: "give another folder with --out",
        }
    }
}

impl<'a> Rooms<'a> {
    /// Of a command that runs cells.
    pub fn of_results(out: &'a Path) -> Self {
        Self {
            out: Some((out, ROOM_BYTES)),
            ..Self::default()
        }
    }

    /// Says which folder has too little room, and what to do.
    pub fn check(&self) -> Result<()> {
        let out = self.out.map(|(folder, needed_bytes)| Place {
            folder: folder.to_owned(),
            what: "for the results",
            needed_bytes,
            instead: self.instead,
        });
        let cache = self.cache.map(|(folder, to_make)| Place {
            folder: folder.to_owned(),
            what: "for the cache of kernels",
            needed_bytes: CACHE_BYTES + KERNEL_BYTES * to_make as u64,
            instead: "give another folder in COWBIRD_CACHE",
        });
        let temp = Place {
            folder: std::env::temp_dir(),
            what: "for temporary files",
            needed_bytes: TEMP_BYTES,
            instead: "give another folder in TMPDIR",
        };
        let target = self.target.then(|| Place {
            folder: existing(&repo::target_dir()),
            what: "for what cargo builds",
            needed_bytes: TARGET_BYTES,
            instead: "give another folder in CARGO_TARGET_DIR",
        });
        let places = out.into_iter().chain(cache).chain([temp]).chain(target);
        places.into_iter().try_for_each(|place| place.check())
    }
}

/// The folder, or the one above it in which it will be made.
fn existing(folder: &Path) -> PathBuf {
    let there = folder.ancestors().find(|folder| folder.is_dir());
    there.unwrap_or(folder).to_owned()
}

/// A folder that a command fills.
struct Place {
    folder: PathBuf,
    what: &'static str,
    needed_bytes: u64,
    /// What to do besides making room.
    instead: &'static str,
}

impl Place {
    fn check(&self) -> Result<()> {
        let (folder, instead) = (self.folder.display(), self.instead);
        let disk = rustix::fs::statvfs(&self.folder).with_context(|| {
            format!(
                "cannot see how much room there is {} at {folder}; create it, or {instead}",
                self.what
            )
        })?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < self.needed_bytes {
            bail!(
                "only {} MiB are free {} at {folder}, and {} are needed; make room, for example with \
                 `cargo xtask kernels --prune`, or {instead}",
                free >> 20,
                self.what,
                self.needed_bytes >> 20,
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::commands::fuzz::FuzzArgs;
    use crate::commands::scale::ScaleArgs;
    use crate::ui::Ui;

    fn refused(done: Result<impl Sized>) -> String {
        match done {
            Ok(_) => panic!("there is no room"),
            Err(error) => error.to_string(),
        }
    }

    /// Goal: a full disk is named before the work begins, with what to do. Method: this test runs itself in namespaces in which a small disk is where
    /// the folder is; each folder by itself, and commands.
    #[test]
    fn a_full_disk_is_named_with_what_to_do() {
        const FULL: &str = "COWBIRD_TEST_FULL_DISK";
        if let Some(full) = std::env::var_os(FULL) {
            on_a_full_disk(Path::new(&full));
            return;
        }
        let roomy = Rooms {
            target: false,
            ..Rooms::default()
        };
        assert!(roomy.check().is_ok(), "this machine has room");
        let full = tempfile::tempdir().expect("a folder for the test");
        let (_, module) = module_path!().split_once("::").expect("it is in the crate");
        let name = format!("{module}::a_full_disk_is_named_with_what_to_do");
        let script = "mount -t tmpfs -o size=8m tmpfs \"$1\" && shift && exec \"$@\"";
        let output = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-euc",
                script,
                "sh",
            ])
            .arg(full.path())
            .arg(std::env::current_exe().expect("it runs"))
            .args(["--exact", &name])
            .env(FULL, full.path())
            .env("CARGO_TARGET_DIR", full.path().join("not/made/yet"))
            .output()
            .expect("every host has unshare");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains(" 1 passed;"),
            "{said}"
        );
    }

    fn on_a_full_disk(full: &Path) {
        let nothing = || Rooms {
            target: false,
            ..Rooms::default()
        };
        let out = Rooms {
            target: false,
            ..Rooms::of_results(full)
        };
        let cache = Rooms {
            cache: Some((full, 2)),
            ..nothing()
        };
        for (rooms, start, remedy) in [
            (out, "only 8 MiB are free for the results at", "--out"),
            (
                cache,
                "only 8 MiB are free for the cache of kernels at",
                "COWBIRD_CACHE",
            ),
            (
                Rooms::default(),
                "only 8 MiB are free for what cargo builds at",
                "CARGO_TARGET_DIR",
            ),
        ] {
            let error = refused(rooms.check());
            assert!(
                error.starts_with(start) && error.ends_with(remedy),
                "{error}"
            );
            assert!(error.contains("--prune"), "{error}");
        }
        let gone = Rooms::of_results(&full.join("gone")).check();
        assert!(refused(gone).contains("cannot see how much room"));

        let scale = ScaleArgs {
            origin_gib: 1,
            written_mib: 1,
            within: full.to_owned(),
        };
        let error = refused(crate::commands::scale::command(&scale, &Ui::new()));
        assert!(
            error.ends_with("--within") && error.contains("and 67 are needed"),
            "{error}"
        );
        let fuzz = FuzzArgs {
            targets: Vec::new(),
            list: true,
            seed: 1,
            inputs: None,
            seconds: None,
        };
        let error = refused(crate::commands::fuzz::command(&fuzz, &crate::ui::Ui::new()));
        assert!(error.ends_with("CARGO_TARGET_DIR"), "{error}");
    }
}
