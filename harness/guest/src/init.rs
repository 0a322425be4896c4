//! PID 1: the few things that need to be done once, and reaping.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cowbird_guest_system::error::{Context, GuestResult};
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use crate::{ops, root};

/// Argument that makes this binary the agent.
pub const AGENT_ARGUMENT: &str = "agent";

/// Modules to load at boot, one path a line, in order.
const MODULE_LIST: &str = "/modules.list";

/// Console text by which the host knows that the agent, not the kernel, failed.
const AGENT_LOST: &str = "cowbird-guest: AGENT LOST";

/// CPUs that a guest may have.
const MAX_CPUS: u32 = 64;

/// Pause before a wait that failed is tried again, so that PID 1 never spins.
const WAIT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Mount point, filesystem, flags; in order.
const MOUNTS: [(&str, &str); 6] = [
    ("/proc", "proc"),
    ("/sys", "sysfs"),
    ("/dev", "devtmpfs"),
    ("/tmp", "tmpfs"),
    ("/sys/kernel/tracing", "tracefs"),
    ("/sys/kernel/debug", "debugfs"),
];

/// Sets the guest up, and goes on from where it is to run.
pub fn run() -> ! {
    for (target, fstype) in MOUNTS {
        if let Err(error) = mount_at(target, fstype) {
            cowbird_guest_system::say!("cowbird-guest: {error}");
        }
    }
    start_cpus();
    if let Err(error) = load_modules(Path::new(MODULE_LIST)) {
        lost(&error.to_string());
    }
    if let Some(device) = root::requested() {
        // The host asks for that, and may find that the module has invalidated the volume.
        root::log(&root::switch_to(&device).to_string());
    }
    serve()
}

/// Starts the agent and reaps until the guest is powered off.
pub fn serve() -> ! {
    let agent = match Command::new("/proc/self/exe").arg(AGENT_ARGUMENT).spawn() {
        Ok(child) => child.id(),
        Err(error) => lost(&format!("cannot start: {error}")),
    };
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == agent => {
                lost(&format!(
                    "exit status {:?}, signal {:?}",
                    status.exit_status(),
                    status.terminating_signal()
                ));
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(WAIT_RETRY_PAUSE),
        }
    }
}

fn mount_at(target: &str, fstype: &str) -> GuestResult<()> {
    match fs::create_dir_all(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // sysfs has the mount points that the kernel supports and no others.
            return Err(error).context(format_args!("make mount point {target}"));
        }
        _ => {}
    }
    mount(fstype, target, fstype, MountFlags::empty(), None)
        .context(format_args!("mount {fstype} on {target}"))
}

/// Starts the CPUs that the kernel was told to leave alone while it booted. The Hello says how many
/// there are in the end.
fn start_cpus() {
    for cpu in 1..MAX_CPUS {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/online");
        if !Path::new(&path).exists() {
            return;
        }
        if let Err(error) = fs::write(&path, "1") {
            cowbird_guest_system::say!("cowbird-guest: start CPU {cpu}: {error}");
        }
    }
}

fn load_modules(list: &Path) -> GuestResult<()> {
    let text = fs::read_to_string(list).context(format_args!("read {}", list.display()))?;
    for path in text.lines().filter(|line| !line.is_empty()) {
        ops::insert_module(path, "")?;
    }
    Ok(())
}

/// Says that the agent is gone and powers off: the host must not wait for a guest that cannot
/// answer, and must not take this for a hang of the kernel.
fn lost(reason: &str) -> ! {
    cowbird_guest_system::say!("{AGENT_LOST}: {reason}");
    loop {
        // The call returns only when it fails; PID 1 must not return in any case.
        let _ = reboot(RebootCommand::PowerOff);
        std::thread::sleep(WAIT_RETRY_PAUSE);
    }
}
