//! The evidence of a cell, put before the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use cowbird_model::{
    BlockIndex, BlockSet, Class, DiscardModel, MarkerKey, Oracle, Report, SectorRange, WitnessLog,
    find_marker, self_check,
};
use cowbird_proto::message::{GoldenFile, Observation};
use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::disk;
use crate::error::{HarnessError, HarnessResult, PathContext};

/// What a discard does to a witnessed disk as [`crate::vm::command`] configures it: QEMU punches a
/// hole into the raw file. Tried with discards of every alignment, and checked in every cell.
pub const DISCARD_MODEL: DiscardModel = DiscardModel::Zeroes;

/// Bad blocks that the text of a report lists.
const LISTED_BLOCKS: usize = 50;

/// Files that a fault names.
const LISTED_FILES: usize = 5;

/// Wrongly read blocks that are classified. To find where misplaced content belongs takes a search
/// of the whole origin for each, 80 ms for 64 MiB.
const CLASSIFIED_OBSERVATIONS: usize = 100;

/// Exit status of e2fsck for a filesystem without any error.
const E2FSCK_CLEAN: i32 = 0;

/// e2fsck exits with this or more when it could not check at all.
const E2FSCK_OPERATIONAL: i32 = 8;

/// The files of a cell.
#[derive(Debug, Clone)]
pub struct CellFiles {
    /// Folder of them all.
    pub dir: PathBuf,
}

impl CellFiles {
    /// The whole first disk before the last boot.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.dir.join("base.raw")
    }

    /// The first disk.
    #[must_use]
    pub fn origin(&self) -> PathBuf {
        self.dir.join("origin.raw")
    }

    /// The log of all writes to the first disk since the last boot.
    #[must_use]
    pub fn witness(&self) -> PathBuf {
        self.dir.join("witness.log")
    }

    /// [`Self::base`] of a boot before the last one; they count from 0.
    #[must_use]
    pub fn earlier_base(&self, boot: u32) -> PathBuf {
        self.dir.join(format!("base-{boot}.raw"))
    }

    /// [`Self::witness`] of a boot before the last one.
    #[must_use]
    pub fn earlier_witness(&self, boot: u32) -> PathBuf {
        self.dir.join(format!("witness-{boot}.log"))
    }

    /// The second disk: the copy of the snapshot.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join("image.raw")
    }
}

/// What a case leaves to be judged.
#[derive(Debug, Clone)]
pub enum Evidence {
    /// An image of a snapshot.
    Snapshot(SnapshotEvidence),
    /// No snapshot was taken: only the witness itself is on trial.
    WitnessOnly,
}

/// An image of a snapshot, and what it must be.
#[derive(Debug, Clone)]
pub struct SnapshotEvidence {
    /// Identifies the snapshot instant in the witness.
    pub marker: MarkerKey,
    /// The origin on the first disk.
    pub origin: SectorRange,
    /// Blocks of the COW file on the origin.
    pub zeroed: BlockSet,
    /// Whether the image is an ext4 that must be without errors.
    pub filesystem: bool,
    /// Files that the image must contain.
    pub golden: Vec<GoldenFile>,
    /// Snapshot reads that differed from an earlier read of the same block. The guest sends the
    /// content of the first of them only.
    pub differing_reads: u64,
}

/// The oracle's answer.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// Blocks compared.
    pub blocks_checked: u64,
    /// Blocks wrong in the image or read wrong once.
    pub blocks_bad: u64,
    /// Wrong blocks by class.
    pub classes: BTreeMap<Class, u64>,
    /// Everything that is wrong, each in one sentence; empty for a pass.
    pub faults: Vec<String>,
    /// The report for people.
    pub text: String,
}

