//! Which modules of a kernel must be loaded, and in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cowbird_packages::modinfo::{self, ModInfo, normalise};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ResolveError, Result};

/// Names that an error offers instead of an unknown one.
const SIMILAR_SHOWN: usize = 6;

/// Letters at the beginning of a name that make another one similar.
const SIMILAR_PREFIX: usize = 4;

/// What the kernel knows of one loadable module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFile {
    /// The uncompressed file, below the folder of the kernel's modules.
    pub path: PathBuf,
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Modules or aliases that should be loaded before it, where they exist.
    pub soft_pre: Vec<String>,
    /// Modules or aliases that should be loaded after it, where they exist.
    pub soft_post: Vec<String>,
}

/// All modules of a kernel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ModuleTable {
    modules: BTreeMap<String, ModuleFile>,
    /// Alias to the modules that have it.
    aliases: BTreeMap<String, BTreeSet<String>>,
    /// Names and aliases of what is built into the kernel.
    builtin: BTreeSet<String>,
}

impl ModuleTable {
    /// Reads all modules below `dir` (`lib/modules/RELEASE`), which must be uncompressed.
    pub fn scan(dir: &Path) -> Result<Self> {
        let mut table = Self::default();
        for path in module_files(dir)? {
            let elf = fs::read(&path).map_err(Error::io("read", &path))?;
            let info = ModInfo::of_elf(&elf).map_err(|problem| Error::NotAModule {
                path: path.clone(),
                problem,
            })?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let name = info.name.clone().unwrap_or_else(|| normalise(&stem));
            let relative = path.strip_prefix(dir).unwrap_or(&path).to_owned();
            table.insert(name, relative, info);
        }
        table.read_builtin(dir)?;
        Ok(table)
    }

    fn insert(&mut self, name: String, path: PathBuf, info: ModInfo) {
        for alias in info.aliases {
            self.aliases.entry(alias).or_default().insert(name.clone());
        }
        let file = ModuleFile {
            path,
            depends: info.depends,
            soft_pre: info.soft_pre,
            soft_post: info.soft_post,
        };
        self.modules.entry(name).or_insert(file);
    }

    fn read_builtin(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join("modules.builtin");
        let list = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let names = list
            .lines()
            .filter_map(|line| Path::new(line).file_stem()?.to_str());
        self.builtin.extend(names.map(normalise));
        // Kernels before 5.2 have no such file; their built-in modules are then known by name only.
        if let Ok(content) = fs::read(dir.join("modules.builtin.modinfo")) {
            self.builtin.extend(modinfo::builtin_aliases(&content));
        }
        Ok(())
    }

    /// How many loadable modules there are.
    pub fn loadable(&self) -> usize {
        self.modules.len()
    }

    /// One loadable module.
    pub fn get(&self, name: &str) -> Option<&ModuleFile> {
        self.modules.get(name)
    }

    /// The modules to load for `wanted`, in an order in which each finds what it depends on. What is built in is
    /// left out. A name may also be an alias (`crypto-crc32c`).
    ///
    /// Soft dependencies count as well, as they do for modprobe: ext4 finds its checksum only through one. Those
    /// that do not exist in this kernel are ignored, and so are those that would close a circle.
    pub fn order(&self, wanted: &[&str]) -> Result<Vec<String>, ResolveError> {
        let mut walk = Walk {
            table: self,
            order: Vec::new(),
            done: BTreeSet::new(),
            path: Vec::new(),
        };
        for name in wanted {
            match self.lookup(&normalise(name)) {
                Found::Module(name) => walk.visit(&name)?,
                Found::Builtin => {}
                Found::Nothing => {
                    return Err(ResolveError::Unknown {
                        name: (*name).to_owned(),
                        similar: self.similar(&normalise(name)),
                    });
                }
            }
        }
        Ok(walk.order)
    }

    /// Of several modules with one alias, the generic one is taken: the others may refuse to load on the
    /// processor at hand (`crc32c_intel` without SSE 4.2), and any of them will do.
    fn lookup(&self, name: &str) -> Found {
        if self.modules.contains_key(name) {
            return Found::Module(name.to_owned());
        }
        if self.builtin.contains(name) {
            return Found::Builtin;
        }
        let Some(providers) = self.aliases.get(name) else {
            return Found::Nothing;
        };
        let generic = providers
            .iter()
            .find(|provider| provider.ends_with("_generic"));
        generic
            .or_else(|| providers.first())
            .map_or(Found::Nothing, |name| Found::Module(name.clone()))
    }

    fn similar(&self, name: &str) -> Vec<String> {
        let prefix: String = name.chars().take(SIMILAR_PREFIX).collect();
        self.modules
            .keys()
            .filter(|known| known.starts_with(&prefix) || known.contains(name))
            .take(SIMILAR_SHOWN)
            .cloned()
            .collect()
    }
}

enum Found {
    Module(String),
    Builtin,
    Nothing,
}

/// A depth-first walk over the dependencies.
#[derive(Clone)]
struct Walk<'a> {
    table: &'a ModuleTable,
    /// Modules in the order of loading.
    order: Vec<String>,
    done: BTreeSet<String>,
    /// The modules whose dependencies are being visited, outermost first.
    path: Vec<String>,
}

