//! Small files: replaced so that a power cut leaves them as they were or as they are to be, and read so that nothing that
//! lies in their place can hold the reader up.
//!
//! All of it goes through the open folder, and no link at the end of a name is followed: who may write to the folder of an
//! image could otherwise choose what is overwritten.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::way;

/// Nobody but the owner reads what is on a volume, or where it changes.
pub const PRIVATE: u32 = 0o600;

/// Names of drafts that are tried: one is taken only if somebody guesses it.
const DRAFTS: usize = 8;

/// Puts the content in place of what the file had, on stable storage, name and all. Others cannot read it.
///
/// # Errors
/// When it cannot be written, or when what has the name is not a regular file.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_by(path, |file| file.write_all(content))
}

/// The same with what is written to the file, which is empty.
///
/// # Errors
/// As [`replace`], and when `write` fails.
pub fn replace_by(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    Folder::of(path)?.replace_by(name_of(path)?, write)
}

/// Removes the file, on stable storage. Neither it nor its folder needs to be there; what somebody else removed may
/// not be on stable storage yet.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match Folder::of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        folder => folder?.remove(name_of(path)?),
    }
}

/// Puts a file's name on stable storage.
///
/// # Errors
/// When its folder cannot be written.
pub fn sync_name(path: &Path) -> io::Result<()> {
    Folder::of(path)?.sync()
}

/// The last part of a path, if it names a file.
///
/// # Errors
/// When it does not.
pub fn name_of(path: &Path) -> io::Result<&OsStr> {
    path.file_name()
        .ok_or_else(|| io::Error::other("it names no file"))
}

/// Whether links at the end of a name are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// The name is one that this tool has chosen.
    Refuse,
    /// The name is the user's.
    Follow,
}

/// Opens a regular file of at most `limit` bytes; its length.
///
/// # Errors
/// When it cannot be opened, is longer, or is anything but a regular file, which might never end or never begin.
pub fn open(path: &Path, limit: u64, links: Links) -> io::Result<(File, u64)> {
    let no_follow = match links {
        Links::Refuse => libc::O_NOFOLLOW,
        Links::Follow => 0,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | no_follow)
        .open(path)
        .map_err(|error| match links {
            Links::Refuse => without_links(error),
            Links::Follow => error,
        })?;
    check_file(file, limit)
}

/// What `O_NOFOLLOW` says, in words.
fn without_links(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link, which is not followed"),
        _ => error,
    }
}

fn check_file(file: File, limit: u64) -> io::Result<(File, u64)> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if meta.len() > limit {
        return Err(too_long(limit));
    }
    Ok((file, meta.len()))
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and when it cannot be read.
pub fn read(path: &Path, limit: u64, links: Links) -> io::Result<Vec<u8>> {
    let (file, _) = open(path, limit, links)?;
    read_all(&file, limit)
}

fn read_all(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(too_long(limit));
    }
    Ok(content)
}

fn too_long(limit: u64) -> io::Error {
    io::Error::other(format!(
        "it has more than {limit} bytes, which no such file has"
    ))
}

/// An open folder: whatever is done in it is done there, also when somebody renames it meanwhile and puts another one in its place.
#[derive(Debug)]
pub struct Folder(File);

