//! Compiling a kernel from a package of its sources, in a build root.
//!
//! The result has the layout of an unpacked kernel package, so that everything else treats both alike: the kernel in
//! `boot/`, its modules in `lib/modules/`, and what modules are built against in `usr/src/`.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cowbird_packages::digest::{KeyHasher, Sha256Digest};
use cowbird_programs::tool::{Tool, read_lossy};

use crate::build_root::{self, BUILD_DIR, Inside, RootRecord};
use crate::cache::{Cache, Staging, create_dir};
use crate::catalogue::KernelSpec;
use crate::entry_record;
use crate::error::{Error, Result};
use crate::kernel;
use crate::lock::LockedKernel;
use crate::progress::Task;

/// Changes when kernels are compiled in another way; part of their key.
const FORMAT: u32 = 1;

/// Unpacking the sources: 13 s for 1.7 GB.
const UNPACK_MAX: Duration = Duration::from_secs(20 * 60);

/// Writing the configuration: 10 s, most of it for the configuration program itself.
const CONFIGURE_MAX: Duration = Duration::from_secs(20 * 60);

/// Compiling: about 25 minutes on two processors.
const COMPILE_MAX: Duration = Duration::from_secs(4 * 60 * 60);

/// Installing modules and headers: some seconds.
const INSTALL_MAX: Duration = Duration::from_secs(20 * 60);

/// How often the number of compiled files is shown.
const STEP_PERIOD: Duration = Duration::from_secs(1);

/// How make reports a compiled file.
const COMPILED: &str = "  CC";

/// Folders below the build folder.
const SOURCE: &str = "source";
const OUT: &str = "out";
const IMAGE: &str = "image";
const CONFIG: &str = "fragment.config";

/// Installs; run by `sh`. Arguments: the release, then those of make. Modules get BTF of their own where the headers hold
/// that of the kernel, in a `vmlinux` of nothing else, as in Debian's packages.
const INSTALL: &str = r#"
set -eu
release=$1
shift
headers=/build/image/usr/src/linux-headers-$release
make "$@" INSTALL_MOD_PATH=/build/image INSTALL_MOD_STRIP=1 DEPMOD=true modules_install
mkdir -p /build/image/boot
cp "/build/out/$(make -s "$@" image_name)" "/build/image/boot/vmlinuz-$release"
make "$@" run-command KBUILD_RUN_COMMAND="/build/source/scripts/package/install-extmod-build $headers"
cp /build/out/.config "$headers/.config"
objcopy --only-section=.BTF /build/out/vmlinux "$headers/vmlinux"
"#;

/// One kernel to be, with all that decides its content.
pub(crate) struct KernelBuild<'a> {
    pub(crate) spec: &'a KernelSpec,
    pub(crate) locked: &'a LockedKernel,
    root: PathBuf,
    config: String,
    digest: Sha256Digest,
}

impl<'a> KernelBuild<'a> {
    /// Of the sources that are `locked`, the fragment `config` and the compiler of the build root `root`.
    pub(crate) fn new(
        spec: &'a KernelSpec,
        locked: &'a LockedKernel,
        root: &Path,
        config: &str,
    ) -> Result<Self> {
        let root_record: RootRecord = entry_record::read(root)?;
        let mut hasher = KeyHasher::new("compiled kernel", FORMAT);
        hasher
            .piece(kernel::packages_digest(locked).to_string().as_bytes())
            .piece(config.as_bytes())
            .piece(root_record.digest.to_string().as_bytes())
            .piece(spec.build_root.compiler.as_bytes());
        Ok(Self {
            spec,
            locked,
            root: root.to_owned(),
            config: config.to_owned(),
            digest: hasher.digest(),
        })
    }

    /// What tells it from other kernels.
    pub(crate) fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Compiles.
    pub(crate) fn make(&self, cache: &Cache, staging: &Staging, task: &Task) -> Result<()> {
        let log = cache.log(&format!("kernel-{}", self.spec.name));
        let build = staging.scratch().join("build");
        task.step("unpacking the sources");
        self.unpack(cache, &staging.scratch(), &build, &log)?;
        task.step("configuring");
        self.configure(&build, &log)?;
        self.compile(&build, &log, task)?;
        task.step("installing");
        self.install(&build, &log)?;
        let (image, tree) = (build.join(IMAGE), kernel::tree(&staging.entry()));
        fs::rename(&image, &tree).map_err(Error::io("move", &image))?;
        kernel::describe(self.spec, self.locked, &staging.entry())
    }

