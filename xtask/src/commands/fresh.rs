//! `fresh`: the README's commands on machines that have nothing yet.
//!
//! A machine that has run the tests before has what they need, and so shows nothing about one that has not. Here the
//! commands run in a minimal root of each supported distribution, with a linker, git and Rust in it, on a clone of this
//! checkout and with an empty cache. The root lies in the cache and is not changed: what is written goes to a layer above it.
//!
//! What comes from this machine is what a network asks for (its name servers, proxies and certificates), the toolchain, and
//! cargo's settings, which may name the registries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use cowbird_harness::catalogue::cases;
use cowbird_images::{Catalogue, FreshHost, Tier};
use cowbird_matrix::output::OutDir;
use cowbird_matrix::spec::Selection;
use cowbird_matrix::table;
use cowbird_programs::{Ending, Tool};
use rustix::process::Signal;

use crate::host::rooms::Rooms;
use crate::repo;
use crate::run::prepare;
use crate::ui::{Ui, print};

/// Lines of a failed step's log that are shown.
const SHOWN_LINES: usize = 40;

/// A step may take so long: it compiles everything, on a machine that may have one CPU.
const STEP_MAX: Duration = Duration::from_secs(2 * 60 * 60);

/// Variables that a network may ask for, of this machine.
const HANDED_OVER: [&str; 9] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "COWBIRD_MIRROR",
    "COWBIRD_MIRROR_SECURITY",
    "CARGO_HTTP_CAINFO",
];

/// The certificates of this machine, and where they go.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The commit of this checkout.
const HEAD: &str = "HEAD";

/// The repository among what is handed over, and its branch.
const REPOSITORY: &str = "repository";
const BRANCH: &str = "tried";

/// Room for the layer of one machine: what it installs, builds and boots.
const LAYER_BYTES: u64 = 8 << 30;

/// What an ordinary user is told.
const TELLS_USER: &str = "sudo apt-get install";

/// Run by `sh` in namespaces of mounts and processes. Arguments: the root, the folder of its layer, the repository, the toolchain, the
/// folder with what is handed over, the user, and the command line to run in the clone.
///
/// The name servers are written, and the certificates put beside those of the root, before anything runs.
const ENTER: &str = r#"
set -eu
root=$1 layer=$2 repository=$3 toolchain=$4 given=$5 user=$6 line=$7
all=$layer/all
mkdir -p "$layer/upper" "$layer/work" "$all"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" "$all"
mkdir -p "$all/proc" "$all/sys" "$all/dev" "$all/tmp" "$all/opt/rust" "$all/etc/ssl/certs"
mount -t proc proc "$all/proc"
mount -t sysfs -o ro sysfs "$all/sys"
mount --rbind /dev "$all/dev"
mount -t tmpfs -o mode=1777 tmpfs "$all/tmp"
mount --bind "$toolchain" "$all/opt/rust"
mount -o remount,bind,ro "$all/opt/rust"
cp "$given/resolv.conf" "$all/etc/resolv.conf"
[ ! -e "$given/certificates" ] || cp "$given/certificates" "$all/etc/ssl/certs/ca-certificates.crt"
home=$all/home/$user
mkdir -p "$home/.cargo"
[ ! -e "$given/config.toml" ] || cp "$given/config.toml" "$home/.cargo/config.toml"
# git takes nothing from a repository of somebody else.
rm -rf "$all/srv/repository"
cp -r "$repository" "$all/srv/repository"
[ "$user" = root ] || chown -R 1000:1000 "$home" "$all/srv/repository"
# It is the first process of the machine, with which all others end. That it ends with `unshare` is forgotten when its user changes.
[ "$user" = root ] || set -- setpriv --reuid=1000 --regid=1000 --clear-groups --no-new-privs --pdeathsig KILL
[ "$user" != root ] || set --
while IFS= read -r variable; do set -- "$@" env "$variable"; done < "$given/variables"
# In a root that was only changed into, nobody may make user namespaces. No `umount` is here yet, but Perl always is: umount2, MNT_DETACH.
cd "$all"
mkdir -p old
pivot_root . old
/usr/bin/perl -e 'my $old = "/old"; syscall(166, $old, 2) == 0 or die "cannot leave the old root: $!\n"'
rmdir /old
exec /usr/bin/env -i PATH=/opt/rust/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME="/home/$user" LC_ALL=C "$@" sh -euc "cd; $line"
"#;

