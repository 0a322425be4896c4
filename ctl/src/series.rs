//! What has to be remembered of a series to take it up again after a boot, before any filesystem
//! is mounted: one JSON file for each, named after the series.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::info::Device;
use crate::topology::{self, DeviceNumber};

/// Where the files are, unless the user says otherwise.
pub const DEFAULT_FOLDER: &str = "/etc/cowbird";

/// One series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Its UUID, in hexadecimal.
    pub series: String,
    /// Number of its snapshot device.
    pub minor: u32,
    /// A name of the origin that outlives a boot.
    pub origin: PathBuf,
    /// Likewise of the device with the COW file's filesystem.
    pub cow_device: PathBuf,
    /// Where the COW file's first slot lies on that, in sectors.
    pub cow_sector: u64,
    /// The COW file, when its filesystem is mounted.
    pub cow_file: PathBuf,
    /// Memory for preserved blocks, MiB.
    pub cache_mb: u64,
}

impl Series {
    /// From the module's report.
    pub fn of(device: &Device, cache_mb: u64) -> Result<Self> {
        let number = |text: &str| DeviceNumber::parse(text).context(crate::info::BAD_REPORT);
        Ok(Self {
            series: device.uuid.clone(),
            minor: device.minor,
            origin: topology::stable_name(number(&device.origin_device)?)?,
            cow_device: topology::stable_name(number(&device.cow_device)?)?,
            cow_sector: device.cow_sector,
            cow_file: PathBuf::from(&device.cow_file),
            cache_mb,
        })
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.json", self.series))
    }

    /// Writes its file, so that a crash leaves the old one or the new one.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = self.path(folder);
        let text = serde_json::to_string_pretty(self).context("cannot write a series as JSON")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        durable::replace(&path, (text + "\n").as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// As [`Self::write`], in place of whatever had the same minor before.
    pub fn replace(&self, folder: &Path) -> Result<()> {
        for other in Self::read_all(folder)? {
            if other.minor == self.minor && other.series != self.series {
                Self::forget(folder, &other.series)?;
            }
        }
        self.write(folder)
    }

    /// All series of a folder, in order of their minors. A folder that does not exist has none.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>> {
        let names = match fs::read_dir(folder) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot list {}", folder.display()));
            }
        };
        let mut all = Vec::new();
        for name in names {
            let path = name
                .with_context(|| format!("cannot list {}", folder.display()))?
                .path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let series: Self = serde_json::from_str(&text)
                .with_context(|| format!("{} describes no series; remove it", path.display()))?;
            all.push(series);
        }
        all.sort_by_key(|series| series.minor);
        Ok(all)
    }

    /// Removes the file of a series, if there is one.
    pub fn forget(folder: &Path, series: &str) -> Result<()> {
        let path = folder.join(format!("{series}.json"));
        durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(minor: u32) -> Series {
        Series {
            series: format!("{minor:032x}"),
            minor,
            origin: "/dev/disk/by-partuuid/1-2".into(),
            cow_device: "/dev/vda2".into(),
            cow_sector: 34816,
            cow_file: "/srv/.cowbird".into(),
            cache_mb: 64,
        }
    }

    #[test]
    fn what_is_written_is_read_in_order_and_can_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cowbird");
        assert_eq!(Series::read_all(&folder).unwrap(), []);
        for minor in [3, 1] {
            series(minor).write(&folder).unwrap();
        }
        fs::write(folder.join("note.txt"), "no series").unwrap();
        assert_eq!(Series::read_all(&folder).unwrap(), [series(1), series(3)]);
        Series::forget(&folder, &series(1).series).unwrap();
        Series::forget(&folder, &series(1).series).unwrap();
        assert_eq!(Series::read_all(&folder).unwrap(), [series(3)]);
        let next = Series {
            series: "ab".into(),
            ..series(3)
        };
        next.replace(&folder).unwrap();
        assert_eq!(Series::read_all(&folder).unwrap(), [next]);
    }

    #[test]
    fn a_file_that_is_no_series_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bad.json"), "{}").unwrap();
        let error = format!("{:#}", Series::read_all(dir.path()).unwrap_err());
        assert!(error.contains("bad.json"), "{error}");
    }
}
