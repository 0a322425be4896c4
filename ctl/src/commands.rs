//! What each command does, step by step.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::control::{self, Control};
use crate::cow_file::{self, CowFile};
use crate::info::{self, Device, Report};
use crate::series::{Records, Series};
use crate::topology::DeviceNumber;
use crate::{durable, in_place, names, out, probe, record_lock};

/// How long a busy snapshot is tried again, and how often.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_RETRY: Duration = Duration::from_millis(50);

/// `cowbirdctl transition-to-incremental`
pub fn transition_to_incremental(minor: u32) -> Result<()> {
    let control = Control::open()?;
    patiently(|| control.track(minor))
        .with_context(|| format!("cannot turn snapshot {minor} to incremental"))
}

/// `cowbirdctl reconfigure`
pub fn reconfigure(minor: u32, cache_mb: u64, config: &Path) -> Result<()> {
    let cache_bytes = cow_file::mebibytes(cache_mb).context("-c is too large")?;
    Control::open()?
        .reconfigure(minor, cache_bytes)
        .with_context(|| format!("cannot change the memory of snapshot {minor}"))?;
    record_lock::hold(config)
        .and_then(|_lock| {
            let mut series = Series::of(&info::find(minor)?, cache_mb)?;
            // What the record says of a time without tracking stays.
            let known = Records::read(config)?.series;
            let known = known.into_iter().find(|it| it.series == series.series);
            series.untracked = known.and_then(|known| known.untracked);
            series.replace(config)
        })
        .context("the bound was changed, but a reload will use the old one")
}

/// `cowbirdctl expand-cow-file`
pub fn expand_cow_file(minor: u32, size_mb: u64) -> Result<()> {
    let bytes = cow_file::mebibytes(size_mb).context("--size is too large")?;
    let device = info::find(minor)?;
    let control = Control::open()?;
    let cow_path = Path::new(&device.cow_file);
    let folder = cow_path.parent().unwrap_or(Path::new("/"));
    let folder = fs::File::open(folder).with_context(|| {
        format!(
            "cannot open {}, the folder of the COW file",
            folder.display()
        )
    })?;
    control
        .check_frozen(&[folder.as_raw_fd()], &[])
        .with_context(|| format!("cannot expand the COW file of snapshot {minor}"))?;
    // It has no name, so that nothing is left of it when the snapshot ends, however that happens.
    let file = CowFile::create_unnamed(cow_path, bytes)?;
    control
        .pin(file.file())
        .and_then(|()| control.expand(minor, &file.extents()?))
        .with_context(|| format!("cannot expand the COW file of snapshot {minor}"))
}

/// `cowbirdctl changes`
pub fn changes(minor: u32, json: bool, output: Option<&Path>) -> Result<()> {
    let mut map = Control::open()?
        .changes(minor)
        .with_context(|| format!("cannot tell the changes of snapshot {minor}"))?;
    in_place::add(&mut map, &info::find(minor)?)
        .context("cannot look for files that boot loaders write to")?;
    if let Some(path) = output {
        return durable::replace_by(path, |file| map.write(file))
            .with_context(|| format!("cannot write {}", path.display()));
    }
    if json {
        out::json(&map.json()?);
    } else {
        out::text(&map.render());
    }
    Ok(())
}

/// `cowbirdctl destroy`
pub fn destroy(minor: u32, config: &Path) -> Result<()> {
    let control = Control::open()?;
    // Only what is left when the snapshot has ended depends on the report.
    let device = info::find(minor);
    patiently(|| control.destroy(minor))
        .with_context(|| format!("cannot destroy snapshot {minor}"))?;
    let device = device.with_context(|| {
        format!(
            "snapshot {minor} has ended, but its COW file and its record in {} are left: remove them",
            config.display()
        )
    })?;
    if device.cow_is_pinned {
        remove_cow_file(&device);
    } else {
        out::complain(format!(
            "{} was not in use when the snapshot ended; remove it when its filesystem is mounted",
            names::shown(&device.cow_file)
        ));
    }
    Series::forget(config, &device.uuid)
}

/// A snapshot that has just appeared may be held open for a moment by the
/// system's device manager, which looks at every new disk.
pub fn patiently(act: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match act() {
            Err(error) if control::is_busy(&error) && Instant::now() < deadline => {
                thread::sleep(BUSY_RETRY);
            }
            result => return result,
        }
    }
}

/// The report of a module is never longer: each of its snapshots has two names and a message.
const REPORT_LIMIT_BYTES: u64 = 1 << 20;

/// `cowbirdctl info`
pub fn info(json: bool, from: Option<&Path>) -> Result<()> {
    let bytes = match from {
        Some(path) => durable::read(path, REPORT_LIMIT_BYTES, durable::Links::Follow)
            .with_context(|| format!("cannot read {}", path.display()))?,
        None => info::read_bytes()?,
    };
    if json {
        out::bytes(&bytes);
        return Ok(());
    }
    let report = Report::parse(&bytes)?;
    out::text(&info::render(&report));
    let complaints: Vec<String> = report.complaints().collect();
    if !complaints.is_empty() {
        bail!("{}", complaints.join("; "));
    }
    Ok(())
}

/// By its number, and by the filesystem in which it has that number.
fn is_cow_file(meta: &fs::Metadata, inode: u64, cow_device: &str) -> bool {
    let place = DeviceNumber::from_raw(meta.dev());
    meta.is_file() && meta.ino() == inode && DeviceNumber::parse(cow_device) == Some(place)
}

/// Its content is worthless once the snapshot has ended. A file that cannot be
/// removed, or another one of the same name, is only reported.
fn remove_cow_file(device: &Device) {
    let path = device.cow_file.as_path();
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if is_cow_file(&meta, device.cow_inode, &device.cow_device) => {
            probe::remove_within(path, probe::REMOVAL_LIMIT)
        }
        Ok(_) => {
            out::complain(format!(
                "{} is not the COW file any more; left alone",
                names::shown(path)
            ));
            return;
        }
        Err(error) => Err(error.into()),
    };
    if let Err(error) = removed {
        out::complain(format!(
            "the COW file {} was not removed: {error:#}",
            names::shown(path)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: `destroy` removes the COW file and no other one that somebody has put under its name, be it of the same number on
    /// another filesystem.
    #[test]
    fn another_file_is_not_the_cow_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cow");
        fs::write(&path, "").unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        let here = DeviceNumber::from_raw(meta.dev()).to_string();
        assert!(is_cow_file(&meta, meta.ino(), &here));
        assert!(!is_cow_file(&meta, meta.ino() + 1, &here));
        assert!(!is_cow_file(&meta, meta.ino(), "254:1"));
        assert!(!is_cow_file(&meta, meta.ino(), ""));
        let folder = fs::symlink_metadata(folder.path()).unwrap();
        assert!(!is_cow_file(&folder, folder.ino(), &here));
    }
}
