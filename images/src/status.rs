//! What the cache holds of a kernel.

use serde::Serialize;

use crate::build_root::{Recipe, RootRecord};
use crate::cache::{Kind, tree_bytes};
use crate::catalogue::KernelSpec;
use crate::compile;
use crate::entry_record;
use crate::error::Result;
use crate::kernel::{self, KernelRecord};
use crate::package::deb_path;
use crate::store::{Store, is_whole_kernel, is_whole_root};

/// What the cache holds of one kernel; sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelStatus {
    /// Name in the catalogue.
    pub name: String,
    /// The release (`uname -r`), once its packages were chosen.
    pub release: Option<String>,
    /// Version of the image package, once it was chosen.
    pub package_version: Option<String>,
    /// Whether it can be booted and built for with the network off.
    pub ready: bool,
    /// Fetched packages.
    pub package_bytes: u64,
    /// The unpacked kernel with modules and headers; `None` if it is not there.
    pub kernel_bytes: Option<u64>,
    /// How many modules the kernel can load.
    pub loadable_modules: Option<usize>,
    /// The build root, which other kernels may share.
    pub root: String,
    /// Size of the build root; `None` if it is not there.
    pub root_bytes: Option<u64>,
    /// How many versions of Cowbird's module were built for it.
    pub built_modules: usize,
    /// Their size.
    pub built_bytes: u64,
    /// Why nothing of this can be told, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Store {
    /// Says what the cache holds of a kernel. Changes nothing and waits for nobody.
    pub fn status(&self, spec: &KernelSpec) -> Result<KernelStatus> {
        let cache = self.cache();
        let mut status = KernelStatus {
            name: spec.name.clone(),
            root: spec.build_root.name.clone(),
            ..KernelStatus::default()
        };
        let root = cache.entry(Kind::Roots, &Recipe::of_kernel(spec).entry_name());
        if is_whole_root(&root) {
            status.root_bytes = Some(entry_record::read::<RootRecord>(&root)?.bytes);
        }
        let Some((locked, _)) = self.locked(spec)? else {
            return Ok(status);
        };
        if let Some(digest) = self.digest(spec, &locked)? {
            let name = kernel::entry_name(&locked.release, digest);
            let entry = cache.entry(Kind::Kernels, &name);
            if is_whole_kernel(&entry) {
                let record: KernelRecord = entry_record::read(&entry)?;
                status.kernel_bytes = Some(record.bytes);
                status.loadable_modules = Some(record.loadable);
            }
        }
        status.ready = status.kernel_bytes.is_some() && status.root_bytes.is_some();
        for package in &locked.packages {
            status.package_bytes += deb_path(cache, package)
                .metadata()
                .map_or(0, |meta| meta.len());
        }
        for module in compile::entries_of(cache, &locked.release)? {
            status.built_modules += 1;
            // It may be deleted at this moment by a process that cleans up.
            status.built_bytes += tree_bytes(&module).unwrap_or(0);
        }
        status.release = Some(locked.release);
        status.package_version = Some(locked.package_version.to_string());
        Ok(status)
    }
}
