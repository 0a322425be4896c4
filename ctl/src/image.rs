//! Images of snapshots: copied whole, brought up to date by a change map, or by comparing all of them.
//!
//! Beside an image lies `<image>.cowbird`, which says which epoch of which
//! series the image shows. Without that an update could mix two instants, or
//! two volumes, into one image and nobody would notice.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::change_map::{BLOCK_BYTES, ChangeMap};
use crate::durable::{self, Folder};
use crate::info::{self, Device, hex};
use crate::out;
use crate::progress;
use crate::target::{self, Loss};
use crate::topology::{self, BlockDevice, DeviceNumber};
use crate::verify;

/// Bytes moved at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// What an image shows.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Label {
    format: u32,
    uuid: String,
    epoch: u64,
    bytes: u64,
    /// False while the image is brought up to date: it then shows no instant, but what it showed before
    /// decides which map completes it.
    complete: bool,
}

impl Label {
    /// From the bytes of its file.
    ///
    /// # Errors
    /// When they are no label that this tool knows.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let label: Self =
            serde_json::from_slice(text).context("it is damaged; make the image again")?;
        if label.format != LABEL_FORMAT {
            bail!(
                "it has format {}, this tool knows {LABEL_FORMAT}",
                label.format
            );
        }
        Ok(label)
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context("cannot write a label as JSON")
    }
}

const LABEL_FORMAT: u32 = 1;

/// The epoch of an image that shows none, and that no change map begins with.
const NO_EPOCH: u64 = 0;

/// Far more than any label has.
const LABEL_LIMIT_BYTES: u64 = 64 << 10;

/// A snapshot device and what the module says of it.
struct Snapshot {
    file: File,
    bytes: u64,
    device: Device,
}

impl Snapshot {
    fn open(path: &Path) -> Result<Self> {
        let BlockDevice { number, bytes } = topology::open_block_device(path)?;
        let Some(minor) = topology::snapshot_minor(number) else {
            bail!(
                "{} is not a snapshot device (/dev/cowbird<number>)",
                path.display()
            );
        };
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        if DeviceNumber::from_raw(file.metadata()?.rdev()) != number {
            bail!("{} has become another device; try again", path.display());
        }
        // Asked while the device is open: it cannot become another epoch now.
        let device = info::find(minor)?;
        if device.error != 0 {
            bail!("{} has failed: {}", path.display(), device.error_text);
        }
        verify::before_use(&device)?;
        Ok(Self {
            file,
            bytes,
            device,
        })
    }

    fn label(&self) -> Label {
        Label {
            format: LABEL_FORMAT,
            uuid: self.device.uuid.clone(),
            epoch: self.device.seq_id,
            bytes: self.bytes,
            complete: true,
        }
    }
}

/// An image that is being written.
struct Image {
    file: File,
    path: PathBuf,
    /// Where it and its label are. Somebody else may rename it, and put another one in its place.
    folder: Folder,
    /// It is a new file, and nothing that anybody could use yet.
    is_draft: bool,
}

impl Image {
    /// A new file, or a block device of sufficient size.
    fn create(path: &Path, bytes: u64, force: bool) -> Result<Self> {
        let folder = folder_of(path)?;
        if target::is_device(path) {
            let loss = if force { Loss::Anything } else { Loss::Nothing };
            return Ok(Self {
                file: target::open_device(path, bytes, loss)?,
                path: path.to_owned(),
                folder,
                is_draft: false,
            });
        }
        let image = Self {
            file: target::create_file(&folder, path)?,
            path: path.to_owned(),
            folder,
            is_draft: true,
        };
        image
            .file
            .set_len(bytes)
            .with_context(|| format!("cannot size the image {}", path.display()))?;
        Ok(image)
    }

