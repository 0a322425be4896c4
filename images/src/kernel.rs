//! From fetched packages to an unpacked kernel.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cowbird_packages::digest::{KeyHasher, Sha256Digest};
use cowbird_programs::Tool;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Staging, create_dir, tree_bytes};
use crate::catalogue::{KernelSource, KernelSpec};
use crate::entry_record;
use crate::error::{Error, Result};
use crate::join::{folder_in, join, strip_set_ids};
use crate::lock::{LockedKernel, LockedPackage};
use crate::modules::{ModuleTable, module_files};
use crate::package::{deb_path, headers_name};
use crate::progress::Task;
use crate::supplied::Format;

/// Changes when kernels are unpacked in another way; part of their key.
const FORMAT: u32 = 2;

/// The parts of a kernel's modules that are kept: disks, filesystems and what these stand on. The rest (graphics, network,
/// sound and so on) is three quarters of a generic kernel, and nothing in a guest asks for it.
const KEPT_MODULES: [&str; 6] = ["arch", "block", "crypto", "fs", "lib", "mm"];

/// The same below `drivers`.
const KEPT_DRIVERS: [&str; 11] = [
    "ata", "base", "block", "char", "dax", "md", "nvdimm", "nvme", "scsi", "target", "virtio",
];

/// Unpacking one package: 2 s for the largest.
const UNPACK_MAX: Duration = Duration::from_secs(10 * 60);

/// Uncompressing all modules of a kernel: 5 s for a thousand on one core.
const UNCOMPRESS_MAX: Duration = Duration::from_secs(20 * 60);

/// Modules given to one run of a decompressor, so that the argument list stays well below the kernel's limit.
const FILES_PER_RUN: usize = 400;

/// Name of the table of modules in a kernel's entry.
const TABLE: &str = "modules.json";

/// What an unpacked kernel says about itself; paths are below `tree` in the entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelRecord {
    pub(crate) release: String,
    /// Size of all files.
    pub(crate) bytes: u64,
    /// How many modules can be loaded.
    pub(crate) loadable: usize,
    pub(crate) vmlinuz: PathBuf,
    pub(crate) modules_dir: PathBuf,
    /// The folder given to `make -C`, which is at the same place in the root.
    pub(crate) headers: PathBuf,
    /// Folders that must be visible in the root when a module is built.
    pub(crate) binds: Vec<PathBuf>,
}

/// Digest of the packages: two kernels with the same one are the same.
pub(crate) fn packages_digest(locked: &LockedKernel) -> Sha256Digest {
    let mut hasher = KeyHasher::new("kernel", FORMAT);
    hasher.piece(locked.release.as_bytes());
    for package in &locked.packages {
        hasher
            .piece(package.name.as_bytes())
            .piece(package.sha256.to_string().as_bytes());
    }
    hasher.digest()
}

/// Name of the entry of a kernel with this digest.
pub(crate) fn entry_name(release: &str, digest: Sha256Digest) -> String {
    let digest = digest.to_string();
    format!("{release}-{}", &digest[..16])
}

/// The folder below the entry into which the packages are unpacked.
pub(crate) fn tree(entry: &Path) -> PathBuf {
    entry.join("tree")
}

/// Unpacks the packages, uncompresses the modules and reads what they depend on.
pub(crate) fn make(
    cache: &Cache,
    spec: &KernelSpec,
    locked: &LockedKernel,
    staging: &Staging,
    task: &Task,
) -> Result<()> {
    let (entry, tree) = (staging.entry(), tree(&staging.entry()));
    create_dir(&tree)?;
    let log = cache.log(&format!("unpack-{}", spec.name));
    for (number, package) in locked.packages.iter().enumerate() {
        task.step(&format!("unpacking {}", package.name));
        // A package that nobody signed may have links that another one must not be unpacked through.
        let alone = staging.scratch().join(format!("package-{number}"));
        create_dir(&alone)?;
        unpack(cache, package, &alone, &log)?;
        join(&alone, &tree)?;
    }
    let found = Layout {
        spec,
        locked,
        tree: &tree,
    };
    let modules_dir = tree.join(found.modules_dir()?);
    drop_unneeded(&modules_dir)?;
    task.step("uncompressing modules");
    uncompress(&modules_dir, &log)?;
    task.step("reading what modules depend on");
    describe(spec, locked, &entry)
}

