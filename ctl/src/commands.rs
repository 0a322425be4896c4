//! What each command does, step by step.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::control::{self, Control, Setup};
use crate::cow_file::{self, CowFile};
use crate::info::{self, Report};
use crate::mounts::{self, Mount};
use crate::reload;
use crate::series::Series;
use crate::topology::{self, DeviceNumber};
use crate::{SetupSnapshot, TransitionToSnapshot};

/// How long a busy snapshot is tried again, and how often.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_RETRY: Duration = Duration::from_millis(50);

/// First epoch of a new series.
const FIRST_EPOCH: u64 = 1;

/// `cowbirdctl setup-snapshot`
pub fn setup_snapshot(arguments: &SetupSnapshot, config: &Path) -> Result<()> {
    let cache_bytes = cow_file::mebibytes(arguments.cache_mb).context("-c is too large")?;
    let origin = topology::open_block_device(&arguments.block_device)?;
    let control = Control::open()?;
    let mounts = mounts::read()?;
    let to_freeze = filesystems_of(&origin.number, &mounts)?;

    let cow_bytes = match arguments.cow_mb {
        Some(mb) => cow_file::mebibytes(mb).context("-f is too large")?,
        None => cow_file::default_bytes(origin.bytes),
    };
    let cow = CowFile::create(&arguments.cow_file, cow_bytes)?;
    topology::check_cow_placement(&origin.number, &cow.device()?, cow.path())?;
    // Declared after the file, so that on failure the pin goes first: a pinned
    // file cannot be removed.
    let control = control;
    control.pin(cow.file()).context("cannot pin the COW file")?;
    let extents = cow.extents()?;

    let freeze_files = open_mount_points(&to_freeze)?;
    let setup = Setup {
        minor: arguments.minor,
        origin: origin.number,
        origin_path: absolute(&arguments.block_device)?
            .as_os_str()
            .as_bytes()
            .to_vec(),
        cow_path: cow.path().as_os_str().as_bytes().to_vec(),
        cache_bytes,
        extents,
        freeze_fds: freeze_files.iter().map(AsRawFd::as_raw_fd).collect(),
        uuid: random_uuid()?,
        epoch: FIRST_EPOCH,
        timeout_ms: arguments.timeout_ms,
        boot_id: reload::boot_id()?,
        continues: false,
    };
    control
        .setup(&setup)
        .with_context(|| format!("cannot snapshot {}", arguments.block_device.display()))?;
    // The module owns the file now; without this it would go when we return.
    cow.keep();
    info::find(arguments.minor)
        .and_then(|device| Series::of(&device, arguments.cache_mb))
        .and_then(|series| series.replace(config))
        .context("the snapshot was taken, but will not be found again after a reboot")
}

/// `cowbirdctl transition-to-incremental`
pub fn transition_to_incremental(minor: u32) -> Result<()> {
    let control = Control::open()?;
    patiently(|| control.track(minor))
        .with_context(|| format!("cannot turn snapshot {minor} to incremental"))
}

/// `cowbirdctl transition-to-snapshot`
pub fn transition_to_snapshot(arguments: &TransitionToSnapshot) -> Result<()> {
    let cache_bytes = cow_file::mebibytes(arguments.cache_mb).context("-c is too large")?;
    let control = Control::open()?;
    let minor = arguments.minor()?;
    let device = info::find(minor)?;
    if let Some(cow_file) = arguments.cow_file()
        && absolute(cow_file)? != Path::new(&device.cow_file)
    {
        bail!(
            "a series keeps its COW file, which is {}; leave the argument out or name that",
            device.cow_file
        );
    }
    let origin = DeviceNumber::parse(&device.origin_device).context(info::BAD_REPORT)?;
    let mounts = mounts::read()?;
    let freeze_files = open_mount_points(&filesystems_of(&origin, &mounts)?)?;
    let setup = Setup {
        minor,
        origin,
        origin_path: Vec::new(),
        cow_path: Vec::new(),
        cache_bytes,
        extents: Vec::new(),
        freeze_fds: freeze_files.iter().map(AsRawFd::as_raw_fd).collect(),
        uuid: [0; 16],
        epoch: 0,
        timeout_ms: arguments.timeout_ms,
        boot_id: reload::boot_id()?,
        continues: true,
    };
    control
        .setup(&setup)
        .with_context(|| format!("cannot snapshot {}", device.block_device))
}

