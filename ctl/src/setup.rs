//! Taking snapshots: the first of a series, or the next; of one origin, or of several at one
//! instant.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::arguments::{SetupOptions, TransitionToSnapshot};
use crate::boot;
use crate::control::{Control, Setup};
use crate::cow_file::{self, CowFile};
use crate::discards;
use crate::info::{self, Device};
use crate::mounts::{self, Mount};
use crate::names;
use crate::out;
use crate::probe;
use crate::series::Series;
use crate::topology::{self, DeviceNumber};
use crate::way;

/// Filesystems that several machines write to at one time.
const CLUSTERED: [&str; 2] = ["gfs2", "ocfs2"];

/// First epoch of a new series.
const FIRST_EPOCH: u64 = 1;

/// An origin to take the first snapshot of.
#[derive(Debug, PartialEq, Eq)]
pub struct Volume {
    /// Origin.
    pub block_device: PathBuf,
    /// COW file, which must not exist.
    pub cow_file: PathBuf,
    /// Number of the snapshot.
    pub minor: u32,
}

/// One snapshot of a set, before it is taken.
struct Member {
    setup: Setup,
    /// Origin, as the user knows it.
    name: String,
    /// Its size.
    origin_bytes: u64,
    /// Keeps the descriptors of `setup` open.
    _freeze_files: Vec<File>,
}

/// `cowbirdctl setup-snapshot` and `setup-snapshots`
pub fn first(volumes: &[Volume], options: &SetupOptions, config: &Path) -> Result<()> {
    let control = Control::open()?;
    let mounts = mounts::read()?;
    let mut cow_files = Vec::new();
    let mut members = Vec::new();
    for volume in volumes {
        members.push(new_series(volume, options, &mounts)?);
    }
    for (volume, member) in volumes.iter().zip(&members) {
        check_frozen(&control, member, volume)?;
    }
    for (volume, member) in volumes.iter().zip(&members) {
        cow_files.push(create_cow(volume, member, options)?);
    }
    // Declared after the files, so that on failure the pins go first: a pinned file cannot be
    // removed.
    let control = control;
    for (member, cow) in members.iter_mut().zip(&cow_files) {
        control
            .pin(cow.file())
            .with_context(|| format!("cannot pin {}", cow.path().display()))?;
        member.setup.extents = cow.extents()?;
    }
    take(&control, &members)?;
    // The module owns the files now; without this they would go when we return.
    cow_files.into_iter().for_each(CowFile::keep);
    for volume in volumes {
        info::find(volume.minor)
            .and_then(|device| Series::of(&device, options.cache_mb))
            .and_then(|series| series.replace(config))
            .context("the snapshot was taken, but will not be found again after a reboot")?;
    }
    volumes
        .iter()
        .try_for_each(|volume| expect_well(&info::find(volume.minor)?))
}

/// `cowbirdctl transition-to-snapshot`
pub fn next(arguments: &TransitionToSnapshot) -> Result<()> {
    let (cow_file, minors) = arguments.parse()?;
    let control = Control::open()?;
    let mounts = mounts::read()?;
    let mut members = Vec::new();
    for minor in minors {
        members.push(next_of_series(minor, cow_file, arguments, &mounts)?);
    }
    take(&control, &members)?;
    members
        .iter()
        .try_for_each(|member| expect_well(&info::find(member.setup.minor)?))
}

/// A snapshot may have failed between its instant and the end of the request, which took over what the epoch before it
/// had left: the COW file's disk may have stopped answering.
fn expect_well(device: &Device) -> Result<()> {
    if device.error == 0 {
        return Ok(());
    }
    bail!(
        "snapshot {} of {} was taken, but has failed since: {}; {}",
        device.minor,
        names::shown(&device.block_device),
        names::printable(&device.error_text),
        device.advice()
    )
}