/// Writes the table of modules and the record of a kernel whose files are in place.
pub(crate) fn describe(spec: &KernelSpec, locked: &LockedKernel, entry: &Path) -> Result<()> {
    let tree = tree(entry);
    let found = Layout {
        spec,
        locked,
        tree: &tree,
    };
    let modules_dir = found.modules_dir()?;
    let table = ModuleTable::scan(&tree.join(&modules_dir))?;
    write_table(entry, &table)?;
    let record = KernelRecord {
        release: locked.release.clone(),
        bytes: tree_bytes(&tree)?,
        loadable: table.loadable(),
        vmlinuz: found.vmlinuz()?,
        headers: found.headers()?,
        binds: found.binds()?,
        modules_dir,
    };
    entry_record::write(entry, &record)
}

/// Deletes modules that no guest asks for, before time is spent on them.
fn drop_unneeded(modules_dir: &Path) -> Result<()> {
    if let Some(all) = folder_in(modules_dir, Path::new("kernel")) {
        drop_others(&all, &[&KEPT_MODULES[..], &["drivers"]].concat())?;
    }
    if let Some(drivers) = folder_in(modules_dir, Path::new("kernel/drivers")) {
        drop_others(&drivers, &KEPT_DRIVERS)?;
    }
    Ok(())
}

fn drop_others(dir: &Path, kept: &[&str]) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let path = entry.path();
        // A link is left alone, wherever it leads.
        let kind = entry.file_type().map_err(Error::io("look at", dir))?;
        if kind.is_dir() && !kept.iter().any(|name| entry.file_name() == *name) {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Unpacks one fetched package, after a look at its digest.
pub(crate) fn unpack(
    cache: &Cache,
    package: &LockedPackage,
    tree: &Path,
    log: &Path,
) -> Result<()> {
    let deb = deb_path(cache, package);
    let digest = Sha256Digest::of_file(&deb).map_err(Error::io("read", &deb))?;
    if digest != package.sha256 {
        return Err(Error::CacheCorrupt { path: deb });
    }
    let doing = format!("unpacking {}", package.name);
    Format::of(&deb)?
        .unpack(doing, &deb, tree, log.to_owned())
        .run(UNPACK_MAX)?;
    strip_set_ids(tree)
}

/// Where openSUSE has the headers of a release, as `6.4.0-150600.23-default`, below `usr/src`.
fn suse_headers(release: &str) -> String {
    let (version, flavour) = release.rsplit_once('-').unwrap_or((release, "default"));
    format!("linux-{version}-obj/x86_64/{flavour}")
}

/// Where things are in the unpacked packages. Before 7.x the kernel is in `/boot`; older suites still have a `/lib`
/// apart from `/usr/lib`.
struct Layout<'a> {
    spec: &'a KernelSpec,
    locked: &'a LockedKernel,
    tree: &'a Path,
}

