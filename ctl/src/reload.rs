//! Taking series up again: after a boot, after the module was away, after an unmount.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cowbird_abi as abi;

use crate::arguments::ReloadOne;
use crate::control::{self, Control, Reload};
use crate::cow_file::{self, CowFile};
use crate::info::{self, Device};
use crate::series::{Records, Series};
use crate::topology::{self, DeviceNumber};
use crate::{mounts, names, out};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Bound of the time in which writes are held by a reload, each time that it is tried. The maps are read
/// before; what is left are a few reads.
const TIMEOUT_MS: u32 = 1000;

/// How often it is tried when that was not enough. Nothing has begun then, and what is held goes on.
const TRIES: u32 = 10;

/// Identity of this boot.
pub fn boot_id() -> Result<[u8; 16]> {
    let text = fs::read_to_string(BOOT_ID)
        .with_context(|| format!("cannot read {BOOT_ID}; is /proc mounted?"))?;
    parse_boot_id(&text).with_context(|| format!("{BOOT_ID} is no UUID: {text:?}"))
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| number.to_be_bytes())
}

/// `cowbirdctl reload-snapshot` and `reload-incremental`.
pub fn one(arguments: &ReloadOne, snapshot: bool, folder: &Path) -> Result<()> {
    let origin = topology::open_block_device(&arguments.block_device)?.number;
    let cow_file = std::path::absolute(&arguments.cow_file)
        .with_context(|| format!("bad path {}", arguments.cow_file.display()))?;
    names::check_length(&cow_file)?;
    let records = Records::read(folder)?;
    records.complain();
    let known = records.series.into_iter().find(|series| {
        series.cow_file == cow_file && number_of(&series.origin).is_ok_and(|is| is == origin)
    });
    let series = match known {
        Some(series) => Series {
            minor: arguments.minor,
            cache_mb: arguments.cache_mb,
            ..series
        },
        None => series_of_file(arguments, &cow_file)
            .with_context(|| format!("{} has no record of that COW file", folder.display()))?,
    };
    let state = reload(&series, snapshot)?;
    if snapshot && !is_snapshot(state) {
        bail!(
            "the snapshot ended without having been saved and cannot go on; its changes are \
             tracked as minor {}: take the next one with transition-to-snapshot",
            series.minor
        );
    }
    Ok(())
}

/// Some of what was to be done was done, and some failed.
#[derive(Debug)]
pub struct Partly {
    /// What failed, for people.
    said: String,
}

impl std::fmt::Display for Partly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

impl std::error::Error for Partly {}

/// `done` succeeded; what `said` says did not, if it says something.
fn verdict(done: usize, said: Option<String>) -> Result<()> {
    match said {
        None => Ok(()),
        Some(said) if done > 0 => Err(Partly { said }.into()),
        Some(said) => bail!(said),
    }
}

/// `cowbirdctl reload --all`: every recorded series that is not there yet. One that cannot go on, or a file that is no
/// record, does not keep the others from it.
pub fn all(folder: &Path) -> Result<()> {
    let report = info::read()?;
    let present: Vec<&str> = report
        .devices()
        .map(|device| device.uuid.as_str())
        .collect();
    let records = Records::read(folder)?;
    records.complain();
    let (mut done, mut failed) = (0, 0);
    for series in &records.series {
        if present.contains(&series.series.as_str()) {
            done += 1;
            continue;
        }
        // In an initramfs most devices come later, and with them their turn.
        if !series.origin.exists() || !series.cow_device.exists() {
            out::line(format_args!(
                "minor {}: its devices are not there yet",
                series.minor
            ));
            continue;
        }
        match reload(series, true) {
            Ok(state) => {
                done += 1;
                let what = if is_snapshot(state) {
                    "snapshot goes on"
                } else {
                    "change tracking continues"
                };
                out::line(format_args!("minor {}: {what}", series.minor));
            }
            Err(error) => {
                failed += 1;
                out::complain(format_args!("minor {}: {error:#}", series.minor));
            }
        }
    }
    let mut said = Vec::new();
    if failed > 0 {
        said.push(format!(
            "{failed} series cannot go on; their volumes need a full backup"
        ));
    }
    if !records.bad.is_empty() {
        said.push(format!(
            "{} files in {} are not records that can be used",
            records.bad.len(),
            folder.display()
        ));
    }
    verdict(done, (!said.is_empty()).then(|| said.join("; ")))
}

/// `cowbirdctl verify`
pub fn verify(minor: u32) -> Result<()> {
    verify_device(&info::find(minor)?)
}

/// `cowbirdctl verify --all`: whatever can be reached. A COW file whose filesystem is not mounted
/// yet is left for later; one that is missing from a filesystem that is mounted is not.
pub fn verify_all() -> Result<()> {
    let (mut done, mut failed) = (0, 0);
    let report = info::read()?;
    let mounted: Vec<DeviceNumber> = mounts::read()?.iter().map(|mount| mount.device).collect();
    for device in report.devices() {
        if device.cow_is_pinned || !device.tracks {
            continue;
        }
        let verdict = match Reach::of(
            is_reachable(device),
            DeviceNumber::parse(&device.cow_device),
            &mounted,
        ) {
            Reach::Later => continue,
            Reach::There => verify_device(device),
            Reach::Missing => Err(anyhow!(
                "the filesystem of the COW file is mounted, and {} is not there; was it removed or renamed? Name it as it \
                 was, or destroy minor {} and take a full backup",
                names::shown(&device.cow_file),
                device.minor
            )),
        };
        match verdict {
            Ok(()) => done += 1,
            Err(error) => {
                failed += 1;
                out::complain(format_args!("minor {}: {error:#}", device.minor));
            }
        }
    }
    let mut said: Vec<String> = report.complaints().collect();
    if failed > 0 {
        said.push(format!(
            "{failed} COW files are not what they were; their volumes need a full backup"
        ));
    }
    verdict(done, (!said.is_empty()).then(|| said.join("; ")))
}