/// All of them, or none.
fn take(control: &Control, members: &[Member]) -> Result<()> {
    let origins: Vec<_> = members
        .iter()
        .map(|member| (member.setup.origin, member.name.as_str()))
        .collect();
    topology::check_apart(&origins)?;
    let setups: Vec<&Setup> = members.iter().map(|member| &member.setup).collect();
    control.setup(&setups).map_err(|refusal| {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let of = refusal
            .member
            .and_then(|index| names.get(index).map(ToString::to_string))
            .unwrap_or_else(|| names.join(" and "));
        let none = if members.len() > 1 {
            ", and therefore none of the others"
        } else {
            ""
        };
        refusal.error.context(format!("cannot snapshot {of}{none}"))
    })
}

/// A member without its COW file.
fn new_series(volume: &Volume, options: &SetupOptions, mounts: &[Mount]) -> Result<Member> {
    let origin = topology::open_block_device(&volume.block_device)?;
    names::check_length(&absolute(&volume.block_device)?)?;
    let freeze_files = open_mount_points(&filesystems_of(&origin.number, mounts)?)?;
    refuse_spanning(origin.number, &volume.block_device, mounts)?;
    discards::check(origin.number, &volume.block_device.display().to_string())?;
    let setup = Setup {
        minor: volume.minor,
        origin: origin.number,
        origin_path: absolute(&volume.block_device)?
            .as_os_str()
            .as_bytes()
            .to_vec(),
        cow_path: absolute(&volume.cow_file)?.as_os_str().as_bytes().to_vec(),
        cache_bytes: cow_file::mebibytes(options.cache_mb).context("-c is too large")?,
        extents: Vec::new(),
        freeze_fds: freeze_files.iter().map(AsRawFd::as_raw_fd).collect(),
        freeze_devices: topology::to_freeze(&origin.number)?,
        uuid: random_uuid()?,
        epoch: FIRST_EPOCH,
        timeout_ms: options.timeout_ms,
        boot_id: boot::id()?,
        continues: false,
    };
    Ok(Member {
        setup,
        name: volume.block_device.display().to_string(),
        origin_bytes: origin.bytes,
        _freeze_files: freeze_files,
    })
}

/// Before anything is created on a filesystem that is frozen, which would wait for its thaw without
/// an end, and could not even be killed.
fn check_frozen(control: &Control, member: &Member, volume: &Volume) -> Result<()> {
    let path = absolute(&volume.cow_file)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder_file = File::open(folder).with_context(|| {
        format!(
            "cannot open {}, the folder of the COW file",
            folder.display()
        )
    })?;
    let mut files = member.setup.freeze_fds.clone();
    files.push(folder_file.as_raw_fd());
    control
        .check_frozen(&files, &member.setup.freeze_devices)
        .with_context(|| format!("cannot snapshot {}", member.name))
}

/// Creates the COW file; its extents are found when it is pinned.
fn create_cow(volume: &Volume, member: &Member, options: &SetupOptions) -> Result<CowFile> {
    let cow_bytes = match options.cow_mb {
        Some(mb) => cow_file::mebibytes(mb).context("-f is too large")?,
        None => cow_file::default_bytes(member.origin_bytes),
    };
    let path = absolute(&volume.cow_file)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let meta = std::fs::metadata(folder)
        .with_context(|| format!("cannot look at {}", folder.display()))?;
    let place = DeviceNumber::from_raw(meta.dev());
    unless_told(options.plaintext_cow_file, || {
        topology::check_cow_secrecy(&member.setup.origin, &place, &path)
    })?;
    if let Some(open) = way::movable(folder) {
        out::complain(format!(
            "{} is another user's or can be changed by others, who can put another file in the place of the COW file and so end \
             the series; choose a folder of root's",
            names::shown(open)
        ));
    }
    let cow = CowFile::create(&volume.cow_file, cow_bytes)?;
    topology::check_cow_placement(&member.setup.origin, &cow.device()?, cow.path())?;
    Ok(cow)
}

