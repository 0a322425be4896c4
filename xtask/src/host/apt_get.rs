//! Installs packages of the host with its own apt-get: removes nothing, replaces a newer version by an older one only where that
//! is allowed, and waits for others who install.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use cowbird_programs::install::{LOCK_WAIT_MAX, install_command, install_words};
use cowbird_programs::locks::{lock_of_others, wait_for_locks};
use cowbird_programs::tool::wait_until;

/// How long apt-get itself waits for dpkg's lock before it is asked again. Of others, as that of the lists, it never waits.
const LOCK_WAIT_ONCE_S: u64 = 3;

/// How long one run is waited for: hundreds of packages from a slow mirror take less.
const RUN_MAX: Duration = Duration::from_secs(60 * 60);

/// What it says when it may not remove what is in the way.
const IN_THE_WAY: &str = "remove is disabled";

/// How it names, when it only pretends, what it would remove.
const REMOVED: &str = "Remv ";

/// The programs.
const APT_GET: &str = "apt-get";
const APT_CACHE: &str = "apt-cache";

/// Lets apt-get replace a version by an older one.
const DOWNGRADES: &str = "--allow-downgrades";

/// The host's apt-get.
pub struct AptGet<'a> {
    /// Configuration that is read after the host's own.
    pub config: Option<PathBuf>,
    /// Whether a package that is in the way may be replaced by an older version of the archive's.
    pub downgrades: bool,
    /// How long locks of others are waited for.
    pub lock_wait: Duration,
    /// How long one run of a program is waited for.
    pub run_max: Duration,
    /// Told what takes time.
    pub say: &'a dyn Fn(&str),
}

impl<'a> AptGet<'a> {
    /// As the host has it.
    pub fn new(say: &'a dyn Fn(&str)) -> Self {
        Self {
            config: None,
            downgrades: false,
            lock_wait: LOCK_WAIT_MAX,
            run_max: RUN_MAX,
            say,
        }
    }

    /// Installs packages, once more after `apt-get update` when the first try fails: a fresh container has no package
    /// lists, and old lists lead to versions that do not fit with each other.
    pub fn install(&self, packages: &[&str]) -> Result<()> {
        let words = install_words(packages, LOCK_WAIT_ONCE_S);
        let first = self.wait_and_run(&words)?;
        if first.status.success() {
            return Ok(());
        }
        self.wait_and_run(&["update".to_owned()])?;
        let output = self.wait_and_run(&words)?;
        if output.status.success() {
            return Ok(());
        }
        if is_in_the_way(&output) {
            return self.make_way(packages);
        }
        Err(last_line(&output))
    }

