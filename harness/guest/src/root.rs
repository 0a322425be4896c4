//! The root volume: what an initramfs does before the init of the system proper.
//!
//! A guest whose kernel is told `root=` goes on from that volume: the boot hooks in the initramfs run
//! before it is mounted, then it becomes `/`, and init and agent are started again from it. The hooks
//! are those of initramfs-tools and dracut, each run as its own generator's init does.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::chroot;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_proto::BOOT_LOG;
use cowbird_proto::message::GuestError;
use rustix::mount::{MountFlags, mount, mount_move};

/// Argument that makes this binary the init of a root volume, for which the initramfs has set everything up.
pub const SWITCHED_ARGUMENT: &str = "switched";

/// Kernel parameter that names the root volume.
const PARAMETER: &str = "root=";

/// Where it is mounted before it becomes `/`.
const MOUNT: &str = "/root";

/// The init on it, which is this program.
const INIT: &str = "/init";

/// The shell of the hooks.
const SHELL: &str = "/bin/sh";

/// Where initramfs-tools has what runs before the root volume is mounted, and the path that its init sets.
const INITRAMFS_TOOLS_HOOKS: &str = "/scripts/local-premount";
const INITRAMFS_TOOLS_PATH: &str = "/sbin:/usr/sbin:/bin:/usr/bin";

/// Likewise dracut, which does not run its hooks but sources them.
const DRACUT_HOOKS: &str = "/lib/dracut/hooks/pre-mount";
const DRACUT_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Mounts that the system takes over from the initramfs, with what is mounted below them.
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/tmp"];

/// Folders of the initramfs whose content does not belong on a root volume.
const NOT_COPIED: [&str; 6] = ["/dev", "/proc", "/sys", "/tmp", "/mnt", MOUNT];

/// The volume has this long to appear.
const DEVICE_LIMIT: Duration = Duration::from_secs(20);

/// Pause between two looks for it.
const DEVICE_POLL: Duration = Duration::from_millis(20);

/// The root volume that the kernel's command line names.
pub fn requested() -> Option<String> {
    let parameters = fs::read_to_string("/proc/cmdline").ok()?;
    parameters
        .split_whitespace()
        .find_map(|word| word.strip_prefix(PARAMETER))
        .map(str::to_owned)
}

/// Goes on from the root volume; returns only when that cannot be, with the reason.
pub fn switch_to(device: &str) -> GuestError {
    let Err(error) = prepare_and_start(device);
    error
}

fn prepare_and_start(device: &str) -> GuestResult<Infallible> {
    wait_for(device)?;
    run_hooks()?;
    keep_pages_stable(device);
    fs::create_dir_all(MOUNT).context(format_args!("make mount point {MOUNT}"))?;
    // Without further options, so that access times are kept as on any system.
    mount(device, MOUNT, "ext4", MountFlags::empty(), None)
        .context(format_args!("mount {device} on {MOUNT}"))?;
    if !Path::new(MOUNT).join(INIT.trim_start_matches('/')).exists() {
        populate()?;
    }
    enter()?;
    let error = Command::new(INIT).arg(SWITCHED_ARGUMENT).exec();
    Err(error).context(format_args!("start {INIT} of {device}"))
}

/// Keeps a line for the host.
pub fn log(line: &str) {
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(BOOT_LOG)
        .and_then(|mut file| writeln!(file, "{line}"));
    if let Err(error) = written {
        cowbird_guest_system::say!("cowbird-guest: {BOOT_LOG}: {error}: {line}");
    }
}

fn wait_for(device: &str) -> GuestResult<()> {
    let deadline = Instant::now() + DEVICE_LIMIT;
    while !Path::new(device).exists() {
        if Instant::now() > deadline {
            return Err(failure(format!(
                "{device} did not appear within {DEVICE_LIMIT:?}; is its driver loaded?"
            )));
        }
        std::thread::sleep(DEVICE_POLL);
    }
    Ok(())
}

/// Lets the pages of the disk of a partition stay as they are while they are written, for its witness. A
/// filesystem asks for it when it is mounted, which for this one is too early for the host to say it.
fn keep_pages_stable(partition: &str) {
    let name = partition.trim_start_matches("/dev/");
    let setting = format!("/sys/class/block/{name}/../queue/stable_writes");
    if let Err(error) = fs::write(&setting, "1") {
        log(&format!("{setting}: {error}"));
    }
}

fn run_hooks() -> GuestResult<()> {
    for hook in files_of(INITRAMFS_TOOLS_HOOKS)? {
        run_hook(&hook, Command::new(&hook).env("PATH", INITRAMFS_TOOLS_PATH));
    }
    for hook in files_of(DRACUT_HOOKS)? {
        let mut shell = Command::new(SHELL);
        shell.args(["-c", ". \"$1\"", "sh"]).arg(&hook);
        run_hook(&hook, shell.env("PATH", DRACUT_PATH));
    }
    Ok(())
}

/// Runs one to its end. No hook keeps a system from booting, so what it said is all that is kept.
fn run_hook(hook: &Path, command: &mut Command) {
    let ended = File::options()
        .append(true)
        .create(true)
        .open(BOOT_LOG)
        .and_then(|output| command.stdout(output.try_clone()?).stderr(output).status());
    match ended {
        Ok(status) => log(&format!("{}: {status}", hook.display())),
        Err(error) => log(&format!("{}: {error}", hook.display())),
    }
}

/// The files of a folder in the order of their names; none where there is no such folder.
fn files_of(folder: &str) -> GuestResult<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format_args!("list {folder}")),
    };
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .context(format_args!("list {folder}"))?;
    files.sort();
    Ok(files)
}

/// Puts a system on an empty root volume: the programs of the initramfs.
fn populate() -> GuestResult<()> {
    copy_folder(Path::new("/"), Path::new(MOUNT))?;
    rustix::fs::sync();
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> GuestResult<()> {
    fs::create_dir_all(to).context(format_args!("make folder {}", to.display()))?;
    let listed = || format!("list {}", from.display());
    for entry in fs::read_dir(from).context(listed())? {
        let entry = entry.context(listed())?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().context(listed())?;
        if kind.is_dir() && !NOT_COPIED.iter().any(|other| path == Path::new(other)) {
            copy_folder(&path, &target)?;
        } else if kind.is_file() {
            fs::copy(&path, &target).context(format_args!("copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Makes the volume `/`, as `switch_root` does; the initramfs stays below it, out of reach.
fn enter() -> GuestResult<()> {
    for moved in MOVED {
        let target = format!("{MOUNT}{moved}");
        fs::create_dir_all(&target).context(format_args!("make mount point {target}"))?;
        mount_move(moved, &target).context(format_args!("move {moved} to {target}"))?;
    }
    std::env::set_current_dir(MOUNT).context(format_args!("enter {MOUNT}"))?;
    mount_move(".", "/").context(format_args!("move {MOUNT} to /"))?;
    chroot(".").context("make the root volume /")?;
    std::env::set_current_dir("/").context("enter /")
}
