//! Control groups: what a process may have of a machine.

use std::fs;

use cowbird_guest_system::error::{Context, GuestResult};
use rustix::mount::{MountFlags, mount};

/// Where the hierarchy is mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// Makes the group of this name, in which one resource is limited. `controller` is what limits it, `file` where the
/// limit is written.
pub fn make(name: &str, controller: &str, file: &str, limit: &str) -> GuestResult<()> {
    fs::create_dir_all(GROUPS).context(format_args!("make {GROUPS}"))?;
    mount("cgroup2", GROUPS, "cgroup2", MountFlags::empty(), None).context("mount cgroup2")?;
    let control = format!("{GROUPS}/cgroup.subtree_control");
    let wanted = format!("+{controller}");
    fs::write(&control, &wanted).context(format_args!("write {wanted} to {control}"))?;
    let group = format!("{GROUPS}/{name}");
    fs::create_dir(&group).context(format_args!("make {group}"))?;
    fs::write(format!("{group}/{file}"), limit)
        .context(format_args!("set {file} of {group} to {limit}"))
}

/// This process is in the group from now on.
pub fn join(name: &str) -> GuestResult<()> {
    let own = std::process::id().to_string();
    fs::write(format!("{GROUPS}/{name}/cgroup.procs"), own)
        .context(format_args!("join the group {name}"))
}
