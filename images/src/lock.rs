//! Records of the exact packages that a kernel was prepared from.
//!
//! The cache holds one record for each prepared kernel. While it is there, `prepare` uses these packages and
//! looks for no newer ones, so that runs are comparable until somebody asks for a refresh. The same records,
//! several in one file, may be kept in the repository as [`LockFile::PATH_IN_REPO`]: they then decide for every
//! checkout. That file is not there by default, because archives drop old packages within weeks and a fresh
//! clone would soon have nothing to fetch.

use std::io::ErrorKind;
use std::path::Path;

use cowbird_packages::digest::{KeyHasher, Sha256Digest};
use cowbird_packages::version::DebVersion;
use serde::{Deserialize, Serialize};

use crate::catalogue::{KernelSource, KernelSpec};
use crate::error::{Error, Result};
use crate::select::Selection;

/// The version of the format.
const FORMAT: u32 = 1;

/// One package, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Package name.
    pub name: String,
    /// Package version.
    pub version: DebVersion,
    /// Size of the `.deb` in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the `.deb`, as the signed index gives it.
    pub sha256: Sha256Digest,
}

impl LockedPackage {
    /// Name of the file in the cache: its content, and what kind of package it is.
    pub(crate) fn file_name(&self) -> String {
        let kind = match self.name.ends_with(".rpm") {
            true => "rpm",
            false => "deb",
        };
        format!("{}.{kind}", self.sha256)
    }
}

/// One kernel, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedKernel {
    /// Name in the catalogue.
    pub name: String,
    /// Digest of what the catalogue said when the packages were chosen; another one makes the record void.
    pub selector: Sha256Digest,
    /// The kernel's release (`uname -r`).
    pub release: String,
    /// Version of the image package.
    pub package_version: DebVersion,
    /// Every package, by name.
    #[serde(rename = "package")]
    pub packages: Vec<LockedPackage>,
}

impl LockedKernel {
    /// Records a selection.
    pub fn new(spec: &KernelSpec, selection: &Selection<'_>) -> Self {
        let packages = selection
            .packages
            .iter()
            .map(|package| LockedPackage {
                name: package.name.clone(),
                version: package.version.clone(),
                size_bytes: package.size_bytes,
                sha256: package.sha256,
            })
            .collect();
        Self {
            name: spec.name.clone(),
            selector: selector(spec),
            release: selection.release.clone(),
            package_version: selection.image.version.clone(),
            packages,
        }
    }

    /// Records files that somebody supplied. What is in them has no common version but the release.
    pub(crate) fn of_files(
        spec: &KernelSpec,
        release: String,
        packages: Vec<LockedPackage>,
    ) -> Self {
        Self {
            name: spec.name.clone(),
            selector: selector(spec),
            package_version: DebVersion::new(release.clone()),
            release,
            packages,
        }
    }

    /// Whether the catalogue still says what it said when the packages were chosen.
    pub fn is_for(&self, spec: &KernelSpec) -> bool {
        self.name == spec.name && self.selector == selector(spec)
    }
}

/// Digest of everything in the catalogue that decides which packages are chosen.
fn selector(spec: &KernelSpec) -> Sha256Digest {
    let mut hasher = KeyHasher::new("selector", FORMAT);
    hasher
        .piece(spec.archive.name.as_bytes())
        .piece(spec.suite.as_bytes());
    match &spec.source {
        KernelSource::Packages(names) => {
            for piece in [&names.release, &names.image, &names.headers] {
                hasher.piece(piece.as_bytes());
            }
        }
        KernelSource::Supplied(packages) => {
            hasher.piece(packages.release.as_bytes());
            for glob in &packages.files {
                hasher.piece(glob.as_bytes());
            }
        }
        KernelSource::Sources { package, .. } => {
            hasher
                .piece(package.as_bytes())
                .piece(spec.flavour.as_bytes());
        }
    }
    for component in &spec.archive.components {
        hasher.piece(component.as_bytes());
    }
    hasher.piece(spec.arch.to_string().as_bytes());
    hasher.digest()
}

/// A file of records.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    version: u32,
    /// The records, in any order.
    #[serde(rename = "kernel", default)]
    pub kernels: Vec<LockedKernel>,
}

impl LockFile {
    /// Where a file that pins the kernels of every checkout lies below the root of the repository.
    pub const PATH_IN_REPO: &str = "images/kernels.lock.toml";

    const WHAT: &str = "a lock file of kernels";

    /// A file of these records.
    pub fn new(kernels: Vec<LockedKernel>) -> Self {
        Self {
            version: FORMAT,
            kernels,
        }
    }

    /// Reads a file; `None` if there is none.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let bad = |problem| Error::BadRecord {
            path: path.to_owned(),
            what: Self::WHAT,
            problem,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            // Not text, or not even a file: whoever only wants to know of another kernel can do without this one.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidData | ErrorKind::IsADirectory
                ) =>
            {
                return Err(bad(error.to_string()));
            }
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let file: Self = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if file.version != FORMAT {
            return Err(bad(format!(
                "its version is {}, this program reads {FORMAT}",
                file.version
            )));
        }
        Ok(Some(file))
    }

    /// The text of the file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("records hold only strings, numbers and lists of tables")
    }

    /// The record of one kernel, unless the catalogue now asks for something else.
    pub fn find(&self, spec: &KernelSpec) -> Option<&LockedKernel> {
        self.kernels.iter().find(|kernel| kernel.is_for(spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    fn sample(spec: &KernelSpec) -> LockedKernel {
        LockedKernel {
            name: spec.name.clone(),
            selector: selector(spec),
            release: "5.10.0-32-cloud-amd64".into(),
            package_version: DebVersion::new("5.10.223-1"),
            packages: vec![LockedPackage {
                name: "linux-image-5.10.0-32-cloud-amd64".into(),
                version: DebVersion::new("5.10.223-1"),
                size_bytes: 21_032_620,
                sha256: KeyHasher::new("test", 1).digest(),
            }],
        }
    }

    /// Goal: a record survives the file, is found for its kernel, and is void once the catalogue asks for
    /// something else. Method: write, read back, change the pattern of the release.
    #[test]
    fn records_survive_and_expire() {
        let text = include_str!("../catalogue.toml");
        let catalogue = Catalogue::parse(text, Path::new("catalogue.toml")).unwrap();
        let mut spec = catalogue.kernels[0].clone();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.toml");
        assert!(LockFile::load(&path).unwrap().is_none());
        std::fs::write(&path, LockFile::new(vec![sample(&spec)]).to_toml()).unwrap();
        let file = LockFile::load(&path).unwrap().unwrap();
        assert_eq!(file.find(&spec), Some(&sample(&spec)));
        let KernelSource::Packages(names) = &mut spec.source else {
            panic!("it is made of packages");
        };
        names.release = "5.10.0-3?-cloud-amd64".into();
        assert_eq!(file.find(&spec), None);
    }

    /// Goal: a damaged or foreign file is an error that names it, never an empty list.
    #[test]
    fn damaged_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.toml");
        for text in ["version = 2", "version = 1\n[[kernel]]\nname = 'x'", "]"] {
            std::fs::write(&path, text).unwrap();
            let message = LockFile::load(&path).unwrap_err().to_string();
            assert!(
                message.contains("lock.toml is not readable as a lock file"),
                "{message}"
            );
        }
    }
}
