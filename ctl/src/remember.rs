//! Keeping in the records of series whether they are being tracked.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::identity::Identity;
use crate::info::{self, Device, Report};
use crate::module::Module;
use crate::series::Series;
use crate::topology::{self, DeviceNumber};
use crate::untracked::Untracked;
use crate::{commands, out, record_lock};

/// The device that a name leads to. It must answer within a bound.
///
/// # Errors
/// When it leads to none.
pub fn number_of(path: &Path) -> Result<DeviceNumber> {
    Ok(topology::open_block_device(path)?.number)
}

/// A device that only has the name of the recorded one is not written to, and not believed.
///
/// # Errors
/// When it says of itself that it is another one.
pub fn check_identity(path: &Path, recorded: &Identity, now: DeviceNumber) -> Result<()> {
    match recorded.difference(&Identity::of(now)) {
        Some(difference) => bail!(
            "{} is not the device in the record: {difference}; if that device has another name now, restore its name and \
             reload again, otherwise take a full backup",
            path.display()
        ),
        None => Ok(()),
    }
}

/// The origin, if it is there, and not another device under its name.
fn origin_of(series: &Series) -> Option<DeviceNumber> {
    let number = number_of(&series.origin).ok()?;
    check_identity(&series.origin, &series.origin_identity, number).ok()?;
    Some(number)
}

/// The record says from now on that nothing tracks the series, whose origin is this device; whether it did not say so
/// before. What it says already counts, whatever comes later.
///
/// # Errors
/// When the record cannot be read or written.
pub fn untracked(series: &Series, origin: DeviceNumber, folder: &Path) -> Result<bool> {
    let now = Untracked::now(origin)?;
    series.change_untracked(folder, |before| before.or(Some(now)))
}

/// The origin of a series that the module has, or has had.
///
/// # Errors
/// When the module says something else.
pub fn origin_of_device(device: &Device) -> Result<DeviceNumber> {
    DeviceNumber::parse(&device.origin_device).context(info::BAD_REPORT)
}

/// The same of a series, if it is certain that the module does not have it; what cannot be written is complained of.
/// Whether the origin is there and nothing tracks it.
pub fn untracked_if_absent(series: &Series, folder: &Path, module: &impl Module) -> bool {
    let Some(origin) = origin_of(series) else {
        return false;
    };
    let told = record_lock::hold(folder).and_then(|_lock| {
        let absent = match module.report() {
            Ok(report) => is_absent(&report, &series.series),
            Err(_) => !module.is_there(),
        };
        if absent {
            untracked(series, origin, folder)?;
        }
        Ok(absent)
    });
    told.unwrap_or_else(|error| {
        out::complain(format_args!(
            "minor {}: nothing tracks this series, and its record cannot say so; run verify --all later: {error:#}",
            series.minor
        ));
        true
    })
}

/// A series that cannot be understood may be this one.
fn is_absent(report: &Report, uuid: &str) -> bool {
    report.complaints().next().is_none() && !report.devices().any(|device| device.uuid == uuid)
}

/// The record says no more that nothing tracks the series: it was taken up, and the module has compared.
///
/// # Errors
/// When the record cannot be read or written.
pub fn tracked(series: &Series, folder: &Path) -> Result<()> {
    series.change_untracked(folder, |_| None).map(drop)
}

/// Of a series that the module has: one that was taken up although its record knows better is ended. An initramfs
/// does that, whose copy of the record is older.
///
/// # Errors
/// When it was ended, or has to be and cannot.
pub fn settle(series: &Series, folder: &Path, module: &impl Module) -> Result<()> {
    if series.untracked.is_none() {
        return Ok(());
    }
    let _lock = record_lock::hold(folder)?;
    // As it is by now.
    let report = module.report()?;
    let Some(device) = report.devices().find(|it| it.uuid == series.series) else {
        return Ok(());
    };
    let Some(untracked) = series.read_again(folder)?.and_then(|now| now.untracked) else {
        return Ok(());
    };
    match untracked.differs(&series.origin, origin_of_device(device)?)? {
        None if device.tracks => tracked(series, folder),
        None => Ok(()),
        Some(reason) => {
            commands::patiently(|| module.destroy(device.minor)).with_context(|| {
                format!(
                    "it must not go on, and cannot be ended: {reason}; destroy minor {}",
                    device.minor
                )
            })?;
            bail!(
                "it was reloaded from an outdated record, such as an initramfs holds, so tracking was ended: {reason}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::fake::Fake;
    use crate::series::Records;

    /// Goal: a record is told only of a device that is the recorded one, once, and can be told otherwise.
    #[test]
    fn a_record_says_since_when_nothing_tracks() {
        let dir = tempfile::tempdir().unwrap();
        let series = Series::parse(
            br#"{"series": "000102030405060708090a0b0c0d0e0f", "minor": 1, "origin": "/dev/none", "cow_device": "/dev/b",
                 "cow_sector": 8, "cow_file": "/c", "cache_mb": 1}"#,
        )
        .unwrap();
        series.write(dir.path()).unwrap();
        // No device has the name.
        assert!(!untracked_if_absent(&series, dir.path(), &Fake::default()));
        let read = || Records::read(dir.path()).unwrap().series.remove(0);
        assert_eq!(read(), series);

        let Some(origin) = topology::entries(Path::new("/sys/dev/block"))
            .iter()
            .find_map(|path| DeviceNumber::parse(path.file_name()?.to_str()?))
        else {
            return;
        };
        let first = Untracked::now(origin).unwrap();
        let tell = |told: Untracked| {
            series
                .change_untracked(dir.path(), |before| before.or(Some(told)))
                .unwrap()
        };
        assert!(tell(first.clone()));
        assert!(!tell(first.clone()));
        assert_eq!(read().untracked, Some(first));
        tracked(&series, dir.path()).unwrap();
        assert_eq!(read(), series);

        // A record that was removed is not made again.
        Series::forget(dir.path(), &series.series).unwrap();
        assert!(!tell(Untracked::now(origin).unwrap()));
        assert!(Records::read(dir.path()).unwrap().series.is_empty());
    }

    #[test]
    fn a_report_that_is_not_understood_proves_no_absence() {
        let report = |devices: &str| {
            Report::parse(format!(r#"{{"version": "0", "devices": [{devices}]}}"#).as_bytes())
                .unwrap()
        };
        assert!(is_absent(&report(""), "aa"));
        assert!(!is_absent(&report(r#"{"minor": 3}"#), "aa"));
    }
}