/// `cowbirdctl changes`
pub fn changes(minor: u32, json: bool, output: Option<&Path>) -> Result<()> {
    let map = Control::open()?
        .changes(minor)
        .with_context(|| format!("cannot tell the changes of snapshot {minor}"))?;
    if let Some(path) = output {
        return fs::write(path, map.encode())
            .with_context(|| format!("cannot write {}", path.display()));
    }
    if json {
        println!("{}", map.json()?);
    } else {
        print!("{}", map.render());
    }
    Ok(())
}

/// `cowbirdctl destroy`
pub fn destroy(minor: u32, config: &Path) -> Result<()> {
    let control = Control::open()?;
    let device = info::read()?
        .devices
        .into_iter()
        .find(|device| device.minor == minor);
    patiently(|| control.destroy(minor))
        .with_context(|| format!("cannot destroy snapshot {minor}"))?;
    let Some(device) = device else { return Ok(()) };
    if device.cow_is_pinned {
        remove_cow_file(Path::new(&device.cow_file), device.cow_inode);
    } else {
        eprintln!(
            "cowbirdctl: {} was not in use when the snapshot ended; remove it when its filesystem is mounted",
            device.cow_file
        );
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

/// `cowbirdctl info`
pub fn info(json: bool) -> Result<()> {
    let text = info::read_text()?;
    if json {
        print!("{text}");
        return Ok(());
    }
    print!(
        "{}",
        info::render(&serde_json::from_str::<Report>(&text).context(info::BAD_REPORT)?)
    );
    Ok(())
}

/// Its content is worthless once the snapshot has ended. A file that cannot be
/// removed, or another one of the same name, is only reported.
fn remove_cow_file(path: &Path, inode: u64) {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.ino() == inode => fs::remove_file(path),
        Ok(_) => {
            eprintln!(
                "cowbirdctl: {} is not the COW file any more; left alone",
                path.display()
            );
            return;
        }
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        eprintln!(
            "cowbirdctl: the COW file {} was not removed: {error}",
            path.display()
        );
    }
}

/// One mount of each filesystem whose blocks lie on the origin, or that the
/// origin lies below.
fn filesystems_of<'a>(origin: &DeviceNumber, mounts: &'a [Mount]) -> Result<Vec<&'a Mount>> {
    let devices = topology::devices_above(origin)?;
    let mut found: Vec<&Mount> = Vec::new();
    for mount in mounts {
        if devices.contains(&mount.device) {
            if !found.iter().any(|other| other.device == mount.device) {
                found.push(mount);
            }
        } else if mount
            .source_device()
            .is_some_and(|source| devices.contains(&source))
        {
            // btrfs and its like: the device number of the mount is anonymous.
            bail!(
                "{} on {} spans devices that cannot be frozen one by one; snapshots of {} are not supported",
                mount.fs_type,
                mount.mount_point.display(),
                mount.fs_type
            );
        }
    }
    Ok(found)
}

fn open_mount_points(mounts: &[&Mount]) -> Result<Vec<File>> {
    mounts
        .iter()
        .map(|mount| {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&mount.mount_point)
                .with_context(|| format!("cannot open {}", mount.mount_point.display()))?;
            let found = DeviceNumber::from_raw(file.metadata()?.dev());
            if found != mount.device {
                bail!(
                    "{} is hidden by another mount, so its filesystem cannot be reached to freeze it; \
                     mount it somewhere else as well",
                    mount.mount_point.display()
                );
            }
            Ok(file)
        })
        .collect()
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("bad path {}", path.display()))
}

fn random_uuid() -> Result<[u8; 16]> {
    let mut uuid = [0u8; 16];
    let mut file = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    std::io::Read::read_exact(&mut file, &mut uuid).context("cannot read /dev/urandom")?;
    Ok(uuid)
}