    fn open(path: &Path, bytes: u64) -> Result<Self> {
        let folder = folder_of(path)?;
        let file = if target::is_device(path) {
            target::open_device(path, bytes, Loss::Image)?
        } else {
            target::open_file(&folder, path)?
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            folder,
            is_draft: false,
        })
    }

    fn label_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".cowbird");
        PathBuf::from(name)
    }

    fn read_label(&self) -> Result<Label> {
        let path = self.label_path();
        let text = durable::name_of(&path);
        let text = match text.and_then(|name| self.folder.read(name, LABEL_LIMIT_BYTES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "{} is missing, so nobody knows what {} shows; make the image with copy-image",
                path.display(),
                self.path.display()
            ),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        Label::parse(&text).with_context(|| format!("cannot use {}", path.display()))
    }

    /// Replaces the label as a whole, and on stable storage.
    fn write_label(&self, label: &Label) -> Result<()> {
        let path = self.label_path();
        let text = label.text()?;
        durable::name_of(&path)
            .and_then(|name| self.folder.replace_by(name, |file| file.write_all(&text)))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Takes the label away, on stable storage too. A copy that is interrupted leaves an image without one:
    /// a label of its epoch would let an update complete it, which knows nothing of what was never copied.
    fn remove_label(&self) -> Result<()> {
        let path = self.label_path();
        durable::name_of(&path)
            .and_then(|name| self.folder.remove(name))
            .with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Puts content and name on stable storage.
    fn sync(&self) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| self.folder.sync())
            .with_context(|| format!("cannot sync {}", self.path.display()))
    }

    /// Copies bytes `[from, to)` of the snapshot.
    fn copy(&self, snapshot: &Snapshot, from: u64, to: u64, progress: &ProgressBar) -> Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        let mut at = from;
        while at < to {
            let piece = &mut buffer[..(to - at).min(CHUNK_BYTES) as usize];
            snapshot
                .file
                .read_exact_at(piece, at)
                .with_context(|| format!("cannot read the snapshot at byte {at}"))?;
            self.file
                .write_all_at(piece, at)
                .with_context(|| format!("cannot write {} at byte {at}", self.path.display()))?;
            at += piece.len() as u64;
            progress.inc(piece.len() as u64);
        }
        Ok(())
    }
}

/// What a comparison found, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Compared {
    blocks: u64,
    differed: u64,
}

/// Makes `image` like `snapshot`, both of so many bytes: reads all of both, and writes the blocks that differ.
fn compare(
    snapshot: (&File, &str),
    image: (&File, &Path),
    bytes: u64,
    progress: &ProgressBar,
) -> Result<Compared> {
    let (mut right, mut found) = (vec![0; CHUNK_BYTES as usize], vec![0; CHUNK_BYTES as usize]);
    let mut compared = Compared::default();
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(CHUNK_BYTES) as usize;
        let (right, found) = (&mut right[..length], &mut found[..length]);
        snapshot
            .0
            .read_exact_at(right, at)
            .with_context(|| format!("cannot read {} at byte {at}", snapshot.1))?;
        image
            .0
            .read_exact_at(found, at)
            .with_context(|| format!("cannot read {} at byte {at}", image.1.display()))?;
        let block = BLOCK_BYTES as usize;
        for (number, (right, found)) in right.chunks(block).zip(found.chunks(block)).enumerate() {
            compared.blocks += 1;
            if right == found {
                continue;
            }
            compared.differed += 1;
            let at = at + number as u64 * BLOCK_BYTES;
            image
                .0
                .write_all_at(right, at)
                .with_context(|| format!("cannot write {} at byte {at}", image.1.display()))?;
        }
        at += length as u64;
        progress.inc(length as u64);
    }
    Ok(compared)
}

fn folder_of(image: &Path) -> Result<Folder> {
    Folder::of(image).with_context(|| format!("cannot open the folder of {}", image.display()))
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.is_draft
            && let Err(error) =
                durable::name_of(&self.path).and_then(|name| self.folder.remove(name))
        {
            out::complain(format_args!(
                "{}, which is no image yet, was not removed: {error}",
                self.path.display()
            ));
        }
    }
}

/// `cowbirdctl copy-image`
pub fn copy(snapshot: &Path, image: &Path, force: bool) -> Result<()> {
    let snapshot = Snapshot::open(snapshot)?;
    let mut image = Image::create(image, snapshot.bytes, force)?;
    image.remove_label()?;
    let progress = progress::bar(snapshot.bytes);
    image.copy(&snapshot, 0, snapshot.bytes, &progress)?;
    image.sync()?;
    image.write_label(&snapshot.label())?;
    image.is_draft = false;
    progress.finish();
    Ok(())
}

