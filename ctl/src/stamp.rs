//! The stamp of an epoch on its origin, where the COW file is on another disk.
//!
//! The COW file alone cannot say that writes passed while its disk did not answer, nor that the origin is another
//! one, or an older one, than it was made for. So a file on a filesystem of the origin has the identity of the
//! epoch, and the module looks for it there when a series is taken up again. Before an epoch begins the stamp fits
//! that one and the one before, which goes on should the new one be refused; afterwards only the one that goes on.
//!
//! It is an ordinary file: its blocks are in images and maps as those of any other. The module writes to it when
//! tracking is lost, if it still finds it in its place.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cowbird_abi as abi;

use crate::mounts::Mount;
use crate::topology::{self, DeviceNumber};
use crate::{durable, fiemap, names, out, placement};

const BYTES: usize = abi::COWBIRD_STAMP_BYTES as usize;
const SECTOR_BYTES: u64 = 512;

/// All but this is checked by the checksum behind it.
const CHECKED_BYTES: usize = 508;

/// Identity of an epoch.
pub type EpochId = [u8; 16];

/// No epoch.
const NONE: EpochId = [0; 16];

/// A stamp that fits an epoch which is about to begin.
pub struct Stamp {
    file: File,
    path: PathBuf,
    series: [u8; 16],
    epoch: EpochId,
    before: Option<EpochId>,
    sector: u64,
}

/// Whether an epoch needs one: the COW file, on `cow`, is on another disk than the origin.
pub fn is_needed(origin: DeviceNumber, cow: DeviceNumber) -> bool {
    topology::whole_disk(origin) != topology::whole_disk(cow)
}

impl Stamp {
    /// Stamps the origin for an epoch and the one before it. `None`, which is said, where no filesystem of the origin
    /// takes a stamp.
    ///
    /// # Errors
    /// When it cannot be found out which filesystems the origin has.
    pub fn place(
        origin: (DeviceNumber, &str),
        mounts: &[Mount],
        series: [u8; 16],
        epoch: EpochId,
        before: Option<EpochId>,
    ) -> Result<Option<Self>> {
        let mut said = "no filesystem of it is mounted here".to_owned();
        for (part, begin) in topology::parts(origin.0)? {
            for mount in mounts.iter().filter(|mount| mount.device == part) {
                let path = mount
                    .mount_point
                    .join(format!(".cowbird-stamp-{}", hex(&series)));
                match Self::place_at(path, part, begin, series, epoch, before) {
                    Ok(stamp) => return Ok(Some(stamp)),
                    Err(error) => said = format!("{error:#}"),
                }
            }
        }
        out::complain(format_args!(
            "{}: without a stamp on it ({said}) a full backup will be needed after a crash, because the COW file is on \
             another disk",
            origin.1
        ));
        Ok(None)
    }

    fn place_at(
        path: PathBuf,
        device: DeviceNumber,
        begin: u64,
        series: [u8; 16],
        epoch: EpochId,
        before: Option<EpochId>,
    ) -> Result<Self> {
        let file = open(&path, device)?;
        let mut stamp = Self {
            file,
            path,
            series,
            epoch,
            before,
            sector: 0,
        };
        match stamp.put(device, begin) {
            Ok(()) => Ok(stamp),
            Err(error) => {
                stamp.refused();
                Err(error)
            }
        }
    }

    fn put(&mut self, device: DeviceNumber, begin: u64) -> Result<()> {
        let cannot = || format!("cannot write {}", names::shown(&self.path));
        if self.file.metadata().with_context(cannot)?.len() != BYTES as u64 {
            self.file.set_len(0).with_context(cannot)?;
            self.file
                .write_all_at(&[0; BYTES], 0)
                .with_context(cannot)?;
        }
        self.file.sync_all().with_context(cannot)?;
        durable::sync_name(&self.path).with_context(cannot)?;
        let place = self.place_on_device()?;
        let at = begin + place;
        if at == 0 || !at.is_multiple_of(SECTOR_BYTES) {
            bail!("{} lies at an odd place", names::shown(&self.path));
        }
        self.sector = at / SECTOR_BYTES;
        let content = self.content([self.epoch, self.before.unwrap_or(NONE)]);
        self.write(&content)?;
        if self.place_on_device()? != place || !placement::is_at(device, place, &content)? {
            bail!(
                "the filesystem of {} does not keep files in their places",
                names::shown(&self.path)
            );
        }
        Ok(())
    }

    /// The byte of the filesystem's device that it begins at.
    fn place_on_device(&self) -> Result<u64> {
        fiemap::extents(&self.file, &self.path, BYTES as u64)?
            .iter()
            .find_map(|extent| extent.place(0, BYTES as u64))
            .ok_or_else(|| anyhow!("{} is in pieces", names::shown(&self.path)))
    }