/// `cowbirdctl suspend`
pub fn suspend(minor: u32) -> Result<()> {
    let control = Control::open()?;
    crate::commands::patiently(|| control.suspend(minor))
        .with_context(|| format!("cannot suspend snapshot {minor}"))
}

fn is_snapshot(state: u32) -> bool {
    [
        abi::COWBIRD_STATE_DORMANT_SNAPSHOT,
        abi::COWBIRD_STATE_ACTIVE_SNAPSHOT,
        abi::COWBIRD_STATE_UNVERIFIED_SNAPSHOT,
    ]
    .contains(&state)
}

fn number_of(path: &Path) -> Result<DeviceNumber> {
    Ok(topology::open_block_device(path)?.number)
}

fn reload(series: &Series, snapshot: bool) -> Result<u32> {
    let reload = Reload {
        minor: series.minor,
        origin: number_of(&series.origin)?,
        origin_path: series.origin.as_os_str().as_bytes().to_vec(),
        cow: number_of(&series.cow_device)?,
        cow_sector: series.cow_sector,
        cow_path: series.cow_file.as_os_str().as_bytes().to_vec(),
        cache_bytes: cow_file::mebibytes(series.cache_mb).context("the cache is too large")?,
        timeout_ms: TIMEOUT_MS,
        boot_id: boot_id()?,
        snapshot,
    };
    let control = Control::open()?;
    let state = until_in_time(|| control.reload(&reload))
        .with_context(|| format!("cannot take up again what {} had", series.origin.display()))?;
    let device = info::find(series.minor)?;
    if is_reachable(&device) {
        verify_device(&device)?;
    }
    Ok(state)
}

/// Tries again what did not end in the time for which writes may be held.
fn until_in_time<T>(act: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match act() {
            Err(error) if control::is_timed_out(&error) => {}
            end => return end,
        }
    }
    act()
}

/// Where a COW file is to be looked for.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    /// Under its name.
    There,
    /// Nowhere, before its filesystem is mounted.
    Later,
    /// Nowhere, although its filesystem is mounted.
    Missing,
}

impl Reach {
    fn of(is_there: bool, device: Option<DeviceNumber>, mounted: &[DeviceNumber]) -> Self {
        match device {
            _ if is_there => Self::There,
            Some(device) if mounted.contains(&device) => Self::Missing,
            _ => Self::Later,
        }
    }
}

/// Whether the COW file's name leads to a file on the device that it must be on.
fn is_reachable(device: &Device) -> bool {
    let on = DeviceNumber::parse(&device.cow_device);
    fs::symlink_metadata(&device.cow_file)
        .is_ok_and(|meta| on == Some(DeviceNumber::from_raw(meta.dev())))
}

fn verify_device(device: &Device) -> Result<()> {
    let control = Control::open()?;
    let cow = CowFile::open(&device.cow_file).with_context(|| {
        format!(
            "mount its filesystem, or destroy minor {} if it is gone",
            device.minor
        )
    })?;
    control.pin(cow.file()).context("cannot pin the COW file")?;
    control
        .verify(device.minor, &cow.extents()?)
        .with_context(|| format!("cannot verify {}", names::shown(&device.cow_file)))
}

/// Without a record: the COW file itself, whose filesystem is mounted, tells where it is.
fn series_of_file(arguments: &ReloadOne, path: &Path) -> Result<Series> {
    let cow = CowFile::open(path)?;
    let first = cow.extents()?.iter().map(|extent| extent.sector).min();
    Ok(Series {
        series: String::new(),
        minor: arguments.minor,
        origin: arguments.block_device.clone(),
        cow_device: topology::stable_name(cow.device()?)?,
        cow_sector: first.ok_or_else(|| anyhow!("{} is empty", path.display()))?,
        cow_file: PathBuf::from(path),
        cache_mb: arguments.cache_mb,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a COW file that was removed is not taken for one whose filesystem comes later.
    #[test]
    fn a_file_that_is_missing_is_told_from_one_that_comes_later() {
        let number = |text| DeviceNumber::parse(text).unwrap();
        let (home, other) = (number("254:1"), number("254:2"));
        let reach = |there, mounted: &[DeviceNumber]| Reach::of(there, Some(home), mounted);
        assert_eq!(reach(false, &[other, home]), Reach::Missing);
        assert_eq!(reach(false, &[other]), Reach::Later);
        assert_eq!(reach(true, &[other, home]), Reach::There);
        assert_eq!(Reach::of(false, None, &[home]), Reach::Later);
    }

    #[test]
    fn boot_ids_are_read_as_the_kernel_writes_them() {
        let id = parse_boot_id("0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa\n").unwrap();
        assert_eq!(id[..4], [0x0b, 0x1c, 0x2d, 0x3e]);
        assert_eq!(id[15], 0xfa);
        assert!(parse_boot_id("0b1c2d3e").is_none());
        assert!(boot_id().is_ok());
    }
}
