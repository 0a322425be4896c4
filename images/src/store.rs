//! The store: everything that can be had of a kernel, from the cache or by fetching it.

mod entries;
mod options;
mod packages;
mod versions;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use cowbird_packages::deb822::Index;
use cowbird_packages::digest::Sha256Digest;

pub use self::options::StoreOptions;
pub(crate) use self::whole::{is_whole_kernel, is_whole_root};

use self::options::default_cache_dir;
use crate::build_root::{Recipe, RootRecord};
use crate::cache::{Cache, Held, InUse, Kind};
use crate::catalogue::{Catalogue, KernelSource, KernelSpec};
use crate::compile::{self, Build, BuiltModule, ModuleSource};
use crate::entry_record;
use crate::error::{Error, Result};
use crate::kernel::{self, KernelRecord};
use crate::kernel_build::KernelBuild;
use crate::lock::LockedKernel;
use crate::prepared::PreparedKernel;
use crate::progress::Task;
use crate::supplied;

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

    /// Where what goes into the cache is drafted, and what killed processes left is removed after a day.
    pub fn drafts(&self) -> PathBuf {
        self.cache.path("tmp")
    }

    /// Makes a kernel ready to boot and to build for: its packages, modules, headers and build root.
    ///
    /// Which packages: those that `images/kernels.lock.toml` of the checkout names, else those of the cache's own
    /// record, else the newest of the suite. A kernel that is in the cache needs no network.
    pub fn prepare(&self, spec: &KernelSpec) -> Result<PreparedKernel> {
        let _held = self.hold_prepare(spec)?;
        let locked = self.locked_or_chosen(spec)?;
        let (entry, root, digest) = match &spec.source {
            KernelSource::Packages(_) | KernelSource::Supplied(_) => {
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
    pub fn not_supplied(&self, spec: &KernelSpec) -> Option<String> {
        supplied::missing(&self.cache, spec)
    }

    /// Held while a kernel is prepared.
    pub(crate) fn hold_prepare(&self, spec: &KernelSpec) -> Result<Held> {
        self.hold(&format!("prepare-{}", spec.name), &spec.name)
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

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
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

fn prepared(
    spec: &KernelSpec,
    locked: LockedKernel,
    digest: Sha256Digest,
    entry: PathBuf,
    root: PathBuf,
) -> Result<PreparedKernel> {
    let record: KernelRecord = entry_record::read(&entry)?;
    let root_record: RootRecord = entry_record::read(&root)?;
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

#[cfg(test)]
mod tests;
