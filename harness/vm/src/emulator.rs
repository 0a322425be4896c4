//! The QEMU program: the host's, or one that lies in a root of its own.
//!
//! The latter is started by that root's own loader, with that root's libraries, firmware and modules. A chroot would
//! need root, mounts of every folder that a cell's files may lie in, and a QEMU that sees other paths than the harness.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cowbird_host::disk;
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::tool;
use rustix::process::geteuid;
use rustix::thread::set_no_new_privs;
use serde::{Deserialize, Serialize};

/// The QEMU program.
pub const QEMU: &str = "qemu-system-x86_64";

/// How long QEMU may take to begin without a machine and to quit, which takes a tenth of a second. Whoever wants to know meanwhile waits.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);

/// Where libraries lie in a root.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The loader, among them.
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Where QEMU's own modules lie, among them.
const MODULES: &str = "qemu";

/// Where firmware lies in a root.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The filter of system calls that QEMU puts around itself before the guest starts.
const SANDBOX: [&str; 2] = [
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// The same for a QEMU that changes its user, which `elevateprivileges=deny` forbids. Once it has, there is nothing left to be
/// elevated to: `no_new_privs` is set, no program can be started, and another user becomes nobody else.
const SANDBOX_OF_ROOT: [&str; 2] = [
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=allow,spawn=deny,resourcecontrol=deny",
];

/// How often a QEMU is started with each confinement before it counts as one that knows none.
const CONFINEMENT_TRIES: u32 = 3;

/// Whom a QEMU that root starts becomes when it has opened its files, user and group: neither a user of Debian's nor of systemd's,
/// and within what a container usually has.
const USER: u32 = 65_530;

/// How it is told: the option until QEMU 9.0, and since then.
const AS_USER: [(&str, &str); 2] = [("-runas", ""), ("-run-with", "user=")];

/// The name of a folder that is given to it; short, as names of sockets are.
const GIVEN: &str = "its";

/// How far a QEMU can be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confinement {
    /// Not at all.
    None,
    /// By [`SANDBOX`].
    Filter,
    /// By [`SANDBOX_OF_ROOT`], as another user; which of [`AS_USER`].
    User(usize),
}

/// Which QEMU runs a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emulator {
    /// The one on the host's path.
    #[default]
    Host,
    /// The one in this root.
    Root(PathBuf),
}

impl Emulator {
    /// The command; a guest's arguments are to be added.
    #[must_use]
    pub fn command(&self) -> Command {
        match self {
            Self::Host => Command::new(QEMU),
            Self::Root(root) => in_root(root),
        }
    }

    /// The command of a guest that is confined as far as this QEMU can: whoever breaks out of the guest cannot start a program,
    /// come by privileges or take the CPUs, and where the harness is root he is nobody whose files those of root are.
    #[must_use]
    pub fn confined(&self) -> Command {
        self.confined_by(self.confinement())
    }

    fn confined_by(&self, confinement: Confinement) -> Command {
        let mut command = self.command();
        match confinement {
            Confinement::None => {}
            Confinement::Filter => {
                command.args(SANDBOX);
            }
            Confinement::User(how) => {
                let (option, before) = AS_USER[how];
                command.args(SANDBOX_OF_ROOT);
                command.args([option.to_owned(), format!("{before}{USER}:{USER}")]);
                // SAFETY: the closure runs between fork and exec and only makes one system call (prctl), which is
                // async-signal-safe; it allocates nothing and takes no lock.
                unsafe { command.pre_exec(|| Ok(set_no_new_privs(true)?)) };
            }
        }
        command
    }

    /// Whether this QEMU was built with the sandbox, and the kernel has what it takes.
    #[must_use]
    pub fn can_confine(&self) -> bool {
        self.confinement() != Confinement::None
    }