/// What is refused unless the user has said that it is meant.
fn unless_told(told: bool, check: impl FnOnce() -> Result<()>) -> Result<()> {
    if told { Ok(()) } else { check() }
}

fn next_of_series(
    minor: u32,
    cow_file: Option<&Path>,
    arguments: &TransitionToSnapshot,
    mounts: &[Mount],
) -> Result<Member> {
    let device = info::find(minor)?;
    if let Some(cow_file) = cow_file
        && absolute(cow_file)? != device.cow_file
    {
        bail!(
            "a series keeps its COW file, which is {}; leave the argument out or name that",
            names::shown(&device.cow_file)
        );
    }
    let origin = DeviceNumber::parse(&device.origin_device).context(info::BAD_REPORT)?;
    let freeze_files = open_mount_points(&filesystems_of(&origin, mounts)?)?;
    let gone = || {
        format!(
            "cannot snapshot {}, which seems to be gone",
            names::shown(&device.block_device)
        )
    };
    let path = topology::stable_name(origin).with_context(gone)?;
    refuse_spanning(origin, &path, mounts)?;
    discards::check(origin, &names::shown(&device.block_device))?;
    let setup = Setup {
        minor,
        origin,
        origin_path: Vec::new(),
        cow_path: Vec::new(),
        cache_bytes: cow_file::mebibytes(arguments.cache_mb).context("-c is too large")?,
        extents: Vec::new(),
        freeze_fds: freeze_files.iter().map(AsRawFd::as_raw_fd).collect(),
        freeze_devices: topology::to_freeze(&origin)?,
        uuid: [0; 16],
        epoch: 0,
        timeout_ms: arguments.timeout_ms,
        boot_id: boot::id()?,
        continues: true,
    };
    Ok(Member {
        setup,
        name: names::shown(&device.block_device),
        origin_bytes: 0,
        _freeze_files: freeze_files,
    })
}

