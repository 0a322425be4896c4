//! `reconfigure-auto-expand`: a process that expands the COW file of a snapshot before it is full.
//!
//! The module cannot do it: room comes from a filesystem, and is allocated by this tool. What it would
//! not do by hand, it does not do alone either: annexes do not lie on an origin.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::commands;
use crate::info::{self, Device};
use crate::names;

/// Between two looks at the snapshot. A disk that takes 1 GiB of preserved blocks in a second fills 50 MiB
/// meanwhile: steps should be larger.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of a slot.
const SLOT_BYTES: u64 = 4096;

const SLOTS_PER_MIB: u64 = (1 << 20) / SLOT_BYTES;

/// What `info` calls a snapshot that preserves blocks.
const PRESERVING: &str = "active snapshot";

/// Arguments of `reconfigure-auto-expand`.
#[derive(Clone, clap::Args)]
pub struct AutoExpand {
    /// Expand by so much, in MiB, whenever less than that is free in the COW file
    #[arg(short = 's', long = "step", value_name = "MB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    step_mb: u64,
    /// Leave so much free on the filesystem of the COW file, in MiB
    #[arg(
        short = 'r',
        long = "reserve",
        value_name = "MB",
        default_value_t = 1024
    )]
    reserve_mb: u64,
    /// Expand so many times at most; the module takes 16
    #[arg(short = 'n', long = "steps", value_name = "N", default_value_t = 16)]
    steps: u32,
    /// Stay in the foreground, as a service does, and end with the snapshot
    #[arg(long)]
    foreground: bool,
    /// As that, in a session of its own, which a terminal that goes does not end
    #[arg(long, hide = true)]
    detached: bool,
    /// Number of the snapshot
    minor: u32,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Expand,
    /// Nothing is left to be watched.
    End,
    Fail(String),
}

