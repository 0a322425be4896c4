//! The kernels that Cowbird is proved on: what there is, how each is obtained and verified, and how the module is
//! built for it.
//!
//! # From a name to a booting kernel
//! ```text
//! catalogue.toml --> KernelSpec --prepare--> PreparedKernel --boot_modules--> .ko files in loading order
//!                                  |                      `--build_module--> cowbird.ko
//!                                  |
//!   apt (signed index) --> packages by SHA-256 --> unpacked kernel + headers      mmdebstrap --> build root
//! ```
//! [`Catalogue`] reads `images/catalogue.toml`. [`Store::prepare`] chooses the newest packages that fit an entry,
//! fetches, verifies and unpacks them, and makes the build root that the entry names.
//!
//! # What is trusted
//! The keyrings below `/usr/share/keyrings` of the host. apt verifies each suite's signed Release file with the
//! keyring that the catalogue names, and with it the index; every package must have the SHA-256 of the index when it
//! arrives and again each time that it is unpacked. mmdebstrap verifies in the same way. Mirrors and the network
//! are not trusted. A Release file past its `Valid-Until` date is used with a warning, because mirrors that keep
//! old states are the way to old kernels.
//!
//! # Which versions, and how a run is repeated
//! The first `prepare` of a kernel takes the newest packages and records them with their digests (`locks/` in the
//! cache). Later runs use the record, with or without a network, until [`StoreOptions::refresh`] asks for newer
//! packages. To repeat a run elsewhere, [`Store::write_lock`] writes the records to `images/kernels.lock.toml`,
//! which decides over any cache's record while it exists. Archives drop old packages: if a recorded one must be
//! fetched and is gone, [`Error::LockedGone`] says so and what to do. The packages of build roots are not pinned,
//! only recorded; a module is built anew when they differ.
//!
//! # The cache
//! Entries are named by a digest of what they are made from, are made aside and renamed into place whole, and never
//! change afterwards; `cache.rs` shows the folders. Deleting any of them costs only time. Several processes may
//! use one cache.
//!
//! **Architecture invariant:** this crate knows neither QEMU nor the cases that run on a kernel, and writes nothing
//! to a terminal: long steps report to a [`Progress`].

mod apt;
mod build_root;
mod cache;
mod catalogue;
mod compile;
mod entry_record;
mod error;
#[cfg(test)]
#[path = "../tests/inside/foreign_packages.rs"]
mod foreign_packages;
mod join;
mod kernel;
mod kernel_build;
mod lock;
mod modules;
mod package;
mod prepared;
mod progress;
mod prune;
mod seal;
mod select;
mod source;
mod status;
mod store;
mod supplied;
mod userns;

pub use cache::InUse;
pub use catalogue::{
    Arch, Archive, BuildRoot, Catalogue, CatalogueError, Emulator, FreshHost, KernelSource,
    KernelSpec, PackageNames, Tier,
};
pub use compile::{BuiltModule, ModuleSource};
pub use error::{Error, LockedGone, ResolveError, Result};
pub use lock::{LockFile, LockedKernel, LockedPackage};
pub use prepared::PreparedKernel;
pub use progress::{Outcome, Progress, Quiet, TaskId};
pub use prune::Superseded;
pub use select::SelectError;
pub use status::KernelStatus;
pub use store::{BootModule, Store, StoreOptions};