/// How one step ended.
struct Tried {
    host: String,
    step: FreshStep,
    time: Duration,
    /// What is wrong, if something is.
    wrong: Option<String>,
}

/// Arguments of `fresh`.
#[derive(Clone, Debug, Args)]
pub struct FreshArgs {
    /// Only hosts that match; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub host: Vec<String>,
    /// Run these steps only, in their order; may be given several times
    #[arg(long, value_enum)]
    pub step: Vec<FreshStep>,
    /// The kernel that the matrix is cut to
    #[arg(long, default_value = "bookworm-6.1-cloud")]
    pub kernel: String,
    /// The case that it is cut to
    #[arg(long, default_value = "raw-writers")]
    pub case: String,
    /// The commit that is tried
    #[arg(long, default_value = HEAD)]
    pub commit: String,
    /// Where the layers above the roots and the logs go; it must have room for a build
    #[arg(long, default_value = "out/fresh")]
    pub out: PathBuf,
}

/// What is tried on a fresh machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum FreshStep {
    /// As an ordinary user the matrix does not run: it says what to install, and ends with 2
    User,
    /// As root it installs what it needs, and passes
    Matrix,
    /// The tests that boot nothing
    Test,
}

/// Runs the command; the value is the exit code.
pub fn command(args: &FreshArgs, ui: &Arc<Ui>) -> Result<u8> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "fresh machines are made of roots that programs are installed in: run it as root, in a container for example"
        );
    }
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    let hosts = chosen(&catalogue.fresh_hosts, &args.host)?;
    if hosts.is_empty() {
        bail!("{} has no fresh host", Catalogue::PATH_IN_REPO);
    }
    is_commit(&args.commit)?;
    if args.commit == HEAD {
        // Another commit may have others.
        Selection::of(std::slice::from_ref(&args.kernel), Tier::Full).among(&catalogue.kernels)?;
        Selection::of(std::slice::from_ref(&args.case), Tier::Full).among(cases())?;
    }
    let out = OutDir::open(&args.out)?;
    let store = prepare::open_store(false, false, ui)?;
    Rooms {
        out: Some((out.path(), LAYER_BYTES)),
        cache: Some((&store.cache_dir(), hosts.len())),
        ..Rooms::default()
    }
    .check()?;
    // Some of it is used from elsewhere.
    let folder = std::path::absolute(out.path())
        .with_context(|| format!("bad path {}", out.path().display()))?;
    let given = folder.join("given");
    hand_over(&given)?;
    hand_over_commit(&args.commit, &given.join(REPOSITORY))?;
    let toolchain = toolchain()?;
    let mut steps = args.step.clone();
    if steps.is_empty() {
        steps = vec![FreshStep::User, FreshStep::Matrix, FreshStep::Test];
    }
    steps.sort_unstable();
    steps.dedup();
    let mut tried = Vec::new();
    fits_in_mount(&folder, "give another folder with --out")?;
    for host in hosts {
        let (root, _in_use) = store.fresh_host(host)?;
        fits_in_mount(&root, "give another folder in COWBIRD_CACHE")?;
        let layer = folder.join(format!("layer-{}", host.name));
        remove(&layer)?;
        fs::create_dir_all(&layer).with_context(|| format!("cannot create {}", layer.display()))?;
        for step in &steps {
            let task = ui.task(&format!("{}: {}", host.name, name(*step)));
            let started = Instant::now();
            let line = line_of(*step, args);
            let log = folder.join(format!("{}-{}.log", host.name, name(*step)));
            let ending = Enter {
                root: &root,
                layer: &layer,
                toolchain: &toolchain,
                given: &given,
            }
            .run(user_of(*step), &line, &log)?;
            let said = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
            let said = String::from_utf8_lossy(&said);
            let wrong = judge(*step, ending, &said);
            if let Some(wrong) = &wrong {
                let lines: Vec<&str> = said.lines().collect();
                let from = lines.len().saturating_sub(SHOWN_LINES);
                ui.line(&lines[from..].join("\n"));
                ui.line(&format!("{wrong}; all of it is in {}", log.display()));
            }
            task.end(if wrong.is_none() { "ok" } else { "FAILED" });
            tried.push(Tried {
                host: host.name.clone(),
                step: *step,
                time: started.elapsed(),
                wrong,
            });
        }
        if let Err(error) = remove(&layer) {
            ui.line(&format!("{error:#}; it takes room until it is removed"));
        }
    }
    print(&format!("\n{}", summary(&tried)))?;
    Ok(u8::from(tried.iter().any(|tried| tried.wrong.is_some())))
}

