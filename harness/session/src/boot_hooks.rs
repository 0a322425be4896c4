//! What the generators of initramfs put into one for a series whose origin is the root volume.
//!
//! The scripts are those of `dist/`, to the byte. What they call is the host's own: its `sh` and its
//! `modprobe`, which finds the module in an index that `depmod` made; the control tool is the one under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::program::HostProgram;
use cowbird_host::{disk, foreign, initramfs};

use crate::guest::SeriesRecord;
use crate::plan::CellPlan;

/// Where the hooks call the control tool.
const TOOL: &str = "/sbin/cowbirdctl";

/// The shell that the hooks name in their first line.
const SHELL: &str = "/bin/sh";

/// What is put there.
const HOST_SHELL: HostProgram = HostProgram {
    program: "sh",
    package: "dash",
};

/// What the hooks load the module with.
const MODPROBE: HostProgram = HostProgram {
    program: "modprobe",
    package: "kmod",
};

/// Where modules that do not come with the kernel are, below the folder of its release.
const MODULE: &str = "updates/cowbird.ko";

/// Who made the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    /// Debian's, as `update-initramfs` uses it.
    InitramfsTools,
    /// Fedora's.
    Dracut,
}

impl Generator {
    /// Where the boot hook is in the initramfs, and what it is.
    fn hook(self) -> (&'static str, &'static [u8]) {
        match self {
            Self::InitramfsTools => (
                "/scripts/local-premount/cowbird",
                include_bytes!("../../../dist/initramfs-tools/scripts/local-premount/cowbird"),
            ),
            Self::Dracut => (
                "/lib/dracut/hooks/pre-mount/10-cowbird-reload.sh",
                include_bytes!("../../../dist/dracut/91cowbird/cowbird-reload.sh"),
            ),
        }
    }
}

/// The archive to be laid behind the initramfs of a cell.
pub fn archive(
    plan: &CellPlan,
    generator: Generator,
    record: &SeriesRecord,
) -> HarnessResult<Vec<u8>> {
    let staging = tempfile::tempdir_in(&plan.work_dir).on("make a folder in", &plan.work_dir)?;
    let staging = staging.path();
    let (hook, script) = generator.hook();
    stage(staging, hook, script)?;
    for (path, content) in record.of_series() {
        stage(staging, path, content.as_bytes())?;
    }
    index_modules(plan, staging)?;

    let mut files = Vec::new();
    list(staging, staging, &mut files)?;
    files.push((TOOL.to_owned(), plan.cowbirdctl.clone()));
    files.extend(MODPROBE.files()?);
    let shell = HOST_SHELL.path()?;
    files.extend(HOST_SHELL.files()?.into_iter().map(|(path, host)| {
        let is_shell = path == shell;
        (if is_shell { SHELL.to_owned() } else { path }, host)
    }));
    initramfs::part(&files)
}

/// Puts a file where it will be found below the root of the initramfs.
fn stage(staging: &Path, path: &str, content: &[u8]) -> HarnessResult<()> {
    let target = foreign::below(staging, path)?;
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).on("create", folder)?;
    }
    fs::write(&target, content).on("write", &target)
}

/// The module, and the index by which `modprobe` finds it.
fn index_modules(plan: &CellPlan, staging: &Path) -> HarnessResult<()> {
    let release = &plan.kernel_release;
    let module = fs::read(&plan.cowbird_ko).on("read", &plan.cowbird_ko)?;
    stage(
        staging,
        &format!("/lib/modules/{release}/{MODULE}"),
        &module,
    )?;
    let mut depmod = Command::new("depmod");
    depmod.arg("-b").arg(staging).arg(release);
    disk::run("depmod", "package kmod", &mut depmod).map(|_| ())
}

/// All files below a folder of the staging area, as (path in the guest, path on the host).
fn list(staging: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> HarnessResult<()> {
    for entry in fs::read_dir(folder).on("list", folder)? {
        let path = entry.on("list", folder)?.path();
        if path.is_dir() {
            list(staging, &path, files)?;
        } else {
            let inside = path.strip_prefix(staging).unwrap_or(&path);
            files.push((format!("/{}", inside.display()), path));
        }
    }
    Ok(())
}
