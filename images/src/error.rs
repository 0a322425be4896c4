//! The crate's errors. All but [`Error::ModuleBuild`] are failures of the infrastructure, never a verdict on the
//! module.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cowbird_packages::deb822::IndexError;
use cowbird_packages::digest::Sha256Digest;
use cowbird_packages::version::DebVersion;
use cowbird_programs::{Ending, Excerpt};

use crate::select::SelectError;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a kernel or a module for it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {operation} {}: {reason}", path.display())]
    Io {
        /// What was tried, as `create`.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// No folder is known to keep the cache in.
    #[error("no cache folder: set COWBIRD_CACHE, XDG_CACHE_HOME or HOME")]
    NoCacheFolder,
    /// A path would break the syntax of apt's configuration.
    #[error("the cache folder {} holds a character that apt's configuration cannot: set COWBIRD_CACHE", path.display())]
    AwkwardPath {
        /// The cache folder.
        path: PathBuf,
    },
    /// The archive served another suite.
    #[error(
        "the archive was asked for the suite {suite} and served another one, by {}: give another mirror, and do not trust this one",
        path.display()
    )]
    OtherSuite {
        /// What was asked for.
        suite: String,
        /// The Release file that says otherwise.
        path: PathBuf,
    },
    /// A user who is not root may not make or enter build roots here.
    #[error("build roots need namespaces of users, which this host does not allow: {why}")]
    NoUserNamespaces {
        /// What forbids it, and what to do.
        why: String,
    },
    /// A damaged build root was made again, of newer packages.
    #[error("build root {root} was damaged, and is now made of newer packages; run again")]
    RootChanged {
        /// The build root.
        root: String,
    },
    /// Packages of a kernel do not fit together, or one has a link where a folder must be.
    #[error(
        "the packages of the kernel have a link or a file at {} where a folder belongs; do not trust them",
        path.display()
    )]
    PackageClash {
        /// Where.
        path: PathBuf,
    },
    /// A program of the host is missing or failed.
    #[error(transparent)]
    Program(#[from] cowbird_programs::Error),
    /// The module does not compile: the one error that is about the module and not about the infrastructure.
    #[error("the module does not build for {kernel}{}: make {status}\n{excerpt}\nthe whole output is in {}",
        .mutant.as_ref().map(|name| format!(" as mutant `{name}`")).unwrap_or_default(), log.display())]
    ModuleBuild {
        /// The kernel.
        kernel: String,
        /// The mutant, if it was one.
        mutant: Option<String>,
        /// How make ended.
        status: Ending,
        /// The first errors.
        excerpt: Excerpt,
        /// Everything that make wrote.
        log: PathBuf,
    },
    /// The build succeeded but did not leave a usable module.
    #[error("the module built for {kernel} is unusable: {problem}; the build's output is in {}", log.display())]
    BadModule {
        /// The kernel.
        kernel: String,
        /// What is wrong with it.
        problem: String,
        /// Everything that make wrote.
        log: PathBuf,
    },
    /// A kernel that is compiled here did not come out as its configuration says.
    #[error("{kernel} cannot be compiled: {problem}; see {}", log.display())]
    KernelBuild {
        /// The kernel.
        kernel: String,
        /// What is wrong.
        problem: String,
        /// What its configuration or its build wrote.
        log: PathBuf,
    },
    /// The module's sources cannot be taken.
    #[error("cannot build from {}: {problem}", path.display())]
    BadSource {
        /// The offending file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another process holds an entry for too long.
    #[error("another process has held {} for {}; end it or wait", lock.display(), format_args!("{} s", waited.as_secs()))]
    LockTimeout {
        /// The lock file.
        lock: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The host's apt has no source for an archive.
    #[error(
        "the host's apt sources name no mirror of {archive}: set {variable} to the address of one"
    )]
    NoMirror {
        /// The archive.
        archive: String,
        /// The environment variable that names one.
        variable: String,
    },
    /// A mirror's address cannot stand in a sources file.
    #[error(
        "`{mirror}` is not usable as a mirror: it must be an http, https or file address without spaces"
    )]
    BadMirror {
        /// The address as given.
        mirror: String,
    },
    /// Something must be fetched, and that was forbidden.
    #[error(
        "{kernel}: {what} is not in the cache, and fetching is off; run once without --offline"
    )]
    Offline {
        /// The kernel.
        kernel: String,
        /// What would have to be fetched.
        what: String,
    },
    /// The archive's index is damaged.
    #[error("the package index of {suite} is damaged: {reason}")]
    Index {
        /// The suite.
        suite: String,
        /// Where and how.
        reason: IndexError,
    },
    /// The suite does not carry what the catalogue asks for.
    #[error("{kernel}: {reason}")]
    Select {
        /// The kernel.
        kernel: String,
        /// What is missing or does not fit.
        reason: SelectError,
    },
    /// The suite no longer carries the locked version.
    #[error(transparent)]
    LockedGone(Box<LockedGone>),
    /// A fetched file is not what the signed index says.
    #[error(
        "{package} {version}: no fetched file has the SHA-256 {sha256} of the signed index (fetched: {found}); \
        the mirror or the way to it is corrupt"
    )]
    Digest {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// What the index says.
        sha256: Sha256Digest,
        /// What came instead.
        found: String,
    },
    /// A file of the cache was changed after it was stored.
    #[error("{} changed while it was used; run again", path.display())]
    CacheCorrupt {
        /// The file.
        path: PathBuf,
    },
    /// An unpacked kernel lacks a file that every kernel has.
    #[error("{kernel}: the packages {packages} hold no {what}")]
    Incomplete {
        /// The kernel.
        kernel: String,
        /// What was looked for.
        what: String,
        /// Where it was looked for.
        packages: String,
    },
    /// A kernel of another distribution is not there.
    #[error("{kernel}: {missing}")]
    NotSupplied {
        /// The kernel.
        kernel: String,
        /// What is missing, and where it belongs.
        missing: String,
    },
    /// The packages that somebody supplied are not those of one kernel.
    #[error(
        "{kernel}: the packages in {} must hold the modules of exactly one release that matches `{release}`, and hold {}; \
         remove the others, or correct the pattern in images/catalogue.toml",
        folder.display(), none_or(found)
    )]
    Supplied {
        /// The kernel.
        kernel: String,
        /// Where they lie.
        folder: PathBuf,
        /// The glob that one release must match.
        release: String,
        /// Two of the releases, or none.
        found: Vec<String>,
    },
    /// Programs of the build root cannot run on this host.
    #[error("build root {root} is for {arch}, which this host cannot run")]
    ForeignArch {
        /// The build root.
        root: String,
        /// Its architecture.
        arch: String,
    },
    /// A module file is not understood.
    #[error("{} is not a kernel module: {problem}", path.display())]
    NotAModule {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A module asked for does not exist, or the dependencies of one do not resolve.
    #[error("{kernel}: {reason}")]
    Resolve {
        /// The kernel.
        kernel: String,
        /// Which one, and why.
        reason: ResolveError,
    },
    /// A file of records cannot be read.
    #[error("{} is not readable as {what}: {problem}", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// A package that a lock file asks for and the suite no longer carries.
#[derive(Debug, thiserror::Error)]
#[error(
    "{kernel}: {package} {version} (SHA-256 {sha256}), which {} asks for, is no longer in {suite}: \
     refresh the kernel to take the newest one, or name a mirror in {variable} that still has it",
    lock.display()
)]
pub struct LockedGone {
    /// The kernel.
    pub kernel: String,
    /// The package.
    pub package: String,
    /// Its locked version.
    pub version: DebVersion,
    /// Its locked digest.
    pub sha256: Sha256Digest,
    /// The suite searched.
    pub suite: String,
    /// The lock file.
    pub lock: PathBuf,
    /// The environment variable that names a mirror.
    pub variable: String,
}

impl Error {
    /// Names the operation and the file of an I/O error, for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::Io {
            operation,
            path,
            reason,
        }
    }
}

fn none_or(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(" and "),
    }
}

/// Why an order cannot be found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResolveError {
    /// There is no such module.
    #[error(
        "there is no module `{name}`, neither loadable nor built in{}",
        hint(similar)
    )]
    Unknown {
        /// The name asked for.
        name: String,
        /// Modules with a similar name.
        similar: Vec<String>,
    },
    /// A module depends on one that is not there.
    #[error("module `{module}` depends on `{dependency}`, which the kernel's packages do not hold")]
    Missing {
        /// The module.
        module: String,
        /// What it depends on.
        dependency: String,
    },
    /// Modules depend on each other.
    #[error("modules depend on each other: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
}

fn hint(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => format!(" (there is: {})", names.join(", ")),
    }
}
