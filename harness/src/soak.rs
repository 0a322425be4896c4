//! A long mixed load, put before the oracle: every image that was kept on the way, and every change map.

use cowbird_model::{BlockSet, MarkerKey, Oracle, SectorRange, WitnessLog, self_check};

use crate::change_map::ChangeMap;
use crate::error::HarnessResult;
use crate::verify::{CellFiles, DISCARD_MODEL, Judgement, map, untrusted};

/// What a long mixed load leaves.
#[derive(Debug, Clone)]
pub struct SoakEvidence {
    /// By volume.
    pub volumes: Vec<SoakVolume>,
}

/// What it leaves of one volume.
#[derive(Debug, Clone)]
pub struct SoakVolume {
    /// Whether it is on the second witnessed disk, and not on the first.
    pub second_disk: bool,
    /// The origin on its disk.
    pub origin: SectorRange,
    /// Whether the images are ext4 that must be without errors.
    pub filesystem: bool,
    /// The instants of the images, in the order of [`CellFiles::kept_image`], which counts from 1.
    pub images: Vec<MarkerKey>,
    /// The change maps.
    pub maps: Vec<ChangeMap>,
}

impl SoakVolume {
    /// How much of an image is the volume's: the disks of images are as large as the largest.
    fn bytes(&self, image: &[u8]) -> usize {
        usize::try_from(self.origin.bytes()).map_or(image.len(), |bytes| bytes.min(image.len()))
    }
}

/// Judges every image and every map.
///
/// # Errors
/// As [`crate::verify::judge`].
pub(crate) fn judge(files: &CellFiles, evidence: &SoakEvidence) -> HarnessResult<Judgement> {
    let mut all = Judgement::default();
    for (number, volume) in evidence.volumes.iter().enumerate() {
        let disk = match volume.second_disk {
            true => files.second(),
            false => files.clone(),
        };
        let (base, end) = (map(&disk.base())?, map(&disk.origin())?);
        let witness = map(&disk.witness())?;
        let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
        self_check(&base, &log, &end, DISCARD_MODEL).map_err(|error| untrusted(&error))?;
        for (index, key) in volume.images.iter().enumerate() {
            let image = files.kept_image(number, index + 1);
            let mut one = Judgement::default();
            if let Some(marker) = one.find(&log, key) {
                let content = map(&image)?;
                let own = BlockSet::new();
                let report = Oracle::new(&base, &log, marker, volume.origin, &own, DISCARD_MODEL)
                    .and_then(|oracle| oracle.verify(&content[..volume.bytes(&content)]))
                    .map_err(|error| untrusted(&error))?;
                one.take_report(&report);
                if volume.filesystem {
                    one.check_filesystem(&image)?;
                }
            }
            all.take_volume(&format!("volume {number}, image {}", index + 1), one);
        }
        let mut one = Judgement::default();
        for map in &volume.maps {
            one.check_map(&base, &log, volume.origin, &BlockSet::new(), map)?;
        }
        // One line for each of a hundred maps would bury what matters.
        one.notes.clear();
        all.take_volume(&format!("volume {number}, change maps"), one);
    }
    all.notes.push(format!(
        "{} images and {} change maps judged",
        evidence
            .volumes
            .iter()
            .map(|v| v.images.len())
            .sum::<usize>(),
        evidence.volumes.iter().map(|v| v.maps.len()).sum::<usize>(),
    ));
    Ok(all)
}