/// `cowbirdctl reconfigure-auto-expand`
pub fn command(arguments: &AutoExpand) -> Result<()> {
    let device = info::find(arguments.minor)?;
    let series = &device.uuid;
    if let Step::Fail(reason) = next(arguments, series, 0, Some(&device)) {
        bail!(reason);
    }
    if device.state_name != PRESERVING {
        bail!(
            "minor {} is {}: only an active snapshot can be expanded",
            device.minor,
            device.state_name
        );
    }
    let report = info::read()?;
    if let Some(on) = report
        .devices()
        .find(|other| other.origin_device == device.cow_device)
    {
        bail!(
            "the COW file of minor {} lies on {}, the origin of minor {}: what is free there now may be part of \
             its snapshot; put the COW file on another volume",
            device.minor,
            names::shown(&on.block_device),
            on.minor
        );
    }
    if arguments.detached {
        // Nobody should have to end us to unmount what was ours by accident.
        std::env::set_current_dir("/").context("cannot leave the working folder")?;
        // SAFETY: setsid only makes a system call. It fails where we have a session of our own already.
        unsafe { libc::setsid() };
    }
    if arguments.foreground || arguments.detached {
        return watch(arguments, series);
    }
    let myself = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(myself);
    command
        .args(["reconfigure-auto-expand", "--detached"])
        .args(["--step", &arguments.step_mb.to_string()])
        .args(["--reserve", &arguments.reserve_mb.to_string()])
        .args(["--steps", &arguments.steps.to_string()])
        .arg(arguments.minor.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // What goes wrong later is told where the module tells it.
        .stderr(kernel_log().map_or_else(|_| Stdio::null(), Stdio::from));
    command
        .spawn()
        .context("cannot start the process that watches the snapshot")?;
    Ok(())
}

fn kernel_log() -> io::Result<std::fs::File> {
    OpenOptions::new().write(true).open("/dev/kmsg")
}

/// Until the snapshot ends. Another one may get its number at once; that has another series.
fn watch(arguments: &AutoExpand, series: &str) -> Result<()> {
    let mut done = 0;
    loop {
        let report = info::read()?;
        let device = report
            .devices()
            .find(|device| device.minor == arguments.minor);
        match next(arguments, series, done, device) {
            Step::Wait => thread::sleep(LOOK),
            Step::Expand => {
                expand(arguments, device)?;
                done += 1;
                tell(&format!(
                    "snapshot {} was expanded by {} MiB ({done} of {} times)",
                    arguments.minor, arguments.step_mb, arguments.steps
                ));
            }
            Step::End => return Ok(()),
            Step::Fail(reason) => bail!(reason),
        }
    }
}

/// Says that all is well. The kernel log, and the journal of a service, take one write for one message and a level
/// before it.
fn tell(message: &str) {
    let mut out = io::stderr();
    let level = if out.is_terminal() { "" } else { "<6>" };
    let _ = out.write_all(format!("{level}cowbirdctl: {message}\n").as_bytes());
}

fn next(arguments: &AutoExpand, series: &str, done: u32, device: Option<&Device>) -> Step {
    let Some(device) = device.filter(|device| device.uuid == series) else {
        return Step::End;
    };
    if device.error != 0 {
        return Step::Fail(format!(
            "snapshot {} failed before it was expanded: {}",
            device.minor, device.error_text
        ));
    }
    if device.state_name != PRESERVING {
        return Step::End;
    }
    let free = device.cow_slots.saturating_sub(device.cow_slots_used);
    // At most a half: a small COW file need not be expanded before it is used.
    let wanted = (arguments.step_mb * SLOTS_PER_MIB).min(device.cow_slots / 2);
    match free < wanted {
        false => Step::Wait,
        true if done < arguments.steps => Step::Expand,
        // It may still be enough.
        true => Step::Wait,
    }
}

fn expand(arguments: &AutoExpand, device: Option<&Device>) -> Result<()> {
    let folder = device
        .and_then(|device| device.cow_file.parent())
        .ok_or_else(|| anyhow!("the COW file has no folder"))?;
    let free_mb = free_mib(folder)?;
    if free_mb < arguments.step_mb.saturating_add(arguments.reserve_mb) {
        bail!(
            "snapshot {} is not expanded by {} MiB: {} has {free_mb} MiB free, of which {} are reserved; make room \
             there, or the snapshot fails when its COW file is full",
            arguments.minor,
            arguments.step_mb,
            folder.display(),
            arguments.reserve_mb
        );
    }
    commands::expand_cow_file(arguments.minor, arguments.step_mb)
}

/// What may be allocated on the filesystem of a folder.
fn free_mib(folder: &Path) -> Result<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).context("a folder with a NUL")?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a NUL, and the structure is of the type that the call fills.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("cannot tell what is free in {}", folder.display()));
        }
        stat.assume_init()
    };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGUMENTS: AutoExpand = AutoExpand {
        step_mb: 1,
        reserve_mb: 0,
        steps: 2,
        foreground: true,
        detached: false,
        minor: 3,
    };

    fn device(state: &str, error: i32, used: u64, slots: u64) -> Device {
        serde_json::from_value(serde_json::json!({
            "minor": 3, "cow_file": "/mnt/.cow", "block_device": "/dev/vda1", "cow_inode": 12, "max_cache": 1,
            "seq_id": 4, "uuid": SERIES, "error": error, "state_name": state, "origin_sectors": 4096,
            "cow_slots": slots, "origin_device": "254:1", "changes_from_epoch": 3, "cow_slots_used": used,
            "preserved_blocks": 9, "memory_blocks": 3, "cow_device": "254:2", "cow_sector": 2048,
            "cow_is_pinned": true, "tracks": true, "error_text": "the COW file is full"
        }))
        .unwrap()
    }

    const SERIES: &str = "00ff";

    fn next_for(done: u32, state: &str, error: i32, used: u64, slots: u64) -> Step {
        next(
            &ARGUMENTS,
            SERIES,
            done,
            Some(&device(state, error, used, slots)),
        )
    }

    /// Goal: it expands when less than a step is free, as often as it may, and not before.
    #[test]
    fn expands_in_time() {
        let active = |done, used, slots| next_for(done, PRESERVING, 0, used, slots);
        assert_eq!(active(0, 744, 1000), Step::Wait);
        assert_eq!(active(0, 745, 1000), Step::Expand);
        assert_eq!(active(1, 1000, 1000), Step::Expand);
        assert_eq!(active(2, 1000, 1000), Step::Wait);
        // Less than a step in all.
        assert_eq!(active(0, 0, 100), Step::Wait);
        assert_eq!(active(0, 51, 100), Step::Expand);
    }

    /// Goal: it ends with the snapshot, and tells when that has failed.
    #[test]
    fn ends_with_the_snapshot() {
        assert_eq!(next(&ARGUMENTS, SERIES, 0, None), Step::End);
        let successor = device(PRESERVING, 0, 1000, 1000);
        assert_eq!(next(&ARGUMENTS, "00fe", 0, Some(&successor)), Step::End);
        assert_eq!(next_for(0, "active incremental", 0, 1000, 1000), Step::End);
        let Step::Fail(reason) = next_for(0, "failed snapshot", -28, 1000, 1000) else {
            panic!("a failed snapshot cannot be expanded");
        };
        assert!(reason.ends_with("the COW file is full"), "{reason}");
    }
}
