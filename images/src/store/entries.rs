//! The entries of the cache that the store makes, kernels and roots, and whether they are what they were.

use std::path::{Path, PathBuf};

use cowbird_packages::digest::Sha256Digest;

use super::stock::Stock;
use super::whole::{is_whole_kernel, is_whole_root};
use crate::apt;
use crate::build_root::{self, Recipe, RootRecord};
use crate::cache::{InUse, Kind};
use crate::catalogue::{Emulator, FreshHost, KernelSpec};
use crate::entry_record;
use crate::error::{Error, Result};
use crate::kernel;
use crate::kernel_build::KernelBuild;
use crate::lock::LockedKernel;

impl Stock {
    /// The entry in which the packages of a kernel are unpacked.
    pub(super) fn unpacked(&self, spec: &KernelSpec, locked: &LockedKernel) -> Result<PathBuf> {
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
    pub(super) fn compiled(&self, build: &KernelBuild<'_>, root: &Path) -> Result<PathBuf> {
        let (spec, locked) = (build.spec, build.locked);
        let waiting = || self.report_waiting(&spec.name);
        let (entry, _) = self.cache.get_or_make(
            Kind::Kernels,
            &kernel::entry_name(&locked.release, build.digest()),
            |entry| is_whole_kernel(entry) && self.is_intact(entry),
            waiting,
            |staging| {
                let record: RootRecord = entry_record::read(root)?;
                let _in_use = self.check_root(spec, record.digest)?;
                self.fetch(spec, locked)?;
                let task = self.task(&format!("{}: compiling {}", spec.name, locked.release));
                build.make(&self.cache, staging, &task)?;
                task.done();
                Ok(())
            },
        )?;
        Ok(entry)
    }

    /// The folder of an emulator's root, which nobody deletes as long as it is held: everything in it runs with its own loader and libraries, where it lies.
    pub(super) fn emulator(&self, emulator: &Emulator) -> Result<(PathBuf, InUse)> {
        self.intact_root(Recipe::of_emulator(emulator))
    }

    /// The folder of a root that is as a fresh host, which nobody deletes as long as it is held. It is shared: whoever changes something works on a layer above it.
    pub(super) fn fresh_host(&self, host: &FreshHost) -> Result<(PathBuf, InUse)> {
        self.intact_root(Recipe::of_fresh_host(host))
    }

    /// The folder of a root, made anew where it is damaged.
    fn intact_root(&self, recipe: Recipe<'_>) -> Result<(PathBuf, InUse)> {
        let made = self.recipe_entry(recipe, recipe.name, |entry| self.is_intact(entry))?;
        Ok((build_root::tree(&made), InUse::of(&made)))
    }

    /// Makes sure of a build root, large as it is, before it is used; it is not deleted as long as the result is held.
    pub(super) fn check_root(&self, spec: &KernelSpec, digest: Sha256Digest) -> Result<InUse> {
        let sound = |entry: &Path| self.is_intact(entry);
        let entry = self.recipe_entry(Recipe::of_kernel(spec), &spec.name, sound)?;
        let in_use = InUse::of(&entry);
        // Somebody else may have made it again, from other packages.
        let record: RootRecord = entry_record::read(&entry)?;
        if record.digest != digest {
            return Err(Error::RootChanged {
                root: spec.build_root.name.clone(),
            });
        }
        Ok(in_use)
    }

    pub(super) fn root_entry(&self, spec: &KernelSpec) -> Result<PathBuf> {
        self.recipe_entry(Recipe::of_kernel(spec), &spec.name, |_| true)
    }

    /// The entry of a root. One that is absent or not `sound` is made; it is looked at again, and replaced, under the lock of who makes it,
    /// so that of two who find it damaged the second takes what the first has made.
    fn recipe_entry(
        &self,
        root: Recipe<'_>,
        for_whom: &str,
        sound: impl Fn(&Path) -> bool,
    ) -> Result<PathBuf> {
        let name = root.entry_name();
        let waiting = || self.report_waiting(root.name);
        let valid = |entry: &Path| is_whole_root(entry) && sound(entry);
        let (entry, _) = self
            .cache
            .get_or_make(Kind::Roots, &name, valid, waiting, |staging| {
                self.need_network(for_whom, || format!("root {}", root.name))?;
                let task = self.task(&format!("making root {}", root.name));
                let log = self.cache.log(&format!("root-{}", root.name));
                let mirror = self.mirror(root.archive())?;
                apt::check_mirror(&mirror)?;
                build_root::make(root, &mirror, log, staging)?;
                task.done();
                Ok(())
            })?;
        Ok(entry)
    }
}
