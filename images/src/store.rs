//! The store: everything that can be had of a kernel, from the cache or by fetching it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::apt::{self, Suite};
use crate::brought;
use crate::cache::{Cache, Held, InUse, Kind};
use crate::catalogue::{Archive, Catalogue, Emulator, FreshHost, KernelSource, KernelSpec};
use crate::compile::{self, Build, BuiltModule, ModuleSource};
use crate::control::Index;
use crate::digest::Sha256Digest;
use crate::error::{Error, LockedGone, Result};
use crate::kernel::{self, KernelRecord, deb_path};
use crate::kernel_build::KernelBuild;
use crate::lock::{LockFile, LockedKernel, LockedPackage};
use crate::progress::{Progress, Quiet, Task};
use crate::record;
use crate::root::{self, Recipe, RootRecord};
use crate::seal;
use crate::select::select;
use crate::version::DebVersion;

/// How a store is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// Folder of the cache; by default `$COWBIRD_CACHE`, `$XDG_CACHE_HOME/cowbird` or `~/.cache/cowbird`.
    pub cache_dir: Option<PathBuf>,
    /// Address of the mirror of every archive; by default the variable that the catalogue names for it
    /// (`$COWBIRD_MIRROR`), or what the host's apt sources name.
    pub mirror: Option<String>,
    /// Fetch nothing: what is not in the cache is an error.
    pub offline: bool,
    /// Look for newer packages even if the cache holds a kernel.
    pub refresh: bool,
    /// Root of the checkout, for the file of pinned kernels.
    pub repo_root: PathBuf,
    /// Receives what long steps report.
    pub progress: Arc<dyn Progress>,
}

impl StoreOptions {
    /// The defaults for a checkout: the user's cache, the host's mirror, fetching allowed, no reports.
    pub fn new(repo_root: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: None,
            mirror: None,
            offline: false,
            refresh: false,
            repo_root: repo_root.into(),
            progress: Arc::new(Quiet),
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("cache_dir", &self.cache_dir)
            .field("mirror", &self.mirror)
            .field("offline", &self.offline)
            .field("refresh", &self.refresh)
            .field("repo_root", &self.repo_root)
            .finish_non_exhaustive()
    }
}

/// A kernel that can be booted and built for. Everything in it is in the cache.
#[derive(Clone, Debug)]
pub struct PreparedKernel {
    /// The catalogue's entry.
    pub spec: KernelSpec,
    /// The release (`uname -r`).
    pub release: String,
    /// Version of the image package.
    pub package_version: DebVersion,
    /// The kernel, as a boot loader takes it.
    pub vmlinuz: PathBuf,
    /// The modules, `lib/modules/RELEASE`, all uncompressed.
    pub modules_dir: PathBuf,
    /// Every package that it was made from.
    pub packages: Vec<LockedPackage>,
    /// Path of the headers inside the build root, without the leading `/`; the same below `tree`.
    pub headers: PathBuf,
    /// The folder into which the packages were unpacked.
    pub tree: PathBuf,
    /// The build root's entry.
    pub root: PathBuf,
    pub(crate) entry: PathBuf,
    pub(crate) binds: Vec<PathBuf>,
    pub(crate) digest: Sha256Digest,
    pub(crate) root_digest: Sha256Digest,
    /// Nobody deletes kernel and root meanwhile.
    #[expect(dead_code, reason = "holding them is the use")]
    pub(crate) in_use: [InUse; 2],
}

/// A module of the kernel, to be loaded at boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootModule {
    /// The module's name, with `_` for `-`.
    pub name: String,
    /// The uncompressed file.
    pub path: PathBuf,
}

/// Gives access to kernels. Cheap to share between threads by reference; processes may use one cache together.
pub struct Store {
    cache: Cache,
    options: StoreOptions,
    /// What was found to be damaged, which is said once.
    damaged: Mutex<BTreeSet<PathBuf>>,
    /// Indexes fetched by this store: one update of a suite serves all of its kernels.
    indexes: Mutex<BTreeMap<String, Arc<Index>>>,
}

