//! What an image is written to. Whatever is there and is somebody's must survive a mistake in the command.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::durable::{self, Folder};
use crate::info::{self, Device};
use crate::topology::{self, DeviceNumber};
use crate::{names, out, overlap, signature, way};

/// What may be lost on a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing that can be recognised.
    Nothing,
    /// Whatever is there: the user said so.
    Anything,
    /// An image, which is brought up to date.
    Image,
}

/// Whether the path leads to a block device.
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// Makes a new file in its folder, which nobody else can read.
///
/// # Errors
/// When something has its name.
pub fn create_file(folder: &Folder, path: &Path) -> Result<File> {
    durable::name_of(path)
        .and_then(|name| folder.create(name))
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => anyhow!(
                "{} exists; an image is always a new file, so remove it or choose another name",
                path.display()
            ),
            _ => anyhow!(error).context(format!("cannot create the image {}", path.display())),
        })
}

/// Opens an image file that is there, for nobody else to write to it.
///
/// # Errors
/// When it is a link, is not a regular file, is somebody else's, or is in use.
pub fn open_file(folder: &Folder, path: &Path) -> Result<File> {
    let file = durable::name_of(path)
        .and_then(|name| folder.open(name, libc::O_RDWR | libc::O_NONBLOCK))
        .with_context(|| format!("cannot open the image {}", path.display()))?;
    let meta = file.metadata().context("cannot stat the image")?;
    if !meta.is_file() {
        bail!(
            "{} is neither a regular file nor a block device",
            path.display()
        );
    }
    if way::is_foreign(meta.uid()) || meta.nlink() != 1 {
        bail!(
            "{} belongs to another user or has a hard link, so another user could read the backup; chown it to root and remove \
             the link, or make a new image with copy-image",
            path.display()
        );
    }
    // SAFETY: a plain system call on an open descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
        return Err(io::Error::last_os_error()).with_context(|| {
            format!(
                "{} is in use by another program that has locked it",
                path.display()
            )
        });
    }
    if let Some(device) = loop_on(&meta) {
        bail!(
            "{} is in use as {}, which would show two instants at once; detach that first (losetup -d)",
            path.display(),
            device.display()
        );
    }
    Ok(file)
}

/// A loop device that shows this file.
fn loop_on(file: &fs::Metadata) -> Option<PathBuf> {
    topology::entries("/sys/block".as_ref())
        .into_iter()
        .find(|dir| {
            fs::read_to_string(dir.join("loop/backing_file"))
                .and_then(|name| fs::metadata(name.trim_end_matches('\n')))
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == (file.dev(), file.ino()))
        })
        .and_then(|dir| Some(Path::new("/dev").join(dir.file_name()?)))
}

/// Refuses a name that somebody else can make lead to another device: a link beside images, say.
fn refuse_foreign_way(path: &Path) -> Result<()> {
    let foreign =
        way::foreign_part(path).with_context(|| format!("bad path {}", path.display()))?;
    match foreign {
        None => Ok(()),
        Some(part) => bail!(
            "{} is reached through {}, which users other than root can change; use the name in /dev",
            path.display(),
            part.display()
        ),
    }
}

/// Opens a block device of at least so many bytes, for nobody else to use it.
///
/// # Errors
/// When it is in use, has to do with a snapshot, is too small, or holds what may not be lost.
pub fn open_device(path: &Path, bytes: u64, loss: Loss) -> Result<File> {
    let meta = fs::metadata(path).with_context(|| format!("cannot find {}", path.display()))?;
    refuse_foreign_way(path)?;
    let number = DeviceNumber::from_raw(meta.rdev());
    check_place(number, path)?;
    let room = topology::open_block_device(path)?.bytes;
    if room < bytes {
        bail!("{} has {room} bytes, the snapshot {bytes}", path.display());
    }
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => anyhow!(
                "{} is in use: it, or a part of it, is mounted, swapped to, or belongs to a RAID, a volume group or another \
                 device. An image goes to a device that nobody uses",
                path.display()
            ),
            _ => anyhow!(error).context(format!("cannot open {} for writing", path.display())),
        })?;
    if DeviceNumber::from_raw(device.metadata()?.rdev()) != number {
        bail!("{} has become another device; try again", path.display());
    }
    if loss != Loss::Image {
        check_content(&device, room, path, loss)?;
    }
    Ok(device)
}

