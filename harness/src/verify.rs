//! The evidence of a cell, put before the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use cowbird_model::{
    BadBlock, BlockIndex, BlockSet, ChangeMapInput, Class, DiscardModel, MAX_LISTED_BLOCKS, Marker,
    MarkerKey, Oracle, Report, SectorRange, TraceResult, WitnessLog, check_changes, find_marker,
    self_check,
};
use cowbird_proto::message::{Event, GoldenFile, Observation, TurnsSpec};
use memmap2::{MmapMut, MmapOptions};
use sha2::{Digest, Sha256};

use crate::change_map::ChangeMap;
use crate::crypt;
use crate::disk::{self, Partition};
use crate::error::{HarnessError, HarnessResult, PathContext};
use crate::power_cuts::PowerCuts;
use crate::restored::Restored;
use crate::soak::{self, SoakEvidence};
use crate::sparse;
use crate::trials::{TrialEvidence, TrialOutcome};
use crate::turns;
use crate::written;

/// What a discard does to a witnessed disk as [`crate::vm::command`] configures it: QEMU punches a
/// hole into the raw file. Tried with discards of every alignment, and checked in every cell.
pub const DISCARD_MODEL: DiscardModel = DiscardModel::Zeroes;

/// A larger disk is mapped with its holes.
const LARGE_BYTES: u64 = 64 << 30;

/// Bad blocks that the text of a report lists.
const LISTED_BLOCKS: usize = 50;

/// Files that a fault names.
const LISTED_FILES: usize = 5;

/// Rounds in the wrong images that the text of a report lists.
const LISTED_TURNS: usize = 20;

/// Missed changes that the text of a report lists.
const LISTED_CHANGES: usize = 20;

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

    /// The disk with the other half of a mirrored origin, where there is one.
    #[must_use]
    pub fn mirror(&self) -> PathBuf {
        self.dir.join("mirror.raw")
    }

    /// The disk of the COW file, where it has one of its own.
    #[must_use]
    pub fn cow_disk(&self) -> PathBuf {
        self.dir.join("cow.raw")
    }

    /// The log of all writes to [`Self::mirror`].
    #[must_use]
    pub fn mirror_witness(&self) -> PathBuf {
        self.dir.join("mirror-witness.log")
    }

    /// The files of the second volume, where there is one.
    #[must_use]
    pub fn second(&self) -> Self {
        Self {
            dir: self.dir.join("second"),
        }
    }

    /// An image of a volume as it was at one of many instants; they count from 1.
    #[must_use]
    pub fn kept_image(&self, volume: usize, number: usize) -> PathBuf {
        self.dir.join(format!("image-{volume}-{number}.raw"))
    }

    /// The second disk: the copy of the snapshot.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join("image.raw")
    }
}

/// What the module may say in the kernel log although it is a warning.
pub type ExpectedLog = &'static [&'static str];

/// What a case leaves to be judged.
#[derive(Debug, Clone)]
pub enum Evidence {
    /// An image of a snapshot.
    Snapshot(SnapshotEvidence),
    /// Images of two volumes at one instant.
    Volumes(Box<VolumesEvidence>),
    /// No snapshot was taken: only the witness itself is on trial.
    WitnessOnly,
    /// A series whose machine lost its power.
    PowerCuts {
        /// What is tried on the witness of a boot before the last one.
        cuts: PowerCuts,
        /// Which boot.
        boot: u32,
        /// What the last boot left.
        then: Box<Evidence>,
    },
    /// Many images and change maps of several volumes.
    Soak(Box<SoakEvidence>),
    /// Scripts, each on snapshots of its own.
    Trials(Vec<TrialEvidence>),
    /// The snapshot failed as it had to, and the module said so in the kernel log, with one of these
    /// texts.
    FailedSnapshot(ExpectedLog),
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
    /// The change maps of the series.
    pub maps: Vec<ChangeMap>,
    /// Whether what lies on the disk is the origin's content encrypted.
    pub encrypted: bool,
    /// Sectors of the device whose epoch marks the instant, where that is not the origin as it lies on the disk: what the
    /// origin was spread over for the module, or another device of which a snapshot was taken at a time without writes.
    pub marker_sectors: Option<u64>,
    /// Whether a second disk must end with the same content at the origin's place.
    pub mirrored: bool,
    /// What the module may say in the kernel log although it is a warning.
    pub expected_log: ExpectedLog,
    /// Blocks of the origin that the tracer calls wrong, if it was asked.
    pub traced: Option<BTreeSet<u64>>,
    /// Whether a recorded workload was replayed to its end, so that it is known what the origin ends with.
    pub replayed: bool,
    /// Whether raw writers wrote to the origin and were stopped, so that the journal says what it ends with.
    pub written: bool,
    /// What became of the origin when the image was copied back to it, if it was.
    pub restored: Option<Restored>,
}