impl Layout<'_> {
    fn vmlinuz(&self) -> Result<PathBuf> {
        let release = &self.locked.release;
        let places = [
            format!("boot/vmlinuz-{release}"),
            format!("usr/lib/modules/{release}/vmlinuz"),
            format!("lib/modules/{release}/vmlinuz"),
        ];
        self.first_of(&places, Path::is_file)
    }

    fn modules_dir(&self) -> Result<PathBuf> {
        let release = &self.locked.release;
        let places = [
            format!("usr/lib/modules/{release}"),
            format!("lib/modules/{release}"),
        ];
        let is_it = |path: &Path| path.join("kernel").is_dir();
        self.first_of(&places, is_it)
            .and_then(|place| self.not_a_link(place))
    }

    fn headers(&self) -> Result<PathBuf> {
        let release = &self.locked.release;
        let places = match &self.spec.source {
            KernelSource::Packages(names) => vec![names.headers.replace("{release}", release)],
            KernelSource::Sources { .. } => vec![headers_name(release)],
            // Ubuntu; Fedora and its relatives; openSUSE, whose release ends with the flavour.
            KernelSource::Supplied(_) => vec![
                format!("linux-headers-{release}"),
                format!("kernels/{release}"),
                suse_headers(release),
            ],
        };
        let places: Vec<String> = places
            .iter()
            .map(|place| format!("usr/src/{place}"))
            .collect();
        let is_it = |path: &Path| path.join("Makefile").is_file();
        self.first_of(&places, is_it)
            .and_then(|place| self.not_a_link(place))
    }

    /// `/usr/src`, and the build tools beside it to which the headers' links lead.
    fn binds(&self) -> Result<Vec<PathBuf>> {
        let mut binds = vec![self.not_a_link(PathBuf::from("usr/src"))?];
        if let Some(lib) = folder_in(self.tree, Path::new("usr/lib")) {
            for entry in fs::read_dir(&lib).map_err(Error::io("list", &lib))? {
                let name = entry.map_err(Error::io("list", &lib))?.file_name();
                if name.to_string_lossy().starts_with("linux-kbuild-") {
                    binds.push(self.not_a_link(Path::new("usr/lib").join(name))?);
                }
            }
        }
        binds.sort();
        Ok(binds)
    }

    /// The place, if no part of the way there is a link: what is bound into a build root, or cleared, must be the package's own.
    fn not_a_link(&self, place: PathBuf) -> Result<PathBuf> {
        match folder_in(self.tree, &place) {
            Some(_) => Ok(place),
            None => Err(Error::PackageClash {
                path: self.tree.join(place),
            }),
        }
    }

    fn first_of(&self, places: &[String], is_it: impl Fn(&Path) -> bool) -> Result<PathBuf> {
        let place = places.iter().find(|place| is_it(&self.tree.join(place)));
        place.map(PathBuf::from).ok_or_else(|| Error::Incomplete {
            kernel: self.spec.name.clone(),
            what: places.join(" nor "),
            packages: self
                .locked
                .packages
                .iter()
                .map(|p| p.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// Uncompresses all modules in place, once: every later use reads them from several kernels' worth of cells.
fn uncompress(dir: &Path, log: &Path) -> Result<()> {
    let files = module_files(dir)?;
    let (mut xz, mut zstd) = (Vec::new(), Vec::new());
    for path in files {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => {}
            Some("xz") => xz.push(path),
            Some("zst") => zstd.push(path),
            _ => {
                let problem = "its compression is neither xz nor zstd".to_owned();
                return Err(Error::NotAModule { path, problem });
            }
        }
    }
    run_on_all("xz", &["-d", "-q", "--"], &xz, log)?;
    run_on_all("zstd", &["-d", "-q", "--rm", "--"], &zstd, log)
}

/// Runs a program over many files, on all processors.
fn run_on_all(
    program: &'static str,
    options: &[&str],
    files: &[PathBuf],
    log: &Path,
) -> Result<()> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let share = files.len().div_ceil(workers).clamp(1, FILES_PER_RUN);
    for (round, batch) in files.chunks(share * workers).enumerate() {
        thread::scope(|scope| {
            let runs: Vec<_> = batch
                .chunks(share)
                .enumerate()
                .map(|(i, files)| {
                    let log = log.with_extension(format!("{program}-{round}-{i}.log"));
                    scope.spawn(move || {
                        let mut tool = Tool::new(program, "uncompressing modules", log);
                        tool.command().args(options).args(files);
                        Ok(tool.run(UNCOMPRESS_MAX)?)
                    })
                })
                .collect();
            let join = |run: thread::ScopedJoinHandle<'_, Result<()>>| {
                run.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            runs.into_iter().try_for_each(join)
        })?;
    }
    Ok(())
}

fn write_table(entry: &Path, table: &ModuleTable) -> Result<()> {
    let path = entry.join(TABLE);
    let text = serde_json::to_vec(table).map_err(|error| bad_table(&path, &error))?;
    fs::write(&path, text).map_err(Error::io("write", &path))
}

/// Reads the table of a kernel's modules.
pub(crate) fn read_table(entry: &Path) -> Result<ModuleTable> {
    let path = entry.join(TABLE);
    let text = fs::read(&path).map_err(Error::io("read", &path))?;
    serde_json::from_slice(&text).map_err(|error| bad_table(&path, &error))
}

fn bad_table(path: &Path, error: &serde_json::Error) -> Error {
    let what = "a table of kernel modules";
    Error::BadRecord {
        path: path.to_owned(),
        what,
        problem: error.to_string(),
    }
}
