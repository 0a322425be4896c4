//! The module's source tree: what belongs to it, its digest, and a copy to build in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cowbird_packages::digest::{KeyHasher, Sha256Digest};

use crate::cache::create_dir;
use crate::error::{Error, Result};

/// Folders that hold results of builds made in place.
const RESULT_FOLDERS: [&str; 2] = ["out", "target"];

/// Endings of files that kbuild leaves when somebody builds in place, and of files that it never reads.
const NOT_SOURCE: [&str; 10] = [
    ".a", ".cmd", ".d", ".ko", ".md", ".mod", ".mod.c", ".o", ".order", ".symvers",
];

/// Files that a source tree may have: far more than a module ever will, so that a wrong folder (a home, a
/// checkout with results) is an error and not an hour of hashing.
const FILES_MAX: usize = 4000;

/// One file of the module's sources.
#[derive(Debug)]
struct SourceFile {
    relative: PathBuf,
    executable: bool,
}

/// The files that a module is built from.
#[derive(Debug)]
pub(crate) struct SourceTree {
    dir: PathBuf,
    files: Vec<SourceFile>,
}

impl SourceTree {
    /// Lists the files. Left out are hidden files, results of builds, and Rust crates that lie beside the C
    /// sources: none of them changes the module.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut tree = Self {
            dir: dir.to_owned(),
            files: Vec::new(),
        };
        if !["Kbuild", "Makefile"]
            .iter()
            .any(|name| dir.join(name).is_file())
        {
            let problem = "it holds neither Kbuild nor Makefile".to_owned();
            return Err(Error::BadSource {
                path: dir.to_owned(),
                problem,
            });
        }
        tree.add_folder(Path::new(""))?;
        tree.files.sort_by(|a, b| a.relative.cmp(&b.relative));
        Ok(tree)
    }

    fn add_folder(&mut self, relative: &Path) -> Result<()> {
        let folder = self.dir.join(relative);
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let entry = entry.map_err(Error::io("list", &folder))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let (path, relative) = (entry.path(), relative.join(&*name));
            let meta = entry.metadata().map_err(Error::io("inspect", &path))?;
            if name.starts_with('.') {
                continue;
            }
            if meta.is_dir() {
                if !RESULT_FOLDERS.contains(&&*name) && !path.join("Cargo.toml").exists() {
                    self.add_folder(&relative)?;
                }
            } else if NOT_SOURCE.iter().any(|ending| name.ends_with(ending)) {
                continue;
            } else if meta.is_file() {
                let executable = meta.permissions().mode() & 0o100 != 0;
                self.files.push(SourceFile {
                    relative,
                    executable,
                });
            } else {
                let problem = "it is neither a file nor a folder".to_owned();
                return Err(Error::BadSource { path, problem });
            }
            if self.files.len() > FILES_MAX {
                let problem =
                    format!("it holds more than {FILES_MAX} files, so it is not a module's source");
                return Err(Error::BadSource {
                    path: self.dir.clone(),
                    problem,
                });
            }
        }
        Ok(())
    }

    /// Digest of all names and contents.
    pub(crate) fn digest(&self) -> Result<Sha256Digest> {
        let mut hasher = KeyHasher::new("source", 1);
        for file in &self.files {
            let path = self.dir.join(&file.relative);
            let content = fs::read(&path).map_err(Error::io("read", &path))?;
            hasher
                .piece(file.relative.as_os_str().as_encoded_bytes())
                .piece(&[u8::from(file.executable)])
                .piece(&content);
        }
        Ok(hasher.digest())
    }

    /// Copies the files to another folder.
    pub(crate) fn copy_to(&self, to: &Path) -> Result<()> {
        for file in &self.files {
            let target = to.join(&file.relative);
            if let Some(parent) = target.parent() {
                create_dir(parent)?;
            }
            fs::copy(self.dir.join(&file.relative), &target)
                .map_err(Error::io("copy to", &target))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, files: &[&str]) {
        for file in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    }

    /// Goal: sources count, results and neighbours do not. Method: a tree with both; the digest stays when results
    /// appear and changes with content, name and mode of a source.
    #[test]
    fn only_sources_count() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &["Kbuild", "core/map.c", "include/uapi/a.h", "probe/run.sh"],
        );
        let digest = || SourceTree::read(dir.path()).unwrap().digest().unwrap();
        let clean = digest();
        write(
            dir.path(),
            &[
                "core/map.o",
                "core/.map.o.cmd",
                "cowbird.mod.c",
                "Module.symvers",
                "out/k/cowbird.ko",
                "core/userspace/Cargo.toml",
                "core/userspace/build.rs",
                "README.md",
            ],
        );
        assert_eq!(digest(), clean);
        let copy = tempfile::tempdir().unwrap();
        SourceTree::read(dir.path())
            .unwrap()
            .copy_to(copy.path())
            .unwrap();
        assert_eq!(
            SourceTree::read(copy.path()).unwrap().digest().unwrap(),
            clean
        );
        assert!(!copy.path().join("out").exists() && copy.path().join("core/map.c").exists());

        fs::set_permissions(
            dir.path().join("probe/run.sh"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        let executable = digest();
        fs::write(dir.path().join("core/map.c"), "changed").unwrap();
        let changed = digest();
        fs::rename(
            dir.path().join("core/map.c"),
            dir.path().join("core/maps.c"),
        )
        .unwrap();
        assert!(clean != executable && executable != changed && changed != digest());
    }

    /// Goal: what is not a module's source is refused with the reason: no Kbuild, a link, far too many files.
    #[test]
    fn other_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fail = || SourceTree::read(dir.path()).unwrap_err().to_string();
        assert!(fail().contains("neither Kbuild nor Makefile"));
        write(dir.path(), &["Kbuild"]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.h")).unwrap();
        assert!(fail().contains("link.h: it is neither a file nor a folder"));
        fs::remove_file(dir.path().join("link.h")).unwrap();
        for i in 0..=FILES_MAX {
            fs::write(dir.path().join(format!("{i}.c")), "").unwrap();
        }
        assert!(fail().contains("more than 4000 files"));
    }
}