/// Images of two volumes, whose snapshots were all taken at common instants.
#[derive(Debug, Clone)]
pub struct VolumesEvidence {
    /// The images of the last instant; the second one's files are [`CellFiles::second`].
    pub volumes: [SnapshotEvidence; 2],
    /// All instants, by volume.
    pub instants: Vec<[MarkerKey; 2]>,
    /// Who wrote to both volumes in turns.
    pub turns: TurnsSpec,
}

impl SnapshotEvidence {
    /// An image of a raw origin that lies on the disk as it is.
    #[must_use]
    pub fn new(marker: MarkerKey, origin: SectorRange) -> Self {
        Self {
            marker,
            origin,
            zeroed: BlockSet::new(),
            filesystem: false,
            golden: Vec::new(),
            differing_reads: 0,
            maps: Vec::new(),
            encrypted: false,
            marker_sectors: None,
            mirrored: false,
            expected_log: &[],
            written: false,
            traced: None,
            replayed: false,
            restored: None,
        }
    }
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
    /// The first of the wrong blocks.
    pub bad: Vec<BadBlock>,
    /// How each script ended.
    pub trials: Vec<TrialOutcome>,
    /// Everything that is wrong, each in one sentence; empty for a pass.
    pub faults: Vec<String>,
    /// Figures that are no fault.
    pub notes: Vec<String>,
    /// What the module may say in the kernel log although it is a warning.
    pub expected_log: ExpectedLog,
    /// What became of the trace, if the cell was traced.
    pub trace: Option<TraceResult>,
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
    if matches!(evidence, Evidence::WitnessOnly) && is_large(&files.origin())? {
        sparse::self_check(
            &files.base(),
            &files.witness(),
            &files.origin(),
            DISCARD_MODEL,
        )?;
        return Ok(Judgement::default());
    }
    let (mut base, mut origin) = (map(&files.base())?, map(&files.origin())?);
    let mut witness = map(&files.witness())?;
    let mut judgement = Judgement::default();
    let trials = match evidence {
        Evidence::Trials(trials) => Some(trials),
        _ => None,
    };
    let evidence = match evidence {
        Evidence::Snapshot(evidence) => Some(evidence),
        Evidence::WitnessOnly => None,
        Evidence::Volumes(evidence) => return judge_volumes(files, evidence),
        Evidence::Soak(evidence) => return soak::judge(files, evidence),
        Evidence::Trials(_) => None,
        Evidence::PowerCuts { cuts, boot, then } => {
            let mut judgement = judge(files, then, observations)?;
            judgement.take_power_cuts(files, cuts, *boot)?;
            return Ok(judgement);
        }
        Evidence::FailedSnapshot(text) => {
            judgement.expected_log = text;
            None
        }
    };
    if let Some(evidence) = evidence.filter(|evidence| evidence.encrypted) {
        crypt::decrypt_disk(&mut base, evidence.origin);
        crypt::decrypt_disk(&mut origin, evidence.origin);
        crypt::decrypt_log(&mut witness, evidence.origin).map_err(|error| untrusted(&error))?;
    }
    let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
    self_check(&base, &log, &origin, DISCARD_MODEL).map_err(|error| untrusted(&error))?;
    let Some(evidence) = evidence else {
        if let Some(trials) = trials {
            judgement.take_trials(&base, &log, &map(&files.image())?, trials)?;
        }
        return Ok(judgement);
    };
    judgement.expected_log = evidence.expected_log;
    if evidence.mirrored {
        judgement.check_mirror(files, &base, &origin, evidence.origin)?;
    }
    let image = map(&files.image())?;
    let Some(mut marker) = judgement.find(&log, &evidence.marker) else {
        return Ok(judgement);
    };
    if let Some(sectors) = evidence.marker_sectors {
        if marker.header.origin_sectors != sectors {
            let found = marker.header.origin_sectors;
            judgement.fault(format!(
                "the epoch is of {found} sectors, and not of {sectors}"
            ));
            return Ok(judgement);
        }
        // What is compared is the origin.
        marker.header.origin_sectors = evidence.origin.sectors;
    }
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
    let differing = evidence.differing_reads;
    let observed = judgement.take_observations(&oracle, &report, observations, differing)?;
    if let Some(traced) = &evidence.traced {
        // The guest counts all differing reads, and sends the content of so many only.
        let untold = differing.saturating_sub(observations.len() as u64);
        judgement.take_trace(traced, &report, &observed, untold);
    }
    for map in &evidence.maps {
        judgement.check_map(&base, &log, evidence.origin, &evidence.zeroed, map)?;
    }
    if evidence.filesystem {
        judgement.check_filesystem(&files.image())?;
        judgement.check_golden_files(&files.image(), &evidence.golden)?;
    }
    if let Some(restored) = &evidence.restored {
        let content = of_range(&origin, evidence.origin);
        judgement.check_restored(files, &oracle, content, evidence.origin, restored)?;
    }
    Ok(judgement)
}

