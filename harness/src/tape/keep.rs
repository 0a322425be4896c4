//! The tape in a bundle, with everything that a replay needs besides the disks.
//!
//! ```text
//! tape/tape.json           what this is, what it must give, and the SHA-256 of every file
//! tape/tape.rr.zst         QEMU's log
//! tape/asked.bin.zst       what the harness asked the guest
//! tape/kernel.zst          the kernel
//! tape/initramfs.cpio.zst  the initramfs
//! tape/tracer.zst          the tracer, which reads the trace of a traced cell
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};

use cowbird_model::Verdict;
use serde::{Deserialize, Serialize};

use super::{Print, check_emulator};
use crate::cell::INITRAMFS_FILE;
use crate::error::{HarnessError, HarnessResult, PathContext};
use crate::plan::{CellOutcome, CellPlan};
use crate::vm::command::{ASKED_FILE, TAPE_FILE};
use crate::vm::emulator::Emulator;

/// Folder of the tape in a bundle.
pub const TAPE_DIR: &str = "tape";

/// What describes it.
const RECORD_FILE: &str = "tape.json";

/// The kernel and the tracer in it.
const KERNEL_FILE: &str = "kernel";
const TRACER_FILE: &str = "tracer";

/// Version of the folder.
const FORMAT: u32 = 1;

/// Ending of packed files.
const PACKED: &str = "zst";

/// Level of compression. A log shrinks to a third at any, and higher ones take seconds.
const LEVEL: i32 = 3;

/// What is known of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    format: u32,
    /// The QEMU that recorded, as it calls itself. No other one is known to replay it.
    pub qemu: String,
    /// How the cell ended.
    pub verdict: Verdict,
    /// Blocks that were wrong.
    pub blocks_bad: u64,
    /// From the start of the cell to its verdict, s.
    pub seconds: f64,
    /// The files of the folder, unpacked.
    files: Vec<Print>,
    /// The disks at the start.
    pub(super) start: Vec<Print>,
    /// Everything that the guest had a part in, at the end.
    pub(super) end: Vec<Print>,
}

impl Kept {
    /// Reads what a bundle says of its tape; none, if it has none.
    ///
    /// # Errors
    /// When it has one that is not whole, or of another version.
    pub fn read(bundle: &Path) -> HarnessResult<Option<Self>> {
        let path = bundle.join(TAPE_DIR).join(RECORD_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).on("read", &path)?;
        let kept: Self =
            serde_json::from_str(&text).map_err(|error| damaged(&path, &error.to_string()))?;
        if kept.format != FORMAT {
            let detail = format!(
                "{} is of version {}, and this harness reads {FORMAT}: record the cell again",
                path.display(),
                kept.format
            );
            return Err(HarnessError::Plan { detail });
        }
        Ok(Some(kept))
    }

    /// The same where there must be one.
    ///
    /// # Errors
    /// Also when the bundle has none.
    pub(super) fn of(bundle: &Path) -> HarnessResult<Self> {
        Self::read(bundle)?.ok_or_else(|| HarnessError::Plan {
            detail: format!("{} has no tape: record its cell", bundle.display()),
        })
    }

    /// Checks that a QEMU is the one that made the tape.
    ///
    /// # Errors
    /// When it is another one.
    pub fn check_qemu(&self, emulator: &Emulator) -> HarnessResult<()> {
        let version = emulator.version()?;
        if version == self.qemu {
            return Ok(());
        }
        let detail = format!(
            "the tape was made by \"{}\", and this is \"{version}\": a tape is good only for the QEMU that made it; put \
             that one in place, or record the cell again",
            self.qemu
        );
        Err(HarnessError::Plan { detail })
    }
}

/// Puts the tape of a cell that was recorded into its work folder, from where it goes to the bundle.
pub(super) fn keep(
    plan: &CellPlan,
    emulator: &Emulator,
    outcome: &CellOutcome,
    start: Vec<Print>,
    end: Vec<Print>,
) -> HarnessResult<()> {
    let dir = plan.work_dir.join(TAPE_DIR);
    fs::create_dir_all(&dir).on("create", &dir)?;
    let inside = |name: &str| plan.work_dir.join(name);
    let mut sources: Vec<(&str, PathBuf)> = vec![
        (TAPE_FILE, inside(TAPE_FILE)),
        (ASKED_FILE, inside(ASKED_FILE)),
        (INITRAMFS_FILE, inside(INITRAMFS_FILE)),
        (KERNEL_FILE, plan.vmlinuz.clone()),
    ];
    if plan.traced {
        sources.push((TRACER_FILE, plan.tracer.clone()));
    }
    let mut files = Vec::new();
    for (name, source) in sources {
        files.push(Print::of(&source, name.to_owned())?);
        pack(&source, &packed(&dir, name))?;
    }
    for name in [TAPE_FILE, ASKED_FILE] {
        let path = inside(name);
        fs::remove_file(&path).on("remove", &path)?;
    }
    let kept = Kept {
        format: FORMAT,
        qemu: check_emulator(emulator)?,
        verdict: outcome.verdict,
        blocks_bad: outcome.blocks_bad,
        seconds: outcome.seconds,
        files,
        start,
        end,
    };
    let path = dir.join(RECORD_FILE);
    let text = serde_json::to_vec_pretty(&kept).map_err(|error| HarnessError::Plan {
        detail: format!("the record of a tape cannot be written as JSON: {error}"),
    })?;
    fs::write(&path, text).on("write", &path)
}

/// Puts what a replay needs into its work folder, and into its plan where that is.
pub(super) fn unpack(kept: &Kept, bundle: &Path, plan: &mut CellPlan) -> HarnessResult<()> {
    let from = bundle.join(TAPE_DIR);
    for print in &kept.files {
        let (packed, to) = (packed(&from, &print.name), plan.work_dir.join(&print.name));
        unpack_file(&packed, &to)?;
        let now = Print::of(&to, print.name.clone())?;
        if now != *print {
            return Err(damaged(
                &packed,
                "it is not what was recorded, by its SHA-256",
            ));
        }
        match print.name.as_str() {
            KERNEL_FILE => plan.vmlinuz = to,
            TRACER_FILE => {
                make_executable(&to)?;
                plan.tracer = to;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The names of what [`unpack`] puts into a work folder and the guest has no part in.
pub(super) const UNPACKED: [&str; 2] = [KERNEL_FILE, TRACER_FILE];

fn make_executable(path: &Path) -> HarnessResult<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).on("make executable", path)
}

fn packed(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.{PACKED}"))
}

fn pack(from: &Path, to: &Path) -> HarnessResult<()> {
    let source = BufReader::new(File::open(from).on("open", from)?);
    let target = File::create(to).on("create", to)?;
    zstd::stream::copy_encode(source, target, LEVEL).on("write", to)
}

fn unpack_file(from: &Path, to: &Path) -> HarnessResult<()> {
    let source = File::open(from).on("open", from)?;
    let mut target = BufWriter::new(File::create(to).on("create", to)?);
    let mut decoder = zstd::stream::Decoder::new(source).on("read", from)?;
    // What is wrong with the packed form is the same to a reader as what is wrong with the content.
    io::copy(&mut decoder, &mut target).map_err(|error| damaged(from, &error.to_string()))?;
    io::Write::flush(&mut target).on("write", to)
}

fn damaged(path: &Path, why: &str) -> HarnessError {
    HarnessError::Plan {
        detail: format!(
            "the tape is damaged: {}: {why}; record the cell again",
            path.display()
        ),
    }
}