impl Folder {
    /// The folder of a file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(folder)
            .map(Self)
    }

    /// Puts what is written to a new file in place of what a file of it had, on stable storage, name and all.
    ///
    /// # Errors
    /// When that cannot be done, or when what has the name is not a regular file.
    pub fn replace_by(
        &self,
        name: &OsStr,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let name = c_name(name)?;
        self.check_kind(&name)?;
        let (draft, mut file) = self.create_draft()?;
        let done = write(&mut file)
            .and_then(|()| sync_content(&file))
            .and_then(|()| self.rename(&draft, &name));
        if let Err(error) = done {
            let _ = self.unlink(&draft);
            return Err(error);
        }
        self.sync()
    }

    /// Removes a file of it, on stable storage. It need not be there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        match self.unlink(&c_name(name)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
        self.sync()
    }

    /// Reads a regular file of it, of at most `limit` bytes.
    ///
    /// # Errors
    /// When it is a link, is longer, belongs to another user than root and this one, has a second name, or cannot be read.
    pub fn read(&self, name: &OsStr, limit: u64) -> io::Result<Vec<u8>> {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let (file, _) = check_file(self.open(name, flags)?, limit)?;
        let meta = file.metadata()?;
        if way::is_foreign(meta.uid()) || meta.nlink() != 1 {
            return Err(io::Error::other(
                "it belongs to another user, or has a second name",
            ));
        }
        read_all(&file, limit)
    }

    /// Opens a file of it. A link is not followed.
    ///
    /// # Errors
    /// When it cannot be opened, or is a link.
    pub fn open(&self, name: &OsStr, flags: libc::c_int) -> io::Result<File> {
        self.open_at(&c_name(name)?, flags).map_err(without_links)
    }

    /// Makes a new file in it, to be read and written by its owner alone.
    ///
    /// # Errors
    /// When something has the name, be it a link that leads nowhere.
    pub fn create(&self, name: &OsStr) -> io::Result<File> {
        self.create_new(&c_name(name)?)
    }

    fn create_new(&self, name: &CStr) -> io::Result<File> {
        self.open_at(name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)
    }

    fn open_at(&self, name: &CStr, flags: libc::c_int) -> io::Result<File> {
        let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: the folder is open, and the name ends with a zero.
        let result = unsafe { libc::openat(self.0.as_raw_fd(), name.as_ptr(), flags, PRIVATE) };
        check(result)?;
        // SAFETY: the descriptor was just opened, and belongs to nobody else.
        Ok(unsafe { File::from_raw_fd(result) })
    }

    /// Refuses to replace a link, a device or a pipe by a file.
    fn check_kind(&self, name: &CStr) -> io::Result<()> {
        // SAFETY: all zeros are a valid `struct stat`, which is plain numbers.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the folder is open, the name ends with a zero, and the kernel writes one `struct stat`.
        let result = unsafe {
            libc::fstatat(
                self.0.as_raw_fd(),
                name.as_ptr(),
                &raw mut stat,
                libc::AT_SYMLINK_NOFOLLOW,
            )
        };
        match check(result) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) if stat.st_mode & libc::S_IFMT == libc::S_IFREG => Ok(()),
            Ok(()) => Err(io::Error::other(
                "what is there is not a regular file, and is not replaced by one",
            )),
        }
    }

    /// A new file that nobody else has open, where the content is until it is complete.
    fn create_draft(&self) -> io::Result<(CString, File)> {
        for _ in 0..DRAFTS {
            let mut random = [0; 8];
            File::open("/dev/urandom")?.read_exact(&mut random)?;
            let draft = format!(".cowbird-{:016x}.new", u64::from_ne_bytes(random));
            let draft = CString::new(draft).map_err(io::Error::other)?;
            match self.create_new(&draft) {
                Ok(file) => return Ok((draft, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn rename(&self, from: &CStr, to: &CStr) -> io::Result<()> {
        let folder = self.0.as_raw_fd();
        did("rename");
        // SAFETY: the folder is open, and the names end with a zero.
        check(unsafe { libc::renameat(folder, from.as_ptr(), folder, to.as_ptr()) })
    }

    fn unlink(&self, name: &CStr) -> io::Result<()> {
        did("unlink");
        // SAFETY: the folder is open, and the name ends with a zero.
        check(unsafe { libc::unlinkat(self.0.as_raw_fd(), name.as_ptr(), 0) })
    }

    /// Puts the names in it on stable storage.
    ///
    /// # Errors
    /// When that fails.
    pub fn sync(&self) -> io::Result<()> {
        did("sync folder");
        self.0.sync_all()
    }
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(io::Error::other)
}

fn sync_content(file: &File) -> io::Result<()> {
    did("sync content");
    file.sync_all()
}

/// Tests look at the order of what a power cut would tell apart.
#[cfg(not(test))]
fn did(_step: &'static str) {}

#[cfg(test)]
fn did(step: &'static str) {
    tests::DONE.with_borrow_mut(|done| done.push(step));
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    thread_local! {
        pub static DONE: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// Goal: a power cut leaves the old content or the new one. Method: the content is on stable storage before the name leads to it,
    /// and the name before anybody hears of success; a failure leaves no draft.
    #[test]
    fn content_is_stable_before_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("label.json");
        DONE.take();
        replace(&path, b"content").unwrap();
        assert_eq!(DONE.take(), ["sync content", "rename", "sync folder"]);
        let failed = replace_by(&path, |_| Err(io::ErrorKind::StorageFull.into()));
        assert!(failed.is_err());
        assert_eq!(DONE.take(), ["unlink"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        assert_eq!(DONE.take(), ["unlink", "sync folder"]);
    }

    /// Goal: a new file is new. Method: names that somebody guessed: a file, and links, of which one leads nowhere.
    #[test]
    fn what_somebody_has_put_there_is_not_taken() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::of(&place.path().join("any")).unwrap();
        let victim = place.path().join("victim");
        symlink(&victim, place.path().join("dangling")).unwrap();
        assert!(folder.create("dangling".as_ref()).is_err());
        assert!(!victim.exists());
        fs::write(&victim, b"somebody's data").unwrap();
        for name in ["dangling", "victim"] {
            let error = folder.create(name.as_ref()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&victim).unwrap(), b"somebody's data");
        let file = folder.create("new".as_ref()).unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, PRIVATE);
    }

    /// Goal: what is done in a folder is done there. Method: the folder is renamed, and a link put in its place.
    #[test]
    fn a_folder_stays_the_one_that_was_opened() {
        let place = tempfile::tempdir().unwrap();
        let (folder, away, trap) = (
            place.path().join("folder"),
            place.path().join("away"),
            place.path().join("trap"),
        );
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&trap).unwrap();
        fs::write(trap.join("label"), b"somebody's data").unwrap();
        let open = Folder::of(&folder.join("label")).unwrap();
        fs::rename(&folder, &away).unwrap();
        symlink(&trap, &folder).unwrap();
        let name = OsStr::new("label");
        open.replace_by(name, |file| file.write_all(b"label"))
            .unwrap();
        assert_eq!(fs::read(away.join("label")).unwrap(), b"label");
        assert_eq!(open.read(name, 100).unwrap(), b"label");
        open.remove(name).unwrap();
        assert!(!away.join("label").exists());
        assert_eq!(fs::read(trap.join("label")).unwrap(), b"somebody's data");
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("label.json");
        replace(&path, b"a longer content").unwrap();
        replace(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        remove(&folder.path().join("none/label.json")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn others_cannot_read_it_whatever_they_could_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map");
        fs::write(&path, b"old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"new").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, PRIVATE);
    }

    #[test]
    fn a_link_is_neither_followed_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        fs::write(&victim, b"somebody's data").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(replace(&link, b"new").is_err());
        assert!(read(&link, 100, Links::Refuse).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"somebody's data");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&link, 100, Links::Follow).unwrap(), b"somebody's data");
        assert!(replace(Path::new("/dev/null"), b"new").is_err());
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("label.json");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for endless in [path.as_path(), Path::new("/dev/zero"), folder.path()] {
            let error = read(endless, 100, Links::Follow).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
        let path = folder.path().join("file");
        fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, 100, Links::Refuse).unwrap().len(), 100);
        assert!(read(&path, 99, Links::Refuse).is_err());
    }
}