/// Every mount of each filesystem whose blocks lie on the origin, or that the
/// origin lies below.
fn filesystems_of<'a>(origin: &DeviceNumber, mounts: &'a [Mount]) -> Result<Vec<&'a Mount>> {
    let devices = topology::devices_above(origin)?;
    let mut found: Vec<&Mount> = Vec::new();
    for mount in mounts {
        if devices.contains(&mount.device) {
            if CLUSTERED.contains(&mount.fs_type.as_str()) {
                bail!(
                    "{} on {} is a cluster filesystem; writes by other nodes cannot be seen, so snapshots of it are not supported",
                    mount.fs_type,
                    mount.mount_point.display()
                );
            }
            if !is_behind_a_user(mount, mounts) {
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

/// Whether the way to a mount leads through what a user serves, who may keep everybody waiting there. The module finds the
/// filesystem by its device.
fn is_behind_a_user(mount: &Mount, mounts: &[Mount]) -> bool {
    mounts
        .iter()
        .any(|other| other.is_of_a_user() && mount.mount_point.starts_with(&other.mount_point))
}

/// Refuses an origin with a part of a filesystem that may span devices, mounted from wherever: nobody freezes all of them. What
/// an older filesystem has left does not count where another one is mounted.
fn refuse_spanning(origin: DeviceNumber, path: &Path, mounts: &[Mount]) -> Result<()> {
    let mut begins = Vec::new();
    for (part, begin) in topology::parts(origin)? {
        let above = topology::devices_above(&part)?;
        // Of a disk with partitions, the disk is not what is mounted.
        if !mounts.iter().any(|mount| above.contains(&mount.device)) {
            begins.push(begin);
        }
    }
    match probe::spanning(path, &begins)? {
        None => Ok(()),
        Some(found) => bail!(
            "{} holds {}, which may span devices that cannot be frozen one by one; snapshots of it are not \
             supported. If it is what was left of an earlier use, remove it with wipefs",
            path.display(),
            found.name()
        ),
    }
}

/// An open file of each filesystem that can be reached by one of its mounts. The others have all their mounts hidden
/// by other ones; the module finds them by their devices.
fn open_mount_points(mounts: &[&Mount]) -> Result<Vec<File>> {
    let mut reached = BTreeSet::new();
    let mut files = Vec::new();
    for mount in mounts {
        if reached.contains(&mount.device) {
            continue;
        }
        if let Some(file) = open_mount_point(mount)? {
            reached.insert(mount.device);
            files.push(file);
        }
    }
    Ok(files)
}

/// `None` where another filesystem is mounted over it.
fn open_mount_point(mount: &Mount) -> Result<Option<File>> {
    let path = &mount.mount_point;
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
    {
        Ok(file) => file,
        // Below a mount that covers it there need not be such a path, or nobody but its user may look.
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot open {}", path.display()));
        }
    };
    let found = DeviceNumber::from_raw(file.metadata()?.dev());
    Ok((found == mount.device).then_some(file))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mount_of(path: &Path, device: DeviceNumber) -> Mount {
        Mount {
            device,
            mount_point: path.to_owned(),
            fs_type: "ext4".into(),
            source: PathBuf::from("/dev/none"),
        }
    }

    fn device_of(path: &Path) -> DeviceNumber {
        DeviceNumber::from_raw(std::fs::metadata(path).unwrap().dev())
    }

    #[test]
    fn blocks_are_disclosed_only_if_that_is_said() {
        let encrypted_only = || bail!("the COW file is not encrypted");
        assert!(unless_told(false, encrypted_only).is_err());
        assert!(unless_told(true, encrypted_only).is_ok());
        assert!(unless_told(false, || Ok(())).is_ok());
    }

    /// Goal: what other machines write to is refused, by the type of what is mounted.
    #[test]
    fn a_filesystem_of_a_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let device = device_of(dir.path());
        let mut mount = mount_of(dir.path(), device);
        let found = |mount: &Mount| {
            filesystems_of(&device, std::slice::from_ref(mount)).map(|found| found.len())
        };
        if topology::devices_above(&device).is_err() {
            println!(
                "SKIP: the device of {} is not in /sys",
                dir.path().display()
            );
            return;
        }
        assert_eq!(found(&mount).unwrap(), 1);
        mount.fs_type = "ocfs2".into();
        let error = found(&mount).unwrap_err().to_string();
        assert!(error.contains("other nodes"), "{error}");
    }

    /// Goal: nobody keeps root waiting where he has mounted a filesystem of his own, and nowhere else a mount is left out.
    #[test]
    fn what_is_behind_a_users_filesystem_is_not_opened() {
        let device = DeviceNumber::parse("254:1").unwrap();
        let own = Mount {
            fs_type: "fuse.sshfs".into(),
            ..mount_of(Path::new("/home/u"), DeviceNumber::parse("0:50").unwrap())
        };
        let [covered, below, beside] =
            ["/home/u", "/home/u/m", "/home/user"].map(|path| mount_of(Path::new(path), device));
        let mounts = [own];
        assert!(is_behind_a_user(&covered, &mounts));
        assert!(is_behind_a_user(&below, &mounts));
        assert!(!is_behind_a_user(&beside, &mounts));
    }

    /// Goal: of several mounts of a filesystem any that is not covered serves, and one that cannot be
    /// reached at all is left to the module.
    #[test]
    fn any_visible_mount_serves() {
        let (seen, covering) = (Path::new("/"), Path::new("/proc"));
        let device = device_of(seen);
        let covered = mount_of(covering, device);
        let below = mount_of(Path::new("/proc/no-such-folder"), device);
        let visible = mount_of(seen, device);
        let files = open_mount_points(&[&covered, &below, &visible, &visible]).unwrap();
        assert_eq!(files.len(), 1);
        assert!(open_mount_points(&[&covered, &below]).unwrap().is_empty());
    }
}