/// Whether a disk is so large that it is mostly holes, and has to be looked at as such.
fn is_large(path: &Path) -> HarnessResult<bool> {
    Ok(fs::metadata(path).on("stat", path)?.len() > LARGE_BYTES)
}

/// The bytes of a disk that a range has.
pub(crate) fn of_range(disk: &[u8], range: SectorRange) -> &[u8] {
    let (start, end) = (range.start.0 as usize * 512, range.end().0 as usize * 512);
    disk.get(start..end).unwrap_or_default()
}

/// Each volume by itself, then whether they fit together.
fn judge_volumes(files: &CellFiles, evidence: &VolumesEvidence) -> HarnessResult<Judgement> {
    let second = files.second();
    let mut judgement = Judgement::default();
    for (name, files, volume) in [
        ("first volume", files, &evidence.volumes[0]),
        ("second volume", &second, &evidence.volumes[1]),
    ] {
        let of_one = judge(files, &Evidence::Snapshot(volume.clone()), &[])?;
        judgement.take_volume(name, of_one);
    }
    // Without a marker there is nothing to compare; that is a fault already.
    if judgement.faults.is_empty() {
        judgement.take_turns([files, &second], evidence)?;
    }
    Ok(judgement)
}

impl Judgement {
    pub(crate) fn take_volume(&mut self, name: &str, volume: Self) {
        let named = |text: &String| format!("{name}: {text}");
        self.blocks_checked += volume.blocks_checked;
        self.blocks_bad += volume.blocks_bad;
        self.name_bad(&volume.bad);
        for (class, count) in volume.classes {
            *self.classes.entry(class).or_default() += count;
        }
        self.faults.extend(volume.faults.iter().map(named));
        self.notes.extend(volume.notes.iter().map(named));
        self.text += &format!("{name}:\n{}", volume.text);
    }

    fn take_turns(
        &mut self,
        files: [&CellFiles; 2],
        evidence: &VolumesEvidence,
    ) -> HarnessResult<()> {
        let [first, second] = &evidence.volumes;
        let origins = [first.origin, second.origin];
        let report = turns::compare(files, origins, &evidence.instants, &evidence.turns)?;
        self.notes.push(format!(
            "{} instants of {} writers: {} of {} between the two writes of a round",
            evidence.instants.len(),
            evidence.turns.writers,
            report.between_turns,
            report.looked_at
        ));
        for (instant, writer, fault) in report.faults.iter().take(LISTED_TURNS) {
            self.text += &format!("instant {instant}, writer {writer}: {fault}\n");
        }
        if let Some((instant, writer, fault)) = report.faults.first() {
            self.fault(format!(
                "no common instant in {} places, as {instant} of writer {writer}: {fault}",
                report.faults.len()
            ));
        }
        Ok(())
    }

    pub(crate) fn fault(&mut self, fault: String) {
        self.text += &fault;
        self.text.push('\n');
        self.faults.push(fault);
    }

    /// Keeps the first bad blocks, for whoever wants to know more about them than the text says.
    fn name_bad(&mut self, bad: &[BadBlock]) {
        let room = MAX_LISTED_BLOCKS.saturating_sub(self.bad.len());
        self.bad.extend(bad.iter().take(room).cloned());
    }

