//! The parsers of what archives and packages contain, as functions of its bytes: `cowbird-fuzz` calls them.

use crate::deb822::{Index, IndexError};
use crate::modinfo::{ModInfo, builtin_aliases};
use crate::release;
use crate::version::DebVersion;

/// A package index: how many packages of a name that begins so there are, and how many dependencies of theirs one of them
/// satisfies.
///
/// # Errors
/// When a stanza of such a package cannot be used.
pub fn packages(text: &str, prefix: &str) -> Result<(usize, usize), IndexError> {
    let index = Index::parse(text, prefix)?;
    let satisfied = index
        .iter()
        .flat_map(|package| &package.depends)
        .flat_map(|dependency| &dependency.0)
        .filter(|alternative| {
            let versions = index.versions(&alternative.package);
            versions
                .iter()
                .any(|package| alternative.accepts(&package.version))
        })
        .count();
    Ok((index.iter().count(), satisfied))
}

/// A Release file: whether it is that of a suite, and whether its time is over so long after 1970.
pub fn release(text: &str, suite: &str, age: std::time::Duration) -> (bool, bool) {
    let now = std::time::SystemTime::UNIX_EPOCH + age;
    (
        release::is_of_suite(text, suite),
        release::expired(text, now).is_some(),
    )
}

/// Order of two versions: the same whichever comes first, and equal to itself.
pub fn versions(first: &str, second: &str) -> std::cmp::Ordering {
    DebVersion::new(first).cmp(&DebVersion::new(second))
}

/// The `.modinfo` of a kernel module's file: how much it names.
///
/// # Errors
/// When the file is no ELF file, or has no such section.
pub fn module(elf: &[u8]) -> Result<usize, String> {
    let info = ModInfo::of_elf(elf)?;
    Ok(info.depends.len() + info.soft_pre.len() + info.soft_post.len() + info.aliases.len())
}

/// A section of that kind, and the list of built-in modules, which looks alike: how much they name.
pub fn module_section(section: &[u8]) -> usize {
    ModInfo::parse(section).aliases.len() + builtin_aliases(section).count()
}
