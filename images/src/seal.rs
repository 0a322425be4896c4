//! What the files of an entry are, so that a damaged cache is found out before anything is made with it: a kernel with a file cut
//! off boots or does not, builds a module or does not, and each of that would be taken for a fault of the module.
//!
//! ```text
//! seal    records that end with a zero byte, in the order of their names:
//!         F SHA-256 NAME   a file and the digest of its content
//!         L SHA-256 NAME   a link and the digest of where it leads
//!         E SHA-256        the digest of all records before this one
//! ```
//!
//! Other things (folders, devices) are not looked at; things that were added are none of an entry's.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cowbird_packages::digest::Sha256Digest;

use crate::error::{Error, Result};

/// Name of the file in every entry.
pub(crate) const FILE: &str = "seal";

/// What an entry turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All files are what they were.
    Intact,
    /// It has no seal: an older program made it.
    Unsealed,
    /// This is not what it was.
    Damaged(PathBuf),
}

/// Seals an entry whose files are in place.
pub(crate) fn write(entry: &Path) -> Result<()> {
    let mut records = Vec::new();
    for (kind, name) in names(entry)? {
        let digest = digest_of(entry, kind, &name)?;
        records.extend_from_slice(format!("{kind} {digest} ").as_bytes());
        records.extend_from_slice(name.as_os_str().as_bytes());
        records.push(0);
    }
    let end = Sha256Digest::of_bytes(&records);
    records.extend_from_slice(format!("E {end}\0").as_bytes());
    let path = entry.join(FILE);
    // Whole or not at all, as without one the entry counts for nothing.
    let mut file =
        tempfile::NamedTempFile::new_in(entry).map_err(Error::io("create a file in", entry))?;
    std::io::Write::write_all(&mut file, &records)
        .and_then(|()| file.as_file().sync_all())
        .map_err(Error::io("write", &path))?;
    file.persist(&path)
        .map_err(|error| Error::io("create", &path)(error.error))?;
    Ok(())
}

/// Looks at every file of an entry.
pub(crate) fn check(entry: &Path) -> Found {
    let seal = entry.join(FILE);
    let records = match fs::read(&seal) {
        Ok(records) => records,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Found::Unsealed,
        Err(_) => return Found::Damaged(seal),
    };
    let Some(records) = whole(&records) else {
        return Found::Damaged(seal);
    };
    for record in records.split(|byte| *byte == 0) {
        match parse(record) {
            Some((kind, digest, name)) => {
                let found = digest_of(entry, kind, &name).ok();
                if found.map(|found| found.to_string()) != Some(digest) {
                    return Found::Damaged(entry.join(name));
                }
            }
            None if record.is_empty() => {}
            None => return Found::Damaged(seal),
        }
    }
    Found::Intact
}

/// The records of a seal whose end is right.
fn whole(seal: &[u8]) -> Option<&[u8]> {
    let end = format!("E {}\0", Sha256Digest::of_bytes(b"")).len();
    let (records, end) = seal.split_at_checked(seal.len().checked_sub(end)?)?;
    let expected = format!("E {}\0", Sha256Digest::of_bytes(records));
    (end == expected.as_bytes()).then_some(records)
}

fn parse(record: &[u8]) -> Option<(char, String, PathBuf)> {
    let mut parts = record.splitn(3, |byte| *byte == b' ');
    let kind = match parts.next()? {
        b"F" => 'F',
        b"L" => 'L',
        _ => return None,
    };
    let digest = String::from_utf8(parts.next()?.to_vec()).ok()?;
    let name = std::ffi::OsString::from_vec(parts.next()?.to_vec());
    Some((kind, digest, name.into()))
}

fn digest_of(entry: &Path, kind: char, name: &Path) -> Result<Sha256Digest> {
    let path = entry.join(name);
    match kind {
        'L' => fs::read_link(&path)
            .map(|target| Sha256Digest::of_bytes(target.as_os_str().as_bytes()))
            .map_err(Error::io("read", &path)),
        _ => Sha256Digest::of_file(&path).map_err(Error::io("read", &path)),
    }
}

/// Every file and link below an entry, in order, but for the seal.
fn names(entry: &Path) -> Result<Vec<(char, PathBuf)>> {
    let mut names = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = entry.join(&folder);
        for found in fs::read_dir(&path).map_err(Error::io("list", &path))? {
            let found = found.map_err(Error::io("list", &path))?;
            let kind = found.file_type().map_err(Error::io("inspect", &path))?;
            let name = folder.join(found.file_name());
            if kind.is_dir() {
                folders.push(name);
            } else if kind.is_symlink() {
                names.push(('L', name));
            } else if kind.is_file() && name != Path::new(FILE) {
                names.push(('F', name));
            }
        }
    }
    names.sort_by(|one, other| one.1.cmp(&other.1));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        fs::write(dir.path().join("deep/file"), "content").unwrap();
        fs::write(dir.path().join("odd \n name"), "").unwrap();
        std::os::unix::fs::symlink("deep/file", dir.path().join("link")).unwrap();
        write(dir.path()).unwrap();
        assert_eq!(check(dir.path()), Found::Intact);
        dir
    }

    /// Goal: whatever happens to a file of an entry is found. Method: each kind of damage to an entry of its own.
    #[test]
    fn every_damage_is_found() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 7] = [
            ("deep/file", |dir| {
                fs::write(dir.join("deep/file"), "").unwrap()
            }),
            ("deep/file", |dir| {
                fs::write(dir.join("deep/file"), "contenT").unwrap();
            }),
            ("deep/file", |dir| {
                fs::remove_file(dir.join("deep/file")).unwrap()
            }),
            ("link", |dir| {
                fs::remove_file(dir.join("link")).unwrap();
                std::os::unix::fs::symlink("odd", dir.join("link")).unwrap();
            }),
            (FILE, |dir| fs::write(dir.join(FILE), "").unwrap()),
            (FILE, |dir| {
                let mut seal = fs::read(dir.join(FILE)).unwrap();
                seal.drain(..70);
                fs::write(dir.join(FILE), seal).unwrap();
            }),
            (FILE, |dir| {
                let mut seal = fs::read(dir.join(FILE)).unwrap();
                seal[3] ^= 1;
                fs::write(dir.join(FILE), seal).unwrap();
            }),
        ];
        for (name, damage) in damages {
            let dir = entry();
            damage(dir.path());
            assert_eq!(check(dir.path()), Found::Damaged(dir.path().join(name)));
        }
        let dir = entry();
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert_eq!(check(dir.path()), Found::Unsealed);
        fs::write(dir.path().join("added"), "").unwrap();
        write(dir.path()).unwrap();
        assert_eq!(check(dir.path()), Found::Intact);
    }
}
