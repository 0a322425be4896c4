//! Mounts, and who sees them.

use std::ffi::CString;
use std::fs;

use cowbird_proto::message::{MountApi, MountSpec};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::{Context, GuestResult};

/// Mounts a filesystem and makes the mount point.
pub fn mount(spec: &MountSpec) -> GuestResult<()> {
    let MountSpec { source, target, .. } = spec;
    fs::create_dir_all(target).context(format_args!("make mount point {target}"))?;
    match spec.api {
        MountApi::Mount => mount_in_one(spec),
        MountApi::Fsmount => mount_in_steps(spec),
    }
    .context(format_args!(
        "mount {source} on {target} as {}",
        spec.fstype
    ))
}

fn mount_in_one(spec: &MountSpec) -> rustix::io::Result<()> {
    let mut flags = MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, spec.read_only);
    let options = CString::new(spec.options.as_str()).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount(
        spec.source.as_str(),
        spec.target.as_str(),
        spec.fstype.as_str(),
        flags,
        options.as_c_str(),
    )
}

fn mount_in_steps(spec: &MountSpec) -> rustix::io::Result<()> {
    let context = fsopen(spec.fstype.as_str(), FsOpenFlags::empty())?;
    fsconfig_set_string(&context, "source", spec.source.as_str())?;
    if spec.read_only {
        fsconfig_set_flag(&context, "ro")?;
    }
    for option in spec.options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option)?,
        }
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mounted = fsmount(&context, FsMountFlags::empty(), attributes)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mounted, "", rustix::fs::CWD, spec.target.as_str(), flags)
}

/// Makes a mounted filesystem read-only, or writable again.
pub fn remount(target: &str, read_only: bool) -> GuestResult<()> {
    let mut flags = MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, read_only);
    rustix::mount::mount_remount(target, flags, c"").context(format_args!("remount {target}"))
}

/// Unmounts.
pub fn unmount(target: &str) -> GuestResult<()> {
    rustix::mount::unmount(target, UnmountFlags::empty()).context(format_args!("unmount {target}"))
}

/// Takes a mount out of the tree.
pub fn detach(target: &str) -> GuestResult<()> {
    rustix::mount::unmount(target, UnmountFlags::DETACH).context(format_args!("detach {target}"))
}

/// This thread sees its own copy of all mounts from here on.
pub fn leave_namespace() -> GuestResult<()> {
    // SAFETY: only this thread's view of the filesystem changes, and it shares no descriptor table
    // or other state that the flag would split.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("make a mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("make the mounts private")
}
