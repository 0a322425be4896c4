//! Everything that the cells of a kernel share: the kernel, its modules, and the module under test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use cowbird_host::kernel_image;
use cowbird_images::{
    InUse, KernelSpec, ModuleSource, PreparedKernel, ResolveError, Store, StoreOptions,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::ui::{StoreProgress, Ui};
use crate::{failure, repo};

/// Kernels that are prepared at the same time: one may wait for the network while another unpacks.
const KERNELS_AT_ONCE: usize = 2;

/// Folder of the cache for images of kernels that were unpacked on the host.
pub const IMAGES_FOLDER: &str = "images";

/// What one kernel's cells need.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The kernel.
    pub kernel: PreparedKernel,
    /// Its image in the form that boots fastest.
    pub image: PathBuf,
    /// What to load at boot, by case.
    pub boot_modules: BTreeMap<String, BootModules>,
    /// The module under test by mutant, or why it does not build.
    pub built: BTreeMap<Option<String>, Result<PathBuf, String>>,
    /// Nobody deletes image and modules meanwhile; the kernel sees to itself.
    _in_use: Vec<InUse>,
}

/// Modules to load at boot, in order: name and uncompressed file; or why this kernel cannot have
/// them, because it lacks one.
pub type BootModules = Result<Vec<(String, PathBuf)>, String>;

/// What is wanted of a kernel.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The kernel.
    pub spec: KernelSpec,
    /// Modules of the kernel that each case loads, by case; built-in ones do not matter.
    pub modules: BTreeMap<String, Vec<String>>,
    /// The variants of the module under test: none is the module as it is.
    pub mutants: Vec<Option<String>>,
}

/// Opens the cache of kernels.
pub fn open_store(offline: bool, refresh: bool, ui: &Arc<Ui>) -> Result<Store> {
    let options = StoreOptions {
        offline,
        refresh,
        progress: StoreProgress::new(ui),
        ..StoreOptions::new(repo::root())
    };
    Store::open(options).context("cannot open the cache of kernels")
}

/// Why a kernel cannot run here: by the catalogue, or because nobody supplied its packages.
pub fn unsupported(store: &Store, spec: &KernelSpec) -> Option<String> {
    let known = spec.unsupported.clone();
    known.or_else(|| store.not_supplied(spec))
}

/// How many of these kernels are still to be made. Of one whose state cannot be told, its own preparation says why.
pub fn kernels_to_make<'a>(
    store: &Store,
    kernels: impl IntoIterator<Item = &'a KernelSpec>,
) -> usize {
    let is_ready = |spec| store.status(spec).is_ok_and(|status| status.ready);
    let can_run = |spec: &&KernelSpec| unsupported(store, spec).is_none();
    kernels
        .into_iter()
        .filter(can_run)
        .filter(|spec| !is_ready(spec))
        .count()
}

/// Prepares kernels; one that fails does not stop the others. By name of the kernel.
pub async fn prepare(
    store: &Arc<Store>,
    wanted: Vec<Wanted>,
) -> BTreeMap<String, Result<Arc<Ready>, String>> {
    let slots = Arc::new(Semaphore::new(KERNELS_AT_ONCE));
    let mut tasks = JoinSet::new();
    for wanted in wanted {
        let (store, slots) = (Arc::clone(store), Arc::clone(&slots));
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let name = wanted.spec.name.clone();
            let work = tokio::task::spawn_blocking(move || prepare_one(&store, &wanted)).await;
            let ready = match work {
                Ok(ready) => ready
                    .map(Arc::new)
                    .map_err(|error| failure::describe(&error)),
                Err(panic) => Err(format!("preparing it failed: {panic}")),
            };
            (name, ready)
        });
    }
    let mut all = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        if let Ok((name, ready)) = done {
            all.insert(name, ready);
        }
    }
    all
}

fn prepare_one(store: &Store, wanted: &Wanted) -> Result<Ready> {
    let kernel = store.prepare(&wanted.spec)?;
    let (image, image_in_use) = image_of(store, &kernel)?;
    let mut in_use = vec![image_in_use];
    let mut boot_modules = BTreeMap::new();
    for (case, names) in &wanted.modules {
        boot_modules.insert(case.clone(), boot_modules_of(store, &kernel, names)?);
    }
    let mut built = BTreeMap::new();
    for mutant in &wanted.mutants {
        let source = ModuleSource {
            dir: repo::root().join("kmod"),
            mutant: mutant.clone(),
            debug: false,
        };
        let result = store.build_module(&kernel, &source);
        let result = result.map_err(|error| error.to_string()).map(|module| {
            in_use.push(module.in_use);
            module.ko
        });
        built.insert(mutant.clone(), result);
    }
    Ok(Ready {
        kernel,
        image,
        boot_modules,
        built,
        _in_use: in_use,
    })
}

/// The image in the form that boots fastest. Nobody deletes it between the look at it and its use: the folder is held meanwhile.
fn image_of(store: &Store, kernel: &PreparedKernel) -> Result<(PathBuf, InUse)> {
    let images = store.cache_dir().join(IMAGES_FOLDER);
    let folder = kernel_image::folder(&images);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let _held = InUse::of(&folder);
    let image = kernel_image::unpacked(&kernel.vmlinuz, &images, &store.drafts())?;
    let in_use = InUse::of(&image);
    Ok((image, in_use))
}

/// A module that the kernel does not have is an answer, everything else that fails an error.
fn boot_modules_of(
    store: &Store,
    kernel: &PreparedKernel,
    names: &[String],
) -> Result<BootModules> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match store.boot_modules(kernel, &names) {
        Ok(modules) => Ok(Ok(modules
            .into_iter()
            .map(|module| (module.name, module.path))
            .collect())),
        Err(cowbird_images::Error::Resolve {
            reason: reason @ ResolveError::Unknown { .. },
            ..
        }) => Ok(Err(reason.to_string())),
        Err(error) => Err(error.into()),
    }
}
