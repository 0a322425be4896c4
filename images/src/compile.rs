//! Building the module for one kernel, in the kernel's build root.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use cowbird_packages::digest::{KeyHasher, Sha256Digest};
use cowbird_packages::modinfo::ModInfo;
use cowbird_programs::Excerpt;
use cowbird_programs::tool::read_lossy;
use serde::{Deserialize, Serialize};

use crate::build_root::{self, BUILD_DIR, Inside};
use crate::cache::{Cache, InUse, Kind, Staging, create_dir};
use crate::entry_record;
use crate::error::{Error, Result};
use crate::prepared::PreparedKernel;
use crate::source::SourceTree;

/// Changes when modules are built in another way; part of their key.
const FORMAT: u32 = 1;

/// Building the module: 6 to 13 s on two busy processors, half of it for compile probes.
const BUILD_MAX: Duration = Duration::from_secs(15 * 60);

/// The module's file, which Kbuild must make in the top folder of the sources.
const MODULE: &str = "cowbird.ko";

/// What make wrote, beside the module.
const LOG: &str = "build.log";

/// A built module that nobody asked for in this time is deleted when the next one is built.
const UNUSED_MAX: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What to build.
#[derive(Clone, Debug)]
pub struct ModuleSource {
    /// The folder with the module's Kbuild.
    pub dir: PathBuf,
    /// The fault to build in, given to make as `MUTANT`.
    pub mutant: Option<String>,
    /// Whether to build with the module's own checks, given to make as `COWBIRD_DEBUG=1`.
    pub debug: bool,
}

/// A module that fits one kernel.
#[derive(Clone, Debug)]
pub struct BuiltModule {
    /// The module.
    pub ko: PathBuf,
    /// What make wrote.
    pub log: PathBuf,
    /// Whether it was there already.
    pub cached: bool,
    /// Nobody deletes it meanwhile.
    pub in_use: InUse,
}

/// What a module's entry says about itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleRecord {
    kernel: String,
    source: Sha256Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutant: Option<String>,
    debug: bool,
}

/// One module to be, with all that decides its content.
pub(crate) struct Build<'a> {
    cache: &'a Cache,
    kernel: &'a PreparedKernel,
    source: &'a ModuleSource,
    files: SourceTree,
    digest: Sha256Digest,
}

impl<'a> Build<'a> {
    pub(crate) fn new(
        cache: &'a Cache,
        kernel: &'a PreparedKernel,
        source: &'a ModuleSource,
    ) -> Result<Self> {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if let Some(name) = source
            .mutant
            .as_deref()
            .filter(|name| !name.chars().all(legal))
        {
            let problem = format!(
                "`{name}` cannot be the name of a mutant: use letters, digits, `-` and `_`"
            );
            return Err(Error::BadSource {
                path: source.dir.clone(),
                problem,
            });
        }
        let files = SourceTree::read(&source.dir)?;
        let digest = files.digest()?;
        Ok(Self {
            cache,
            kernel,
            source,
            files,
            digest,
        })
    }

    /// Name of the module's entry.
    pub(crate) fn entry_name(&self) -> String {
        let mut hasher = KeyHasher::new("module", FORMAT);
        hasher
            .piece(self.digest.to_string().as_bytes())
            .piece(self.kernel.digest.to_string().as_bytes())
            .piece(self.kernel.root_digest.to_string().as_bytes())
            .piece(self.kernel.spec.build_root.compiler.as_bytes())
            .piece(self.source.mutant.as_deref().unwrap_or("").as_bytes())
            .piece(&[u8::from(self.source.debug)]);
        format!("{}-{}", self.kernel.release, hasher.key())
    }

    /// Says in messages what is built.
    pub(crate) fn describe(&self) -> String {
        let mutant = self
            .source
            .mutant
            .as_ref()
            .map(|name| format!(", mutant {name}"));
        format!(
            "{}: building the module{}",
            self.kernel.spec.name,
            mutant.unwrap_or_default()
        )
    }

    /// Whether an entry is a whole module.
    pub(crate) fn is_whole(entry: &Path) -> bool {
        entry_record::read::<ModuleRecord>(entry).is_ok() && entry.join(MODULE).is_file()
    }

    /// The module of an entry; notes that it was used.
    pub(crate) fn built(entry: &Path, cached: bool) -> BuiltModule {
        // Only the deletion of unused modules looks at the time, so failing to set it does no harm.
        let _ = File::open(entry).and_then(|dir| dir.set_modified(SystemTime::now()));
        BuiltModule {
            ko: entry.join(MODULE),
            log: entry.join(LOG),
            cached,
            in_use: InUse::of(entry),
        }
    }

    /// Builds.
    pub(crate) fn make(&self, staging: &Staging) -> Result<()> {
        let build = staging.scratch();
        self.copy_source(&build)?;
        let log = self.cache.log(&format!("module-{}", self.entry_name()));
        self.run_make(&build, &log)?;
        let ko = build.join(MODULE);
        self.check(&ko, &log)?;
        let entry = staging.entry();
        for (from, name) in [(&ko, MODULE), (&log, LOG)] {
            fs::copy(from, entry.join(name)).map_err(Error::io("copy", from))?;
        }
        fs::remove_file(&log).map_err(Error::io("remove", &log))?;
        entry_record::write(
            &entry,
            &ModuleRecord {
                kernel: self.kernel.spec.name.clone(),
                source: self.digest,
                mutant: self.source.mutant.clone(),
                debug: self.source.debug,
            },
        )
    }

