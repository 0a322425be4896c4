//! A long mixed load, put before the oracle: every image that was kept on the way, and every change map.

use cowbird_host::error::HarnessResult;
use cowbird_model::{BlockSet, MarkerKey, Oracle, SectorRange};

use crate::change_map::ChangeMap;
use crate::exhibits::Exhibits;
use crate::judgement::Judgement;
use crate::mapped::{DISCARD_MODEL, map, of_range, untrusted};

/// What a long mixed load leaves.
#[derive(Debug, Clone)]
pub struct SoakEvidence {
    /// By volume.
    pub volumes: Vec<SoakVolume>,
}

/// What it leaves of one volume.
#[derive(Debug, Clone)]
pub struct SoakVolume {
    /// What its images are called in the report.
    pub name: &'static str,
    /// Whether it is on the second witnessed disk, and not on the first.
    pub second_disk: bool,
    /// The origin on its disk.
    pub origin: SectorRange,
    /// Whether the images are ext4 that must be without errors.
    pub filesystem: bool,
    /// The number by which [`kept_image`](cowbird_host::files::CellFiles::kept_image) knows its images.
    pub kept: usize,
    /// Blocks of COW files on the origin: zeros in the images, and in no change map.
    pub own: BlockSet,
    /// Where in their files they begin, bytes.
    pub at_byte: u64,
    /// The instants of the images, in the order of [`kept_image`](cowbird_host::files::CellFiles::kept_image), which counts from 1.
    pub images: Vec<MarkerKey>,
    /// The change maps.
    pub maps: Vec<ChangeMap>,
    /// Whether the last image was copied back to the origin, which must show its instant, too.
    pub restored: bool,
}

impl SoakVolume {
    /// How much of a file of images is the volume's: the disks of images are as large as the largest.
    fn image_in<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        let whole = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let from = whole(self.at_byte).min(file.len());
        let length = whole(self.origin.bytes()).min(file.len() - from);
        &file[from..from + length]
    }
}

impl SoakEvidence {
    /// Judges every image and every map.
    pub(crate) fn check(&self, exhibits: &Exhibits<'_>, all: &mut Judgement) -> HarnessResult<()> {
        for volume in &self.volumes {
            let disk = match volume.second_disk {
                true => exhibits.second()?,
                false => &exhibits.first,
            };
            let own = &volume.own;
            let compare = |one: &mut Judgement, key: &MarkerKey, content: &[u8]| {
                let Some(marker) = one.find(&disk.log, key) else {
                    return Ok(());
                };
                let report = Oracle::new(
                    disk.base,
                    &disk.log,
                    marker,
                    volume.origin,
                    own,
                    DISCARD_MODEL,
                )
                .and_then(|oracle| oracle.verify(content))
                .map_err(|error| untrusted(&error))?;
                one.take_report(&report);
                Ok(())
            };
            for (index, key) in volume.images.iter().enumerate() {
                let image = exhibits.first.files.kept_image(volume.kept, index + 1);
                let mut one = Judgement::default();
                compare(&mut one, key, volume.image_in(&map(&image)?))?;
                if volume.filesystem {
                    one.check_filesystem(&image)?;
                }
                all.take_volume(&format!("{}, image {}", volume.name, index + 1), one);
            }
            if let Some(last) = volume.images.last().filter(|_| volume.restored) {
                let mut one = Judgement::default();
                compare(&mut one, last, of_range(disk.end, volume.origin))?;
                all.take_volume("restored disk", one);
            }
            let mut one = Judgement::default();
            for map in &volume.maps {
                one.check_map(disk.base, &disk.log, volume.origin, own, map)?;
            }
            // One line for each of a hundred maps would bury what matters.
            one.notes.clear();
            all.take_volume(&format!("{}, change maps", volume.name), one);
        }
        let images: usize = self.volumes.iter().map(|v| v.images.len()).sum();
        let maps: usize = self.volumes.iter().map(|v| v.maps.len()).sum();
        if images + maps == 0 {
            all.fault("there is neither an image nor a change map to judge".to_owned());
        }
        all.notes
            .push(format!("{images} images and {maps} change maps judged"));
        Ok(())
    }
}