/// Hosts that any of the globs matches; without globs, all.
fn chosen<'a>(hosts: &'a [FreshHost], globs: &[String]) -> Result<Vec<&'a FreshHost>> {
    let mut patterns = Vec::new();
    for glob in globs {
        let pattern =
            glob::Pattern::new(glob).with_context(|| format!("`{glob}` is no pattern"))?;
        if !hosts.iter().any(|host| pattern.matches(&host.name)) {
            let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
            bail!("no host matches `{glob}`; there are: {}", names.join(", "));
        }
        patterns.push(pattern);
    }
    Ok(hosts
        .iter()
        .filter(|host| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&host.name))
        })
        .collect())
}

/// The steps' names are those of the command line.
fn name(step: FreshStep) -> &'static str {
    match step {
        FreshStep::User => "user",
        FreshStep::Matrix => "matrix",
        FreshStep::Test => "test",
    }
}

fn user_of(step: FreshStep) -> &'static str {
    match step {
        FreshStep::User => "user",
        FreshStep::Matrix | FreshStep::Test => "root",
    }
}

/// What is typed. Every user clones once.
fn line_of(step: FreshStep, args: &FreshArgs) -> String {
    let clone = format!(
        "[ -e cowbird ] || git clone --quiet --branch {BRANCH} /srv/repository cowbird; cd cowbird; "
    );
    let command = match step {
        FreshStep::User | FreshStep::Matrix => format!(
            "cargo xtask test-matrix --kernel {} --case {}",
            quoted(&args.kernel),
            quoted(&args.case)
        ),
        FreshStep::Test => "cargo xtask test --no-matrix".to_owned(),
    };
    clone + "exec " + &command
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What is wrong with how a step ended.
fn judge(step: FreshStep, ending: Option<Ending>, said: &str) -> Option<String> {
    let code = match ending {
        None => 0,
        Some(Ending::Code(code)) => code,
        // Whatever was expected of it.
        Some(ending) => return Some(format!("it {ending}")),
    };
    let ended = format!("it ended with {code}");
    match step {
        FreshStep::User if code != 2 => Some(format!("{ended}, and not with 2")),
        FreshStep::User if !said.contains(TELLS_USER) => {
            Some(format!("it does not say `{TELLS_USER}`"))
        }
        FreshStep::Matrix | FreshStep::Test if code != 0 => Some(ended),
        FreshStep::User | FreshStep::Matrix | FreshStep::Test => None,
    }
}

fn summary(tried: &[Tried]) -> String {
    let mut rows = vec![
        ["host", "step", "result", "time"]
            .map(String::from)
            .to_vec(),
    ];
    rows.extend(tried.iter().map(|tried| {
        vec![
            tried.host.clone(),
            name(tried.step).to_owned(),
            tried.wrong.clone().unwrap_or_else(|| "ok".to_owned()),
            format!("{:.0}s", tried.time.as_secs_f64()),
        ]
    }));
    table::columns(&rows)
}

/// One fresh machine.
struct Enter<'a> {
    root: &'a Path,
    layer: &'a Path,
    toolchain: &'a Path,
    given: &'a Path,
}

impl Enter<'_> {
    /// Runs a line of a user; how it ended, and nothing if it succeeded. The machine ends with this program, however that ends.
    fn run(&self, user: &str, line: &str, log: &Path) -> Result<Option<Ending>> {
        let mut machine = Tool::new("unshare", "run a fresh machine", log.to_owned());
        machine.ended_by(Signal::KILL);
        machine
            .command()
            // The first process of the machine gets no signal that would let it clean up; with it all others end.
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", ENTER, "enter"])
            .args([self.root, self.layer])
            .arg(self.given.join(REPOSITORY))
            .args([self.toolchain, self.given])
            .args([user, line]);
        Ok(machine.try_run(STEP_MAX)?)
    }
}

/// That a path can be among the options of a mount: what separates options and folders there cannot be in one of them, and how it is
/// quoted depends on kernel and `mount`.
fn fits_in_mount(path: &Path, instead: &str) -> Result<()> {
    let path = path.to_string_lossy();
    match path.contains([',', ':', '\\', '"']) {
        true => bail!("{path} has a character that the options of a mount cannot have; {instead}"),
        false => Ok(()),
    }
}

