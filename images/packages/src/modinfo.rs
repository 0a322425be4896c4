//! What a kernel module says about itself: the `.modinfo` section of its ELF file. Pure: bytes in, data out.

use object::{Object, ObjectSection};

/// The fields of `.modinfo` that decide what is loaded, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// The module's name, with `_` for `-`.
    pub name: Option<String>,
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// What should be loaded before it.
    pub soft_pre: Vec<String>,
    /// What should be loaded after it.
    pub soft_post: Vec<String>,
    /// Other names by which the kernel asks for it; device patterns are left out.
    pub aliases: Vec<String>,
    /// The kernel that it was built for: its release, then build options.
    pub vermagic: Option<String>,
}

impl ModInfo {
    /// Reads the section out of an ELF file; the error says what is wrong with the file.
    pub fn of_elf(elf: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(elf).map_err(|error| error.to_string())?;
        let section = file
            .section_by_name(".modinfo")
            .ok_or_else(|| "it has no .modinfo section".to_owned())?;
        let data = section
            .data()
            .map_err(|error| format!(".modinfo: {error}"))?;
        Ok(Self::parse(data))
    }

    /// Reads the section's content: `key=value` strings, each ended by a zero byte, between which the linker may
    /// leave more of them.
    pub fn parse(section: &[u8]) -> Self {
        let mut info = Self::default();
        for (key, value) in fields(section) {
            info.set(&key, &value);
        }
        info
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            "name" => self.name = Some(normalise(value)),
            "vermagic" => self.vermagic = Some(value.to_owned()),
            "depends" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                self.depends.extend(names.map(normalise));
            }
            "softdep" => self.add_soft(value),
            "alias" if is_plain(value) => self.aliases.push(normalise(value)),
            _ => {}
        }
    }

    /// `pre: a b post: c`; a name before either mark has no meaning.
    fn add_soft(&mut self, value: &str) {
        let mut list: Option<&mut Vec<String>> = None;
        for word in value.split_whitespace() {
            match word {
                "pre:" => list = Some(&mut self.soft_pre),
                "post:" => list = Some(&mut self.soft_post),
                name => {
                    if let Some(list) = &mut list {
                        list.push(normalise(name));
                    }
                }
            }
        }
    }
}

/// The aliases of built-in modules, from `modules.builtin.modinfo`: `module.key=value` strings.
pub fn builtin_aliases(content: &[u8]) -> impl Iterator<Item = String> {
    fields(content).filter_map(|(key, value)| {
        let (_, key) = key.rsplit_once('.')?;
        (key == "alias" && is_plain(&value)).then(|| normalise(&value))
    })
}

fn fields(content: &[u8]) -> impl Iterator<Item = (String, String)> {
    content.split(|&byte| byte == 0).filter_map(|field| {
        let text = String::from_utf8_lossy(field);
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    })
}

/// Whether an alias is a name, not a pattern over devices (`pci:v00001AF4d*`).
fn is_plain(alias: &str) -> bool {
    !alias.contains(['*', '?', '[', ':'])
}

/// The kernel takes `-` and `_` in module names for the same character.
pub fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every field that matters is read, in all the shapes met in distribution kernels: repeated fields, empty
    /// fields, several softdep fields, padding between strings, device patterns.
    #[test]
    fn reads_the_section() {
        let section = b"license=GPL\0\0\0softdep=pre: crc32c sha-256 post: late\0softdep=pre: more\0alias=fs-ext4\0\
            alias=pci:v00001AF4d*sv*\0alias=crypto-crc32c\0depends=mbcache,jbd2\0depends=\0name=ext4\0\
            vermagic=6.1.0-50-cloud-amd64 SMP preempt mod_unload modversions \0broken\0";
        let info = ModInfo::parse(section);
        let expected = ModInfo {
            name: Some("ext4".into()),
            depends: vec!["mbcache".into(), "jbd2".into()],
            soft_pre: vec!["crc32c".into(), "sha_256".into(), "more".into()],
            soft_post: vec!["late".into()],
            aliases: vec!["fs_ext4".into(), "crypto_crc32c".into()],
            vermagic: Some("6.1.0-50-cloud-amd64 SMP preempt mod_unload modversions ".into()),
        };
        assert_eq!(info, expected);
    }

    /// Goal: what is not a module is refused with the reason. Method: text, an ELF header cut short, and this test's
    /// own executable, a sound ELF file without the section.
    #[test]
    fn other_files_are_refused() {
        assert!(ModInfo::of_elf(b"#!/bin/sh\n").is_err());
        assert!(ModInfo::of_elf(b"\x7fELF\x02\x01\x01").is_err());
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(
            ModInfo::of_elf(&own).unwrap_err(),
            "it has no .modinfo section"
        );
    }

    /// Goal: built-in aliases are found, and the module's name does not get in the way.
    #[test]
    fn reads_builtin_aliases() {
        let content =
            b"crc32c_generic.alias=crc32c\0crc32c_generic.license=GPL\0virtio.alias=virtio:d*\0";
        assert_eq!(builtin_aliases(content).collect::<Vec<_>>(), ["crc32c"]);
    }
}