fn check_content(device: &File, bytes: u64, path: &Path, loss: Loss) -> Result<()> {
    let content = signature::recognise(device, bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    match content {
        Some(content) if loss == Loss::Anything => {
            out::complain(format_args!(
                "{} on {} is overwritten",
                content.name(),
                path.display()
            ));
            Ok(())
        }
        Some(content) => bail!(
            "{} holds {}, which the image would overwrite; if it is not needed any more: --force",
            path.display(),
            content.name()
        ),
        None => Ok(()),
    }
}

/// Refuses devices through which a snapshot, its origin or its COW file would be written to.
fn check_place(number: DeviceNumber, path: &Path) -> Result<()> {
    if topology::snapshot_minor(number).is_some() {
        bail!(
            "{} is a snapshot, and no place for an image",
            path.display()
        );
    }
    let report = info::read()?;
    // A snapshot whose devices are unknown may be in the way.
    if let Some(complaint) = report.complaints().next() {
        bail!(
            "cannot tell whether {} is in use by a snapshot: {complaint}",
            path.display()
        );
    }
    for device in report.devices() {
        check_apart(number, path, device)?;
    }
    Ok(())
}

fn check_apart(number: DeviceNumber, path: &Path, snapshot: &Device) -> Result<()> {
    let device = |text: &str| DeviceNumber::parse(text).context(info::BAD_REPORT);
    let origin = device(&snapshot.origin_device)?;
    if overlap::overlap(number, origin)? {
        bail!(
            "{} has blocks of {}, the origin of snapshot {}; an image goes to another device",
            path.display(),
            names::shown(&snapshot.block_device),
            snapshot.minor
        );
    }
    if overlap::overlap(number, device(&snapshot.cow_device)?)? {
        bail!(
            "{} has blocks of the device that {} is on, the COW file of snapshot {}; an image goes to another device",
            path.display(),
            names::shown(&snapshot.cow_file),
            snapshot.minor
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_new_image_is_private_and_never_somebody_elses_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let create_file = |path: &Path| create_file(&Folder::of(path).unwrap(), path);
        let file = create_file(&path).unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(create_file(&path).is_err());
        let (link, victim) = (dir.path().join("link"), dir.path().join("victim"));
        symlink(&victim, &link).unwrap();
        assert!(create_file(&link).is_err(), "a dangling link");
        assert!(!victim.exists());
    }

    #[test]
    fn an_image_is_not_written_through_a_link_or_by_two() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("image"), dir.path().join("link"));
        fs::write(&path, b"image").unwrap();
        symlink(&path, &link).unwrap();
        let open_file = |path: &Path| open_file(&Folder::of(path).unwrap(), path);
        let error = open_file(&link).unwrap_err();
        assert!(format!("{error:#}").contains("symbolic link"), "{error:#}");
        let error = open_file(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("directory"), "{error:#}");
        let first = open_file(&path).unwrap();
        let error = open_file(&path).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");
        drop(first);
        open_file(&path).unwrap();
    }

    /// Goal: what is on the volume is not given to somebody who put a file of his in the image's place.
    #[test]
    fn an_image_of_somebody_else_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (path, second) = (dir.path().join("image"), dir.path().join("second"));
        fs::write(&path, b"image").unwrap();
        fs::hard_link(&path, &second).unwrap();
        let open_file = |path: &Path| open_file(&Folder::of(path).unwrap(), path);
        let error = open_file(&path).unwrap_err().to_string();
        assert!(error.contains("hard link"), "{error}");
        fs::remove_file(&second).unwrap();
        open_file(&path).unwrap();
        if std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
            let error = open_file(&path).unwrap_err().to_string();
            assert!(error.contains("belongs to another user"), "{error}");
        }
    }

    /// Goal: a link beside images chooses no disk. Method: a link to a block device in a folder that all can change, which
    /// is refused before anything is asked of the device.
    #[test]
    fn a_link_to_a_device_beside_images_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let devices = topology::entries("/sys/dev/block".as_ref());
        let nodes = devices.iter().filter_map(|dir| {
            let uevent = fs::read_to_string(dir.join("uevent")).ok()?;
            let name = uevent
                .lines()
                .find_map(|line| line.strip_prefix("DEVNAME="))?;
            Some(Path::new("/dev").join(name))
        });
        let Some(device) = nodes.into_iter().find(|path| is_device(path)) else {
            println!("SKIP: there is no block device");
            return;
        };
        let link = dir.path().join("image");
        symlink(&device, &link).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = open_device(&link, 0, Loss::Anything).unwrap_err();
        assert!(
            error.to_string().contains("users other than root"),
            "{error}"
        );
    }

    #[test]
    fn what_is_recognised_is_overwritten_only_by_force() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let path = Path::new("/dev/some");
        let check = |loss| check_content(&file, 1 << 20, path, loss);
        assert!(check(Loss::Nothing).is_ok());
        file.write_all_at(b"XFSB", 0).unwrap();
        let error = check(Loss::Nothing).unwrap_err().to_string();
        assert!(error.contains("holds an xfs filesystem"), "{error}");
        assert!(error.contains("--force"), "{error}");
        assert!(check(Loss::Anything).is_ok());
    }
}