    fn content(&self, ids: [EpochId; 2]) -> Vec<u8> {
        encode(self.series, self.sector, ids)
    }

    fn write(&self, content: &[u8]) -> Result<()> {
        let cannot = || format!("cannot write {}", names::shown(&self.path));
        self.file.write_all_at(content, 0).with_context(cannot)?;
        self.file.sync_all().with_context(cannot)
    }

    /// Where it lies, from the start of the origin.
    pub fn sector(&self) -> u64 {
        self.sector
    }

    /// The epoch has begun: no other one fits any more. Where that cannot be written it goes on to fit both.
    pub fn begun(&self) {
        if let Err(error) = self.write(&self.content([self.epoch, NONE])) {
            out::complain(format_args!("{error:#}"));
        }
    }

    /// The epoch has not begun, and the one before goes on, if there is one.
    pub fn refused(&self) {
        let done = match self.before {
            Some(before) if self.sector != 0 => self.write(&self.content([before, NONE])),
            Some(_) => Ok(()),
            None => durable::remove(&self.path).map_err(Into::into),
        };
        if let Err(error) = done {
            out::complain(format_args!("{error:#}"));
        }
    }
}

/// Opens or makes the file, and nothing else that has its name.
fn open(path: &Path, device: DeviceNumber) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(durable::PRIVATE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("cannot make {}", names::shown(path)))?;
    let meta = file
        .metadata()
        .with_context(|| format!("cannot stat {}", names::shown(path)))?;
    // Another filesystem may be mounted over it.
    if !meta.is_file() || meta.nlink() != 1 || DeviceNumber::from_raw(meta.dev()) != device {
        bail!("{} is not a file of the origin's", names::shown(path));
    }
    Ok(file)
}

/// Removes the stamps of a series, wherever its origin is mounted.
pub fn remove(origin: DeviceNumber, series: &str, mounts: &[Mount]) {
    let Ok(parts) = topology::parts(origin) else {
        return;
    };
    for (part, _) in parts {
        for mount in mounts.iter().filter(|mount| mount.device == part) {
            let path = mount.mount_point.join(format!(".cowbird-stamp-{series}"));
            let there = fs::symlink_metadata(&path).is_ok_and(|meta| {
                meta.is_file() && DeviceNumber::from_raw(meta.dev()) == mount.device
            });
            if there && let Err(error) = durable::remove(&path) {
                out::complain(format_args!(
                    "{} was not removed: {error}",
                    names::shown(&path)
                ));
            }
        }
    }
}

/// `struct cowbird_stamp`
fn encode(series: [u8; 16], sector: u64, ids: [EpochId; 2]) -> Vec<u8> {
    let mut block = vec![0; BYTES];
    block[..8].copy_from_slice(&abi::COWBIRD_STAMP_MAGIC[..8]);
    block[8..12].copy_from_slice(&abi::COWBIRD_STAMP_KEPT.to_le_bytes());
    block[16..32].copy_from_slice(&series);
    block[32..40].copy_from_slice(&sector.to_le_bytes());
    block[40..56].copy_from_slice(&ids[0]);
    block[56..72].copy_from_slice(&ids[1]);
    let checksum = crc32c(&block[..CHECKED_BYTES]);
    block[CHECKED_BYTES..CHECKED_BYTES + 4].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// CRC-32C, bit by bit: of one sector, now and then.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

/// From 32 hexadecimal digits, as the module's report has them.
pub fn parse_id(text: &str) -> Option<EpochId> {
    (text.len() == 32)
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
        .map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    /// Goal: the bytes are those that `core/stamp.c` reads, whose own test has the same layout.
    #[test]
    fn the_layout_is_that_of_the_header_file() {
        let block = encode([7; 16], 0x0102, [[8; 16], [9; 16]]);
        assert_eq!(block.len(), BYTES);
        assert_eq!(&block[..8], b"COWBSTP\x01");
        assert_eq!(block[8..16], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(block[16..32], [7; 16]);
        assert_eq!(block[32..40], 0x0102u64.to_le_bytes());
        assert_eq!(block[40..56], [8; 16]);
        assert_eq!(block[56..72], [9; 16]);
        assert!(block[72..508].iter().all(|&byte| byte == 0));
        assert_eq!(block[508..512], crc32c(&block[..508]).to_le_bytes());
        assert!(block[512..].iter().all(|&byte| byte == 0));
        assert_eq!(size_of::<abi::cowbird_stamp>(), BYTES);
    }

    #[test]
    fn identities_are_read_as_they_are_shown() {
        let id = *b"0123456789abcdef";
        assert_eq!(parse_id(&hex(&id)), Some(id));
        assert_eq!(parse_id(""), None);
        assert_eq!(parse_id(&"g".repeat(32)), None);
    }
}
