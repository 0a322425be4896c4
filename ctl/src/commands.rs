//! What each command does, step by step.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::control::{self, Control};
use crate::cow_file::{self, CowFile};
use crate::info::{self, Device, Report};
use crate::removal::{self, Content, FileId, Removal};
use crate::series::{Records, Series};
use crate::topology::DeviceNumber;
use crate::{durable, in_place, names, out, record_lock};

/// How long a busy snapshot is tried again, and how often.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_RETRY: Duration = Duration::from_millis(50);

/// Bytes of a slot of a COW file.
const SLOT_BYTES: u64 = 4096;

/// `cowbirdctl transition-to-incremental`
pub fn transition_to_incremental(minor: u32) -> Result<()> {
    let control = Control::open()?;
    patiently(|| control.track(minor))
        .with_context(|| format!("cannot switch minor {minor} from snapshot to change tracking"))
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
    let folder = cow_folder(&device)
        .with_context(|| format!("cannot expand the COW file of snapshot {minor}"))?;
    control
        .check_frozen(&[folder.as_raw_fd()], &[])
        .with_context(|| format!("cannot expand the COW file of snapshot {minor}"))?;
    // It has no name, so that nothing is left of it when the snapshot ends, however that happens.
    let file = CowFile::create_unnamed(&folder, &device.cow_file, bytes)?;
    control
        .pin(file.file())
        .and_then(|()| control.expand(minor, &file.extents()?))
        .with_context(|| format!("cannot expand the COW file of snapshot {minor}"))
}

/// The folder that the COW file lies in, and not one that somebody has put in its place.
fn cow_folder(device: &Device) -> Result<fs::File> {
    let path = device.cow_file.parent().unwrap_or(Path::new("/"));
    let name = device.cow_file.file_name().unwrap_or_default();
    let folder = fs::File::open(path)
        .with_context(|| format!("cannot open {}, the folder of the COW file", path.display()))?;
    // Whatever has the folder's name by now, this is the one that is open.
    let within = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    let found = fs::symlink_metadata(within.join(name));
    let id = cow_id(device)?;
    if !found.is_ok_and(|meta| meta.is_file() && FileId::of(&meta) == id) {
        bail!(
            "{} does not hold the COW file of snapshot {} any more, so nothing is put there; rename the folder back",
            names::shown(path),
            device.minor
        );
    }
    Ok(folder)
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
pub fn destroy(minor: u32, wipe: bool, config: &Path) -> Result<()> {
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
    let content = if wipe { Content::Wiped } else { Content::Left };
    let removed = if device.cow_is_pinned {
        remove_cow_file(&device, content)
    } else {
        let said = format!(
            "{} was not in use when the snapshot ended; remove it when its filesystem is mounted",
            names::shown(&device.cow_file)
        );
        match content {
            Content::Left => {
                out::complain(said);
                Ok(())
            }
            Content::Wiped => Err(anyhow!(said)),
        }
    };
    match (Series::forget(config, &device.uuid), removed) {
        (Err(forgotten), Err(removed)) => Err(forgotten.context(format!("{removed:#}"))),
        (forgotten, removed) => forgotten.and(removed),
    }
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

/// The COW file by what the module says of it.
fn cow_id(device: &Device) -> Result<FileId> {
    Ok(FileId {
        device: DeviceNumber::parse(&device.cow_device).context(info::BAD_REPORT)?,
        inode: device.cow_inode,
    })
}

/// Its content is worthless once the snapshot has ended. A file that cannot be
/// removed, or another one of the same name, is only reported, unless it was to be wiped.
fn remove_cow_file(device: &Device, content: Content) -> Result<()> {
    let path = device.cow_file.as_path();
    let limit = match content {
        Content::Left => removal::REMOVAL_LIMIT,
        Content::Wiped => removal::wiping_limit(device.cow_slots.saturating_mul(SLOT_BYTES)),
    };
    let said = match cow_id(device).and_then(|id| removal::remove_within(path, id, content, limit))
    {
        Ok(Removal::Done) if content == Content::Wiped && device.expansions > 0 => format!(
            "the COW file {} was overwritten, but the space added by expand-cow-file was not",
            names::shown(path)
        ),
        Ok(Removal::Done) => return Ok(()),
        Ok(Removal::Another) => format!(
            "{} is not the COW file any more; left alone",
            names::shown(path)
        ),
        Err(error) => format!(
            "the COW file {} was not removed: {error:#}",
            names::shown(path)
        ),
    };
    if content == Content::Wiped {
        bail!("blocks of the origin may be left on the disk of the COW file: {said}");
    }
    out::complain(said);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::fake;

    fn snapshot_of(path: &Path) -> Device {
        let id = FileId::of(&fs::symlink_metadata(path).unwrap());
        Device {
            cow_file: path.to_owned(),
            cow_device: id.device.to_string(),
            cow_inode: id.inode,
            ..fake::device(0, "aa")
        }
    }

    /// Goal: `destroy` removes the COW file and no other one that has its name by now, and says so in its exit code where the
    /// blocks were not to be left.
    #[test]
    fn only_the_cow_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cow");
        fs::write(&path, "blocks").unwrap();
        let device = snapshot_of(&path);
        let others = [
            Device {
                cow_inode: device.cow_inode + 1,
                ..device.clone()
            },
            Device {
                cow_device: "0:0".into(),
                ..device.clone()
            },
            Device {
                cow_device: String::new(),
                ..device.clone()
            },
        ];
        for other in others {
            remove_cow_file(&other, Content::Left).unwrap();
            assert!(remove_cow_file(&other, Content::Wiped).is_err());
            assert_eq!(fs::read(&path).unwrap(), b"blocks");
        }
        remove_cow_file(&device, Content::Wiped).unwrap();
        assert!(!path.exists());
        remove_cow_file(&device, Content::Left).unwrap();
        assert!(remove_cow_file(&device, Content::Wiped).is_err());
        fs::write(&path, "blocks").unwrap();
        let expanded = Device {
            expansions: 1,
            ..snapshot_of(&path)
        };
        let said = remove_cow_file(&expanded, Content::Wiped).unwrap_err();
        assert!(
            said.to_string()
                .contains("added by expand-cow-file was not"),
            "{said}"
        );
        assert!(!path.exists());
    }

    /// Goal: what a COW file is expanded by lies where the COW file does. Method: its folder is renamed, and another one put in
    /// its place, empty, with another file, or as a link.
    #[test]
    fn annexes_lie_in_the_folder_of_the_cow_file() {
        let place = tempfile::tempdir().unwrap();
        let (folder, away) = (place.path().join("folder"), place.path().join("away"));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("cow");
        fs::write(&path, "blocks").unwrap();
        let device = snapshot_of(&path);
        cow_folder(&device).unwrap();
        fs::rename(&folder, &away).unwrap();
        assert!(cow_folder(&device).is_err(), "there is no folder");
        fs::create_dir(&folder).unwrap();
        assert!(cow_folder(&device).is_err(), "there is no file");
        fs::write(&path, "blocks").unwrap();
        let said = cow_folder(&device).unwrap_err().to_string();
        assert!(said.contains("does not hold"), "{said}");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(away.join("cow"), &path).unwrap();
        assert!(cow_folder(&device).is_err(), "a link");
    }
}
