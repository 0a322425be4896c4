//! The host's programs: what is needed, what is missing, and how it gets there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cowbird_host::program::HostProgram;
use cowbird_images::Catalogue;
use cowbird_programs::{install, missing_host_packages};

use crate::host::apt_get::AptGet;
use crate::ui::Ui;

/// Programs that the matrix runs, with the Debian package that brings each. What the handling of
/// kernels needs comes from [`missing_host_packages`].
const MATRIX_TOOLS: [Tool; 10] = [
    Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Tool {
        program: "mkfs.ext4",
        package: "e2fsprogs",
    },
    Tool {
        program: "e2fsck",
        package: "e2fsprogs",
    },
    Tool {
        program: "mkfs.xfs",
        package: "xfsprogs",
    },
    Tool {
        program: "mkfs.f2fs",
        package: "f2fs-tools",
    },
    Tool {
        program: "mkfs.btrfs",
        package: "btrfs-progs",
    },
    // Load and index the module in an initramfs, as on any Debian system.
    Tool {
        program: "modprobe",
        package: "kmod",
    },
    Tool {
        program: "depmod",
        package: "kmod",
    },
    // The linker of the guest's programs; Rust calls it by this name.
    Tool {
        program: "cc",
        package: "gcc",
    },
    // Compiles the tracer's BPF programs, which go into the guest.
    Tool {
        program: "clang",
        package: "clang",
    },
];

/// What a command needs of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// To boot kernels and run cells.
    Matrix,
    /// Also to measure.
    Bench,
    /// Also to run everything that `test` runs.
    Everything,
}

/// Programs that only `bench` runs.
const BENCH_TOOLS: [Tool; 1] = [Tool {
    program: "fio",
    package: "fio",
}];

/// Programs that only `test` runs.
const TEST_TOOLS: [Tool; 4] = [
    // Make and unpack packages of other distributions.
    Tool {
        program: "rpmbuild",
        package: "rpm",
    },
    Tool {
        program: "bsdtar",
        package: "libarchive-tools",
    },
    Tool {
        program: "make",
        package: "make",
    },
    Tool {
        program: "gcc",
        package: "gcc",
    },
];

/// The library that reads C headers for `gen-abi`. It is loaded by name, so it is looked for where
/// the loader of the bindings looks for it.
const LIBCLANG: [&str; 4] = [
    "/usr/lib/llvm-*/lib/libclang.so*",
    "/usr/lib/llvm-*/lib/libclang-[0-9]*.so*",
    "/usr/lib/*-linux-gnu/libclang-[0-9]*.so*",
    "/usr/lib64/libclang.so*",
];
const LIBCLANG_PACKAGE: &str = "libclang-dev";

/// Folders that hold system programs and are not on every user's path.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Whether the library of [`LIBCLANG`] is there, or the user says where.
fn has_libclang() -> bool {
    let found = |pattern: &str| glob::glob(pattern).is_ok_and(|mut paths| paths.next().is_some());
    std::env::var_os("LIBCLANG_PATH").is_some() || LIBCLANG.iter().any(|pattern| found(pattern))
}

/// A program and the package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tool {
    /// Name on the path.
    pub program: &'static str,
    /// Debian package.
    pub package: &'static str,
}

/// What is missing, as (what, package).
type Missing = BTreeSet<(String, String)>;

