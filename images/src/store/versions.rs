//! Which packages a kernel is made of: those that are pinned or on record, else the newest of its suite.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use cowbird_packages::deb822::Index;

use super::stock::Stock;
use crate::apt::{self, Suite};
use crate::catalogue::{Archive, KernelSpec};
use crate::error::{Error, Result};
use crate::lock::{LockFile, LockedKernel};
use crate::select::select;
use crate::supplied;

impl Stock {
    /// The packages of a kernel: those on record, else the newest.
    pub(super) fn locked_or_chosen(&self, spec: &KernelSpec) -> Result<LockedKernel> {
        // Whoever puts others into the folder wants those.
        if let Some(supplied) = supplied::choose(&self.cache, spec)? {
            return Ok(supplied);
        }
        match self.locked(spec)? {
            Some((locked, _)) if !self.options.refresh => Ok(locked),
            _ => self.choose(spec),
        }
    }

    /// Writes the records of these kernels to a file, so that other checkouts can be made to use the same packages
    /// (see [`LockFile::PATH_IN_REPO`]). All of them must have been prepared.
    pub(super) fn write_lock(&self, kernels: &[&KernelSpec], path: &Path) -> Result<()> {
        let mut records = Vec::new();
        for spec in kernels {
            let (locked, _) = self.recorded(spec)?.ok_or_else(|| Error::Offline {
                kernel: spec.name.clone(),
                what: "a record of its packages".to_owned(),
            })?;
            records.push(locked);
        }
        // Drafted beside it: the checkout may be on another disk than the cache.
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        self.cache
            .write_file_by(folder, path, &LockFile::new(records).to_toml())
    }

    /// The packages that a file decides on, and that file.
    pub(super) fn locked(&self, spec: &KernelSpec) -> Result<Option<(LockedKernel, PathBuf)>> {
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

    pub(super) fn record_path(&self, kernel: &str) -> PathBuf {
        self.cache.path("locks").join(format!("{kernel}.toml"))
    }

    pub(super) fn remember(&self, locked: &LockedKernel) -> Result<()> {
        let path = self.record_path(&locked.name);
        let text = LockFile::new(vec![locked.clone()]).to_toml();
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            return Ok(());
        }
        if path.is_dir() {
            self.cache.discard(&path)?;
        }
        self.cache.write_file(&path, &text)
    }

    /// Chooses the newest packages of the suite.
    fn choose(&self, spec: &KernelSpec) -> Result<LockedKernel> {
        if let Some(missing) = supplied::missing(&self.cache, spec) {
            return Err(Error::NotSupplied {
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
    pub(super) fn index(&self, spec: &KernelSpec) -> Result<Arc<Index>> {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("{}-{}-{}", spec.archive.name, spec.suite, spec.arch);
        if let Some(index) = indexes.get(&id) {
            return Ok(Arc::clone(index));
        }
        let _held = self.hold(&format!("apt-{id}"), &id)?;
        let task = self.task(&format!("fetching the index of {}", spec.suite));
        let suite = self.suite(spec)?;
        suite.update(&self.options.progress, &|list| self.say_damaged(list))?;
        task.step("reading it");
        let index = Arc::new(suite.index()?);
        task.done();
        indexes.insert(id, Arc::clone(&index));
        Ok(index)
    }

    pub(super) fn suite(&self, spec: &KernelSpec) -> Result<Suite<'_>> {
        Suite::open(
            &self.cache,
            &spec.archive,
            &spec.suite,
            spec.arch,
            &self.mirror(&spec.archive)?,
        )
    }

    pub(super) fn mirror(&self, archive: &Archive) -> Result<String> {
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
}
