//! Deletes from the cache what no kernel of the catalogue is made of any more.
//!
//! A refresh leaves the superseded packages, their unpacked kernel and the modules built for it behind; a changed
//! root leaves the old one. What stays is decided by the records (`locks/`, and the file of pinned kernels of the
//! checkout): everything that [`Store::prepare`] would use with the network off, and whatever another process is making or
//! using.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::build_root::Recipe;
use crate::cache::{Held, InUse, tree_bytes};
use crate::catalogue::Catalogue;
use crate::compile;
use crate::error::{Error, Result};
use crate::kernel;
use crate::store::Store;

/// Something of the cache that no kernel is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// Where it is, below the cache's folder.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What the catalogue's kernels are made of, as names in the folders of the cache.
#[derive(Default)]
struct Wanted {
    records: BTreeSet<String>,
    packages: BTreeSet<String>,
    kernels: BTreeSet<String>,
    releases: BTreeSet<String>,
    /// Releases of kernels whose entries cannot be told from others.
    unclear: BTreeSet<String>,
    roots: BTreeSet<String>,
}

impl Store {
    /// Finds what is superseded, and deletes it unless `only_look`. Meanwhile no kernel of the catalogue can be prepared,
    /// so that none is in the making that has no record yet.
    pub fn prune(&self, catalogue: &Catalogue, only_look: bool) -> Result<Vec<Superseded>> {
        let _held = self.hold_all(catalogue)?;
        let in_use = self.in_use(catalogue)?;
        let mut found = Vec::new();
        let unused = |folder: &str, keep: &dyn Fn(&str) -> bool| {
            let names = names_in(&self.cache().path(folder))?;
            let others = names.into_iter().filter(|name| !keep(name));
            Ok::<_, Error>(
                others
                    .map(|name| Path::new(folder).join(name))
                    .collect::<Vec<_>>(),
            )
        };
        let of_release = |name: &str| {
            compile::release_of(name).is_some_and(|release| in_use.releases.contains(release))
        };
        let of_kernel = |name: &str| {
            in_use.kernels.contains(name)
                || compile::release_of(name).is_some_and(|release| in_use.unclear.contains(release))
        };
        for path in [
            unused("locks", &|name| in_use.records.contains(name))?,
            unused("debs", &|name| in_use.packages.contains(name))?,
            unused("kernels", &of_kernel)?,
            unused("roots", &|name| in_use.roots.contains(name))?,
            unused("modules", &of_release)?,
        ]
        .concat()
        {
            found.extend(self.delete(path, only_look)?);
        }
        Ok(found)
    }

    fn hold_all(&self, catalogue: &Catalogue) -> Result<Vec<Held>> {
        let kernels = catalogue.kernels.iter();
        kernels
            .map(|spec| self.hold_prepare(spec))
            .collect::<Result<_>>()
    }

    fn in_use(&self, catalogue: &Catalogue) -> Result<Wanted> {
        let mut in_use = Wanted::default();
        in_use
            .roots
            .insert(Recipe::of_emulator(&catalogue.emulator).entry_name());
        for host in &catalogue.fresh_hosts {
            let root = Recipe::of_fresh_host(host).entry_name();
            in_use.roots.insert(root);
        }
        for spec in &catalogue.kernels {
            in_use.roots.insert(Recipe::of_kernel(spec).entry_name());
            let Some((locked, _)) = self.locked(spec)? else {
                continue;
            };
            in_use.records.insert(format!("{}.toml", spec.name));
            for package in &locked.packages {
                in_use.packages.insert(package.file_name());
            }
            match self.digest(spec, &locked) {
                Ok(Some(digest)) => {
                    let name = kernel::entry_name(&locked.release, digest);
                    in_use.kernels.insert(name);
                }
                Ok(None) => {}
                // Which entry is its own cannot be told, so that none of its release goes; others are not its affair.
                Err(_) => {
                    in_use.unclear.insert(locked.release.clone());
                }
            }
            in_use.releases.insert(locked.release);
        }
        Ok(in_use)
    }

    /// Deletes one thing, if nobody is making it at this moment.
    fn delete(&self, path: PathBuf, only_look: bool) -> Result<Option<Superseded>> {
        let full = self.cache().path(&path);
        if InUse::by_anybody(&full) {
            return Ok(None);
        }
        let bytes = match full.is_dir() {
            true => tree_bytes(&full)?,
            false => full.metadata().map_err(Error::io("inspect", &full))?.len(),
        };
        if !only_look {
            // An entry is made under a lock of this name; see `Cache::get_or_make`.
            let lock = path.to_string_lossy().replace('/', "-");
            let Some(_held) = self.cache().try_hold(&lock)? else {
                return Ok(None);
            };
            self.cache().discard(&full)?;
        }
        Ok(Some(Superseded { path, bytes }))
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let name = entry.map_err(Error::io("list", folder))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