    /// The copy must be what the key was computed of: somebody may be editing.
    fn copy_source(&self, to: &Path) -> Result<()> {
        create_dir(to)?;
        self.files.copy_to(to)?;
        if SourceTree::read(to)?.digest()? != self.digest {
            let problem = "it changed while it was copied; run again".to_owned();
            return Err(Error::BadSource {
                path: self.source.dir.clone(),
                problem,
            });
        }
        Ok(())
    }

    fn run_make(&self, build: &Path, log: &Path) -> Result<()> {
        let kernel = self.kernel;
        let inside = Inside {
            root: &build_root::tree(&kernel.root),
            build,
            kernel: &kernel.tree,
            binds: &kernel.binds,
        };
        let jobs = thread::available_parallelism().map_or(1, NonZero::get);
        let mut tool = inside.tool(self.describe(), log.to_owned())?;
        let command = tool.command();
        command
            .args(["make", &format!("-j{jobs}"), "-C"])
            .arg(Path::new("/").join(&kernel.headers));
        command
            .arg(format!("M={BUILD_DIR}"))
            .arg(format!("CC={}", kernel.spec.build_root.compiler));
        if let Some(mutant) = &self.source.mutant {
            command.arg(format!("MUTANT={mutant}"));
        }
        if self.source.debug {
            command.arg("COWBIRD_DEBUG=1");
        }
        command.arg("modules");
        let failed = tool.try_run(BUILD_MAX)?;
        let excerpt = Excerpt::of(&read_lossy(log));
        append_logs(build, log)?;
        match failed {
            None => Ok(()),
            Some(status) => Err(Error::ModuleBuild {
                kernel: kernel.spec.name.clone(),
                mutant: self.source.mutant.clone(),
                status,
                excerpt,
                log: log.to_owned(),
            }),
        }
    }

    /// A module that the kernel would refuse must not come as far as a guest.
    fn check(&self, ko: &Path, log: &Path) -> Result<()> {
        let release = &self.kernel.release;
        let bad = |problem: String| Error::BadModule {
            kernel: self.kernel.spec.name.clone(),
            problem,
            log: log.to_owned(),
        };
        let elf = match fs::read(ko) {
            Ok(elf) => elf,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(bad(format!("make succeeded but made no {MODULE}")));
            }
            Err(error) => return Err(Error::io("read", ko)(error)),
        };
        let info = ModInfo::of_elf(&elf).map_err(bad)?;
        let vermagic = info.vermagic.unwrap_or_default();
        if vermagic.split_whitespace().next() != Some(release) {
            return Err(bad(format!(
                "its vermagic is `{vermagic}`, the kernel's release {release}"
            )));
        }
        Ok(())
    }
}

/// Keeps what the build itself wrote to log files in its top folder, as compile probes do: their output is the only
/// evidence of why a feature was taken for absent.
fn append_logs(build: &Path, log: &Path) -> Result<()> {
    let mut text = String::new();
    for entry in fs::read_dir(build).map_err(Error::io("list", build))? {
        let path = entry.map_err(Error::io("list", build))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            text += &format!("\n==> {name} <==\n{}", read_lossy(&path));
        }
    }
    let mut file = File::options()
        .append(true)
        .open(log)
        .map_err(Error::io("open", log))?;
    file.write_all(text.as_bytes())
        .map_err(Error::io("write", log))
}

/// Deletes modules of one kernel that were not used for long, so that a developer's cache does not grow for ever.
pub(crate) fn delete_unused(cache: &Cache, release: &str, now: SystemTime) -> Result<()> {
    let Some(oldest) = now.checked_sub(UNUSED_MAX) else {
        return Ok(());
    };
    for entry in entries_of(cache, release)? {
        let unused = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time < oldest);
        if unused && !InUse::by_anybody(&entry) {
            // Another process may be deleting the same one.
            let _ = fs::remove_dir_all(&entry);
        }
    }
    Ok(())
}

/// The kernel that a module's entry is for.
pub(crate) fn release_of(entry_name: &str) -> Option<&str> {
    entry_name.rsplit_once('-').map(|(release, _)| release)
}

/// The built modules of one kernel.
pub(crate) fn entries_of(cache: &Cache, release: &str) -> Result<Vec<PathBuf>> {
    let dir = cache.entry(Kind::Modules, "");
    let mut entries = Vec::new();
    for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
        let entry = entry.map_err(Error::io("list", &dir))?;
        let name = entry.file_name();
        let is_of = name.to_str().and_then(release_of) == Some(release);
        if is_of {
            entries.push(entry.path());
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only long unused modules of the kernel at hand are deleted. Method: entries of two kernels, where one
    /// release is the beginning of the other, at different ages.
    #[test]
    fn unused_modules_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        let now = SystemTime::now();
        let make = |name: &str, age: Duration| {
            let path = cache.entry(Kind::Modules, name);
            create_dir(&path).unwrap();
            File::open(&path).unwrap().set_modified(now - age).unwrap();
            path
        };
        let old = make("6.1.0-50-amd64-0011223344556677", 2 * UNUSED_MAX);
        let used = make("6.1.0-50-amd64-1111223344556677", Duration::ZERO);
        let other = make("6.1.0-50-2211223344556677", 2 * UNUSED_MAX);
        delete_unused(&cache, "6.1.0-50-amd64", now).unwrap();
        assert!(!old.exists() && used.exists() && other.exists());
    }
}
