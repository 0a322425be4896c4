//! A kernel that is ready.

use std::path::PathBuf;

use cowbird_packages::digest::Sha256Digest;
use cowbird_packages::version::DebVersion;

use crate::cache::InUse;
use crate::catalogue::KernelSpec;
use crate::lock::LockedPackage;

/// A kernel that can be booted and built for. Everything in it is in the cache.
#[derive(Clone, Debug)]
pub struct PreparedKernel {
    /// The catalogue's entry.
    pub spec: KernelSpec,
    /// The release (`uname -r`).
    pub release: String,
    /// Version of the image package.
    pub package_version: DebVersion,
    /// The kernel, as a boot loader takes it.
    pub vmlinuz: PathBuf,
    /// The modules, `lib/modules/RELEASE`, all uncompressed.
    pub modules_dir: PathBuf,
    /// Every package that it was made from.
    pub packages: Vec<LockedPackage>,
    /// Path of the headers inside the build root, without the leading `/`; the same below `tree`.
    pub headers: PathBuf,
    /// The folder into which the packages were unpacked.
    pub tree: PathBuf,
    /// The build root's entry.
    pub root: PathBuf,
    pub(crate) entry: PathBuf,
    pub(crate) binds: Vec<PathBuf>,
    pub(crate) digest: Sha256Digest,
    pub(crate) root_digest: Sha256Digest,
    /// Nobody deletes kernel and root meanwhile.
    #[expect(dead_code, reason = "holding them is the use")]
    pub(crate) in_use: [InUse; 2],
}
