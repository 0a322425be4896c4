//! What every part of the store works with: the cache, the options, and what was noticed of both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cowbird_packages::deb822::Index;

use super::options::{StoreOptions, default_cache_dir};
use crate::cache::{Cache, Held};
use crate::error::{Error, Result};
use crate::progress::Task;
use crate::seal;

/// The cache, and how this process uses it. Each file above this one adds methods to it that need only those below:
/// versions of packages, then the packages, then the entries that are made of them.
pub(super) struct Stock {
    pub(super) cache: Cache,
    pub(super) options: StoreOptions,
    /// What was found to be damaged, which is said once.
    damaged: Mutex<BTreeSet<PathBuf>>,
    /// Indexes fetched by this store: one update of a suite serves all of its kernels.
    pub(super) indexes: Mutex<BTreeMap<String, Arc<Index>>>,
}

impl Stock {
    /// Opens the cache, creating it if there is none.
    pub(super) fn open(options: StoreOptions) -> Result<Self> {
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

    pub(super) fn need_network(&self, for_whom: &str, what: impl FnOnce() -> String) -> Result<()> {
        if self.options.offline {
            return Err(Error::Offline {
                kernel: for_whom.to_owned(),
                what: what(),
            });
        }
        Ok(())
    }

    pub(super) fn hold(&self, lock: &str, what: &str) -> Result<Held> {
        self.cache.hold(lock, || self.report_waiting(what))
    }

    pub(super) fn report_waiting(&self, what: &str) {
        self.options.progress.warning(&format!(
            "{what}: waiting for another process that prepares it"
        ));
    }

    pub(super) fn task(&self, what: &str) -> Task {
        Task::start(&self.options.progress, what)
    }

    /// Whether every file of an entry is what it was when the entry was made; says so if not. Of one without a seal nobody knows
    /// what it was, so that it counts as absent.
    pub(super) fn is_intact(&self, entry: &Path) -> bool {
        match seal::check(entry) {
            seal::Found::Intact => true,
            seal::Found::Unsealed => false,
            seal::Found::Damaged(file) => {
                self.say_damaged(&file);
                false
            }
        }
    }

    pub(super) fn say_damaged(&self, file: &Path) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.insert(file.to_owned()) {
            self.options.progress.warning(&format!(
                "{} is damaged, and is made again; is the disk sound?",
                file.display()
            ));
        }
    }
}
