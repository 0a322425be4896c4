//! An image of a snapshot: it shows the origin as it was at an instant, and what else is claimed of it.

use std::collections::BTreeSet;

use cowbird_host::error::HarnessResult;
use cowbird_model::{BlockSet, MarkerKey, Oracle, SectorRange};
use cowbird_proto::message::{GoldenFile, Observation};

use crate::blocks::Compared;
use crate::change_map::ChangeMap;
use crate::exhibits::Disk;
use crate::judgement::Judgement;
use crate::mapped::{DISCARD_MODEL, map, untrusted};
use crate::restored::Restored;

/// What else is claimed of an image. It is looked at only where the image's instant is known: without it nothing
/// can be said of an image.
#[derive(Debug, Clone)]
pub enum OfImage {
    /// The tracer calls these blocks of the origin wrong, and no others.
    TracerNames(BTreeSet<u64>),
    /// A change map of the series has every block that differs between its ends.
    Changes(ChangeMap),
    /// It is an ext4 without errors.
    SoundExt4,
    /// It has these files.
    Files(Vec<GoldenFile>),
    /// It was copied back to the origin, and this is what became of that.
    Restored(Restored),
}

/// That the image of a disk shows its origin as it was at an instant.
#[derive(Debug, Clone)]
pub struct ImageClaim {
    /// Identifies the snapshot instant in the witness.
    pub marker: MarkerKey,
    /// The origin on the disk.
    pub origin: SectorRange,
    /// Blocks of the COW file on the origin: zeros in the image, and in no change map.
    pub zeroed: BlockSet,
    /// Snapshot reads that differed from an earlier read of the same block. The guest sends the
    /// content of the first of them only.
    pub differing_reads: u64,
    /// Sectors of the device whose epoch marks the instant, where that is not the origin as it lies on the disk: what the
    /// origin was spread over for the module, or another device of which a snapshot was taken at a time without writes.
    pub marker_sectors: Option<u64>,
    /// What else must be true, in the order in which it is looked at.
    pub more: Vec<OfImage>,
}

impl ImageClaim {
    /// An image of an origin that is raw for all that is known, with no COW file on it.
    #[must_use]
    pub fn new(marker: MarkerKey, origin: SectorRange) -> Self {
        Self {
            marker,
            origin,
            zeroed: BlockSet::new(),
            differing_reads: 0,
            marker_sectors: None,
            more: Vec::new(),
        }
    }

    /// The blocks of the COW file on the origin.
    #[must_use]
    pub fn zeroed(self, zeroed: BlockSet) -> Self {
        Self { zeroed, ..self }
    }

    /// The instant is that of a device with so many sectors, and not of the origin.
    #[must_use]
    pub fn marked_by(self, sectors: u64) -> Self {
        Self {
            marker_sectors: Some(sectors),
            ..self
        }
    }

    /// How many reads of the snapshot differed from an earlier one.
    #[must_use]
    pub fn differing_reads(self, differing_reads: u64) -> Self {
        Self {
            differing_reads,
            ..self
        }
    }

    /// Claims something more of it.
    #[must_use]
    pub fn with(mut self, more: OfImage) -> Self {
        self.more.push(more);
        self
    }

    /// Claims that these change maps are complete.
    #[must_use]
    pub fn with_maps(mut self, maps: impl IntoIterator<Item = ChangeMap>) -> Self {
        self.more.extend(maps.into_iter().map(OfImage::Changes));
        self
    }

    /// Claims that it is an ext4 without errors that has these files.
    #[must_use]
    pub fn with_files(self, files: Vec<GoldenFile>) -> Self {
        self.with(OfImage::SoundExt4).with(OfImage::Files(files))
    }

    /// Compares it with the truth, and looks at all that is claimed of it. `observations`: what readers of the snapshot
    /// saw.
    pub(crate) fn check(
        &self,
        disk: &Disk<'_>,
        observations: &[Observation],
        judgement: &mut Judgement,
    ) -> HarnessResult<()> {
        let image = map(&disk.files.image())?;
        let Some(mut marker) = judgement.find(&disk.log, &self.marker) else {
            return Ok(());
        };
        if let Some(sectors) = self.marker_sectors {
            if marker.header.origin_sectors != sectors {
                let found = marker.header.origin_sectors;
                judgement.fault(format!(
                    "the epoch is of {found} sectors, and not of {sectors}"
                ));
                return Ok(());
            }
            // What is compared is the origin.
            marker.header.origin_sectors = self.origin.sectors;
        }
        let zeroed = &self.zeroed;
        let oracle = Oracle::new(
            disk.base,
            &disk.log,
            marker,
            self.origin,
            zeroed,
            DISCARD_MODEL,
        )
        .map_err(|error| untrusted(&error))?;
        let origin_bytes = usize::try_from(self.origin.bytes()).unwrap_or(usize::MAX);
        let content = image.get(..origin_bytes).unwrap_or(&image);
        let report = oracle.verify(content).map_err(|error| untrusted(&error))?;
        judgement.take_report(&report);
        let differing = self.differing_reads;
        let wrong_reads = judgement.take_observations(&oracle, &report, observations, differing)?;
        let compared = Compared {
            disk,
            origin: self.origin,
            own: zeroed,
            oracle: &oracle,
            report: &report,
            wrong_reads: &wrong_reads,
            // The guest counts all differing reads, and sends the content of so many only.
            untold: differing.saturating_sub(observations.len() as u64),
        };
        for claim in &self.more {
            claim.check(&compared, judgement)?;
        }
        Ok(())
    }
}

impl OfImage {
    fn check(&self, image: &Compared<'_>, judgement: &mut Judgement) -> HarnessResult<()> {
        let disk = image.disk;
        match self {
            Self::TracerNames(blocks) => {
                judgement.take_trace(blocks, image);
                Ok(())
            }
            Self::Changes(map) => {
                judgement.check_map(disk.base, &disk.log, image.origin, image.own, map)
            }
            Self::SoundExt4 => judgement.check_filesystem(&disk.files.image()),
            Self::Files(files) => judgement.check_golden_files(&disk.files.image(), files),
            Self::Restored(restored) => restored.check(image, judgement),
        }
    }
}
