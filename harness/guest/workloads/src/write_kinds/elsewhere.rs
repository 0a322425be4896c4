//! A writer in another mount namespace, where nobody else sees what it has mounted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_proto::message::WriteKindsSpec;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::area::Area;

/// A filesystem cannot be mounted while it is frozen, which it is for a moment at the instant, and not
/// unmounted while a process that another thread starts has not let go of our descriptors yet. Both
/// are tried again so often, after such a pause.
const MOUNT_TRIES: u32 = 250;
const MOUNT_PAUSE: Duration = Duration::from_millis(20);

/// Mount point in the other mount namespace.
const OTHER_MOUNT: &str = "/mnt/other-namespace";

/// A mount namespace that this thread alone is in.
pub(super) struct Elsewhere {
    /// Device and type of the filesystem that is mounted there.
    mounted: Option<(String, String)>,
    path: String,
    file: Option<File>,
}

impl Elsewhere {
    pub(super) fn enter(spec: &WriteKindsSpec, area: &Area) -> GuestResult<Self> {
        fs::create_dir_all(OTHER_MOUNT).context(format_args!("make {OTHER_MOUNT}"))?;
        // SAFETY: mounts and the working directory of this thread alone change; no descriptor and
        // no memory does.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
            .context("leave the mount namespace")?;
        let mounted = spec
            .fstype
            .as_ref()
            .map(|fstype| (spec.device.clone(), fstype.clone()));
        let below = area.path.strip_prefix(spec.target.as_str());
        let path = match &mounted {
            Some(_) => format!("{OTHER_MOUNT}{}", below_root(spec, below)),
            None => area.path.clone(),
        };
        let mut elsewhere = Self {
            mounted,
            path,
            file: None,
        };
        elsewhere.mount().context("mount in another namespace")?;
        Ok(elsewhere)
    }

    fn mount(&mut self) -> io::Result<()> {
        if let Some((device, fstype)) = &self.mounted {
            patiently(|| {
                let flags = MountFlags::NOATIME;
                rustix::mount::mount(device.as_str(), OTHER_MOUNT, fstype.as_str(), flags, None)
            })?;
        }
        let mut options = OpenOptions::new();
        options
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32);
        self.file = Some(options.open(&self.path)?);
        Ok(())
    }

    fn unmount(&mut self) -> io::Result<()> {
        self.file = None;
        if self.mounted.is_some() {
            patiently(|| rustix::mount::unmount(OTHER_MOUNT, UnmountFlags::empty()))?;
        }
        Ok(())
    }

    pub(super) fn remount(&mut self) -> io::Result<()> {
        self.unmount()?;
        self.mount()
    }

    pub(super) fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or(io::ErrorKind::NotFound.into())
    }

    pub(super) fn leave(mut self) -> GuestResult<()> {
        self.unmount().context("unmount in another namespace")
    }
}

fn patiently(act: impl Fn() -> rustix::io::Result<()>) -> io::Result<()> {
    for _ in 1..MOUNT_TRIES {
        match act() {
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(MOUNT_PAUSE),
            done => return Ok(done?),
        }
    }
    Ok(act()?)
}

/// The path of a file from the root of its filesystem: the target is a directory of that root.
fn below_root(spec: &WriteKindsSpec, below_target: Option<&str>) -> String {
    let directory = spec.target.rsplit('/').next().unwrap_or_default();
    format!("/{directory}{}", below_target.unwrap_or_default())
}
