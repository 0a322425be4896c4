//! Where packages and what comes out of them are.

use std::path::PathBuf;

use crate::cache::Cache;
use crate::lock::LockedPackage;

/// Where a fetched package is kept.
pub(crate) fn deb_path(cache: &Cache, package: &LockedPackage) -> PathBuf {
    cache.path("debs").join(package.file_name())
}

/// Name of the folder of headers of a kernel that was compiled here.
pub(crate) fn headers_name(release: &str) -> String {
    format!("linux-headers-{release}")
}