    /// Installs packages together with older versions of those that are in the way, or says how that is done.
    fn make_way(&self, packages: &[&str]) -> Result<()> {
        let mut words = vec!["--simulate".to_owned()];
        words.extend(install_words(packages, LOCK_WAIT_ONCE_S));
        words.retain(|word| word != "--no-remove");
        let output = self.run(APT_GET, &words)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let removed: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix(REMOVED)?.split_whitespace().next())
            .collect();
        let mut fitting = Vec::new();
        for name in &removed {
            fitting.push(self.with_version(name)?);
        }
        let mut both = vec![DOWNGRADES];
        both.extend(packages);
        both.extend(fitting.iter().map(String::as_str));
        if self.downgrades {
            let output = self.wait_and_run(&install_words(&both, LOCK_WAIT_ONCE_S))?;
            return match output.status.success() {
                true => Ok(()),
                false => Err(last_line(&output)),
            };
        }
        bail!(
            "apt would remove {} for it, so nothing was installed; `{}` replaces {} by what the archive has, and so does \
             `cargo xtask setup --only-host {DOWNGRADES}`; otherwise choose yourself with `apt-get install {}`",
            removed.join(", "),
            install_command(&both, true),
            match removed.len() {
                1 => "it",
                _ => "them",
            },
            packages.join(" ")
        )
    }

    /// A package with the newest version that the archive has of it; without one where it has none.
    fn with_version(&self, name: &str) -> Result<String> {
        let output = self.run(APT_CACHE, &["madison".to_owned(), name.to_owned()])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().and_then(|line| line.split('|').nth(1));
        Ok(match version {
            Some(version) => format!("{name}={}", version.trim()),
            None => name.to_owned(),
        })
    }

    /// Runs apt-get again until it has the locks that it needs.
    fn wait_and_run(&self, words: &[String]) -> Result<Output> {
        wait_for_locks(self.lock_wait, self.say, || {
            let output = self.run(APT_GET, words)?;
            let said = String::from_utf8_lossy(&output.stderr);
            let lock = lock_of_others(&said).filter(|_| !output.status.success());
            let lock = lock.map(str::to_owned);
            Ok((output, lock))
        })
    }

    fn run(&self, program: &'static str, words: &[String]) -> Result<Output> {
        let mut command = Command::new(program);
        command
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Its messages are looked at.
            .env("LC_ALL", "C");
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        let cannot = || format!("cannot run {program}");
        // Files, and no pipes: a daemon that a package starts keeps what it is given.
        let mut out = tempfile::tempfile().with_context(cannot)?;
        let mut err = tempfile::tempfile().with_context(cannot)?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone().with_context(cannot)?)
            .stderr(err.try_clone().with_context(cannot)?);
        let mut child = command.spawn().with_context(cannot)?;
        let ended = wait_until(&mut child, Instant::now() + self.run_max).with_context(cannot)?;
        let Some(status) = ended else {
            // Whoever ends dpkg in the middle of its work leaves packages that are half installed.
            bail!(
                "`{program} {}` has not ended within {} s; it still runs, as process {}, and was left alone: see what it waits for, for \
                 example with `pstree -alp {}`, and run this command again when it has ended",
                words.join(" "),
                self.run_max.as_secs(),
                child.id(),
                child.id()
            );
        };
        Ok(Output {
            status,
            stdout: all_of(&mut out).with_context(cannot)?,
            stderr: all_of(&mut err).with_context(cannot)?,
        })
    }
}

