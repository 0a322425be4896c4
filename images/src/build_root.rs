//! Roots: a distribution's base system with one compiler, and how a program is run inside; or with one emulator,
//! which runs outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use cowbird_packages::deb822::stanzas;
use cowbird_packages::digest::{KeyHasher, Sha256Digest};
use cowbird_programs::{Tool, host};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::apt::{STRICT, source_line};
use crate::cache::{Staging, create_dir, tree_bytes};
use crate::catalogue::{Arch, Archive, BuildRoot, Emulator, FreshHost, KernelSpec};
use crate::entry_record;
use crate::error::{Error, Result};
use crate::join::strip_set_ids;
use crate::userns;

/// Changes when roots are made in another way; part of their key.
const FORMAT: u32 = 1;

/// Making a root: 17 s on a fast line and two cores.
const MAKE_MAX: Duration = Duration::from_secs(45 * 60);

/// Unpacking a root: 2 s.
const UNPACK_MAX: Duration = Duration::from_secs(15 * 60);

/// Where the source of the module appears inside a root. Fixed, because the compiler writes it into the debug
/// information.
pub(crate) const BUILD_DIR: &str = "/build";

/// Documentation is left out of roots: nobody reads it there.
const LEFT_OUT: [&str; 4] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// What a root says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootRecord {
    /// Name in the catalogue.
    pub(crate) name: String,
    /// Size of all files.
    pub(crate) bytes: u64,
    /// Digest of `packages`: two roots with the same one build the same module.
    pub(crate) digest: Sha256Digest,
    /// Every package as `name version`.
    pub(crate) packages: Vec<String>,
}

/// What a root is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe<'a> {
    pub(crate) name: &'a str,
    archive: &'a Archive,
    suite: &'a str,
    arch: Arch,
    /// The package that the root is for.
    main: &'a str,
    packages: &'a [String],
}

impl<'a> Recipe<'a> {
    /// Of the root that modules for a kernel are built in.
    pub(crate) fn of_kernel(spec: &'a KernelSpec) -> Self {
        Self::new(&spec.build_root, &spec.root_archive)
    }

    fn new(root: &'a BuildRoot, archive: &'a Archive) -> Self {
        Self {
            name: &root.name,
            archive,
            suite: &root.suite,
            arch: root.arch,
            main: &root.compiler,
            packages: &root.packages,
        }
    }

    /// Of the root that an emulator lies in.
    pub(crate) fn of_emulator(emulator: &'a Emulator) -> Self {
        Self {
            name: &emulator.name,
            archive: &emulator.archive,
            suite: &emulator.suite,
            arch: emulator.arch,
            main: &emulator.package,
            packages: &[],
        }
    }

    /// Of the root that is as a fresh host.
    pub(crate) fn of_fresh_host(host: &'a FreshHost) -> Self {
        let (main, packages) = host
            .packages
            .split_first()
            .map_or(("apt", &[][..]), |(main, packages)| (main, packages));
        Self {
            name: &host.name,
            archive: &host.archive,
            suite: &host.suite,
            arch: host.arch,
            main,
            packages,
        }
    }

    /// The archive that it is made from.
    pub(crate) fn archive(&self) -> &'a Archive {
        self.archive
    }

    /// Name of the root's entry.
    pub(crate) fn entry_name(&self) -> String {
        let mut hasher = KeyHasher::new("root", FORMAT);
        for piece in [
            &self.archive.name,
            self.suite,
            &self.arch.to_string(),
            self.main,
        ] {
            hasher.piece(piece.as_bytes());
        }
        let mut packages = self.packages.to_vec();
        packages.sort();
        for package in &packages {
            hasher.piece(package.as_bytes());
        }
        format!("{}-{}", self.name, hasher.key())
    }
}

/// The folder below the entry that becomes `/`.
pub(crate) fn tree(entry: &Path) -> PathBuf {
    entry.join("root")
}

/// Makes a root with mmdebstrap. The way over a tar file gives an unprivileged user a root that he owns and can
/// delete, while mmdebstrap itself works with mapped user ids.
pub(crate) fn make(root: Recipe<'_>, mirror: &str, log: PathBuf, staging: &Staging) -> Result<()> {
    if Arch::host() != Some(root.arch) {
        return Err(Error::ForeignArch {
            root: root.name.to_owned(),
            arch: root.arch.to_string(),
        });
    }
    if !host::is_root() {
        userns::ensure()?;
    }
    let tar = staging.scratch().join("root.tar");
    bootstrap(root, mirror, &tar, log.clone())?;
    let (entry, into) = (staging.entry(), tree(&staging.entry()));
    unpack(root.name, &tar, &into, log)?;
    create_dir(&into.join(BUILD_DIR.trim_start_matches('/')))?;
    let packages = installed(&into)?;
    let mut hasher = KeyHasher::new("root packages", FORMAT);
    for package in &packages {
        hasher.piece(package.as_bytes());
    }
    let bytes = tree_bytes(&into)?;
    let name = root.name.to_owned();
    entry_record::write(
        &entry,
        &RootRecord {
            name,
            bytes,
            digest: hasher.digest(),
            packages,
        },
    )
}

