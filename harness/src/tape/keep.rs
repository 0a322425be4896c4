//! The tape in a bundle, with everything that a replay needs besides the disks.
//!
//! ```text
//! tape/tape.json           what this is, what it must give, and the SHA-256 of every file
//! tape/tape.rr.zst         QEMU's log
//! tape/asked.bin.zst       what the harness asked the guest
//! tape/kernel.zst          the kernel
//! tape/initramfs.cpio.zst  the initramfs
//! ```
//!
//! A tape may come from somebody else, with whatever in it. It names no other files than these, none of them is started on
//! the host, and each is unpacked to the size that it must have. The trace of a replay is read by this harness' own tracer.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::INITRAMFS_FILE;
use cowbird_host::foreign;
use cowbird_host::limits::MAX_TAPE_BYTES;
use cowbird_model::Verdict;
use cowbird_session::plan::CellPlan;
use cowbird_vm::command::{ASKED_FILE, TAPE_FILE};
use cowbird_vm::emulator::Emulator;
use serde::{Deserialize, Serialize};

use super::{FileDigest, check_emulator};
use crate::outcome::CellOutcome;

/// Folder of the tape in a bundle.
pub const TAPE_DIR: &str = "tape";

/// What describes it.
const RECORD_FILE: &str = "tape.json";

/// The kernel in it.
const KERNEL_FILE: &str = "kernel";

/// A program that earlier versions put into tapes, and that nobody needs to have from there.
const TRACER_FILE: &str = "tracer";

/// What a tape consists of, and the largest size of each, unpacked: several times what was ever seen.
const PARTS: [(&str, u64); 4] = [
    (TAPE_FILE, MAX_TAPE_BYTES),
    (ASKED_FILE, 1 << 30),
    (INITRAMFS_FILE, 2 << 30),
    (KERNEL_FILE, 1 << 30),
];

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
    files: Vec<FileDigest>,
    /// The disks at the start.
    pub(super) start: Vec<FileDigest>,
    /// Everything that the guest had a part in, at the end.
    pub(super) end: Vec<FileDigest>,
}