/// What was written to a file.
fn all_of(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_in_the_way(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains(IN_THE_WAY)
}

/// The last thing that apt said.
fn last_line(output: &Output) -> anyhow::Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    anyhow!("{}", last.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use rustix::fs::{FlockOperation, fcntl_lock};

    use super::*;

    const INSTALLED: &str = "Package: qemu-utils\nStatus: install ok installed\nVersion: 3\nArchitecture: all\n\
                             Maintainer: x\nDescription: x\n\n";
    const OFFERED: &str = "Package: qemu-system-x86\nVersion: 2\nArchitecture: all\nMaintainer: x\nDescription: x\n\
                           Breaks: qemu-utils (>> 2)\nFilename: ./q.deb\nSize: 1\n\
                           SHA256: 0000000000000000000000000000000000000000000000000000000000000000\n\n\
                           Package: qemu-utils\nVersion: 2\nArchitecture: all\nMaintainer: x\nDescription: x\n\
                           Filename: ./u.deb\nSize: 1\n\
                           SHA256: 1111111111111111111111111111111111111111111111111111111111111111\n\n";

    /// A machine of apt's that is not the host: what is installed, and what an archive offers.
    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new(options: &str) -> Self {
            let folder = tempfile::tempdir().expect("a folder for the test");
            let at = folder.path().display();
            for dir in [
                "state/lists/partial",
                "cache/archives/partial",
                "dpkg",
                "archive",
            ] {
                fs::create_dir_all(folder.path().join(dir)).expect("it can be made");
            }
            let config = format!(
                "Dir::State \"{at}/state\";\nDir::State::status \"{at}/dpkg/status\";\nDir::Cache \"{at}/cache\";\n\
                 Dir::Etc::sourcelist \"{at}/sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::Etc::preferencesparts \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\n\
                 APT::Sandbox::User \"\";\n{options}\n"
            );
            let sources = format!("deb [trusted=yes] file:{at}/archive ./\n");
            for (name, text) in [
                ("config", config.as_str()),
                ("sources", &sources),
                ("dpkg/status", INSTALLED),
                ("archive/Packages", OFFERED),
            ] {
                fs::write(folder.path().join(name), text).expect("it can be written");
            }
            Self { folder }
        }

        fn apt<'a>(&self, say: &'a dyn Fn(&str)) -> AptGet<'a> {
            AptGet {
                config: Some(self.folder.path().join("config")),
                ..AptGet::new(say)
            }
        }
    }

    /// Goal: what is installed stays, unless an older version of it is allowed, and the way out is named. Method: apt itself,
    /// pretending, on a machine with a package that is newer than the archive's and that the wanted one breaks.
    #[test]
    fn nothing_is_removed() {
        let machine = Machine::new("APT::Get::Simulate \"true\";");
        let mut apt = machine.apt(&|_| {});
        let error = apt
            .install(&["qemu-system-x86"])
            .expect_err("it is in the way")
            .to_string();
        for part in [
            "would remove qemu-utils",
            "nothing was installed",
            "--no-remove -o DPkg::Lock::Timeout=600 --allow-downgrades qemu-system-x86 qemu-utils=2`",
            "cargo xtask setup --only-host --allow-downgrades",
        ] {
            assert!(error.contains(part), "{error}");
        }
        apt.downgrades = true;
        let done = apt.install(&["qemu-system-x86"]);
        assert!(done.is_ok(), "{done:?}");
        apt.downgrades = false;
        fs::write(machine.folder.path().join("dpkg/status"), "").expect("it can be written");
        let done = apt.install(&["qemu-system-x86"]);
        assert!(done.is_ok(), "{done:?}");
    }

    /// Goal: a package whose installation never ends is not waited for without a limit, and is told with its process. Method: apt itself, which
    /// asks a program that sleeps before it installs.
    #[test]
    fn what_does_not_end_is_told() {
        let machine = Machine::new(
            "APT::Get::Simulate \"true\";\nAPT::Get::List-Cleanup \"false\";\nAPT::Update::Pre-Invoke { \"exec sleep 3\"; };",
        );
        let mut apt = machine.apt(&|_| {});
        apt.run_max = Duration::from_millis(300);
        let error = apt
            .run(APT_GET, &["update".to_owned()])
            .expect_err("it sleeps")
            .to_string();
        assert!(
            error.contains("has not ended within 0 s; it still runs, as process "),
            "{error}"
        );
    }

    /// Goal: a lock that others hold is waited for, said once, and not for ever. Method: apt itself on a machine whose dpkg is
    /// locked by this process, for some seconds and for longer than the limit.
    #[test]
    fn locks_of_others_are_waited_for() {
        let machine = Machine::new("");
        let lock = fs::File::create(machine.folder.path().join("dpkg/lock-frontend"))
            .expect("it can be made");
        fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
        let said = RefCell::new(Vec::new());
        let say = |text: &str| said.borrow_mut().push(text.to_owned());
        let mut apt = machine.apt(&say);
        apt.lock_wait = Duration::ZERO;
        let error = apt.install(&["qemu-utils"]).expect_err("it is locked");
        assert!(
            error.to_string().contains("did not end within 0 s"),
            "{error}"
        );
        apt.lock_wait = Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_secs(LOCK_WAIT_ONCE_S + 2));
                fcntl_lock(&lock, FlockOperation::Unlock).expect("it is held");
            });
            let done = apt.install(&["qemu-utils"]);
            assert!(done.is_ok(), "{done:?}");
        });
        let said = said.into_inner();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("lock-frontend"), "{said:?}");
    }
}