impl Store {
    /// Opens the cache, creating it if there is none.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let dir = match &options.cache_dir {
            Some(dir) => dir.clone(),
            None => default_cache_dir(|name| std::env::var_os(name)).ok_or(Error::NoCacheFolder)?,
        };
        // Programs run with other working folders get paths of the cache.
        let dir = std::path::absolute(&dir).map_err(Error::io("find", &dir))?;
        Ok(Self {
            cache: Cache::open(dir)?,
            options,
            damaged: Mutex::default(),
            indexes: Mutex::default(),
        })
    }

    /// The folder of the cache.
    pub fn cache_dir(&self) -> PathBuf {
        self.cache.path("")
    }

    /// Makes a kernel ready to boot and to build for: its packages, modules, headers and build root.
    ///
    /// Which packages: those that `images/kernels.lock.toml` of the checkout names, else those of the cache's own
    /// record, else the newest of the suite. A kernel that is in the cache needs no network.
    pub fn prepare(&self, spec: &KernelSpec) -> Result<PreparedKernel> {
        let _held = self.hold_prepare(spec)?;
        let locked = self.locked_or_chosen(spec)?;
        let (entry, root, digest) = match &spec.source {
            KernelSource::Packages(_) | KernelSource::Brought(_) => {
                let entry = self.unpacked(spec, &locked)?;
                let digest = kernel::packages_digest(&locked);
                (entry, self.root_entry(spec)?, digest)
            }
            KernelSource::Sources { config, .. } => {
                let root = self.root_entry(spec)?;
                let build = KernelBuild::new(spec, &locked, &root, &self.config(config)?)?;
                (self.compiled(&build, &root)?, root, build.digest())
            }
        };
        self.remember(&locked)?;
        prepared(spec, locked, digest, entry, root)
    }

    /// Why a kernel of another distribution is not there, and what to do; none when it is, or when it is fetched.
    pub fn not_brought(&self, spec: &KernelSpec) -> Option<String> {
        brought::missing(&self.cache, spec)
    }

    /// Held while a kernel is prepared.
    pub(crate) fn hold_prepare(&self, spec: &KernelSpec) -> Result<Held> {
        self.hold(&format!("prepare-{}", spec.name), &spec.name)
    }

    /// The packages of a kernel: those on record, else the newest.
    fn locked_or_chosen(&self, spec: &KernelSpec) -> Result<LockedKernel> {
        // Whoever puts others into the folder wants those.
        if let Some(brought) = brought::choose(&self.cache, spec)? {
            return Ok(brought);
        }
        match self.locked(spec)? {
            Some((locked, _)) if !self.options.refresh => Ok(locked),
            _ => self.choose(spec),
        }
    }

    /// The fragment of a configuration, which lies beside the catalogue.
    fn config(&self, path: &Path) -> Result<String> {
        let catalogue = self.options.repo_root.join(Catalogue::PATH_IN_REPO);
        let path = catalogue.with_file_name("").join(path);
        fs::read_to_string(&path).map_err(Error::io("read", &path))
    }

    /// Digest of a kernel, if it can be told yet: that of one compiled here depends on its compiler.
    pub(crate) fn digest(
        &self,
        spec: &KernelSpec,
        locked: &LockedKernel,
    ) -> Result<Option<Sha256Digest>> {
        let KernelSource::Sources { config, .. } = &spec.source else {
            return Ok(Some(kernel::packages_digest(locked)));
        };
        let root = self
            .cache
            .entry(Kind::Roots, &Recipe::of_kernel(spec).entry_name());
        if !is_whole_root(&root) {
            return Ok(None);
        }
        let build = KernelBuild::new(spec, locked, &root, &self.config(config)?)?;
        Ok(Some(build.digest()))
    }

    /// The modules that must be loaded for `wanted`, in order and without those built into the kernel. `wanted` are
    /// module names or aliases.
    pub fn boot_modules(
        &self,
        kernel: &PreparedKernel,
        wanted: &[&str],
    ) -> Result<Vec<BootModule>> {
        let table = kernel::read_table(&kernel.entry)?;
        let order = table.order(wanted).map_err(|reason| Error::Resolve {
            kernel: kernel.spec.name.clone(),
            reason,
        })?;
        let path = |name: &str| {
            table
                .get(name)
                .map(|file| kernel.modules_dir.join(&file.path))
        };
        Ok(order
            .into_iter()
            .filter_map(|name| path(&name).map(|path| BootModule { name, path }))
            .collect())
    }

    /// Builds the module for a kernel, unless this very module was built before.
    pub fn build_module(
        &self,
        kernel: &PreparedKernel,
        source: &ModuleSource,
    ) -> Result<BuiltModule> {
        let build = Build::new(&self.cache, kernel, source)?;
        let waiting = || self.report_waiting(&build.describe());
        let (entry, cached) = self.cache.get_or_make(
            Kind::Modules,
            &build.entry_name(),
            |entry| Build::is_whole(entry) && self.is_intact(entry),
            waiting,
            |staging| {
                self.check_root(&kernel.spec, &kernel.root, kernel.root_digest)?;
                let task = self.task(&build.describe());
                build.make(staging)?;
                compile::delete_unused(&self.cache, &kernel.release, SystemTime::now())?;
                task.done();
                Ok(())
            },
        )?;
        Ok(Build::built(&entry, cached))
    }

    /// Writes the records of these kernels to a file, so that other checkouts can be made to use the same packages
    /// (see [`LockFile::PATH_IN_REPO`]). All of them must have been prepared.
    pub fn write_lock(&self, kernels: &[&KernelSpec], path: &Path) -> Result<()> {
        let mut records = Vec::new();
        for spec in kernels {
            let (locked, _) = self.recorded(spec)?.ok_or_else(|| Error::Offline {
                kernel: spec.name.clone(),
                what: "a record of its packages".to_owned(),
            })?;
            records.push(locked);
        }
        fs::write(path, LockFile::new(records).to_toml()).map_err(Error::io("write", path))
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The packages that a file decides on, and that file.
    pub(crate) fn locked(&self, spec: &KernelSpec) -> Result<Option<(LockedKernel, PathBuf)>> {
        let pins = self.options.repo_root.join(LockFile::PATH_IN_REPO);
        if let Some(pinned) = LockFile::load(&pins)?.and_then(|file| file.find(spec).cloned()) {
            return Ok(Some((pinned, pins)));
        }
        self.recorded(spec)
    }

    fn recorded(&self, spec: &KernelSpec) -> Result<Option<(LockedKernel, PathBuf)>> {
        let path = self.record_path(&spec.name);
        let file = match LockFile::load(&path) {
            Err(Error::BadRecord { .. }) => {
                self.say_damaged(&path);
                None
            }
            file => file?,
        };
        Ok(file
            .and_then(|file| file.find(spec).cloned())
            .map(|locked| (locked, path)))
    }

    fn record_path(&self, kernel: &str) -> PathBuf {
        self.cache.path("locks").join(format!("{kernel}.toml"))
    }

    fn remember(&self, locked: &LockedKernel) -> Result<()> {
        let path = self.record_path(&locked.name);
        let text = LockFile::new(vec![locked.clone()]).to_toml();
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            return Ok(());
        }
        self.cache.write_file(&path, &text)
    }

    /// Chooses the newest packages of the suite.
    fn choose(&self, spec: &KernelSpec) -> Result<LockedKernel> {
        if let Some(missing) = self.not_brought(spec) {
            return Err(Error::NotBrought {
                kernel: spec.name.clone(),
                missing,
            });
        }
        self.need_network(&spec.name, || "a record of its packages".to_owned())?;
        let index = self.index(spec)?;
        let selection = select(spec, &index).map_err(|reason| Error::Select {
            kernel: spec.name.clone(),
            reason,
        })?;
        Ok(LockedKernel::new(spec, &selection))
    }

    /// The index of the kernel's suite, fetched once in the life of the store.
    fn index(&self, spec: &KernelSpec) -> Result<Arc<Index>> {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("{}-{}-{}", spec.archive.name, spec.suite, spec.arch);
        if let Some(index) = indexes.get(&id) {
            return Ok(Arc::clone(index));
        }
        let _held = self.hold(&format!("apt-{id}"), &id)?;
        let task = self.task(&format!("fetching the index of {}", spec.suite));
        let suite = self.suite(spec)?;
        suite.update(&self.options.progress)?;
        task.step("reading it");
        let index = Arc::new(suite.index()?);
        task.done();
        indexes.insert(id, Arc::clone(&index));
        Ok(index)
    }

    fn suite(&self, spec: &KernelSpec) -> Result<Suite<'_>> {
        Suite::open(
            &self.cache,
            &spec.archive,
            &spec.suite,
            spec.arch,
            &self.mirror(&spec.archive)?,
        )
    }

    fn mirror(&self, archive: &Archive) -> Result<String> {
        let from_environment = || {
            std::env::var(&archive.mirror_variable)
                .ok()
                .filter(|mirror| !mirror.is_empty())
        };
        match self.options.mirror.clone().or_else(from_environment) {
            Some(mirror) => Ok(mirror),
            None => apt::host_mirror(&self.cache, archive),
        }
    }

    /// The entry in which the packages of a kernel are unpacked.
    fn unpacked(&self, spec: &KernelSpec, locked: &LockedKernel) -> Result<PathBuf> {
        let waiting = || self.report_waiting(&spec.name);
        let (entry, _) = self.cache.get_or_make(
            Kind::Kernels,
            &kernel::entry_name(&locked.release, kernel::packages_digest(locked)),
            |entry| is_whole_kernel(entry) && self.is_intact(entry),
            waiting,
            |staging| {
                self.fetch(spec, locked)?;
                let task = self.task(&format!("{}: unpacking {}", spec.name, locked.release));
                kernel::make(&self.cache, spec, locked, staging, &task)?;
                task.done();
                Ok(())
            },
        )?;
        Ok(entry)
    }

    /// The entry of a kernel that is compiled here.
    fn compiled(&self, build: &KernelBuild<'_>, root: &Path) -> Result<PathBuf> {
        let (spec, locked) = (build.spec, build.locked);
        let waiting = || self.report_waiting(&spec.name);
        let (entry, _) = self.cache.get_or_make(
            Kind::Kernels,
            &kernel::entry_name(&locked.release, build.digest()),
            |entry| is_whole_kernel(entry) && self.is_intact(entry),
            waiting,
            |staging| {
                let record: RootRecord = record::read(root)?;
                self.check_root(spec, root, record.digest)?;
                self.fetch(spec, locked)?;
                let task = self.task(&format!("{}: compiling {}", spec.name, locked.release));
                build.make(&self.cache, staging, &task)?;
                task.done();
                Ok(())
            },
        )?;
        Ok(entry)
    }

    /// Fetches what is not in the cache yet, and checks it against the digests of the signed index.
    fn fetch(&self, spec: &KernelSpec, locked: &LockedKernel) -> Result<()> {
        if matches!(spec.source, KernelSource::Brought(_)) {
            return brought::fetch(&self.cache, spec, locked);
        }
        let missing: Vec<_> = locked
            .packages
            .iter()
            .filter(|package| !self.is_kept(package))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names = || {
            missing
                .iter()
                .map(|package| package.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        self.need_network(&spec.name, || format!("package {}", names()))?;
        let index = self.index(spec)?;
        for package in &missing {
            self.check_carried(spec, package, &index)?;
        }
        let mib = missing
            .iter()
            .map(|package| package.size_bytes)
            .sum::<u64>()
            >> 20;
        let task = self.task(&format!(
            "{}: fetching {} packages, {mib} MiB",
            spec.name,
            missing.len()
        ));
        let staging = self.cache.staging()?;
        let into = staging.scratch();
        {
            let id = format!("apt-{}-{}-{}", spec.archive.name, spec.suite, spec.arch);
            let _held = self.hold(&id, &spec.name)?;
            self.suite(spec)?.download(&missing, &into)?;
        }
        task.step("verifying digests");
        self.keep(&missing, &into)?;
        task.done();
        Ok(())
    }

    fn check_carried(
        &self,
        spec: &KernelSpec,
        package: &LockedPackage,
        index: &Index,
    ) -> Result<()> {
        let carried = index
            .versions(&package.name)
            .iter()
            .any(|known| known.version == package.version && known.sha256 == package.sha256);
        if carried {
            return Ok(());
        }
        let lock = match self.locked(spec)? {
            Some((_, path)) => path,
            None => self.record_path(&spec.name),
        };
        Err(Error::LockedGone(Box::new(LockedGone {
            kernel: spec.name.clone(),
            package: package.name.clone(),
            version: package.version.clone(),
            sha256: package.sha256,
            suite: spec.suite.clone(),
            lock,
            variable: spec.archive.mirror_variable.clone(),
        })))
    }

    /// Moves fetched files to where they are kept, by their content and whatever apt called them.
    fn keep(&self, wanted: &[&LockedPackage], from: &Path) -> Result<()> {
        let mut found = BTreeMap::new();
        for file in fs::read_dir(from).map_err(Error::io("list", from))? {
            let path = file.map_err(Error::io("list", from))?.path();
            let digest = Sha256Digest::of_file(&path).map_err(Error::io("read", &path))?;
            found.insert(digest, path);
        }
        for package in wanted {
            let Some(path) = found.get(&package.sha256) else {
                return Err(Error::Digest {
                    package: package.name.clone(),
                    version: package.version.to_string(),
                    sha256: package.sha256,
                    found: found
                        .iter()
                        .map(|(digest, path)| format!("{} {digest}", path.display()))
                        .collect::<Vec<_>>()
                        .join(", "),
                });
            };
            let to = deb_path(&self.cache, package);
            self.cache.keep_file(path, &to)?;
        }
        Ok(())
    }

    /// The folder of an emulator's root: everything in it runs with its own loader and libraries, where it lies.
    pub fn emulator(&self, emulator: &Emulator) -> Result<PathBuf> {
        self.intact_root(Recipe::of_emulator(emulator))
    }

    /// The folder of a root that is as a fresh host. It is shared: whoever changes something works on a layer above it.
    pub fn fresh_host(&self, host: &FreshHost) -> Result<PathBuf> {
        self.intact_root(Recipe::of_fresh_host(host))
    }

    /// The folder of a root, made anew where it is damaged.
    fn intact_root(&self, recipe: Recipe<'_>) -> Result<PathBuf> {
        let entry = self.cache.entry(Kind::Roots, &recipe.entry_name());
        if is_whole_root(&entry) && !self.is_intact(&entry) {
            self.cache.discard(&entry)?;
        }
        let name = recipe.name;
        Ok(root::tree(&self.recipe_entry(recipe, name)?))
    }

    /// Whether every file of an entry is what it was when the entry was made; says so if not. An entry of an older
    /// program, which sealed none, is sealed as it is found.
    fn is_intact(&self, entry: &Path) -> bool {
        match seal::check(entry) {
            seal::Found::Intact => true,
            seal::Found::Unsealed => seal::write(entry).is_ok(),
            seal::Found::Damaged(file) => {
                self.say_damaged(&file);
                false
            }
        }
    }

    /// Whether a package was fetched, and is what it was then. One that is not is fetched again.
    fn is_kept(&self, package: &LockedPackage) -> bool {
        let path = deb_path(&self.cache, package);
        match Sha256Digest::of_file(&path) {
            Ok(digest) if digest == package.sha256 => true,
            Ok(_) => {
                self.say_damaged(&path);
                false
            }
            Err(_) => false,
        }
    }

    fn say_damaged(&self, file: &Path) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.insert(file.to_owned()) {
            self.options.progress.warning(&format!(
                "{} is damaged, and is made again; is the disk sound?",
                file.display()
            ));
        }
    }

    /// Makes sure of a build root before it is used; it is large, and most runs build nothing.
    fn check_root(&self, spec: &KernelSpec, root: &Path, digest: Sha256Digest) -> Result<()> {
        if self.is_intact(root) {
            return Ok(());
        }
        self.cache.discard(root)?;
        let made = self.root_entry(spec)?;
        let record: RootRecord = record::read(&made)?;
        if record.digest != digest {
            return Err(Error::RootChanged {
                root: spec.build_root.name.clone(),
            });
        }
        Ok(())
    }

    fn root_entry(&self, spec: &KernelSpec) -> Result<PathBuf> {
        self.recipe_entry(Recipe::of_kernel(spec), &spec.name)
    }

    fn recipe_entry(&self, root: Recipe<'_>, for_whom: &str) -> Result<PathBuf> {
        let name = root.entry_name();
        let waiting = || self.report_waiting(root.name);
        let (entry, _) =
            self.cache
                .get_or_make(Kind::Roots, &name, is_whole_root, waiting, |staging| {
                    self.need_network(for_whom, || format!("root {}", root.name))?;
                    let task = self.task(&format!("making root {}", root.name));
                    let log = self.cache.log(&format!("root-{}", root.name));
                    let mirror = self.mirror(root.archive())?;
                    apt::check_mirror(&mirror)?;
                    root::make(root, &mirror, log, staging)?;
                    task.done();
                    Ok(())
                })?;
        Ok(entry)
    }

    fn need_network(&self, for_whom: &str, what: impl FnOnce() -> String) -> Result<()> {
        if self.options.offline {
            return Err(Error::Offline {
                kernel: for_whom.to_owned(),
                what: what(),
            });
        }
        Ok(())
    }

    fn hold(&self, lock: &str, what: &str) -> Result<Held> {
        self.cache.hold(lock, || self.report_waiting(what))
    }

    fn report_waiting(&self, what: &str) {
        self.options.progress.warning(&format!(
            "{what}: waiting for another process that prepares it"
        ));
    }

    fn task(&self, what: &str) -> Task {
        Task::start(&self.options.progress, what)
    }
}

