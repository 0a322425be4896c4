//! How a store is opened, and where its cache is.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::progress::{Progress, Quiet};

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

/// The cache's folder by the environment; empty variables count as unset, as the XDG specification wants.
pub(super) fn default_cache_dir(
    get: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Option<PathBuf> {
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Goal: the folder of the cache follows the environment in the documented order, and empty means unset.
    #[test]
    fn cache_folder_follows_the_environment() {
        let with = |set: &[(&str, &str)]| {
            let set: BTreeMap<_, _> = set.iter().copied().collect();
            default_cache_dir(|name| set.get(name).map(Into::into))
        };
        let all = [
            ("COWBIRD_CACHE", "/c"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/h"),
        ];
        assert_eq!(with(&all), Some("/c".into()));
        assert_eq!(with(&all[1..]), Some("/x/cowbird".into()));
        assert_eq!(with(&all[2..]), Some("/h/.cache/cowbird".into()));
        assert_eq!(
            with(&[("COWBIRD_CACHE", ""), ("HOME", "/h")]),
            Some("/h/.cache/cowbird".into())
        );
        assert_eq!(with(&[]), None);
    }
}