/// Puts what a fresh machine gets of this one into a folder.
fn hand_over(folder: &Path) -> Result<()> {
    remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let cannot = |path: &Path| format!("cannot copy {}", path.display());
    let names = Path::new("/etc/resolv.conf");
    fs::copy(names, folder.join("resolv.conf")).with_context(|| cannot(names))?;
    let certificates = Path::new(CERTIFICATES);
    if certificates.exists() {
        fs::copy(certificates, folder.join("certificates"))
            .with_context(|| cannot(certificates))?;
    }
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home =
        cargo_home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let config = cargo_home.map(|home| home.join("config.toml"));
    if let Some(config) = config.filter(|config| config.exists()) {
        fs::copy(&config, folder.join("config.toml")).with_context(|| cannot(&config))?;
    }
    let variables: String = HANDED_OVER
        .iter()
        .filter_map(|name| Some(format!("{name}={}\n", std::env::var(name).ok()?)))
        .collect();
    let path = folder.join("variables");
    fs::write(&path, variables).with_context(|| format!("cannot write {}", path.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// That there is such a commit here.
fn is_commit(name: &str) -> Result<()> {
    let found = Command::new("git")
        .current_dir(repo::root())
        .args(["rev-parse", "--verify", "--quiet", "--end-of-options"])
        .arg(format!("{name}^{{commit}}"))
        .output()
        .context("cannot run git")?;
    match found.status.success() {
        true => Ok(()),
        false => bail!(
            "`{name}` is no commit of this checkout; --commit takes what `git rev-parse` knows"
        ),
    }
}

/// Makes a repository of one branch, which is the commit. This checkout may be one of several of its repository, and then has none
/// of its own.
fn hand_over_commit(commit: &str, repository: &Path) -> Result<()> {
    let git = |what: &[&str]| -> Result<()> {
        let output = Command::new("git")
            .current_dir(repo::root())
            .args(what)
            .arg(repository)
            .args((what[0] == "push").then(|| format!("{commit}:refs/heads/{BRANCH}")))
            .output()
            .context("cannot run git")?;
        if !output.status.success() {
            bail!(
                "cannot hand over the commit `{commit}`: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    };
    git(&["init", "--quiet", "--bare"])?;
    git(&["push", "--quiet"])
}

/// The folder of the Rust toolchain that this program was built with.
fn toolchain() -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("cannot run rustc")?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !folder.join("bin/cargo").exists() {
        bail!(
            "there is no cargo in the toolchain {}; use one that rustup has installed",
            folder.display()
        );
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_mount_takes_is_refused() {
        let fits = |path: &str| fits_in_mount(Path::new(path), "--out").is_ok();
        assert!(fits("/out/a b-c'd"));
        for odd in ["/out/a,b", "/out/a:b", "/out/a\\b", "/out/a\"b"] {
            assert!(!fits(odd), "{odd}");
        }
    }

    /// Goal: a step that ends otherwise than it must is never well.
    #[test]
    fn only_the_right_end_is_well() {
        let told = "error: missing clang; run `sudo apt-get install -y clang`";
        let code = |code| (code != 0).then_some(Ending::Code(code));
        assert_eq!(judge(FreshStep::User, code(2), told), None);
        for (ended, said) in [(0, told), (1, told), (101, told), (2, "error: no kernel")] {
            assert!(
                judge(FreshStep::User, code(ended), said).is_some(),
                "{ended} {said}"
            );
        }
        for step in [FreshStep::Matrix, FreshStep::Test] {
            assert_eq!(judge(step, None, ""), None);
            for ended in [1, 2, 101] {
                assert!(judge(step, code(ended), told).is_some(), "{ended}");
            }
        }
        for step in [FreshStep::User, FreshStep::Matrix, FreshStep::Test] {
            for ending in [Ending::Signal(9), Ending::TimedOut(STEP_MAX)] {
                let wrong = judge(step, Some(ending), told).expect("it did not end by itself");
                assert!(wrong.starts_with("it was "), "{wrong}");
            }
        }
    }

    #[test]
    fn words_stay_words() {
        assert_eq!(quoted("bookworm-*"), "'bookworm-*'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