pub(crate) fn is_whole_kernel(entry: &Path) -> bool {
    record::read::<KernelRecord>(entry)
        .is_ok_and(|record| kernel::tree(entry).join(record.vmlinuz).is_file())
}

pub(crate) fn is_whole_root(entry: &Path) -> bool {
    record::read::<RootRecord>(entry).is_ok() && root::tree(entry).join("usr/bin").is_dir()
}

fn prepared(
    spec: &KernelSpec,
    locked: LockedKernel,
    digest: Sha256Digest,
    entry: PathBuf,
    root: PathBuf,
) -> Result<PreparedKernel> {
    let record: KernelRecord = record::read(&entry)?;
    let root_record: RootRecord = record::read(&root)?;
    let tree = kernel::tree(&entry);
    Ok(PreparedKernel {
        spec: spec.clone(),
        vmlinuz: tree.join(record.vmlinuz),
        modules_dir: tree.join(record.modules_dir),
        headers: record.headers,
        binds: record.binds,
        digest,
        root_digest: root_record.digest,
        release: locked.release,
        package_version: locked.package_version,
        packages: locked.packages,
        in_use: [InUse::of(&entry), InUse::of(&root)],
        tree,
        root,
        entry,
    })
}

/// The cache's folder by the environment; empty variables count as unset, as the XDG specification wants.
fn default_cache_dir(get: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let set = |name: &str| {
        get(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("COWBIRD_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("cowbird")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/cowbird")))
}

#[cfg(test)]
mod tests;