    /// What is missing of the confinement that is meant for this user, if anything is.
    #[must_use]
    pub fn unconfined(&self) -> Option<&'static str> {
        match self.confinement() {
            Confinement::User(_) => None,
            Confinement::Filter if geteuid().is_root() => {
                Some("QEMU stays root, because it cannot become another user here")
            }
            Confinement::Filter => None,
            Confinement::None => {
                Some("QEMU runs without its sandbox, which it or this kernel does not have")
            }
        }
    }

    /// User and group that a guest's QEMU becomes. It then opens nothing any more that is the harness' alone.
    #[must_use]
    pub fn user(&self) -> Option<(u32, u32)> {
        matches!(self.confinement(), Confinement::User(_)).then_some((USER, USER))
    }

    /// A folder within one of the harness' own in which a QEMU that has become another user can make files. The outer one stays the harness':
    /// it is what the next run tidies away when this one is killed, and it does that with its own folders only.
    ///
    /// # Errors
    /// When the folder cannot be made or given to it.
    pub fn folder_within(&self, outer: &Path) -> HarnessResult<PathBuf> {
        given_to(self.user(), outer)
    }

    fn confinement(&self) -> Confinement {
        static KNOWN: Mutex<Vec<(Emulator, Confinement)>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, how)) = known.iter().find(|(emulator, _)| emulator == self) {
            return *how;
        }
        let as_users = (0..AS_USER.len()).map(Confinement::User);
        let as_users = as_users.filter(|_| geteuid().is_root());
        let ways: Vec<Confinement> = as_users.chain([Confinement::Filter]).collect();
        // A start that fails because the machine has no room for a moment must not open the door for good.
        for _ in 0..CONFINEMENT_TRIES {
            if let Some(how) = ways.iter().find(|how| self.begins(**how)) {
                known.push((self.clone(), *how));
                return *how;
            }
        }
        Confinement::None
    }

    /// Whether it begins with that confinement. An option that it does not know ends it, as does a user that it cannot become; else it
    /// is told to quit. One that does neither within [`BEGIN_LIMIT`] is killed, and does not begin.
    fn begins(&self, confinement: Confinement) -> bool {
        let mut command = self.confined_by(confinement);
        command
            .args(["-machine", "none", "-nodefaults", "-display", "none", "-S"])
            .args(["-monitor", "stdio"]);
        quits(&mut command, BEGIN_LIMIT)
    }

    /// First line of `qemu --version`, with the version of the distribution's package.
    ///
    /// # Errors
    /// When there is no QEMU.
    pub fn version(&self) -> HarnessResult<String> {
        let text = disk::run(
            QEMU,
            "package qemu-system-x86",
            self.command().arg("--version"),
        )?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

/// Whether a program that is told to quit ends well within this time.
fn quits(command: &mut Command, limit: Duration) -> bool {
    let Ok((read, mut write)) = std::io::pipe() else {
        return false;
    };
    // It fits into the pipe, whose other end is open here: nobody has to read it.
    if write.write_all(b"quit\n").is_err() {
        return false;
    }
    drop(write);
    command
        .stdin(read)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    tool::run_quietly(QEMU, command, limit)
}

/// Makes the folder of [`Emulator::folder_within`] for a user.
fn given_to(user: Option<(u32, u32)>, outer: &Path) -> HarnessResult<PathBuf> {
    let folder = outer.join(GIVEN);
    fs::create_dir(&folder).on("create", &folder)?;
    if let Some((user, group)) = user {
        chown(&folder, Some(user), Some(group)).on("give away", &folder)?;
        // The other user comes through, and sees nothing.
        let through = fs::Permissions::from_mode(0o711);
        fs::set_permissions(outer, through).on("let others through", outer)?;
    }
    Ok(folder)
}

fn in_root(root: &Path) -> Command {
    let libraries = root.join(LIBRARIES);
    let mut command = Command::new(libraries.join(LOADER));
    command
        .arg("--library-path")
        .arg(&libraries)
        .arg(root.join("usr/bin").join(QEMU))
        .env("QEMU_MODULE_DIR", libraries.join(MODULES));
    for folder in FIRMWARE {
        command.arg("-L").arg(root.join(folder));
    }
    command
}

/// The major version in the first line of `qemu --version`.
#[must_use]
pub fn major_version(line: &str) -> Option<u32> {
    let (_, version) = line.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_found() {
        let line = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)";
        assert_eq!(major_version(line), Some(10));
        assert_eq!(major_version("QEMU emulator version 7.2.9"), Some(7));
        assert_eq!(major_version("qemu"), None);
    }

    /// Goal: a QEMU that hangs at its start is not waited for. Method: a shell that never quits, and one that reads and does.
    #[test]
    fn one_that_hangs_does_not_begin() {
        let shell = |script: &str, limit: Duration| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            quits(&mut command, limit)
        };
        assert!(!shell("exec sleep 1000", Duration::from_millis(50)));
        assert!(shell("read said && test $said = quit", BEGIN_LIMIT));
        assert!(!shell("exit 1", BEGIN_LIMIT));
    }

    /// Goal: a guest is confined where QEMU can, and runs where it cannot. Method: the host's QEMU, with a guest that is halted
    /// at once, whose state is asked of the kernel; and a QEMU that is none.
    #[test]
    fn a_guest_is_confined() {
        let none = Emulator::Root("/nonexistent".into());
        assert!(!none.can_confine());
        assert!(
            !none
                .confined()
                .get_args()
                .any(|argument| argument == "-sandbox")
        );
        if Emulator::Host.version().is_err() {
            println!("SKIP: no QEMU here");
            return;
        }
        assert!(
            Emulator::Host.can_confine(),
            "Debian's QEMU has the sandbox"
        );
        let mut command = Emulator::Host.confined();
        command.args(["-machine", "none", "-S", "-display", "none", "-nodefaults"]);
        let mut child = command.spawn().expect("QEMU starts");
        let path = format!("/proc/{}/status", child.id());
        let others = format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n");
        let confined = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let status = std::fs::read_to_string(&path).unwrap_or_default();
            let is_another =
                status.contains(&others) && status.contains("CapEff:\t0000000000000000");
            status.contains("Seccomp:\t2")
                && status.contains("NoNewPrivs:\t1")
                && (is_another || !geteuid().is_root())
        });
        child.kill().expect("it runs");
        child.wait().expect("it was started");
        assert!(confined, "no filter, or root still, within 10 s");
    }

    /// Goal: a QEMU that has become another user can make sockets, and the folder of a run that was killed can be tidied away. Method: as
    /// root, that user makes a file; only the inner folder is his.
    #[test]
    fn only_a_folder_within_is_given_away() {
        use std::os::unix::fs::MetadataExt;
        if !geteuid().is_root() {
            println!("SKIP: only root becomes another user");
            return;
        }
        let outer = tempfile::tempdir().expect("a folder for the test");
        let folder = given_to(Some((USER, USER)), outer.path()).expect("root may");
        let owner = |path: &Path| fs::metadata(path).expect("it is there").uid();
        assert_eq!((owner(outer.path()), owner(&folder)), (0, USER));
        let made = Command::new("touch")
            .arg(folder.join("gdb"))
            .uid(USER)
            .gid(USER)
            .status();
        assert!(made.expect("every host has touch").success());
        let listed = Command::new("ls")
            .arg(outer.path())
            .uid(USER)
            .gid(USER)
            .output();
        assert!(!listed.expect("every host has ls").status.success());
    }

    /// Goal: a QEMU in a root uses nothing of the host's.
    #[test]
    fn a_root_is_used_whole() {
        let command = Emulator::Root("/r".into()).command();
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(
            command.get_program(),
            "/r/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        );
        assert_eq!(
            arguments,
            [
                "--library-path",
                "/r/usr/lib/x86_64-linux-gnu",
                "/r/usr/bin/qemu-system-x86_64",
                "-L",
                "/r/usr/share/qemu",
                "-L",
                "/r/usr/share/seabios",
            ]
        );
        assert!(
            command
                .get_envs()
                .any(|(name, value)| name == "QEMU_MODULE_DIR"
                    && value == Some("/r/usr/lib/x86_64-linux-gnu/qemu".as_ref()))
        );
    }
}