    /// The package holds the sources as one packed archive.
    fn unpack(&self, cache: &Cache, scratch: &Path, build: &Path, log: &Path) -> Result<()> {
        let package = scratch.join("package");
        create_dir(&build.join(SOURCE))?;
        create_dir(&build.join(OUT))?;
        for locked in &self.locked.packages {
            kernel::unpack(cache, locked, &package, log)?;
        }
        let folder = package.join("usr/src");
        let archive = fs::read_dir(&folder)
            .map_err(Error::io("list", &folder))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.to_string_lossy().contains(".tar."));
        let archive = archive
            .ok_or_else(|| self.fault("the package holds no archive of sources".into(), log))?;
        let mut tar = Tool::new("tar", "unpacking the sources of the kernel", log.to_owned());
        tar.command()
            .arg("-C")
            .arg(build.join(SOURCE))
            .args(["--strip-components=1", "-xf"])
            .arg(archive);
        Ok(tar.run(UNPACK_MAX)?)
    }

    fn configure(&self, build: &Path, log: &Path) -> Result<()> {
        let fragment = build.join(CONFIG);
        fs::write(&fragment, &self.config).map_err(Error::io("write", &fragment))?;
        let mut tool = self.tool(build, "configuring the kernel", log)?;
        tool.command()
            .arg("make")
            .args(self.arguments())
            .arg(format!("KCONFIG_ALLCONFIG={BUILD_DIR}/{CONFIG}"))
            .arg("allnoconfig");
        tool.run(CONFIGURE_MAX)?;
        let path = build.join(OUT).join(".config");
        let made = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let lost = lost_options(&self.config, &made);
        if lost.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "its configuration did not keep `{}`, because of what the options depend on",
            lost.join("`, `")
        );
        Err(self.fault(problem, log))
    }

    fn compile(&self, build: &Path, log: &Path, task: &Task) -> Result<()> {
        let jobs = thread::available_parallelism().map_or(1, NonZero::get);
        let mut tool = self.tool(build, "compiling the kernel", log)?;
        tool.command()
            .args(["nice", "-n", "10", "make", &format!("-j{jobs}")])
            .args(self.arguments())
            .args(["bzImage", "modules"]);
        thread::scope(|scope| {
            let run = scope.spawn(|| Ok(tool.run(COMPILE_MAX)?));
            while !run.is_finished() {
                task.step(&format!("{} files", compiled_files(&read_lossy(log))));
                thread::sleep(STEP_PERIOD);
            }
            run.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn install(&self, build: &Path, log: &Path) -> Result<()> {
        let log = log.with_extension("install.log");
        let mut tool = self.tool(build, "installing the kernel", &log)?;
        tool.command()
            .args(["sh", "-c", INSTALL, "install", &self.locked.release])
            .args(self.arguments());
        tool.run(INSTALL_MAX)?;
        let path = build.join(OUT).join("include/config/kernel.release");
        let release = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        if release.trim() != self.locked.release {
            let problem = format!(
                "it calls itself {}, its package says {}",
                release.trim(),
                self.locked.release
            );
            return Err(self.fault(problem, &log));
        }
        Ok(())
    }

    fn tool(&self, build: &Path, doing: &str, log: &Path) -> Result<Tool> {
        let inside = Inside {
            root: &build_root::tree(&self.root),
            build,
            kernel: build,
            binds: &[],
        };
        inside.tool(format!("{}: {doing}", self.spec.name), log.to_owned())
    }

    /// The same for every run of make. What would make two builds differ is fixed.
    fn arguments(&self) -> Vec<String> {
        let compiler = &self.spec.build_root.compiler;
        vec![
            format!("-C{BUILD_DIR}/{SOURCE}"),
            format!("O={BUILD_DIR}/{OUT}"),
            format!("CC={compiler}"),
            format!("HOSTCC={compiler}"),
            format!("LOCALVERSION=-{}", self.spec.flavour),
            "KBUILD_BUILD_USER=cowbird".to_owned(),
            "KBUILD_BUILD_HOST=cowbird".to_owned(),
            "KBUILD_BUILD_TIMESTAMP=1970-01-01".to_owned(),
        ]
    }

    fn fault(&self, problem: String, log: &Path) -> Error {
        Error::KernelBuild {
            kernel: self.spec.name.clone(),
            problem,
            log: log.to_owned(),
        }
    }
}

/// How many files the log of make reports as compiled.
fn compiled_files(log: &str) -> usize {
    log.lines()
        .filter(|line| line.starts_with(COMPILED))
        .count()
}

/// The lines of a fragment that the configuration made from it does not have. An option that is not set may be absent
/// altogether.
fn lost_options<'a>(fragment: &'a str, made: &str) -> Vec<&'a str> {
    let made: Vec<&str> = made.lines().collect();
    let name_of = |line: &'a str| {
        line.strip_prefix("# ")
            .and_then(|line| line.strip_suffix(" is not set"))
    };
    fragment
        .lines()
        .map(str::trim_end)
        .filter(|line| match name_of(line) {
            Some(name) => made
                .iter()
                .any(|made| made.starts_with(&format!("{name}="))),
            None => line.starts_with("CONFIG_") && !made.contains(line),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a checker that the configuration silently drops is named. Method: options kept, dropped, turned from built-in
    /// into a module, and unset ones that are absent or set all the same.
    #[test]
    fn lost_options_are_named() {
        let fragment = "# comment\nCONFIG_KASAN=y\nCONFIG_XFS_FS=m\nCONFIG_PROVE_RCU=y\nCONFIG_EXT4_FS=y\n\
            # CONFIG_GONE is not set\n# CONFIG_AUTO is not set\n# CONFIG_OFF is not set\nCONFIG_NR=8\n";
        let made = "CONFIG_KASAN=y\nCONFIG_XFS_FS=m\nCONFIG_EXT4_FS=m\nCONFIG_AUTO=y\n# CONFIG_OFF is not set\nCONFIG_NR=8\n";
        assert_eq!(
            lost_options(fragment, made),
            [
                "CONFIG_PROVE_RCU=y",
                "CONFIG_EXT4_FS=y",
                "# CONFIG_AUTO is not set"
            ]
        );
    }

    #[test]
    fn compiled_files_are_counted() {
        let log =
            "  CC      mm/slub.o\n  AR      built-in.a\n  CC [M]  fs/xfs/xfs_inode.o\nmake: done\n";
        assert_eq!(compiled_files(log), 2);
    }
}