    pub(crate) fn take_report(&mut self, report: &Report) {
        self.blocks_checked += report.blocks_checked;
        self.blocks_bad += report.blocks_bad;
        for (class, count) in &report.classes {
            *self.classes.entry(*class).or_default() += count;
        }
        self.name_bad(&report.bad);
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

    /// The origin must end with what the raw writers' journal says.
    pub(crate) fn check_written(
        &mut self,
        files: &CellFiles,
        origin: Partition,
        events: &[Event],
    ) -> HarnessResult<()> {
        let (before, after) = (map(&files.base())?, map(&files.origin())?);
        let start = usize::try_from(origin.offset_bytes()).unwrap_or(usize::MAX);
        let length = usize::try_from(origin.length_bytes()).unwrap_or(usize::MAX);
        let of = |disk: &'_ MmapMut| disk.get(start..start + length).map(<[u8]>::to_vec);
        let fault = match (of(&before), of(&after)) {
            (Some(before), Some(after)) => written::fault(events, &before, &after),
            _ => Some("the origin lies behind the end of its disk".to_owned()),
        };
        if let Some(fault) = fault {
            self.fault(fault);
        }
        Ok(())
    }

    /// The harness looks at the right disk; that a header is not there is the module's doing.
    pub(crate) fn find(&mut self, log: &WitnessLog<'_>, key: &MarkerKey) -> Option<Marker> {
        match find_marker(log, key) {
            Ok(marker) => Some(marker),
            Err(error) => {
                self.fault(format!("no snapshot instant: {error}"));
                None
            }
        }
    }

    /// A block that was read wrong once is a bad block, whatever the image says; each counts once.
    pub(crate) fn take_observations(
        &mut self,
        oracle: &Oracle<'_>,
        report: &Report,
        observations: &[Observation],
        differing_reads: u64,
    ) -> HarnessResult<BlockSet> {
        let seen: Vec<(BlockIndex, &[u8])> = observations
            .iter()
            .map(|observation| {
                (
                    BlockIndex(observation.block),
                    observation.content.as_slice(),
                )
            })
            .collect();
        let judged = oracle
            .classify_observations(&seen)
            .map_err(|error| untrusted(&error))?;
        // The image's bad blocks are counted already.
        let mut counted = BlockSet::from(report.runs.clone());
        let mut wrong = BlockSet::new();
        for (observation, bad) in observations.iter().zip(judged) {
            // None: this read was right, so the first one was wrong.
            let Some(bad) = bad else { continue };
            if wrong.contains(bad.block) {
                continue;
            }
            wrong.insert(bad.block, 1);
            self.text += &format!(
                "reader {} at {} us read block {} wrong: {} {}\n",
                observation.reader,
                observation.at_ns / 1000,
                bad.block,
                bad.class,
                bad.detail
            );
            if !counted.contains(bad.block) {
                self.name_bad(std::slice::from_ref(&bad));
                counted.insert(bad.block, 1);
                self.blocks_bad += 1;
                *self.classes.entry(bad.class).or_default() += 1;
            }
        }
        if differing_reads > 0 || !wrong.is_empty() {
            self.fault(format!(
                "{differing_reads} reads differ from the first read of the same block, and {} blocks \
                 were read wrong",
                wrong.len()
            ));
        }
        Ok(wrong)
    }

    /// The tracer must name the blocks that the oracle names, and no others but those that the
    /// oracle cannot know: among the `untold` reads of which the guest has sent no content.
    fn take_trace(
        &mut self,
        traced: &BTreeSet<u64>,
        report: &Report,
        observed: &BlockSet,
        untold: u64,
    ) {
        let runs = report.runs.iter().chain(observed.runs());
        let named: BTreeSet<u64> = runs
            .flat_map(|run| run.first.0..run.first.0 + run.blocks)
            .collect();
        let missed: Vec<u64> = named.difference(traced).copied().collect();
        let alone: Vec<u64> = traced.difference(&named).copied().collect();
        let figures = format!(
            "the tracer names {} blocks, {} of the {} that the oracle names; the oracle was not told of \
             {untold} reads",
            traced.len(),
            named.len() - missed.len(),
            named.len()
        );
        self.text += &format!("{figures}\n");
        self.notes.push(figures);
        let list = |blocks: &[u64]| {
            let shown = blocks.iter().take(LISTED_BLOCKS).map(ToString::to_string);
            shown.collect::<Vec<_>>().join(" ")
        };
        if !missed.is_empty() {
            self.fault(format!("the tracer does not name blocks {}", list(&missed)));
        }
        if alone.len() as u64 > untold {
            self.fault(format!(
                "of {} blocks only the tracer says that they were read wrong: {}",
                alone.len(),
                list(&alone)
            ));
        }
    }

    /// Every block that differs between the two ends of a map must be in it.
    pub(crate) fn check_map(
        &mut self,
        base: &[u8],
        log: &WitnessLog<'_>,
        origin: SectorRange,
        own: &BlockSet,
        map: &ChangeMap,
    ) -> HarnessResult<()> {
        let (Some(from), Some(to)) = (self.find(log, &map.from), self.find(log, &map.to)) else {
            return Ok(());
        };
        let report = check_changes(&ChangeMapInput {
            base,
            log,
            from,
            to,
            origin,
            map: &map.blocks,
            own,
            discard: DISCARD_MODEL,
        })
        .map_err(|error| untrusted(&error))?;
        let epochs = format!("epoch {} to {}", map.from.epoch, map.to.epoch);
        self.notes.push(format!(
            "{epochs}: {} blocks changed, {} in the map, {} of them unchanged",
            report.changed, report.listed, report.surplus
        ));
        if report.own_listed > 0 {
            let count = report.own_listed;
            self.fault(format!(
                "the change map of {epochs} has {count} blocks of the COW file"
            ));
        }
        if report.missed.is_empty() {
            return Ok(());
        }
        let missed = report.missed.len() as u64;
        self.blocks_bad += missed;
        *self.classes.entry(Class::MissedChange).or_default() += missed;
        self.name_bad(&report.missed);
        for bad in report.missed.iter().take(LISTED_CHANGES) {
            self.text += &format!("block {} {}", bad.block, bad.detail);
            if let Some(culprit) = &bad.culprit {
                self.text += &format!(", by {culprit}");
            }
            self.text.push('\n');
        }
        self.fault(format!(
            "{missed} of {} blocks that changed are missing in the change map of {epochs}",
            report.changed
        ));
        Ok(())
    }

    fn take_power_cuts(
        &mut self,
        files: &CellFiles,
        cuts: &PowerCuts,
        boot: u32,
    ) -> HarnessResult<()> {
        let base = map(&files.earlier_base(boot))?;
        let witness = map(&files.earlier_witness(boot))?;
        let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
        let report = cuts.judge(&base, &log)?;
        self.notes.push(format!(
            "{} power cuts, {} of them after the first epoch: {} changed blocks, {} named, {} missed",
            report.cuts, report.later_epochs, report.changed, report.named, report.missed
        ));
        self.blocks_checked += report.changed;
        if report.missed > 0 {
            self.blocks_bad += report.missed;
            *self.classes.entry(Class::MissedChange).or_default() += report.missed;
        }
        for fault in report.faults {
            self.fault(fault);
        }
        Ok(())
    }

    /// Both halves of a mirror end equal. The other half's own log must agree with its disk as well,
    /// or it could not say so.
    fn check_mirror(
        &mut self,
        files: &CellFiles,
        base: &[u8],
        origin: &[u8],
        range: SectorRange,
    ) -> HarnessResult<()> {
        let (other, witness) = (map(&files.mirror())?, map(&files.mirror_witness())?);
        let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
        self_check(base, &log, &other, DISCARD_MODEL).map_err(|error| untrusted(&error))?;
        let (start, end) = (range.start.0 as usize * 512, range.end().0 as usize * 512);
        if origin.get(start..end) != other.get(start..end) {
            self.fault("the two halves of the mirror differ at the end".to_owned());
        }
        Ok(())
    }

    pub(crate) fn check_filesystem(&mut self, image: &Path) -> HarnessResult<()> {
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

/// Maps a file; what is written to the map stays in memory.
pub(crate) fn map(path: &Path) -> HarnessResult<MmapMut> {
    let file = File::open(path).on("open", path)?;
    // SAFETY: nothing writes or truncates the files of a cell while the map lives: QEMU has ended,
    // and the folder belongs to this cell alone.
    unsafe { MmapOptions::new().map_copy(&file) }.on("map", path)
}
