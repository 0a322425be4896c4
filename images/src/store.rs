//! The store: everything that can be had of a kernel, from the cache or by fetching it.

mod entries;
mod options;
mod packages;
mod stock;
mod versions;
mod whole;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cowbird_packages::digest::Sha256Digest;

pub use self::options::StoreOptions;
pub(crate) use self::whole::{is_whole_kernel, is_whole_root};

use self::stock::Stock;
use crate::build_root::{Recipe, RootRecord};
use crate::cache::{Cache, Held, InUse, Kind};
use crate::catalogue::{Catalogue, Emulator, FreshHost, KernelSource, KernelSpec};
use crate::compile::{self, Build, BuiltModule, ModuleSource};
use crate::entry_record;
use crate::error::{Error, Result};
use crate::kernel::{self, KernelRecord};
use crate::kernel_build::KernelBuild;
use crate::lock::LockedKernel;
use crate::prepared::PreparedKernel;
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
    stock: Stock,
}

impl Store {
    /// Opens the cache, creating it if there is none.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let stock = Stock::open(options)?;
        Ok(Self { stock })
    }

    /// The folder of the cache.
    pub fn cache_dir(&self) -> PathBuf {
        self.stock.cache.path("")
    }

    /// Where what goes into the cache is drafted, and what killed processes left is removed after a day.
    pub fn drafts(&self) -> PathBuf {
        self.stock.cache.path("tmp")
    }

    /// Makes a kernel ready to boot and to build for: its packages, modules, headers and build root.
    ///
    /// Which packages: those that `images/kernels.lock.toml` of the checkout names, else those of the cache's own
    /// record, else the newest of the suite. A kernel that is in the cache needs no network.
    pub fn prepare(&self, spec: &KernelSpec) -> Result<PreparedKernel> {
        let _held = self.hold_prepare(spec)?;
        let locked = self.stock.locked_or_chosen(spec)?;
        let (entry, root, digest) = match &spec.source {
            KernelSource::Packages(_) | KernelSource::Supplied(_) => {
                let entry = self.stock.unpacked(spec, &locked)?;
                let digest = kernel::packages_digest(&locked);
                (entry, self.stock.root_entry(spec)?, digest)
            }
            KernelSource::Sources { config, .. } => {
                let root = self.stock.root_entry(spec)?;
                let build = KernelBuild::new(spec, &locked, &root, &self.config(config)?)?;
                (self.stock.compiled(&build, &root)?, root, build.digest())
            }
        };
        self.stock.remember(&locked)?;
        prepared(spec, locked, digest, entry, root)
    }

    /// Why a kernel of another distribution is not there, and what to do; none when it is, or when it is fetched.
    pub fn not_supplied(&self, spec: &KernelSpec) -> Option<String> {
        supplied::missing(&self.stock.cache, spec)
    }

    /// Held while a kernel is prepared.
    pub(crate) fn hold_prepare(&self, spec: &KernelSpec) -> Result<Held> {
        self.stock
            .hold(&format!("prepare-{}", spec.name), &spec.name)
    }

    /// The fragment of a configuration, which lies beside the catalogue.
    fn config(&self, path: &Path) -> Result<String> {
        let catalogue = self.stock.options.repo_root.join(Catalogue::PATH_IN_REPO);
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
            .stock
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
        let build = Build::new(&self.stock.cache, kernel, source)?;
        let waiting = || self.stock.report_waiting(&build.describe());
        let (entry, cached) = self.stock.cache.get_or_make(
            Kind::Modules,
            &build.entry_name(),
            |entry| Build::is_whole(entry) && self.stock.is_intact(entry),
            waiting,
            |staging| {
                let _in_use = self.stock.check_root(&kernel.spec, kernel.root_digest)?;
                let task = self.stock.task(&build.describe());
                build.make(staging)?;
                compile::delete_unused(&self.stock.cache, &kernel.release, SystemTime::now())?;
                task.done();
                Ok(())
            },
        )?;
        Ok(Build::built(&entry, cached))
    }

    /// Writes the records of these kernels to a file, so that other checkouts can be made to use the same packages
    /// (see [`LockFile::PATH_IN_REPO`]). All of them must have been prepared.
    ///
    /// [`LockFile::PATH_IN_REPO`]: crate::LockFile::PATH_IN_REPO
    pub fn write_lock(&self, kernels: &[&KernelSpec], path: &Path) -> Result<()> {
        self.stock.write_lock(kernels, path)
    }

    /// The folder of an emulator's root, which nobody deletes as long as it is held: everything in it runs with its own loader and libraries, where it lies.
    pub fn emulator(&self, emulator: &Emulator) -> Result<(PathBuf, InUse)> {
        self.stock.emulator(emulator)
    }

    /// The folder of a root that is as a fresh host, which nobody deletes as long as it is held. It is shared: whoever changes something works on a layer above it.
    pub fn fresh_host(&self, host: &FreshHost) -> Result<(PathBuf, InUse)> {
        self.stock.fresh_host(host)
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.stock.cache
    }

    /// The packages that a file decides on, and that file.
    pub(crate) fn locked(&self, spec: &KernelSpec) -> Result<Option<(LockedKernel, PathBuf)>> {
        self.stock.locked(spec)
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
