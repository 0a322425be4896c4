//! The packages of a kernel: fetched from its suite, and checked by the digests of the signed index.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cowbird_packages::deb822::Index;
use cowbird_packages::digest::Sha256Digest;

use super::stock::Stock;
use crate::catalogue::{KernelSource, KernelSpec};
use crate::error::{Error, LockedGone, Result};
use crate::lock::{LockedKernel, LockedPackage};
use crate::package::deb_path;
use crate::supplied;

impl Stock {
    /// Fetches what is not in the cache yet, and checks it against the digests of the signed index.
    pub(super) fn fetch(&self, spec: &KernelSpec, locked: &LockedKernel) -> Result<()> {
        if matches!(spec.source, KernelSource::Supplied(_)) {
            return self.fetch_supplied(spec, locked);
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
            let suite = self.suite(spec)?;
            suite.download(&missing, &into, &self.options.progress)?;
        }
        task.step("verifying digests");
        self.keep(&missing, &into)?;
        task.done();
        Ok(())
    }

    /// Keeps the files that somebody supplied in the cache, under their digests.
    fn fetch_supplied(&self, spec: &KernelSpec, locked: &LockedKernel) -> Result<()> {
        let folder = supplied::folder(&self.cache, spec);
        let staging = self.cache.staging()?;
        for package in locked
            .packages
            .iter()
            .filter(|package| !self.is_kept(package))
        {
            let from = folder.join(&package.name);
            if !from.is_file() {
                let (name, folder) = (&package.name, folder.display());
                return Err(Error::NotSupplied {
                    kernel: spec.name.clone(),
                    missing: format!("the cache has no sound {name}; put it into {folder} again"),
                });
            }
            let staged = staging.scratch().join(package.file_name());
            fs::copy(&from, &staged).map_err(Error::io("copy", &from))?;
            let digest = Sha256Digest::of_file(&staged).map_err(Error::io("read", &staged))?;
            if digest != package.sha256 {
                return Err(Error::CacheCorrupt { path: from });
            }
            self.cache
                .keep_file(&staged, &deb_path(&self.cache, package))?;
        }
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
    pub(super) fn keep(&self, wanted: &[&LockedPackage], from: &Path) -> Result<()> {
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
}
