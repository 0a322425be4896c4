//! Change tracking after a loss of power, judged without booting anything: states of the disk as a cut
//! could have left it are made from the witness, the module's own code reads the series in each, and
//! what it says has changed is compared with what did.

use cowbird_core::persist::{self, HEAD_BYTES, Now, SLOT_BYTES, Series};
use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_host::files::CellFiles;
use cowbird_model::{
    BlockSet, Class, EntryIndex, EntryKind, Epoch, MarkerKey, Origin, SECTOR_BYTES,
    SECTORS_PER_BLOCK, Sector, SectorRange, Truth, WitnessLog, changed_blocks, find_marker,
};
use cowbird_proto::rng::Rng;

use crate::judgement::{Judgement, nothing_judged};
use crate::mapped::{DISCARD_MODEL, map, untrusted};
use crate::power::survival;

/// Cuts of which a fault is described.
const LISTED_CUTS: usize = 5;

/// Writes are torn between any two sectors.
const TEAR_SECTORS: u64 = 1;

/// What is tried on a witness.
#[derive(Debug, Clone)]
pub struct PowerCuts {
    /// The first instant of the series; every cut is after it.
    pub first: MarkerKey,
    /// The origin on the disk.
    pub origin: SectorRange,
    /// Blocks of the COW file, which are in no map.
    pub own: BlockSet,
    /// How many cuts.
    pub cuts: u32,
    /// Decides where they are, and what survives each.
    pub seed: u64,
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct PowerCutsReport {
    /// Cuts tried.
    pub cuts: u64,
    /// Of them, those after which a series was taken up again in a later epoch than the first.
    pub later_epochs: u64,
    /// Blocks that had changed, all cuts together.
    pub changed: u64,
    /// Blocks that the maps named.
    pub named: u64,
    /// Blocks that had changed and that no map named.
    pub missed: u64,
    /// What went wrong, each in one sentence.
    pub faults: Vec<String>,
}

/// [`PowerCuts`] of a boot before the last one.
#[derive(Debug, Clone)]
pub struct EarlierPowerCuts {
    /// What is tried.
    pub cuts: PowerCuts,
    /// Which boot; they count from 0.
    pub boot: u32,
}

impl EarlierPowerCuts {
    /// Tries them on the witness of that boot, which agreed with its disk when the boot ended.
    pub(crate) fn check(&self, files: &CellFiles, judgement: &mut Judgement) -> HarnessResult<()> {
        if self.cuts.cuts == 0 {
            return Err(nothing_judged("there is no power cut"));
        }
        let base = map(&files.earlier_base(self.boot))?;
        let witness = map(&files.earlier_witness(self.boot))?;
        let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
        let report = self.cuts.judge(&base, &log)?;
        judgement.notes.push(format!(
            "{} power cuts, {} of them after the first epoch: {} changed blocks, {} named, {} missed",
            report.cuts, report.later_epochs, report.changed, report.named, report.missed
        ));
        judgement.blocks_checked += report.changed;
        if report.missed > 0 {
            judgement.blocks_bad += report.missed;
            *judgement.classes.entry(Class::MissedChange).or_default() += report.missed;
        }
        for fault in report.faults {
            judgement.fault(fault);
        }
        Ok(())
    }
}

impl PowerCuts {
    /// Tries them all. `base` is the disk before the log.
    ///
    /// # Errors
    /// Only what makes a judgement impossible.
    pub fn judge(&self, base: &[u8], log: &WitnessLog<'_>) -> HarnessResult<PowerCutsReport> {
        let marker = find_marker(log, &self.first).map_err(|error| untrusted(&error))?;
        let flushed = log
            .entries()
            .iter()
            .find(|entry| entry.index > marker.entry && entry.kind == EntryKind::Flush)
            .ok_or_else(|| HarnessError::Witness {
                detail: format!(
                    "entry {} marks an instant and was never flushed",
                    marker.entry
                ),
            })?;
        let mut rng = Rng::new(self.seed);
        let mut report = PowerCutsReport::default();
        for _ in 0..self.cuts {
            let cut = EntryIndex(rng.between(flushed.index.0 + 1, log.end().0));
            let survival = survival(Rng::new(rng.next_u64()), TEAR_SECTORS);
            let state = Truth::after_power_cut(base, log, cut, DISCARD_MODEL, survival)
                .map_err(|error| untrusted(&error))?;
            report.cuts += 1;
            if let Err(fault) = self.judge_one(base, log, marker.sector, &state, &mut report)? {
                report
                    .faults
                    .push(format!("power cut at entry {cut}: {fault}"));
            }
        }
        let faults = report.faults.len();
        if faults > LISTED_CUTS {
            report.faults.truncate(LISTED_CUTS);
            report.faults.push(format!("{} more", faults - LISTED_CUTS));
        }
        Ok(report)
    }

    fn judge_one(
        &self,
        base: &[u8],
        log: &WitnessLog<'_>,
        header: Sector,
        state: &Truth<'_>,
        report: &mut PowerCutsReport,
    ) -> HarnessResult<Result<(), String>> {
        let series = match self.take_up(header, state) {
            Ok(series) => series,
            Err(lost) => return Ok(Err(format!("tracking is lost: {lost}"))),
        };
        report.later_epochs += u64::from(series.epoch > self.first.epoch.0);
        for changes in [&series.tracked, &series.since_epoch] {
            let since = MarkerKey {
                epoch: Epoch(changes.from_epoch),
                ..self.first
            };
            let instant = find_marker(log, &since).map_err(|error| untrusted(&error))?;
            let truth = Truth::at(base, log, instant.entry, DISCARD_MODEL)
                .map_err(|error| untrusted(&error))?;
            let changed = changed_blocks(&truth, state, &Origin::new(self.origin));
            let missed: BlockSet = changed
                .blocks()
                .filter(|block| !self.own.contains(*block) && !changes.contains(block.0))
                .collect();
            report.changed += changed.len();
            report.named += changes
                .words
                .iter()
                .map(|word| u64::from(word.count_ones()))
                .sum::<u64>();
            report.missed += missed.len();
            if let Some(first) = missed.runs().first() {
                return Ok(Err(format!(
                    "{} blocks changed since epoch {} and are not in the map, the first are {first}",
                    missed.len(),
                    changes.from_epoch
                )));
            }
        }
        Ok(Ok(()))
    }

    /// Takes the series up as the module does after another boot.
    fn take_up(&self, header: Sector, state: &Truth<'_>) -> Result<Series, persist::Lost> {
        let head = SectorRange::new(self.origin.start, self.origin.sectors.min(HEAD_SECTORS));
        let now = Now::next_boot(crc32c::crc32c(&state.read(head)));
        let read = |sector: u64| -> Option<[u8; SLOT_BYTES]> {
            let slot = SectorRange::new(Sector(sector), SECTORS_PER_BLOCK);
            state.read(slot).try_into().ok()
        };
        let series = persist::reload(read, header.0, state.disk_sectors(), &now)?;
        // Nothing was written since that another system could have written.
        let changed = series.changed_sample(|sample| {
            let first = Sector(self.origin.start.0 + sample.sector);
            let range = SectorRange::new(first, u64::from(sample.sectors));
            persist::sample_crc(&state.read(range))
        });
        match changed {
            Some(sample) => Err(persist::Lost {
                errno: 116,
                overtaken: false,
                reason: format!(
                    "sector {} of the origin changed since it was saved",
                    sample.sector
                ),
            }),
            None => Ok(series),
        }
    }
}

/// Sectors of the origin's head.
const HEAD_SECTORS: u64 = (HEAD_BYTES / SECTOR_BYTES) as u64;
