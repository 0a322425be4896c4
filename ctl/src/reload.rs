//! Taking series up again: after a boot, after the module was away, after an unmount.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cowbird_abi as abi;

use crate::arguments::ReloadOne;
use crate::control::{self, Control, Reload};
use crate::cow_file::{self, CowFile};
use crate::identity::Identity;
use crate::info;
use crate::remember::{self, check_identity, number_of};
use crate::series::{Records, Series};
use crate::verify::{self, Verified};
use crate::{boot, names, out, record_lock, topology};

/// Bound of the time in which writes are held by a reload, each time that it is tried. The maps are read
/// before; what is left are a few reads.
const TIMEOUT_MS: u32 = 1000;

/// How often it is tried when that was not enough. Nothing has begun then, and what is held goes on.
const TRIES: u32 = 10;

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
        None => unrecorded(arguments, &cow_file, folder)?,
    };
    let state = reload(&series, snapshot, folder)?;
    if series.series.is_empty() {
        // Of a record whose names lead nowhere only the module knows the series.
        let uuid = info::find(series.minor)?.uuid;
        if let Some(record) = Records::read(folder)?
            .series
            .iter()
            .find(|it| it.series == uuid)
        {
            remember::settle(record, folder)?;
        }
    }
    if snapshot && !is_snapshot(state) {
        bail!(
            "the snapshot was not saved and cannot go on; changes since it are tracked as minor {}: take the next \
             snapshot with transition-to-snapshot",
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
    let records = Records::read(folder)?;
    records.complain();
    let (mut done, mut failed) = (0, 0);
    for series in &records.series {
        if report.devices().any(|it| it.uuid == series.series) {
            match remember::settle(series, folder) {
                Ok(()) => done += 1,
                Err(error) => {
                    failed += 1;
                    out::complain(format_args!("minor {}: {error:#}", series.minor));
                }
            }
            continue;
        }
        // In an initramfs most devices come later, and with them their turn.
        let devices = [&series.origin, &series.cow_device];
        if let Some(missing) = devices.into_iter().find(|device| !device.exists()) {
            out::line(format_args!(
                "minor {}: {} is not there yet",
                series.minor,
                names::shown(missing)
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
                remember::untracked_if_absent(series, folder);
            }
        }
    }
    let mut said = Vec::new();
    if failed > 0 {
        said.push(format!("{failed} series failed; see above what each needs"));
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
    verify::device(&info::find(minor)?)
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
            for series in &records.series {
                remember::untracked_if_absent(series, folder);
            }
            return Err(error);
        }
    };
    let mounted = verify::mounted()?;
    for device in report.devices() {
        if device.cow_is_pinned || !device.tracks {
            continue;
        }
        match verify::where_mounted(device, &mounted) {
            Ok(Verified::Later) => {}
            Ok(Verified::Now) => done += 1,
            Err(error) => {
                failed += 1;
                out::complain(format_args!("minor {}: {error:#}", device.minor));
            }
        }
    }
    let mut said: Vec<String> = report.complaints().collect();
    for device in report.devices().filter(|device| device.tracks) {
        if !records.series.iter().any(|it| it.series == device.uuid) {
            out::complain(format_args!(
                "minor {}: {} has no record of this series; if an initramfs with an older record took it up, destroy it and \
                 take a full backup",
                device.minor,
                folder.display()
            ));
        }
    }
    let mut absent = 0;
    for series in &records.series {
        if !report.devices().any(|it| it.uuid == series.series) {
            absent += usize::from(remember::untracked_if_absent(series, folder));
            continue;
        }
        if let Err(error) = remember::settle(series, folder) {
            failed += 1;
            out::complain(format_args!("minor {}: {error:#}", series.minor));
        }
    }
    if absent > 0 {
        said.push(format!(
            "{absent} series in {} are not tracked; run reload --all before their origins are written to, or take a full backup",
            folder.display()
        ));
    }
    if failed > 0 {
        said.push(format!(
            "{failed} series cannot be trusted; see above what each needs"
        ));
    }
    verdict(done, (!said.is_empty()).then(|| said.join("; ")))
}

/// `cowbirdctl suspend`
pub fn suspend(minor: u32, folder: &Path) -> Result<()> {
    let control = Control::open()?;
    let _lock = record_lock::hold(folder)?;
    let device = info::find(minor)?;
    let records = Records::read(folder)?;
    let recorded = records.series.iter().find(|it| it.series == device.uuid);
    // Before it ends: from then on nobody tracks, and whoever crashes here has lost nothing but a full backup.
    let told = match recorded {
        Some(series) => remember::untracked(series, remember::origin_of_device(&device)?, folder)
            .with_context(|| format!("cannot suspend snapshot {minor}"))?,
        None => false,
    };
    let done = crate::commands::patiently(|| control.suspend(minor))
        .with_context(|| format!("cannot suspend snapshot {minor}"));
    let goes_on = || info::find(minor).is_ok_and(|now| now.uuid == device.uuid && now.tracks);
    if done.is_err()
        && told
        && let Some(series) = recorded
        && goes_on()
    {
        remember::tracked(series, folder)?;
    }
    done
}

fn is_snapshot(state: u32) -> bool {
    [
        abi::COWBIRD_STATE_DORMANT_SNAPSHOT,
        abi::COWBIRD_STATE_ACTIVE_SNAPSHOT,
        abi::COWBIRD_STATE_UNVERIFIED_SNAPSHOT,
    ]
    .contains(&state)
}

fn reload(series: &Series, snapshot: bool, folder: &Path) -> Result<u32> {
    let (origin, cow) = (number_of(&series.origin)?, number_of(&series.cow_device)?);
    check_identity(&series.origin, &series.origin_identity, origin)?;
    check_identity(&series.cow_device, &series.cow_identity, cow)?;
    if let Some(untracked) = &series.untracked
        && let Some(reason) = untracked.differs(&series.origin, origin)?
    {
        bail!(reason);
    }
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
        boot_id: boot::id()?,
        uuid,
        snapshot,
        // The record names the origin, which says nothing else of itself.
        is_final: is_recorded,
    };
    let control = Control::open()?;
    let lock = record_lock::hold(folder)?;
    let state = until_in_time(|| control.reload(&reload))
        .with_context(|| format!("cannot take up the series of {}", series.origin.display()))?;
    if is_recorded {
        // Nothing was written meanwhile. Whoever looked for it while it was being taken up may have told the record.
        remember::tracked(series, folder)?;
    }
    drop(lock);
    let device = info::find(series.minor)?;
    if !device.cow_is_pinned {
        verify::where_mounted(&device, &verify::mounted()?)?;
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

/// A COW file that no record names. One that a record means by another name is not taken up past the record.
fn unrecorded(arguments: &ReloadOne, path: &Path, folder: &Path) -> Result<Series> {
    let series = series_of_file(arguments, path)
        .with_context(|| format!("{} has no record of that COW file", folder.display()))?;
    let cow = number_of(&series.cow_device)?;
    let records = Records::read(folder)?;
    if let Some(bad) = records.bad.first() {
        bail!(
            "{} cannot be used, and may be the record of that COW file; put it right or remove it first",
            names::shown(&bad.path)
        );
    }
    let other = records.series.into_iter().find(|other| {
        other.cow_sector == series.cow_sector
            && number_of(&other.cow_device).is_ok_and(|number| number == cow)
    });
    match other {
        Some(other) => bail!(
            "{} has a record, in which it is {} and its origin is {}; name them so, or remove {}/{}.json if that is of a \
             series which is no more",
            names::shown(path),
            names::shown(&other.cow_file),
            names::shown(&other.origin),
            folder.display(),
            names::printable(&other.series)
        ),
        None => Ok(series),
    }
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
        untracked: None,
    })
}
