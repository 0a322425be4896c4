//! What a catalogue names: archives, build roots and kernels.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// When a kernel takes part in the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Every run of a developer.
    Quick,
    /// Once a day.
    Daily,
    /// Before a release.
    Full,
}

/// A processor architecture, by its Debian name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// The architecture that this program runs on, if it is one of the catalogue's.
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// A package archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Name that kernels and build roots refer to.
    pub name: String,
    /// The distribution that it belongs to.
    pub distro: String,
    /// Components read.
    pub components: Vec<String>,
    /// Keyring on the host that the Release signature is verified with.
    pub keyring: PathBuf,
    /// Package of the host that brings the keyring.
    pub keyring_package: String,
    /// `Label` of the archive's Release files, by which the mirror is found among the host's apt sources.
    pub host_label: String,
    /// Last part of the mirror's address, used when the host has sources but no downloaded Release files.
    pub host_path: String,
    /// Environment variable that names a mirror instead.
    pub mirror_variable: String,
}

impl Archive {
    /// The package that must be installed before its signatures can be verified.
    pub fn missing_keyring(&self) -> Option<&str> {
        (!self.keyring.exists()).then_some(self.keyring_package.as_str())
    }
}

/// A base system with one compiler in which modules are built.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildRoot {
    /// Name that kernels refer to.
    pub name: String,
    /// The archive that it is made from.
    pub archive: String,
    /// The suite that it is made from.
    pub suite: String,
    /// Architecture of the programs in it.
    pub arch: Arch,
    /// Compiler package, which is also the compiler's command, as `gcc-12`.
    pub compiler: String,
    /// Other packages: make, and what the kernel's own build tools link with.
    pub packages: Vec<String>,
}

/// QEMU in a root of its own, for what the host's may be too old for.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// Name of the root.
    pub name: String,
    /// Where it comes from.
    pub archive: Archive,
    /// The suite that it is made from.
    pub suite: String,
    /// Architecture of the programs in it.
    pub arch: Arch,
    /// The package.
    pub package: String,
}

/// A distribution that the tests run on, as it is before anything is installed.
#[derive(Clone, Debug)]
pub struct FreshHost {
    /// Name of the root.
    pub name: String,
    /// Where it comes from.
    pub archive: Archive,
    /// The suite that it is made from.
    pub suite: String,
    /// Architecture of the programs in it.
    pub arch: Arch,
    /// What is there besides the essential packages; the first one names the root's purpose.
    pub packages: Vec<String>,
}

/// How the packages of a kernel are called.
#[derive(Clone, Debug)]
pub struct PackageNames {
    /// Glob over the release (`uname -r`); the newest package that matches is taken.
    pub release: String,
    /// Name of the image package; `{release}` stands for the release.
    pub image: String,
    /// Name of the headers package; `{release}` stands for the release.
    pub headers: String,
}

/// What a kernel whose packages somebody supplies is made of.
#[derive(Clone, Debug)]
pub struct SuppliedPackages {
    /// Glob over the release (`uname -r`).
    pub release: String,
    /// Globs over the names of the package files; each must match one at least.
    pub files: Vec<String>,
}

/// Where a kernel comes from.
#[derive(Clone, Debug)]
pub enum KernelSource {
    /// Package files of another distribution, which somebody supplies.
    Supplied(SuppliedPackages),
    /// Packages that hold it ready to boot, with headers to build modules against.
    Packages(PackageNames),
    /// A package of its sources, compiled here in the kernel's build root.
    Sources {
        /// Name of the package; its newest version is taken.
        package: String,
        /// Fragment of the configuration, laid over `allnoconfig`; a path below the catalogue's folder.
        config: PathBuf,
    },
}

/// One kernel of the catalogue, with its archive and build root looked up.
#[derive(Clone, Debug)]
pub struct KernelSpec {
    /// Name in the catalogue and in every report, as `bullseye-5.10-cloud`.
    pub name: String,
    /// Distribution, as `debian`.
    pub distro: String,
    /// Suite of the archive that carries the packages.
    pub suite: String,
    /// Kernel series, as `5.10`.
    pub series: String,
    /// Kernel flavour, as `cloud`.
    pub flavour: String,
    /// Architecture of the kernel.
    pub arch: Arch,
    /// What it is made from.
    pub source: KernelSource,
    /// Where the packages come from.
    pub archive: Archive,
    /// What modules for it are built in.
    pub build_root: BuildRoot,
    /// Where the build root comes from.
    pub root_archive: Archive,
    /// The tiers that it takes part in.
    pub tiers: BTreeSet<Tier>,
    /// Why no module can be built for it or no guest booted with it; none for a kernel that works.
    pub unsupported: Option<String>,
    /// How many times longer than usual everything may take.
    pub slowdown: u32,
}