impl Kept {
    /// What its files take on disk when they are unpacked.
    #[must_use]
    pub fn unpacked_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Reads what a bundle says of its tape; none, if it has none.
    ///
    /// # Errors
    /// When it has one that is not whole, or of another version.
    pub fn read(bundle: &Path) -> HarnessResult<Option<Self>> {
        let path = bundle.join(TAPE_DIR).join(RECORD_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = foreign::read_text(&path)?;
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
    start: Vec<FileDigest>,
    end: Vec<FileDigest>,
) -> HarnessResult<()> {
    let dir = plan.work_dir.join(TAPE_DIR);
    fs::create_dir_all(&dir).on("create", &dir)?;
    let inside = |name: &str| plan.work_dir.join(name);
    let sources: [(&str, PathBuf); 4] = [
        (TAPE_FILE, inside(TAPE_FILE)),
        (ASKED_FILE, inside(ASKED_FILE)),
        (INITRAMFS_FILE, inside(INITRAMFS_FILE)),
        (KERNEL_FILE, plan.vmlinuz.clone()),
    ];
    let mut files = Vec::new();
    for (name, source) in sources {
        files.push(FileDigest::of(&source, name.to_owned())?);
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
    let parts = parts_of(kept, &from)?;
    for digest in parts {
        let (packed, to) = (
            packed(&from, &digest.name),
            plan.work_dir.join(&digest.name),
        );
        unpack_file(&packed, &to, digest.bytes)?;
        let now = FileDigest::of(&to, digest.name.clone())?;
        if now != *digest {
            return Err(damaged(
                &packed,
                "it is not what was recorded, by its SHA-256",
            ));
        }
    }
    plan.vmlinuz = plan.work_dir.join(KERNEL_FILE);
    Ok(())
}

/// The files of a tape that are unpacked: all that it must have, and nothing else.
fn parts_of<'a>(kept: &'a Kept, dir: &Path) -> HarnessResult<Vec<&'a FileDigest>> {
    let known = |digest: &&FileDigest| PARTS.iter().any(|(name, _)| *name == digest.name);
    let other = kept
        .files
        .iter()
        .find(|digest| !known(digest) && digest.name != TRACER_FILE);
    if let Some(other) = other {
        let why = format!("it names a file {:?}, which no tape has", other.name);
        return Err(damaged(dir, &why));
    }
    let part = |(name, most): (&str, u64)| {
        let mut found = kept.files.iter().filter(|digest| digest.name == name);
        let digest = match (found.next(), found.next()) {
            (Some(digest), None) => digest,
            (None, _) => return Err(damaged(dir, &format!("it lacks {name}"))),
            (Some(_), Some(_)) => return Err(damaged(dir, &format!("it has {name} twice"))),
        };
        if digest.bytes > most {
            let bytes = digest.bytes;
            let why = format!("{name} is to have {bytes} bytes, and the largest has {most}");
            return Err(damaged(dir, &why));
        }
        Ok(digest)
    };
    PARTS.into_iter().map(part).collect()
}

/// The names of what lies in the work folder of a replay and the guest has no part in. Earlier versions had the second one
/// there as well.
pub(super) const UNPACKED: [&str; 2] = [KERNEL_FILE, TRACER_FILE];

fn packed(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.{PACKED}"))
}

fn pack(from: &Path, to: &Path) -> HarnessResult<()> {
    let source = BufReader::new(File::open(from).on("open", from)?);
    let target = File::create(to).on("create", to)?;
    zstd::stream::copy_encode(source, target, LEVEL).on("write", to)
}

/// Unpacks a file to the size that it must have. What is there already is not written to, nor where a link leads.
fn unpack_file(from: &Path, to: &Path, bytes: u64) -> HarnessResult<()> {
    let source = foreign::open(from)?;
    let mut target = BufWriter::new(File::create_new(to).on("create", to)?);
    let decoder = zstd::stream::Decoder::new(source).on("read", from)?;
    // What is wrong with the packed form is the same to a reader as what is wrong with the content.
    let unpacked = io::copy(&mut decoder.take(bytes.saturating_add(1)), &mut target)
        .map_err(|error| damaged(from, &error.to_string()))?;
    if unpacked > bytes {
        return Err(damaged(
            from,
            &format!("it unpacks to more than its {bytes} bytes"),
        ));
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder with an empty bundle and work folder in it, and a plan for the latter.
    fn scene() -> (tempfile::TempDir, PathBuf, CellPlan) {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let bundle = folder.path().join("bundle");
        let plan = CellPlan {
            work_dir: folder.path().join("work"),
            ..CellPlan::example()
        };
        fs::create_dir_all(bundle.join(TAPE_DIR)).expect("it can be made");
        fs::create_dir(&plan.work_dir).expect("it can be made");
        (folder, bundle, plan)
    }

    fn kept(files: Vec<FileDigest>) -> Kept {
        Kept {
            format: FORMAT,
            qemu: String::new(),
            verdict: Verdict::Mismatch,
            blocks_bad: 1,
            seconds: 1.0,
            files,
            start: Vec::new(),
            end: Vec::new(),
        }
    }

    /// Packs a file where [`unpack`] looks for it, whatever the name; gives what describes it.
    fn pack_as(bundle: &Path, name: &str, content: &[u8]) -> FileDigest {
        let to = packed(&bundle.join(TAPE_DIR), name);
        fs::create_dir_all(to.parent().expect("it has a folder")).expect("it can be made");
        let source = bundle.join("source");
        fs::write(&source, content).expect("it can be written");
        pack(&source, &to).expect("it can be packed");
        FileDigest::of(&source, name.to_owned()).expect("it can be read")
    }

    fn whole(bundle: &Path) -> Vec<FileDigest> {
        [TAPE_FILE, ASKED_FILE, INITRAMFS_FILE, KERNEL_FILE]
            .map(|name| pack_as(bundle, name, name.as_bytes()))
            .to_vec()
    }

    /// Goal: nothing is written outside of the work folder, and nothing in it but what a tape consists of. Method: a whole tape
    /// with one file more, whose digest is right and whose name leads elsewhere.
    #[test]
    fn a_tape_writes_only_its_own_files() {
        for name in [
            "../outside",
            "/outside",
            "plan.json",
            "sub/kernel",
            "..",
            "",
        ] {
            let (folder, bundle, mut plan) = scene();
            let name = match name {
                "/outside" => folder.path().join("absolute").display().to_string(),
                name => name.to_owned(),
            };
            let mut files = whole(&bundle);
            files.push(pack_as(&bundle, &name, b"foreign"));
            let error = unpack(&kept(files), &bundle, &mut plan).expect_err(&name);
            assert!(error.to_string().contains("no tape has"), "{error}");
            let left = fs::read_dir(&plan.work_dir).expect("it is there").count();
            assert_eq!(
                left, 0,
                "{name}: nothing is unpacked before all names are known"
            );
            assert!(!folder.path().join("outside").exists());
            assert!(!folder.path().join("absolute").exists());
        }
    }

    /// Goal: no program of a bundle comes to lie where it could be started. Method: a whole tape with a tracer, as recorded by
    /// earlier versions.
    #[test]
    fn the_tracer_of_a_bundle_is_not_taken() {
        let (_folder, bundle, mut plan) = scene();
        let own = plan.tracer.clone();
        let mut files = whole(&bundle);
        files.push(pack_as(&bundle, "tracer", b"#!/bin/sh\nid"));
        unpack(&kept(files), &bundle, &mut plan).expect("the tape is whole");
        assert_eq!(plan.tracer, own);
        assert!(!plan.work_dir.join("tracer").exists());
        assert_eq!(plan.vmlinuz, plan.work_dir.join(KERNEL_FILE));
    }

    /// Goal: the kernel is that of the tape and no file that a foreign plan names.
    #[test]
    fn a_tape_that_lacks_a_file_is_refused() {
        for missing in 0..4 {
            let (_folder, bundle, mut plan) = scene();
            let mut files = whole(&bundle);
            let digest = files.remove(missing);
            let error = unpack(&kept(files.clone()), &bundle, &mut plan).expect_err(&digest.name);
            assert!(error.to_string().contains("lacks"), "{error}");
            files.extend([files[0].clone(), digest]);
            assert!(unpack(&kept(files), &bundle, &mut plan).is_err(), "twice");
        }
    }

    /// Goal: a file is unpacked to the size that the tape names and not further, and no tape names one that fills the disk.
    #[test]
    fn a_file_that_unpacks_to_more_than_it_says_is_cut_off() {
        let (_folder, bundle, mut plan) = scene();
        let mut files = whole(&bundle);
        let bomb = pack_as(&bundle, TAPE_FILE, &vec![0; 64 << 20]);
        files[0] = FileDigest {
            bytes: 4096,
            ..bomb.clone()
        };
        let error = unpack(&kept(files.clone()), &bundle, &mut plan).expect_err("it is larger");
        assert!(error.to_string().contains("more than"), "{error}");
        let unpacked = plan.work_dir.join(TAPE_FILE);
        let bytes = fs::metadata(&unpacked).map_or(0, |meta| meta.len());
        assert!(bytes <= 4097, "{bytes} bytes were written");
        files[0].bytes = u64::MAX;
        let error = unpack(&kept(files), &bundle, &mut plan).expect_err("no tape has so much");
        assert!(error.to_string().contains("largest"), "{error}");
    }

    /// Goal: a link in a bundle leads nowhere, and neither does one in the place of what is unpacked.
    #[test]
    fn links_are_not_followed() {
        let (folder, bundle, mut plan) = scene();
        let files = whole(&bundle);
        let (kernel, elsewhere) = (
            packed(&bundle.join(TAPE_DIR), KERNEL_FILE),
            folder.path().join("elsewhere"),
        );
        fs::rename(&kernel, &elsewhere).expect("it can be moved");
        symlink(&elsewhere, &kernel).expect("a link can be made");
        assert!(unpack(&kept(files.clone()), &bundle, &mut plan).is_err());
        fs::rename(&elsewhere, &kernel).expect("it can be moved back");
        fs::remove_dir_all(&plan.work_dir).expect("it can be removed");
        fs::create_dir(&plan.work_dir).expect("it can be made");
        symlink(&elsewhere, plan.work_dir.join(KERNEL_FILE)).expect("a link can be made");
        assert!(unpack(&kept(files), &bundle, &mut plan).is_err());
        assert!(!elsewhere.exists());
    }
}