/// Compares the image, and what readers saw, with the truth.
///
/// # Errors
/// Only what makes a judgement impossible: unreadable files, missing tools, an untrustworthy
/// witness.
pub fn judge(
    files: &CellFiles,
    evidence: &Evidence,
    observations: &[Observation],
) -> HarnessResult<Judgement> {
    let (base, origin) = (map(&files.base())?, map(&files.origin())?);
    let witness = map(&files.witness())?;
    let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
    self_check(&base, &log, &origin, DISCARD_MODEL).map_err(|error| untrusted(&error))?;
    let mut judgement = Judgement::default();
    let Evidence::Snapshot(evidence) = evidence else {
        return Ok(judgement);
    };
    let image = map(&files.image())?;
    let marker = match find_marker(&log, &evidence.marker) {
        Ok(marker) => marker,
        // The harness looked at the right disk; that the header is not there is the module's doing.
        Err(error) => {
            judgement.fault(format!("no snapshot instant: {error}"));
            return Ok(judgement);
        }
    };
    let oracle = Oracle::new(
        &base,
        &log,
        marker,
        evidence.origin,
        &evidence.zeroed,
        DISCARD_MODEL,
    )
    .map_err(|error| untrusted(&error))?;
    let origin_bytes = usize::try_from(evidence.origin.bytes()).unwrap_or(usize::MAX);
    let content = image.get(..origin_bytes).unwrap_or(&image);
    let report = oracle.verify(content).map_err(|error| untrusted(&error))?;
    judgement.take_report(&report);
    judgement.take_observations(&oracle, &report, observations)?;
    if evidence.differing_reads > 0 {
        let count = evidence.differing_reads;
        judgement.fault(format!(
            "{count} reads differ from the first read of the same block"
        ));
    }
    if evidence.filesystem {
        judgement.check_filesystem(&files.image())?;
        judgement.check_golden_files(&files.image(), &evidence.golden)?;
    }
    Ok(judgement)
}

impl Judgement {
    fn fault(&mut self, fault: String) {
        self.text += &fault;
        self.text.push('\n');
        self.faults.push(fault);
    }

    fn take_report(&mut self, report: &Report) {
        self.blocks_checked = report.blocks_checked;
        self.blocks_bad = report.blocks_bad;
        self.classes.clone_from(&report.classes);
        self.text += &report.render(LISTED_BLOCKS);
        if report.blocks_bad > 0 {
            let classes: Vec<String> = report
                .classes
                .iter()
                .map(|(class, count)| format!("{count} {class}"))
                .collect();
            self.faults.push(format!(
                "{} of {} blocks of the image are wrong: {}",
                report.blocks_bad,
                report.blocks_checked,
                classes.join(", ")
            ));
        }
    }

    /// A block that was read wrong once is a bad block, whatever the image says.
    fn take_observations(
        &mut self,
        oracle: &Oracle<'_>,
        report: &Report,
        observations: &[Observation],
    ) -> HarnessResult<()> {
        let image_runs = BlockSet::from(report.runs.clone());
        let mut seen = BTreeSet::new();
        for observation in observations {
            let block = BlockIndex(observation.block);
            if seen.contains(&block) || seen.len() >= CLASSIFIED_OBSERVATIONS {
                continue;
            }
            let bad = oracle
                .classify_observation(block, &observation.content)
                .map_err(|error| untrusted(&error))?;
            // None: this read was right, so the first one was wrong and the image shows it.
            let Some(bad) = bad else { continue };
            self.text += &format!(
                "reader {} at {} us read block {block} wrong: {} {}\n",
                observation.reader,
                observation.at_ns / 1000,
                bad.class,
                bad.detail
            );
            seen.insert(block);
            if !image_runs.contains(block) {
                self.blocks_bad += 1;
                *self.classes.entry(bad.class).or_default() += 1;
            }
        }
        Ok(())
    }

    fn check_filesystem(&mut self, image: &Path) -> HarnessResult<()> {
        let output = Command::new("e2fsck")
            .arg("-fn")
            .arg(image)
            .output()
            .map_err(|error| {
                let detail = error.to_string();
                HarnessError::Tool {
                    tool: "e2fsck",
                    detail,
                    hint: "package e2fsprogs",
                }
            })?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(E2FSCK_CLEAN) => Ok(()),
            Some(code) if code < E2FSCK_OPERATIONAL => {
                self.text += &said;
                let first = said
                    .lines()
                    .find(|line| !line.starts_with("Pass "))
                    .unwrap_or("");
                self.fault(format!(
                    "e2fsck finds errors on the image (exit {code}): {first}"
                ));
                Ok(())
            }
            // A superblock that is not there at all is the image's fault, too.
            _ => {
                let said = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
                self.text += &said;
                let last = said.trim().lines().last().unwrap_or_default();
                self.fault(format!("e2fsck cannot check the image: {last}"));
                Ok(())
            }
        }
    }

    fn check_golden_files(&mut self, image: &Path, golden: &[GoldenFile]) -> HarnessResult<()> {
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

pub(crate) fn untrusted(error: &dyn std::fmt::Display) -> HarnessError {
    HarnessError::Witness {
        detail: error.to_string(),
    }
}

pub(crate) fn map(path: &Path) -> HarnessResult<Mmap> {
    let file = File::open(path).on("open", path)?;
    // SAFETY: the map is read only, and nothing writes or truncates the files of a cell while it
    // lives: QEMU has ended, and the folder belongs to this cell alone.
    unsafe { Mmap::map(&file) }.on("map", path)
}