/// `cowbirdctl update-image`
pub fn update(snapshot: &Path, map: &Path, image: &Path) -> Result<()> {
    let snapshot = Snapshot::open(snapshot)?;
    let map = ChangeMap::read(map, snapshot.bytes.div_ceil(BLOCK_BYTES))?;
    let image = Image::open(image, snapshot.bytes)?;
    let label = image.read_label()?;
    check_update(&snapshot.label(), &map, &label)?;
    // An update that was interrupted may be run again from the same epoch.
    image.write_label(&Label {
        complete: false,
        ..label
    })?;
    let progress = progress::bar(map.changed() * BLOCK_BYTES);
    for range in map.ranges() {
        let end = (range.end * BLOCK_BYTES).min(snapshot.bytes);
        image.copy(&snapshot, range.start * BLOCK_BYTES, end, &progress)?;
    }
    image.sync()?;
    image.write_label(&snapshot.label())?;
    progress.finish();
    Ok(())
}

/// `cowbirdctl compare-image`: for an image whose changes are not known, or not believed.
pub fn update_by_comparing(snapshot: &Path, image: &Path) -> Result<()> {
    let name = snapshot.display().to_string();
    let snapshot = Snapshot::open(snapshot)?;
    let image = Image::open(image, snapshot.bytes)?;
    check_comparable(&snapshot.label(), &image.read_label()?)?;
    // One that is interrupted is like neither, and no map completes it.
    image.write_label(&Label {
        epoch: NO_EPOCH,
        complete: false,
        ..snapshot.label()
    })?;
    let progress = progress::bar(snapshot.bytes);
    let compared = compare(
        (&snapshot.file, &name),
        (&image.file, &image.path),
        snapshot.bytes,
        &progress,
    )?;
    image.sync()?;
    image.write_label(&snapshot.label())?;
    progress.finish();
    out::line(format_args!(
        "{} of {} blocks differed and were copied",
        compared.differed, compared.blocks
    ));
    Ok(())
}

/// Whether an image may be compared with a snapshot: of whatever series and epoch it is.
fn check_comparable(snapshot: &Label, image: &Label) -> Result<()> {
    if snapshot.bytes != image.bytes {
        bail!(
            "the snapshot has {} bytes and the image {}; take a full copy with copy-image",
            snapshot.bytes,
            image.bytes
        );
    }
    Ok(())
}

