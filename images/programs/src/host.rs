//! The programs of the host that are run to prepare kernels, and the packages that bring them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::install;

/// A package that the host lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPackage {
    /// Name of the package in Debian and its derivatives.
    pub package: &'static str,
    /// The program or file that is missing.
    pub provides: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
}

/// What every host needs.
const NEEDED: [HostPackage; 9] = [
    needed(
        "apt",
        "apt-get",
        "fetching packages with verified signatures",
    ),
    needed("dpkg", "dpkg-deb", "unpacking packages"),
    needed("gpgv", "gpgv", "verifying the archive's signature"),
    needed("mmdebstrap", "mmdebstrap", "making build roots"),
    needed("mount", "mount", "entering build roots"),
    needed("tar", "tar", "unpacking build roots"),
    needed("util-linux", "unshare", "entering build roots"),
    needed("xz-utils", "xz", "unpacking kernel modules"),
    needed("zstd", "zstd", "unpacking kernel modules"),
];

/// What an unprivileged user needs besides: mmdebstrap maps a range of user ids.
const NEEDED_UNPRIVILEGED: HostPackage = needed(
    "uidmap",
    "newuidmap",
    "making build roots without being root",
);

/// What is needed only where somebody brings packages of the RPM package manager.
const NEEDED_FOR_RPM: HostPackage = needed(
    "libarchive-tools",
    "bsdtar",
    "unpacking packages of other distributions",
);

const fn needed(
    package: &'static str,
    provides: &'static str,
    purpose: &'static str,
) -> HostPackage {
    HostPackage {
        package,
        provides,
        purpose,
    }
}

impl HostPackage {
    /// The command that installs the packages.
    pub fn install_command(packages: &[Self]) -> String {
        let names: BTreeSet<_> = packages.iter().map(|package| package.package).collect();
        install_command(names)
    }

    /// The command that installs what brings one program.
    pub fn install_command_for(tool: &str) -> String {
        let known = NEEDED
            .iter()
            .chain([&NEEDED_UNPRIVILEGED, &NEEDED_FOR_RPM])
            .find(|known| known.provides == tool);
        install_command([known.map_or(tool, |known| known.package)])
    }
}

fn install_command<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    install::install_command(&names, is_root())
}

/// The packages that must be installed before a kernel can be prepared; empty on a host that has all.
/// Keyrings are not among them, as they depend on the archive.
pub fn missing_host_packages() -> Vec<HostPackage> {
    let unprivileged = (!is_root()).then_some(&NEEDED_UNPRIVILEGED);
    NEEDED
        .iter()
        .chain(unprivileged)
        .filter(|needed| !is_installed(needed.provides))
        .cloned()
        .collect()
}

/// Whether a program is on the path, or where only root's path leads.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|dir| is_executable(&dir.join(program)))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process may make device nodes, mounts and chroots.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the command installs each package once, and knows that a program may live in a package of another name.
    #[test]
    fn install_commands_name_packages() {
        let twice = [NEEDED[0].clone(), NEEDED[0].clone(), NEEDED[7].clone()];
        let command = HostPackage::install_command(&twice);
        assert!(
            command
                .ends_with("apt-get install -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=600 apt xz-utils"),
            "{command}"
        );
        assert!(HostPackage::install_command_for("dpkg-deb").ends_with(" dpkg"));
    }

    /// Goal: presence is judged by an executable file on the path. Method: a program that every host has, one that
    /// none has.
    #[test]
    fn programs_are_found_on_the_path() {
        assert!(is_installed("sh"));
        assert!(!is_installed("cowbird-no-such-program"));
    }
}
