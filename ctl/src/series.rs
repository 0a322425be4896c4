//! What has to be remembered of a series to take it up again after a boot, before any filesystem
//! is mounted: one JSON file for each, named after the series.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::durable::{self, Links};
use crate::identity::Identity;
use crate::info::Device;
use crate::names;
use crate::out;
use crate::topology::{self, DeviceNumber};
use crate::untracked::Untracked;

/// Where the files are, unless the user says otherwise.
pub const DEFAULT_FOLDER: &str = "/etc/cowbird";

/// The format that this tool writes. It is not in the file: a later one will be.
const FORMAT: u64 = 1;

/// Far more than any record has.
const LIMIT_BYTES: u64 = 64 << 10;

/// More records than there are snapshots, by far.
const LIMIT_RECORDS: usize = 1024;

/// One series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Its UUID, in hexadecimal.
    pub series: String,
    /// Number of its snapshot device.
    pub minor: u32,
    /// A name of the origin that outlives a boot.
    #[serde(with = "names::as_text")]
    pub origin: PathBuf,
    /// Likewise of the device with the COW file's filesystem.
    #[serde(with = "names::as_text")]
    pub cow_device: PathBuf,
    /// Where the COW file's first slot lies on that, in sectors.
    pub cow_sector: u64,
    /// The COW file, when its filesystem is mounted.
    #[serde(with = "names::as_text")]
    pub cow_file: PathBuf,
    /// Memory for preserved blocks, MiB.
    pub cache_mb: u64,
    /// What tells the origin from another device that gets its name.
    #[serde(default, skip_serializing_if = "Identity::is_empty")]
    pub origin_identity: Identity,
    /// Likewise the device with the COW file's filesystem.
    #[serde(default, skip_serializing_if = "Identity::is_empty")]
    pub cow_identity: Identity,
    /// Since when nothing tracks its changes, or did not for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untracked: Option<Untracked>,
}

impl Series {
    /// From the module's report.
    pub fn of(device: &Device, cache_mb: u64) -> Result<Self> {
        let number = |text: &str| DeviceNumber::parse(text).context(crate::info::BAD_REPORT);
        let (origin, cow) = (number(&device.origin_device)?, number(&device.cow_device)?);
        Ok(Self {
            series: device.uuid.clone(),
            minor: device.minor,
            origin: topology::stable_name(origin)?,
            cow_device: topology::stable_name(cow)?,
            cow_sector: device.cow_sector,
            cow_file: device.cow_file.clone(),
            cache_mb,
            origin_identity: Identity::of(origin),
            cow_identity: Identity::of(cow),
            untracked: None,
        })
    }

    /// Its UUID; zeros where it is not known.
    ///
    /// # Errors
    /// When the record has something else in its place.
    pub fn uuid(&self) -> Result<[u8; 16]> {
        if self.series.is_empty() {
            return Ok([0; 16]);
        }
        let number = u128::from_str_radix(&self.series, 16).ok();
        match number.filter(|_| self.series.len() == 32) {
            Some(number) => Ok(number.to_be_bytes()),
            None => bail!("{} is no UUID", names::printable(&self.series)),
        }
    }