/// Whether this map leads from what the image shows to what the snapshot shows.
fn check_update(snapshot: &Label, map: &ChangeMap, image: &Label) -> Result<()> {
    let series = hex(&map.uuid);
    if series != snapshot.uuid || series != image.uuid {
        bail!(
            "snapshot, change map and image are of different series ({}, {series}, {}); \
             take a full copy with copy-image",
            snapshot.uuid,
            image.uuid
        );
    }
    if map.to_epoch != snapshot.epoch {
        bail!(
            "the change map leads to epoch {}, the snapshot is epoch {}; make the map again",
            map.to_epoch,
            snapshot.epoch
        );
    }
    // A map that begins earlier names more blocks than needed, and none too few: after a power cut it
    // begins with the last epoch whose backup is known to be complete.
    if !(map.from_epoch..map.to_epoch).contains(&image.epoch) {
        bail!(
            "the change map starts at epoch {}, the image shows epoch {}; take a full copy with copy-image",
            map.from_epoch,
            image.epoch
        );
    }
    if snapshot.bytes != image.bytes || map.block_count != snapshot.bytes.div_ceil(BLOCK_BYTES) {
        bail!("snapshot, change map and image differ in size; take a full copy with copy-image");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::change_map::Words;

    fn label(epoch: u64) -> Label {
        Label {
            format: LABEL_FORMAT,
            uuid: hex(&[9; 16]),
            epoch,
            bytes: 3 * 4096 + 512,
            complete: true,
        }
    }

    fn map() -> ChangeMap {
        ChangeMap {
            uuid: [9; 16],
            from_epoch: 1,
            to_epoch: 2,
            block_count: 4,
            words: Words::default(),
        }
    }

    #[test]
    fn only_the_right_image_is_updated() {
        assert!(check_update(&label(2), &map(), &label(1)).is_ok());
        let refused = |snapshot: &Label, map: &ChangeMap, image: &Label| {
            check_update(snapshot, map, image).unwrap_err().to_string()
        };
        assert!(refused(&label(3), &map(), &label(1)).contains("leads to epoch 2"));
        assert!(refused(&label(2), &map(), &label(2)).contains("starts at epoch 1"));
        let longer = |from_epoch| ChangeMap {
            from_epoch,
            to_epoch: 5,
            ..map()
        };
        assert!(check_update(&label(5), &longer(2), &label(4)).is_ok());
        assert!(refused(&label(5), &longer(3), &label(2)).contains("starts at epoch 3"));
        let other = Label {
            uuid: hex(&[8; 16]),
            ..label(1)
        };
        assert!(refused(&label(2), &map(), &other).contains("different series"));
        let short = Label {
            bytes: 4096,
            ..label(1)
        };
        assert!(refused(&label(2), &map(), &short).contains("size"));
    }

    /// Goal: whatever the image has, it ends like the snapshot, and only what differs is written. Method: files with a short
    /// last block; the blocks that differ lie at both ends, in the middle and beside each other.
    #[test]
    fn a_comparison_writes_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = 2 * CHUNK_BYTES + 3 * BLOCK_BYTES + 512;
        let right: Vec<u8> = (0..bytes).map(|at| (at / 64 % 251) as u8).collect();
        let mut old = right.clone();
        let last = bytes - 1;
        for at in [0, 5 * 4096, 6 * 4096 + 17, CHUNK_BYTES, last] {
            old[at as usize] ^= 0x55;
        }
        let (source, path) = (dir.path().join("snapshot"), dir.path().join("image"));
        fs::write(&source, &right).unwrap();
        fs::write(&path, &old).unwrap();
        let source = File::open(&source).unwrap();
        let image = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let hidden = ProgressBar::hidden();
        let run = || compare((&source, "the snapshot"), (&image, &path), bytes, &hidden).unwrap();
        let blocks = bytes.div_ceil(BLOCK_BYTES);
        assert_eq!(
            run(),
            Compared {
                blocks,
                differed: 5
            }
        );
        assert!(fs::read(&path).unwrap() == right, "they are alike");
        assert_eq!(
            run(),
            Compared {
                blocks,
                differed: 0
            }
        );
    }

    /// Goal: an image of another series may be compared; one of another size, or one that no comparison completed, is not taken
    /// for what it is not.
    #[test]
    fn an_image_of_any_series_is_compared() {
        let other = Label {
            uuid: hex(&[8; 16]),
            ..label(7)
        };
        assert!(check_comparable(&label(2), &other).is_ok());
        let short = Label {
            bytes: 4096,
            ..label(1)
        };
        let refused = check_comparable(&label(2), &short).unwrap_err();
        assert!(refused.to_string().contains("copy-image"), "{refused}");
        let interrupted = Label {
            epoch: NO_EPOCH,
            complete: false,
            ..label(1)
        };
        assert!(check_update(&label(2), &map(), &interrupted).is_err());
    }

    #[test]
    fn an_image_without_a_label_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut image = Image::create(&path, 4096, false).unwrap();
        assert!(
            image
                .read_label()
                .unwrap_err()
                .to_string()
                .contains("copy-image")
        );
        image.write_label(&label(7)).unwrap();
        assert_eq!(image.read_label().unwrap(), label(7));
        image.remove_label().unwrap();
        image.remove_label().unwrap();
        assert!(image.read_label().is_err(), "it is gone");
        assert!(
            Image::create(&path, 4096, true).is_err(),
            "an existing file is never taken"
        );
        image.is_draft = false;
        drop(image);
        assert!(path.exists());
    }

    /// Goal: neither a label nor the removal of a failed draft goes elsewhere while an image is copied. Method: its folder is
    /// renamed, and a link to another one put in its place.
    #[test]
    fn an_image_stays_in_its_folder() {
        let place = tempfile::tempdir().unwrap();
        let [folder, away, trap] = ["folder", "away", "trap"].map(|name| place.path().join(name));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&trap).unwrap();
        for name in ["image", "image.cowbird"] {
            fs::write(trap.join(name), b"somebody's data").unwrap();
        }
        let image = Image::create(&folder.join("image"), 4096, false).unwrap();
        fs::rename(&folder, &away).unwrap();
        std::os::unix::fs::symlink(&trap, &folder).unwrap();
        image.remove_label().unwrap();
        image.write_label(&label(7)).unwrap();
        assert_eq!(image.read_label().unwrap(), label(7));
        drop(image);
        assert!(away.join("image.cowbird").exists());
        assert!(!away.join("image").exists());
        for name in ["image", "image.cowbird"] {
            assert_eq!(fs::read(trap.join(name)).unwrap(), b"somebody's data");
        }
    }

    #[test]
    fn a_copy_that_fails_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        drop(Image::create(&path, 4096, false).unwrap());
        assert!(!path.exists());
    }
}
