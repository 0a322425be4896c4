//! Taking series up again: after a boot, after the module was away, after an unmount.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cowbird_abi as abi;

use crate::arguments::ReloadOne;
use crate::control::{self, Reload};
use crate::cow_file::{self, CowFile};
use crate::identity::Identity;
use crate::module::Module;
use crate::remember::{self, check_identity, number_of};
use crate::series::{Records, Series};
use crate::{boot, names, record_lock, topology, verify};

/// Bound of the time in which writes are held by a reload, each time that it is tried. The maps are read
/// before; what is left are a few reads.
const TIMEOUT_MS: u32 = 1000;

/// How often it is tried when that was not enough. Nothing has begun then, and what is held goes on.
const TRIES: u32 = 10;

/// `cowbirdctl reload-snapshot` and `reload-incremental`.
pub fn one(
    arguments: &ReloadOne,
    snapshot: bool,
    folder: &Path,
    module: &impl Module,
) -> Result<()> {
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
    let state = reload(&series, snapshot, folder, module)?;
    if series.series.is_empty() {
        // Of a record whose names lead nowhere only the module knows the series.
        let uuid = module.find(series.minor)?.uuid;
        if let Some(record) = Records::read(folder)?
            .series
            .iter()
            .find(|it| it.series == uuid)
        {
            remember::settle(record, folder, module)?;
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

/// `cowbirdctl verify`
pub fn verify(minor: u32, module: &impl Module) -> Result<()> {
    module.verify(&module.find(minor)?)
}

/// `cowbirdctl suspend`
pub fn suspend(minor: u32, folder: &Path, module: &impl Module) -> Result<()> {
    let _lock = record_lock::hold(folder)?;
    let device = module.find(minor)?;
    let records = Records::read(folder)?;
    let recorded = records.series.iter().find(|it| it.series == device.uuid);
    // Before it ends: from then on nobody tracks, and whoever crashes here has lost nothing but a full backup.
    let told = match recorded {
        Some(series) => remember::untracked(series, remember::origin_of_device(&device)?, folder)
            .with_context(|| format!("cannot suspend snapshot {minor}"))?,
        None => false,
    };
    let done = crate::commands::patiently(|| module.suspend(minor))
        .with_context(|| format!("cannot suspend snapshot {minor}"));
    let goes_on = || {
        module
            .find(minor)
            .is_ok_and(|now| now.uuid == device.uuid && now.tracks)
    };
    if done.is_err()
        && told
        && let Some(series) = recorded
        && goes_on()
    {
        remember::tracked(series, folder)?;
    }
    done
}

/// Whether the state is that of a snapshot.
pub fn is_snapshot(state: u32) -> bool {
    [
        abi::COWBIRD_STATE_DORMANT_SNAPSHOT,
        abi::COWBIRD_STATE_ACTIVE_SNAPSHOT,
        abi::COWBIRD_STATE_UNVERIFIED_SNAPSHOT,
    ]
    .contains(&state)
}

/// Takes a series up by its record; its state.
///
/// # Errors
/// When it, or one of its devices, is not what the record says, or when the module refuses.
pub fn reload(series: &Series, snapshot: bool, folder: &Path, module: &impl Module) -> Result<u32> {
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
    let lock = record_lock::hold(folder)?;
    let state = until_in_time(|| module.reload(&reload))
        .with_context(|| format!("cannot take up the series of {}", series.origin.display()))?;
    if is_recorded {
        // Nothing was written meanwhile. Whoever looked for it while it was being taken up may have told the record.
        remember::tracked(series, folder)?;
    }
    drop(lock);
    let device = module.find(series.minor)?;
    if !device.cow_is_pinned {
        verify::where_mounted(&device, &verify::mounted()?, module)?;
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
            "{}: the record names the COW file {} and the origin {}; use these names, or delete {}/{}.json if that series no \
             longer exists",
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::module::fake::{self, Fake};
    use crate::topology::DeviceNumber;

    const SERIES: &str = "000102030405060708090a0b0c0d0e0f";

    fn record(folder: &Path) -> Series {
        let text = format!(
            r#"{{"series": "{SERIES}", "minor": 3, "origin": "/dev/none", "cow_device": "/dev/none", "cow_sector": 8,
                "cow_file": "/none/cow", "cache_mb": 1}}"#
        );
        let series = Series::parse(text.as_bytes()).unwrap();
        series.write(folder).unwrap();
        series
    }

    fn says_untracked(folder: &Path) -> bool {
        Records::read(folder).unwrap().series[0].untracked.is_some()
    }

    /// Goal: a record says that nothing tracks its series before that is so, and not where the series goes on. Method: a
    /// suspension that is done, one that is refused, and one that fails after the series has ended.
    #[test]
    fn a_suspension_is_in_the_record_and_a_refused_one_is_not() {
        let Some(origin) = topology::entries(Path::new("/sys/dev/block"))
            .iter()
            .find_map(|path| DeviceNumber::parse(path.file_name()?.to_str()?))
        else {
            println!("SKIP: there is no block device");
            return;
        };
        for (refuses, ends_nevertheless, untracked) in [
            (vec![], false, true),
            (vec![3], false, false),
            (vec![3], true, true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            record(dir.path());
            let module = Fake {
                refuses: refuses.clone(),
                ends_nevertheless,
                ..Fake::with(vec![crate::info::Device {
                    origin_device: origin.to_string(),
                    ..fake::device(3, SERIES)
                }])
            };
            let done = suspend(3, dir.path(), &module);
            assert_eq!(done.is_ok(), refuses.is_empty());
            assert_eq!(*module.asked.borrow(), ["suspend 3"]);
            assert_eq!(says_untracked(dir.path()), untracked);
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(suspend(3, dir.path(), &Fake::default()).is_err());
        assert!(suspend(3, dir.path(), &Fake::with(vec![])).is_err());
    }

    /// Goal: a series is not asked for where its record names what is no block device.
    #[test]
    fn what_is_no_device_is_not_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let series = Series {
            origin: "/dev/null".into(),
            ..record(dir.path())
        };
        let module = Fake::with(vec![]);
        let error = reload(&series, true, dir.path(), &module).unwrap_err();
        assert!(error.to_string().contains("not a block device"), "{error}");
        assert!(module.asked.borrow().is_empty());
    }

    #[test]
    fn only_what_was_too_slow_is_tried_again() {
        let tries = Cell::new(0);
        let slow = |until| {
            tries.set(0);
            until_in_time(|| {
                tries.set(tries.get() + 1);
                match tries.get() < until {
                    true => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                    false => Ok(()),
                }
            })
        };
        assert!(slow(TRIES).is_ok());
        assert_eq!(tries.get(), TRIES);
        assert!(slow(TRIES + 1).is_err());
        let refused: Result<()> = until_in_time(|| {
            tries.set(0);
            bail!("refused")
        });
        assert!(refused.is_err());
        assert_eq!(tries.get(), 0);
    }
}