impl Walk<'_> {
    fn visit(&mut self, name: &str) -> Result<(), ResolveError> {
        if self.done.contains(name) {
            return Ok(());
        }
        if let Some(at) = self.path.iter().position(|active| active == name) {
            let mut circle = self.path[at..].to_vec();
            circle.push(name.to_owned());
            return Err(ResolveError::Cycle(circle));
        }
        let Some(file) = self.table.modules.get(name) else {
            if self.table.builtin.contains(name) {
                return Ok(());
            }
            return Err(ResolveError::Missing {
                module: self.path.last().cloned().unwrap_or_default(),
                dependency: name.to_owned(),
            });
        };
        self.path.push(name.to_owned());
        self.visit_soft(&file.soft_pre);
        for dependency in &file.depends {
            self.visit(dependency)?;
        }
        self.path.pop();
        self.order.push(name.to_owned());
        self.done.insert(name.to_owned());
        self.visit_soft(&file.soft_post);
        Ok(())
    }

    /// Visits what can be visited; a soft dependency that fails leaves no trace.
    ///
    /// A built-in library may have the name of an algorithm that is loadable: `crc32` of f2fs up to 6.14, without
    /// which it does not mount. The kernel would ask modprobe for the algorithm; a guest has none.
    fn visit_soft(&mut self, names: &[String]) {
        for name in names {
            let found = match self.table.lookup(name) {
                Found::Builtin => self.table.lookup(&format!("crypto_{name}")),
                found => found,
            };
            if let Found::Module(name) = found {
                let before = self.clone();
                if self.visit(&name).is_err() {
                    *self = before;
                }
            }
        }
    }
}

/// Every module file below a folder, compressed or not, in the order of their paths.
pub(crate) fn module_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let entry = entry.map_err(Error::io("list", &folder))?;
            let kind = entry.file_type().map_err(Error::io("inspect", &folder))?;
            let name = entry.file_name();
            // `build` and `source` are links out of the tree; they are not followed.
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && is_module(&name.to_string_lossy()) {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_module(name: &str) -> bool {
    name.ends_with(".ko") || name.contains(".ko.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of modules given as `name: depends | softdep pre | softdep post | aliases`.
    fn table(modules: &[&str], builtin: &[&str]) -> ModuleTable {
        let mut table = ModuleTable::default();
        for text in modules {
            let (name, rest) = text.split_once(':').unwrap();
            let mut parts = rest
                .split('|')
                .map(|part| part.split_whitespace().map(str::to_owned).collect());
            let info = ModInfo {
                depends: parts.next().unwrap_or_default(),
                soft_pre: parts.next().unwrap_or_default(),
                soft_post: parts.next().unwrap_or_default(),
                aliases: parts.next().unwrap_or_default(),
                ..ModInfo::default()
            };
            table.insert(name.to_owned(), format!("kernel/{name}.ko").into(), info);
        }
        table.builtin = builtin.iter().map(|name| (*name).to_owned()).collect();
        table
    }

    fn order(table: &ModuleTable, wanted: &[&str]) -> String {
        table.order(wanted).unwrap().join(" ")
    }

    /// Goal: dependencies come first, each once, built-ins not at all. Method: ext4 as in 5.10, where the checksum
    /// is reached only by an alias that two modules have, with virtio built in or not.
    #[test]
    fn dependencies_come_first() {
        let ext4 = [
            "ext4: jbd2 mbcache crc16 | crc32c",
            "jbd2: crc16",
            "mbcache:",
            "crc16:",
            "crc32c_generic: | | | crc32c",
            "crc32c_intel: | | | crc32c",
            "virtio_blk: virtio virtio_ring",
        ];
        let kernel = table(&ext4, &["virtio", "virtio_ring"]);
        assert_eq!(
            order(&kernel, &["virtio-blk", "ext4", "virtio", "jbd2"]),
            "virtio_blk crc32c_generic crc16 jbd2 mbcache ext4"
        );
        let builtin = table(&ext4, &["virtio", "virtio_ring", "crc32c"]);
        assert_eq!(order(&builtin, &["ext4"]), "crc16 jbd2 mbcache ext4");
    }

    /// Goal: soft dependencies never make an order impossible: absent ones, broken ones and those that close a circle
    /// are left out without a trace; `post` comes after.
    #[test]
    fn soft_dependencies_never_fail() {
        let kernel = table(
            &[
                "a: b | nowhere broken c | late",
                "b: | a",
                "c: a",
                "broken: ok gone",
                "ok:",
                "late:",
            ],
            &[],
        );
        assert_eq!(order(&kernel, &["a"]), "b a late");
    }

    /// Goal: an algorithm is loaded although a built-in library has its name. Method: f2fs as in 6.1, and as where the
    /// algorithm is built in too.
    #[test]
    fn a_library_is_not_the_algorithm_of_its_name() {
        let f2fs = ["f2fs: | crc32", "crc32_generic: | | | crc32 crypto_crc32"];
        let library = table(&f2fs, &["crc32"]);
        assert_eq!(order(&library, &["f2fs"]), "crc32_generic f2fs");
        let both = table(&f2fs[..1], &["crc32", "crypto_crc32"]);
        assert_eq!(order(&both, &["f2fs"]), "f2fs");
    }

    /// Goal: hard faults are named: unknown modules with what is similar, missing dependencies, circles.
    #[test]
    fn faults_are_named() {
        let kernel = table(
            &["virtio_blk: gone", "virtio_net:", "a: b", "b: c", "c: a"],
            &[],
        );
        let fail = |name: &str| kernel.order(&[name]).unwrap_err().to_string();
        let messages = [
            fail("virtio-bulk"),
            fail("nonsense"),
            fail("virtio_blk"),
            fail("a"),
        ];
        insta::assert_snapshot!(messages.join("\n"));
    }
}
