//! The file that a recording or a report goes to.
//!
//! The tracer runs as root, and the folder may be somebody else's. So the file is a new one that nobody else has open, readable by
//! its owner only, and takes the place of what had the name before; nothing is written through a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Names of drafts that are tried: one is taken only if somebody guesses it.
const DRAFTS: usize = 8;

/// A file under a name of its own, until it has something to take the place of another one.
pub struct Draft {
    folder: OwnedFd,
    draft: OsString,
    name: OsString,
    /// What is to be written to.
    file: Option<File>,
}

impl Draft {
    /// Makes one for a path.
    ///
    /// # Errors
    /// When it cannot be made, or when what has the name is not a regular file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = rustix::fs::open(
            parent.unwrap_or(Path::new(".")),
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
        if name.is_empty() {
            return Err(io::Error::other("it names no file"));
        }
        match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
            Ok(_) => {
                return Err(io::Error::other(
                    "what is there is not a regular file, and is not replaced by one",
                ));
            }
        }
        for _ in 0..DRAFTS {
            let mut random = [0_u8; 8];
            getrandom(&mut random, GetRandomFlags::empty())?;
            let draft = format!(".cowbird-{:016x}.new", u64::from_ne_bytes(random));
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&folder, &draft, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => {
                    return Ok(Self {
                        folder,
                        draft: draft.into(),
                        name,
                        file: Some(file.into()),
                    });
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The file, to be written to while it is a draft and afterwards.
    ///
    /// # Errors
    /// When the system has no further descriptor.
    pub fn file(&self) -> io::Result<File> {
        match &self.file {
            Some(file) => file.try_clone(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Writes all of it and gives it its name.
    ///
    /// # Errors
    /// When it or the folder cannot be written.
    pub fn put(self, content: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.file()?, content)?;
        self.put_in_place()
    }

    /// Gives it its name, on stable storage with what was written so far.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn put_in_place(mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.sync_all()?;
        }
        rustix::fs::renameat(&self.folder, &self.draft, &self.folder, &self.name)?;
        self.file = None;
        rustix::fs::fsync(&self.folder)?;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What cannot be removed only costs space.
            let _ = rustix::fs::unlinkat(&self.folder, &self.draft, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
        Draft::create(path)?.put(content)
    }

    #[test]
    fn a_file_is_replaced_by_a_private_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.cbt");
        fs::write(&path, "an older trace").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        drop(Draft::create(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"an older trace");
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Goal: root writes nowhere but to the name that was given.
    #[test]
    fn a_link_is_neither_followed_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("t.cbt"));
        fs::write(&victim, "somebody's data").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(replace(&link, b"new").is_err());
        symlink(folder.path().join("none"), folder.path().join("dangling")).unwrap();
        assert!(replace(&folder.path().join("dangling"), b"new").is_err());
        assert!(!folder.path().join("none").exists());
        assert_eq!(fs::read(&victim).unwrap(), b"somebody's data");
        for no_file in ["/dev/null", "/", "."] {
            assert!(replace(Path::new(no_file), b"new").is_err(), "{no_file}");
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