/// Unpacks the archive of a root into a new folder.
fn unpack(name: &str, tar: &Path, into: &Path, log: PathBuf) -> Result<()> {
    create_dir(into)?;
    let mut unpack = Tool::new("tar", format!("unpacking root {name}"), log);
    unpack
        .command()
        .arg("-C")
        .arg(into)
        .args(["--exclude=./dev/*", "-xf"])
        .arg(tar);
    if !host::is_root() {
        unpack.command().arg("--no-same-owner");
    }
    unpack.run(UNPACK_MAX)?;
    strip_set_ids(into)
}

/// Run by mmdebstrap in the root once the index is fetched and before any program of it is started: the archive must have served
/// the suite that was asked for. apt takes any one that is signed.
fn check_suite(suite: &str) -> String {
    format!(r#"grep -qsxE "(Suite|Codename): {suite}" "$1"/var/lib/apt/lists/*InRelease"#)
}

fn bootstrap(root: Recipe<'_>, mirror: &str, tar: &Path, log: PathBuf) -> Result<()> {
    let mut include = vec![root.main];
    include.extend(root.packages.iter().map(String::as_str));
    let mut tool = Tool::new("mmdebstrap", format!("making root {}", root.name), log);
    let command = tool.command();
    if host::is_root() {
        // If it is killed, its work is then deleted with other leftovers. Without root it works with mapped user
        // ids, which may not be able to enter the cache.
        let work = tar.parent().unwrap_or(tar);
        command.arg("--mode=root").env("TMPDIR", work);
    } else {
        command.arg("--mode=unshare");
    }
    command
        .args(["--variant=essential", "--format=tar"])
        .arg(format!("--architectures={}", root.arch))
        .arg(format!("--include={}", include.join(",")))
        .arg(format!("--keyring={}", root.archive.keyring.display()))
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .arg("--aptopt=Acquire::Retries \"3\"")
        .arg(format!("--extract-hook={}", check_suite(root.suite)));
    for option in STRICT {
        command.arg(format!("--aptopt={option}"));
    }
    for pattern in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command
        .arg(root.suite)
        .arg(tar)
        .arg(source_line(mirror, root.archive, root.suite, ""));
    Ok(tool.run(MAKE_MAX)?)
}

/// The packages of a root as `name version`, from its dpkg database.
fn installed(root: &Path) -> Result<Vec<String>> {
    let path = root.join("var/lib/dpkg/status");
    let status = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let mut packages: Vec<_> = stanzas(&status)
        .filter_map(|stanza| {
            Some(format!(
                "{} {}",
                stanza.get("Package")?,
                stanza.get("Version")?
            ))
        })
        .collect();
    packages.sort();
    Ok(packages)
}

/// Run by `sh` in namespaces of its own, of users where that can be, of mounts, processes and the network: nothing of it is
/// visible outside, it reaches nobody, and all of it ends with the last process. What is executed is compilers, and programs of
/// packages that in part nobody signed, so it has no capability, nor a way to get one. Arguments: the root, the folder that becomes `/build`, the folder of the unpacked kernel,
/// then the folders of it that the root shall have, `--`, and the command.
///
/// objtool of 7.2 and later reads /proc. The root itself is read-only, so that builds of different kernels cannot
/// disturb each other through it.
const ENTER: &str = r#"
set -eu
root=$1 build=$2 kernel=$3
shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount --bind "$build" "$root/build"
while [ "$1" != -- ]; do
    mount --bind "$kernel/$1" "$root/$1"
    mount -o remount,bind,ro "$root/$1"
    shift
done
shift
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C \
    setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all -- "$@"
"#;

/// The namespaces that a program in a root has.
const NAMESPACES: [&str; 5] = ["--mount", "--pid", "--net", "--fork", "--kill-child"];

/// A namespace of users: inside, the user is root, and outside he stays what he is.
const MAP_USERS: &str = "--map-root-user";

/// Whether root can have a namespace of users that does what is needed. A container may forbid it to root, who can do without;
/// to others it is the only way.
fn maps_users() -> bool {
    static MAPS: OnceLock<bool> = OnceLock::new();
    *MAPS.get_or_init(|| {
        let tried = Command::new("unshare")
            .args(NAMESPACES)
            .args([MAP_USERS, "mount", "-t", "proc", "proc", "/proc"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    })
}

/// A run of a program inside a root.
pub(crate) struct Inside<'a> {
    /// The root's tree.
    pub(crate) root: &'a Path,
    /// The folder that becomes `/build`, the only one besides `/tmp` that can be written.
    pub(crate) build: &'a Path,
    /// The folder of the unpacked kernel.
    pub(crate) kernel: &'a Path,
    /// Folders of the kernel that appear at the same place of the root.
    pub(crate) binds: &'a [PathBuf],
}

impl Inside<'_> {
    /// Prepares the run; the command's arguments are to be added.
    pub(crate) fn tool(&self, doing: String, log: PathBuf) -> Result<Tool> {
        if !host::is_root() {
            userns::ensure()?;
        }
        // A mount needs a folder to cover. The root is shared, but adding an empty folder disturbs nobody.
        for bind in self.binds {
            create_dir(&self.root.join(bind))?;
        }
        let mut tool = Tool::new("unshare", doing, log);
        // It lets no other signal through, and takes all that it has begun along.
        tool.ended_by(Signal::KILL);
        let command = tool.command();
        command.args(NAMESPACES);
        if !host::is_root() || maps_users() {
            command.arg(MAP_USERS);
        }
        command
            .args(["sh", "-c", ENTER, "enter"])
            .args([self.root, self.build, self.kernel]);
        command.args(self.binds).arg("--");
        Ok(tool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    /// A root with a few programs of the host, and the libraries that they load.
    fn small_root(programs: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &Path| {
            let inside = root.path().join(path.strip_prefix("/").unwrap());
            std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
            std::fs::copy(path, inside).unwrap();
        };
        for program in programs {
            let output = Command::new("ldd").arg(program).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let words = text.split_whitespace().filter(|word| word.starts_with('/'));
            words.map(Path::new).for_each(put);
            put(Path::new(program));
        }
        for folder in ["proc", "tmp", "dev", "build"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        root
    }

    /// Goal: what is run in a root has no capability, no way to one, no network and, where that can be, a user namespace, and
    /// writes to its build folder only.
    #[test]
    fn programs_in_a_root_have_nothing_but_their_folder() {
        let root = small_root(&["/bin/sh", "/bin/cat", "/usr/bin/env", "/usr/bin/setpriv"]);
        let (build, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inside = Inside {
            root: root.path(),
            build: build.path(),
            kernel: build.path(),
            binds: &[],
        };
        let mut tool = inside
            .tool("a test".into(), logs.path().join("log"))
            .unwrap();
        let script = "echo made > /build/file; echo no > /file; cat /proc/net/route > /build/routes; \
            cat /proc/self/status /proc/self/uid_map";
        tool.command().args(["sh", "-c", script]);
        let said = tool.output(Duration::from_secs(20)).unwrap();
        let field = |name: &str| {
            let mut values = said.lines().filter_map(|line| line.strip_prefix(name));
            values.next().unwrap().trim().to_owned()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        let routes = std::fs::read_to_string(build.path().join("routes")).unwrap();
        // Below its head there is a line for each route; without any, a kernel may leave the head out too.
        assert_eq!(
            routes.lines().skip(1).count(),
            0,
            "there are routes: {routes}"
        );
        if maps_users() {
            let map: Vec<_> = said.lines().last().unwrap().split_whitespace().collect();
            let me = rustix::process::geteuid().as_raw().to_string();
            assert_eq!(map, ["0", &me, "1"]);
        }
        assert_eq!(std::fs::read(build.path().join("file")).unwrap(), b"made\n");
        assert!(!root.path().join("file").exists());
    }

    /// Goal: nobody becomes root by a program of a root in the cache. Method: a root as it comes, whose archive has such programs.
    #[test]
    fn an_unpacked_root_has_no_set_user_id_programs() {
        let dir = tempfile::tempdir().unwrap();
        let (from, tar, into) = (
            dir.path().join("from"),
            dir.path().join("root.tar"),
            dir.path().join("into"),
        );
        std::fs::create_dir_all(from.join("usr/bin")).unwrap();
        std::fs::write(from.join("usr/bin/su"), "").unwrap();
        let made = Command::new("tar")
            .args(["--mode=6755", "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(&from)
            .arg("./usr")
            .status()
            .unwrap();
        assert!(made.success());
        unpack("a test", &tar, &into, dir.path().join("log")).unwrap();
        for path in ["usr/bin", "usr/bin/su"] {
            use std::os::unix::fs::PermissionsExt;
            let meta = into.join(path).metadata().unwrap();
            assert_eq!(meta.permissions().mode() & 0o6000, 0, "{path}");
        }
    }

    /// Goal: a root's key depends on what is in it and not on the order in which the catalogue lists it.
    #[test]
    fn key_is_of_the_content() {
        let text = include_str!("../catalogue.toml");
        let catalogue = Catalogue::parse(text, Path::new("catalogue.toml")).unwrap();
        let entry_name = |spec: &KernelSpec| Recipe::of_kernel(spec).entry_name();
        let kernel = catalogue.kernels[0].clone();
        let mut reordered = kernel.clone();
        reordered.build_root.packages.reverse();
        assert_eq!(entry_name(&kernel), entry_name(&reordered));
        let mut other = kernel.clone();
        other.build_root.compiler = "gcc-11".into();
        assert_ne!(entry_name(&kernel), entry_name(&other));
    }
}
