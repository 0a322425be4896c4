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
use crate::identity::Identity;
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
    let state = reload(&series, snapshot, folder)?;
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
        match reload(series, true, folder) {
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
                remember_or_complain(series, folder);
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
/// yet is left for later; one that is missing from a filesystem that is mounted is not. Of each series that is not
/// there although its origin is, the record says from then on that this boot was missed.
pub fn verify_all(folder: &Path) -> Result<()> {
    let (mut done, mut failed) = (0, 0);
    let records = Records::read(folder)?;
    let report = match info::read() {
        Ok(report) => report,
        Err(error) => {
            // Without the module nothing is tracked.
            for series in records.series.iter().filter(|it| it.origin.exists()) {
                remember_or_complain(series, folder);
            }
            return Err(error);
        }
    };
    let mounted = mounted()?;
    for device in report.devices() {
        if device.cow_is_pinned || !device.tracks {
            continue;
        }
        match verify_where_mounted(device, &mounted) {
            Ok(Verified::Later) => {}
            Ok(Verified::Now) => done += 1,
            Err(error) => {
                failed += 1;
                out::complain(format_args!("minor {}: {error:#}", device.minor));
            }
        }
    }
    let mut said: Vec<String> = report.complaints().collect();
    let mut absent = 0;
    for series in &records.series {
        let is_there = |device: &Device| device.uuid == series.series;
        if !report.devices().any(is_there) && series.origin.exists() {
            absent += 1;
            remember_or_complain(series, folder);
        }
    }
    if absent > 0 {
        said.push(format!(
            "{absent} series in {} are not being tracked in this boot; their volumes need a full backup",
            folder.display()
        ));
    }
    if failed > 0 {
        said.push(format!(
            "{failed} COW files are not what they were; their volumes need a full backup"
        ));
    }
    verdict(done, (!said.is_empty()).then(|| said.join("; ")))
}

/// What became of a COW file that the module does not hold.
#[derive(Debug, PartialEq, Eq)]
enum Verified {
    Now,
    /// Its filesystem is not mounted.
    Later,
}

/// Devices of all filesystems that are mounted.
fn mounted() -> Result<Vec<DeviceNumber>> {
    Ok(mounts::read()?.iter().map(|mount| mount.device).collect())
}

fn verify_where_mounted(device: &Device, mounted: &[DeviceNumber]) -> Result<Verified> {
    let on = DeviceNumber::parse(&device.cow_device);
    match Reach::of(is_reachable(device), on, mounted) {
        Reach::Later => Ok(Verified::Later),
        Reach::There => verify_device(device).map(|()| Verified::Now),
        Reach::Missing => Err(anyhow!(
            "the filesystem of the COW file is mounted, and {} is not there; was it removed or renamed? Name it as it \
             was, or destroy minor {} and take a full backup",
            names::shown(&device.cow_file),
            device.minor
        )),
    }
}

/// Whoever reads a snapshot that was taken up again has its COW file verified first, if its filesystem is mounted: what
/// lies in the blocks of a file that was removed is somebody else's.
///
/// # Errors
/// When the file is not there, or is another one.
pub fn verify_before_use(device: &Device) -> Result<()> {
    if device.cow_is_pinned || !device.tracks {
        return Ok(());
    }
    verify_where_mounted(device, &mounted()?)
        .map(drop)
        .with_context(|| format!("snapshot {} cannot be trusted", device.minor))
}

/// `cowbirdctl suspend`
pub fn suspend(minor: u32, folder: &Path) -> Result<()> {
    let control = Control::open()?;
    let uuid = info::find(minor)?.uuid;
    let records = Records::read(folder)?;
    let recorded = records.series.iter().find(|it| it.series == uuid);
    // Before it ends: from then on nobody tracks, and whoever crashes here has lost nothing but a full backup.
    if let Some(series) = recorded {
        series
            .clone()
            .write_untracked(Some(info::hex(&boot_id()?)), folder)
            .with_context(|| format!("cannot suspend snapshot {minor}"))?;
    }
    let done = crate::commands::patiently(|| control.suspend(minor))
        .with_context(|| format!("cannot suspend snapshot {minor}"));
    if done.is_err()
        && let Some(series) = recorded
    {
        series.clone().write_untracked(None, folder)?;
    }
    done
}

/// The record says from now on that in this boot nobody tracked, for a time at least.
///
/// # Errors
/// When it cannot be written.
pub fn remember_untracked(series: &Series, folder: &Path) -> Result<()> {
    // What was missed before counts, whatever this boot brings.
    if series.untracked_in_boot.is_some() {
        return Ok(());
    }
    let boot = info::hex(&boot_id()?);
    series.clone().write_untracked(Some(boot), folder)
}

fn remember_or_complain(series: &Series, folder: &Path) {
    if let Err(error) = remember_untracked(series, folder) {
        out::complain(format_args!(
            "minor {}: a later boot may take it up, although changes are missed from now on: {error:#}",
            series.minor
        ));
    }
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

fn reload(series: &Series, snapshot: bool, folder: &Path) -> Result<u32> {
    let boot_id = boot_id()?;
    check_boot(series, &boot_id)?;
    let (origin, cow) = (number_of(&series.origin)?, number_of(&series.cow_device)?);
    check_identity(&series.origin, &series.origin_identity, origin)?;
    check_identity(&series.cow_device, &series.cow_identity, cow)?;
    let uuid = series.uuid()?;
    let is_recorded = uuid != [0; 16];
    let reload = Reload {
        minor: series.minor,
        origin,
        origin_path: series.origin.as_os_str().as_bytes().to_vec(),
        cow,
        cow_sector: series.cow_sector,
        cow_path: series.cow_file.as_os_str().as_bytes().to_vec(),
        cache_bytes: cow_file::mebibytes(series.cache_mb).context("the cache is too large")?,
        timeout_ms: TIMEOUT_MS,
        boot_id,
        uuid,
        snapshot,
        // The record names the origin, and has been compared with it.
        is_final: is_recorded,
    };
    let control = Control::open()?;
    let state = until_in_time(|| control.reload(&reload))
        .with_context(|| format!("cannot take up again what {} had", series.origin.display()))?;
    if is_recorded && series.untracked_in_boot.is_some() {
        // Nothing was written meanwhile: the module has compared.
        series.clone().write_untracked(None, folder)?;
    }
    let device = info::find(series.minor)?;
    if is_reachable(&device) {
        verify_device(&device)?;
    }
    Ok(state)
}

/// A boot in which nobody tracked cannot be seen from the next one.
fn check_boot(series: &Series, boot_id: &[u8]) -> Result<()> {
    match &series.untracked_in_boot {
        Some(missed) if *missed != info::hex(boot_id) => bail!(
            "in an earlier boot {} was there and its changes were not tracked, so nobody knows them; take a full backup",
            series.origin.display()
        ),
        _ => Ok(()),
    }
}

/// A device that only has the name of the recorded one is not written to, and not believed.
fn check_identity(path: &Path, recorded: &Identity, now: DeviceNumber) -> Result<()> {
    match recorded.difference(&Identity::of(now)) {
        Some(difference) => bail!(
            "{} is not the device that was there when its series began: {difference}; if the right one has another name \
             now, give it back its name and reload again, otherwise take a full backup",
            path.display()
        ),
        None => Ok(()),
    }
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
        origin_identity: Identity::default(),
        cow_identity: Identity::default(),
        untracked_in_boot: None,
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

    /// Goal: a boot without tracking ends a series, and a pause within one boot does not; another device under the name is
    /// refused.
    #[test]
    fn a_boot_without_tracking_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let series = Series::parse(
            br#"{"series": "000102030405060708090a0b0c0d0e0f", "minor": 1, "origin": "/dev/a", "cow_device": "/dev/b",
                 "cow_sector": 8, "cow_file": "/c", "cache_mb": 1}"#,
        )
        .unwrap();
        assert_eq!(series.uuid().unwrap()[..3], [0, 1, 2]);
        let (this, next) = (boot_id().unwrap(), [0; 16]);
        check_boot(&series, &this).unwrap();

        remember_untracked(&series, dir.path()).unwrap();
        let read = || Records::read(dir.path()).unwrap().series.remove(0);
        let missed = read();
        assert_eq!(missed.untracked_in_boot, Some(info::hex(&this)));
        check_boot(&missed, &this).unwrap();
        let refused = check_boot(&missed, &next).unwrap_err().to_string();
        assert!(refused.contains("not tracked"), "{refused}");
        // The first boot that was missed stays the one that counts.
        let before = Series {
            untracked_in_boot: Some(info::hex(&next)),
            ..missed
        };
        before.write(dir.path()).unwrap();
        remember_untracked(&read(), dir.path()).unwrap();
        assert_eq!(read(), before);
        before.write_untracked(None, dir.path()).unwrap();
        assert_eq!(read(), series);
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