    /// The series as its file has it by now, if there still is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_again(&self, folder: &Path) -> Result<Option<Self>> {
        let path = self.path(folder);
        if !path.exists() {
            return Ok(None);
        }
        let series = Self::read(&path).with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Some(series))
    }

    /// Changes what its file says of a time without tracking, as `change` makes it of what the file says now. A file that
    /// is not there any more is not made again. Whether it was changed.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn change_untracked(
        &self,
        folder: &Path,
        change: impl FnOnce(Option<Untracked>) -> Option<Untracked>,
    ) -> Result<bool> {
        let Some(mut series) = self.read_again(folder)? else {
            return Ok(false);
        };
        let changed = change(series.untracked.clone());
        if changed == series.untracked {
            return Ok(false);
        }
        series.untracked = changed;
        series.write(folder)?;
        Ok(true)
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.json", self.series))
    }

    /// Writes its file, so that a crash leaves the old one or the new one.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = self.path(folder);
        let text = self.text()?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        // It may have been made just now, and without it the record is nowhere.
        durable::sync_name(folder)
            .with_context(|| format!("cannot write the folder of {}", folder.display()))?;
        durable::replace(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// As [`Self::write`], in place of whatever had the same minor before. Records that cannot be used are left alone.
    pub fn replace(&self, folder: &Path) -> Result<()> {
        let records = Records::read(folder)?;
        records.complain();
        for other in records.series {
            if other.minor == self.minor && other.series != self.series {
                Self::forget(folder, &other.series)?;
            }
        }
        self.write(folder)
    }

    /// From the bytes of its file.
    ///
    /// # Errors
    /// When they are no series that this tool knows.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let value: serde_json::Value =
            serde_json::from_slice(text).context("it is not a valid series record; delete it")?;
        if let Some(format) = value.get("format").and_then(serde_json::Value::as_u64)
            && format > FORMAT
        {
            bail!("it was written by a newer cowbirdctl (format {format}); use that one");
        }
        serde_json::from_value(value).context("it is not a valid series record; delete it")
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn text(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .context("cannot write a series as JSON")
    }

    fn read(path: &Path) -> Result<Self> {
        let text = durable::read(path, LIMIT_BYTES, Links::Refuse).context("cannot read it")?;
        let series = Self::parse(&text)?;
        // Whoever forgets a series removes the file of that name.
        if path.file_stem() != Some(series.series.as_ref()) {
            bail!(
                "it describes series {}, whose record would be {}.json; remove or rename it",
                names::printable(&series.series),
                names::printable(&series.series)
            );
        }
        Ok(series)
    }

    /// Removes the file of a series, if there is one.
    pub fn forget(folder: &Path, series: &str) -> Result<()> {
        let path = folder.join(format!("{series}.json"));
        durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// A file in the folder that cannot be used, and why.
#[derive(Debug)]
pub struct BadRecord {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: anyhow::Error,
}

/// What a folder remembers.
#[derive(Debug, Default)]
pub struct Records {
    /// In order of their minors.
    pub series: Vec<Series>,
    /// The files that are none.
    pub bad: Vec<BadRecord>,
}

impl Records {
    /// All files of a folder, each for itself. A folder that does not exist has none.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn read(folder: &Path) -> Result<Self> {
        let names = match fs::read_dir(folder) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot list {}", folder.display()));
            }
        };
        let mut paths = Vec::new();
        for name in names {
            let path = name
                .with_context(|| format!("cannot list {}", folder.display()))?
                .path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                paths.push(path);
            }
            if paths.len() > LIMIT_RECORDS {
                bail!(
                    "{} has more than {LIMIT_RECORDS} records; remove those that are not of this machine",
                    folder.display()
                );
            }
        }
        paths.sort();
        let mut records = Self::default();
        for path in paths {
            match Series::read(&path) {
                Ok(series) => records.series.push(series),
                Err(error) => records.bad.push(BadRecord { path, error }),
            }
        }
        records.series.sort_by_key(|series| series.minor);
        Ok(records)
    }

    /// Names the files that cannot be used.
    pub fn complain(&self) {
        for BadRecord { path, error } in &self.bad {
            out::complain(format!("{}: {error:#}", names::shown(path)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{CString, OsStr};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

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
            origin_identity: Identity::default(),
            cow_identity: Identity::default(),
            untracked: None,
        }
    }

    fn read_all(folder: &Path) -> Vec<Series> {
        Records::read(folder).unwrap().series
    }

    #[test]
    fn what_is_written_is_read_in_order_and_can_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cowbird");
        assert_eq!(read_all(&folder), []);
        for minor in [3, 1] {
            series(minor).write(&folder).unwrap();
        }
        fs::write(folder.join("note.txt"), "no series").unwrap();
        assert_eq!(read_all(&folder), [series(1), series(3)]);
        Series::forget(&folder, &series(1).series).unwrap();
        Series::forget(&folder, &series(1).series).unwrap();
        assert_eq!(read_all(&folder), [series(3)]);
        let next = Series {
            series: "ab".into(),
            ..series(3)
        };
        next.replace(&folder).unwrap();
        assert_eq!(read_all(&folder), [next]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("ab.json")), 0o600);
    }

    #[test]
    fn any_name_of_a_cow_file_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let odd = Series {
            cow_file: Path::new(OsStr::from_bytes(b"/srv/caf\xe9/a\\134\n")).into(),
            ..series(2)
        };
        odd.write(dir.path()).unwrap();
        assert_eq!(read_all(dir.path()), [odd]);
    }

    /// Goal: whatever lies in the folder, the good records are read and each bad one is named. Method: one bad file of each
    /// kind beside two good ones.
    #[test]
    fn a_bad_file_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        series(1).write(dir.path()).unwrap();
        series(2).write(dir.path()).unwrap();
        fs::write(at("empty.json"), "").unwrap();
        fs::write(at("foreign.json"), "{}").unwrap();
        fs::write(at("newer.json"), r#"{"format": 2, "what": "else"}"#).unwrap();
        fs::write(at("large.json"), vec![b' '; 70_000]).unwrap();
        fs::create_dir(at("folder.json")).unwrap();
        fs::copy(at(&format!("{:032x}.json", 1)), at("copy.json")).unwrap();
        symlink(at("nothing"), at("dangling.json")).unwrap();
        symlink("/dev/zero", at("endless.json")).unwrap();
        let pipe = CString::new(at("pipe.json").as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);

        let records = Records::read(dir.path()).unwrap();
        assert_eq!(records.series, [series(1), series(2)]);
        let said: Vec<String> = records
            .bad
            .iter()
            .map(|bad| {
                let name = bad.path.file_stem().unwrap().to_string_lossy();
                format!("{name}: {:#}", bad.error)
            })
            .collect();
        assert_eq!(said.len(), 9, "{said:#?}");
        for (at, expected) in [
            "copy: it describes series 00000000000000000000000000000001",
            "dangling: cannot read it: it is a symbolic link",
            "empty: it is not a valid series record",
            "endless: cannot read it: it is a symbolic link",
            "folder: cannot read it: it is not a regular file",
            "foreign: it is not a valid series record; delete it: missing field",
            "large: cannot read it: it has more than 65536 bytes",
            "newer: it was written by a newer cowbirdctl (format 2)",
            "pipe: cannot read it: it is not a regular file",
        ]
        .iter()
        .enumerate()
        {
            assert!(said[at].starts_with(expected), "{}", said[at]);
        }

        let third = Series {
            series: "cd".into(),
            ..series(2)
        };
        third.replace(dir.path()).unwrap();
        assert_eq!(read_all(dir.path()), [series(1), third]);
        assert_eq!(Records::read(dir.path()).unwrap().bad.len(), 9);
    }
}