/// Whether this process may install packages.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.map(Into::into))
        .any(|folder| is_executable(&folder.join(program)))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn missing(catalogue: &Catalogue, needs: Needs, programs: &[HostProgram]) -> Missing {
    let mut missing = Missing::new();
    for program in programs.iter().filter(|program| program.find().is_none()) {
        missing.insert((program.program.to_owned(), program.package.to_owned()));
    }
    let everything = needs == Needs::Everything;
    let extra = match needs {
        Needs::Matrix => &[][..],
        Needs::Bench => &BENCH_TOOLS,
        Needs::Everything => &TEST_TOOLS,
    };
    if everything && !has_libclang() {
        missing.insert(("libclang".to_owned(), LIBCLANG_PACKAGE.to_owned()));
    }
    for tool in MATRIX_TOOLS
        .iter()
        .chain(extra)
        .filter(|tool| !is_on_path(tool.program))
    {
        missing.insert((tool.program.to_owned(), tool.package.to_owned()));
    }
    for package in missing_host_packages() {
        missing.insert((package.provides.to_owned(), package.package.to_owned()));
    }
    for kernel in &catalogue.kernels {
        if let Some(package) = kernel.archive.missing_keyring() {
            let keyring = kernel.archive.keyring.display().to_string();
            missing.insert((keyring, package.to_owned()));
        }
    }
    missing
}

/// The command that installs what is missing, and what that is.
fn describe(missing: &Missing) -> (String, String) {
    let packages: BTreeSet<&str> = missing
        .iter()
        .map(|(_, package)| package.as_str())
        .collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    let command = install::install_command(&packages, is_root());
    let what: Vec<&str> = missing.iter().map(|(what, _)| what.as_str()).collect();
    (what.join(", "), command)
}

/// Makes sure that every program is there, those that go into guests included: installs what is missing when that is
/// possible and allowed, and otherwise says how.
pub fn ensure(
    catalogue: &Catalogue,
    needs: Needs,
    programs: &[HostProgram],
    offline: bool,
    ui: &std::sync::Arc<Ui>,
) -> Result<()> {
    ensure_with(catalogue, needs, programs, offline, false, ui)
}

/// The same, and says whether a package that is in the way may be replaced by an older version.
pub fn ensure_with(
    catalogue: &Catalogue,
    needs: Needs,
    programs: &[HostProgram],
    offline: bool,
    downgrades: bool,
    ui: &std::sync::Arc<Ui>,
) -> Result<()> {
    let lacking = missing(catalogue, needs, programs);
    if lacking.is_empty() {
        return Ok(());
    }
    let (what, command) = describe(&lacking);
    if !is_on_path("apt-get") {
        bail!(
            "missing {what}; this host has no apt-get, and packages can be named for Debian and its kin only: install these programs \
             by their names here, or work in a container of Debian"
        );
    }
    if offline {
        bail!("missing {what}, and --offline forbids to install anything; run `{command}`");
    }
    if !is_root() {
        bail!("missing {what}; run `{command}`");
    }
    let task = ui.task(&format!("install what is missing ({what}): {command}"));
    let packages: BTreeSet<&str> = lacking.iter().map(|(_, package)| &**package).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    let say = |text: &str| ui.line(text);
    let apt = AptGet {
        downgrades,
        ..AptGet::new(&say)
    };
    apt.install(&packages)
        .with_context(|| format!("missing {what}, and `{command}` failed"))?;
    drop(task);
    let still = missing(catalogue, needs, programs);
    if !still.is_empty() {
        let (what, command) = describe(&still);
        bail!("{what} still missing after `{command}`; check PATH");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path_only() {
        assert!(is_on_path("sh"));
        assert!(!is_on_path("cowbird-no-such-program"));
        // A folder is not a program.
        assert!(!is_executable(Path::new("/usr")));
    }

    #[test]
    fn one_line_names_everything_once() {
        let missing: Missing = [
            ("e2fsck", "e2fsprogs"),
            ("mkfs.ext4", "e2fsprogs"),
            ("cc", "gcc"),
        ]
        .map(|(what, package)| (what.to_owned(), package.to_owned()))
        .into();
        let (what, command) = describe(&missing);
        assert_eq!(what, "cc, e2fsck, mkfs.ext4");
        assert!(command.contains("apt-get install -y --no-install-recommends --no-remove "));
        assert!(command.ends_with(" e2fsprogs gcc"), "{command}");
    }
}
