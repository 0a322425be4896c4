//! Supplied packages: kernels of distributions whose archives this crate does not fetch from.
//!
//! They lie in a folder of their kernel's name, below `$COWBIRD_PACKAGES` or else `supplied` in the cache, as `.deb` or
//! `.rpm`. Nobody's signature vouches for them but that of whoever put them there. What is in them tells the release.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cowbird_packages::digest::Sha256Digest;
use cowbird_packages::version::DebVersion;
use cowbird_programs::Tool;
use glob::Pattern;

use crate::cache::Cache;
use crate::catalogue::{KernelSource, KernelSpec, SuppliedPackages};
use crate::error::{Error, Result};
use crate::lock::{LockedKernel, LockedPackage};

/// Names the folder of all of them.
pub const VARIABLE: &str = "COWBIRD_PACKAGES";

/// Their folder in the cache, and what it was called before.
const FOLDERS: [&str; 2] = ["supplied", "brought"];

/// The first bytes of a package of the RPM package manager.
const RPM_MAGIC: [u8; 4] = [0xED, 0xAB, 0xEE, 0xDB];

/// Listing one package: 3 s for the largest.
const LIST_MAX: Duration = Duration::from_secs(5 * 60);

/// What a package file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Deb,
    Rpm,
}

impl Format {
    /// By the first bytes of a file; whatever is no RPM package is left to `dpkg-deb`.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        use std::io::Read;
        let mut first = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(4).read_to_end(&mut first))
            .map_err(Error::io("read", path))?;
        Ok(if first == RPM_MAGIC {
            Self::Rpm
        } else {
            Self::Deb
        })
    }

    /// Unpacks the package below a folder.
    pub(crate) fn unpack(self, doing: String, path: &Path, tree: &Path, log: PathBuf) -> Tool {
        let mut tool = Tool::new(self.program(), doing, log);
        match self {
            Self::Deb => tool.command().arg("-x").arg(path).arg(tree),
            Self::Rpm => tool
                .command()
                .arg("-x")
                .arg("-f")
                .arg(path)
                .arg("-C")
                .arg(tree),
        };
        tool
    }

    fn program(self) -> &'static str {
        match self {
            Self::Deb => "dpkg-deb",
            Self::Rpm => "bsdtar",
        }
    }

    /// The paths in the package, among other words.
    fn list(self, path: &Path, log: PathBuf) -> Result<String> {
        let doing = format!("listing {}", path.display());
        let mut tool = Tool::new(self.program(), doing, log);
        match self {
            Self::Deb => tool.command().arg("-c"),
            Self::Rpm => tool.command().arg("-t").arg("-f"),
        };
        tool.command().arg(path);
        Ok(tool.output(LIST_MAX)?)
    }
}

/// The packages that a kernel of the catalogue is made from, if that is a supplied one.
fn wanted(spec: &KernelSpec) -> Option<&SuppliedPackages> {
    match &spec.source {
        KernelSource::Supplied(packages) => Some(packages),
        KernelSource::Packages(_) | KernelSource::Sources { .. } => None,
    }
}

/// Where the packages of a kernel have to be. A folder of the cache that had the name of before is still good.
pub(crate) fn folder(cache: &Cache, spec: &KernelSpec) -> PathBuf {
    if let Some(all) = std::env::var_os(VARIABLE).filter(|dir| !dir.is_empty()) {
        return PathBuf::from(all).join(&spec.name);
    }
    let [now, before] = FOLDERS.map(|folder| cache.path(folder).join(&spec.name));
    match !now.exists() && before.is_dir() {
        true => before,
        false => now,
    }
}

/// The files in the folder that a glob of the catalogue matches; the globs that match none.
fn look(folder: &Path, packages: &SuppliedPackages) -> (BTreeSet<PathBuf>, Vec<String>) {
    let mut files = BTreeSet::new();
    let mut missing = Vec::new();
    let names: Vec<PathBuf> = fs::read_dir(folder)
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    for glob in &packages.files {
        let is_it = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Pattern::new(glob).is_ok_and(|pattern| pattern.matches(&name))
        };
        let found: Vec<_> = names.iter().filter(is_it).cloned().collect();
        if found.is_empty() {
            missing.push(glob.clone());
        }
        files.extend(found);
    }
    (files, missing)
}

/// Why a kernel that is made of supplied packages is not there: nobody supplied them.
pub(crate) fn missing(cache: &Cache, spec: &KernelSpec) -> Option<String> {
    let folder = folder(cache, spec);
    let (_, missing) = look(&folder, wanted(spec)?);
    let known = cache.path("locks").join(format!("{}.toml", spec.name));
    if missing.is_empty() || known.is_file() {
        return None;
    }
    Some(format!(
        "not run here; to run it put {} of {} {} into {}",
        missing.join(", "),
        spec.distro,
        spec.suite,
        folder.display()
    ))
}

/// What lies in the folder as a kernel of the catalogue: none when not all of it is there.
pub(crate) fn choose(cache: &Cache, spec: &KernelSpec) -> Result<Option<LockedKernel>> {
    let Some(packages) = wanted(spec) else {
        return Ok(None);
    };
    let (files, missing) = look(&folder(cache, spec), packages);
    if !missing.is_empty() {
        return Ok(None);
    }
    let log = cache.log(&format!("list-{}", spec.name));
    let mut locked = Vec::new();
    let mut releases = BTreeSet::new();
    for path in &files {
        let list = Format::of(path)?.list(path, log.clone())?;
        releases.extend(releases_in(&list, &packages.release));
        let meta = fs::metadata(path).map_err(Error::io("stat", path))?;
        locked.push(LockedPackage {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            version: DebVersion::new("0"),
            size_bytes: meta.len(),
            sha256: Sha256Digest::of_file(path).map_err(Error::io("read", path))?,
        });
    }
    let mut releases = releases.into_iter();
    match (releases.next(), releases.next()) {
        (Some(release), None) => Ok(Some(LockedKernel::of_files(spec, release, locked))),
        (found, other) => Err(Error::Supplied {
            kernel: spec.name.clone(),
            folder: folder(cache, spec),
            release: packages.release.clone(),
            found: found.into_iter().chain(other).collect(),
        }),
    }
}

/// The releases whose modules a list of paths has.
fn releases_in(list: &str, wanted: &str) -> BTreeSet<String> {
    let of_path = |word: &str| {
        let (before, after) = word.split_once("lib/modules/")?;
        let (release, inside) = after.split_once('/')?;
        let is_root = ["", "./", "/", "usr/", "./usr/", "/usr/"].contains(&before);
        (is_root && inside.starts_with("kernel")).then(|| release.to_owned())
    };
    let matches =
        |release: &String| Pattern::new(wanted).is_ok_and(|pattern| pattern.matches(release));
    list.split_whitespace()
        .filter_map(of_path)
        .filter(matches)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the release is found in both kinds of list, and only where modules are.
    #[test]
    fn lists_tell_the_release() {
        let list = "drwxr-xr-x root/root 0 2026-01-01 00:00 ./usr/lib/modules/6.8.0-31-generic/kernel/fs/\n\
                    -rw-r--r-- root/root 9 2026-01-01 00:00 ./boot/vmlinuz-6.8.0-31-generic\n\
                    ./lib/modules/6.8.0-31-lowlatency/kernel/a.ko\n\
                    ./lib/modules/6.8.0-32-generic/build\n\
                    ./opt/lib/modules/6.8.0-33-generic/kernel/a.ko\n";
        let found = releases_in(list, "6.8.0-*-generic");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["6.8.0-31-generic"]);
    }
}
