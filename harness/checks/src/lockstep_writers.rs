//! Two volumes whose snapshots were taken at one instant: what writers that wrote to both in lockstep
//! left on each, put before the oracle.

use cowbird_host::error::HarnessResult;
use cowbird_model::{
    BLOCK_BYTES, LockstepFault, MarkerKey, Sector, SectorRange, Truth, check_lockstep, find_marker,
};
use cowbird_proto::message::LockstepWritersSpec;
use cowbird_proto::sector::{SECTOR_BYTES, SectorIdentity};

use crate::exhibits::{Disk, Exhibits};
use crate::image::ImageClaim;
use crate::judgement::Judgement;
use crate::mapped::{DISCARD_MODEL, untrusted};

/// What every writer wrote last into each of its slots.
type Rounds = Vec<Vec<u64>>;

/// Rounds in the wrong images that the text of a report lists.
const LISTED_FAULTS: usize = 20;

/// Images of two volumes, whose snapshots were all taken at common instants.
#[derive(Debug, Clone)]
pub struct CommonInstants {
    /// The images of the last instant; the second one's files are [`cowbird_host::files::CellFiles::second`].
    pub volumes: [ImageClaim; 2],
    /// All instants, by volume.
    pub instants: Vec<[MarkerKey; 2]>,
    /// Who wrote to both volumes in lockstep.
    pub lockstep: LockstepWritersSpec,
}

/// How the instants of two volumes compare.
#[derive(Debug, Default)]
struct LockstepReport {
    /// Instants that are none: number, writer, and what is wrong.
    faults: Vec<(usize, u32, LockstepFault)>,
    /// Instants, times writers, that were looked at.
    looked_at: usize,
    /// Of these, so many at which only the first volume had the writer's last round.
    between_writes: usize,
}

impl CommonInstants {
    /// Judges each volume by itself, then whether they fit together.
    pub(crate) fn check(
        &self,
        exhibits: &Exhibits<'_>,
        judgement: &mut Judgement,
    ) -> HarnessResult<()> {
        let disks = [&exhibits.first, exhibits.second()?];
        let names = ["first volume", "second volume"];
        for ((name, disk), image) in names.into_iter().zip(disks).zip(&self.volumes) {
            let mut of_one = Judgement::default();
            image.check(disk, &[], &mut of_one)?;
            judgement.take_volume(name, of_one);
        }
        // Without a marker there is nothing to compare; that is a fault already.
        if judgement.faults.is_empty() {
            self.check_lockstep(disks, judgement)?;
        }
        Ok(())
    }

    /// Whether the images of both volumes are of the same instants.
    fn check_lockstep(
        &self,
        disks: [&Disk<'_>; 2],
        judgement: &mut Judgement,
    ) -> HarnessResult<()> {
        let report = self.compare(disks)?;
        judgement.notes.push(format!(
            "{} instants of {} writers: {} of {} between the two writes of a round",
            self.instants.len(),
            self.lockstep.writers,
            report.between_writes,
            report.looked_at
        ));
        for (instant, writer, fault) in report.faults.iter().take(LISTED_FAULTS) {
            judgement.text += &format!("instant {instant}, writer {writer}: {fault}\n");
        }
        if let Some((instant, writer, fault)) = report.faults.first() {
            judgement.fault(format!(
                "no common instant in {} places, as {instant} of writer {writer}: {fault}",
                report.faults.len()
            ));
        }
        Ok(())
    }

    /// Compares two volumes at all instants of a series of both.
    fn compare(&self, disks: [&Disk<'_>; 2]) -> HarnessResult<LockstepReport> {
        let (first, second) = (self.rounds_at(disks[0], 0)?, self.rounds_at(disks[1], 1)?);
        let mut report = LockstepReport::default();
        for (number, (first, second)) in first.iter().zip(&second).enumerate() {
            for (writer, (first, second)) in first.iter().zip(second).enumerate() {
                report.looked_at += 1;
                report.between_writes += usize::from(first.iter().max() > second.iter().max());
                let faults = check_lockstep(first, second).into_iter();
                report
                    .faults
                    .extend(faults.map(|fault| (number + 1, writer as u32, fault)));
            }
        }
        Ok(report)
    }

    /// What one volume held at each instant.
    fn rounds_at(&self, disk: &Disk<'_>, volume: usize) -> HarnessResult<Vec<Rounds>> {
        let mut all = Vec::new();
        for keys in &self.instants {
            let marker =
                find_marker(&disk.log, &keys[volume]).map_err(|error| untrusted(&error))?;
            let truth = Truth::at(disk.base, &disk.log, marker.entry, DISCARD_MODEL)
                .map_err(|error| untrusted(&error))?;
            let origin = self.volumes[volume].origin;
            let writers = 0..self.lockstep.writers;
            all.push(
                writers
                    .map(|writer| rounds_of(&truth, origin, &self.lockstep, volume, writer))
                    .collect(),
            );
        }
        Ok(all)
    }
}

fn rounds_of(
    truth: &Truth<'_>,
    origin: SectorRange,
    lockstep: &LockstepWritersSpec,
    volume: usize,
    writer: u32,
) -> Vec<u64> {
    let sectors_per_block = (BLOCK_BYTES / SECTOR_BYTES) as u64;
    let round_in = |slot: u32| {
        let sector = lockstep.block(writer, u64::from(slot)) * sectors_per_block;
        let range = SectorRange::new(Sector(origin.start.0 + sector), 1);
        SectorIdentity::parse(&truth.read(range))
            .filter(|found| found.identity == LockstepWritersSpec::identity(volume))
            .filter(|found| (found.writer, found.seed) == (writer, lockstep.seed))
            .map_or(0, |found| found.generation)
    };
    (0..lockstep.slots).map(round_in).collect()
}
