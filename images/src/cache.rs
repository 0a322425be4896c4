//! The cache's folders, and entries that are either whole or absent.
//!
//! ```text
//! apt/ARCHIVE-SUITE-ARCH/   apt's private state: sources, verified Release and Packages files
//! debs/SHA256.deb           fetched packages; SHA256.rpm for those that were supplied so
//! supplied/KERNEL/          where packages of other distributions are looked for; before 0.1.0: brought/
//! locks/KERNEL.toml         which packages each kernel is made of
//! kernels/RELEASE-KEY/      an unpacked kernel with its headers
//! roots/ROOT-KEY/           a build root
//! modules/RELEASE-KEY/      a built module and its log
//! logs/                     output of the programs that were run
//! held/                     lock files of entries that are being made
//! tmp/                      entries that are being made
//! ```
//!
//! Each entry has a seal with the digest of every file (`seal.rs`), which is looked at before the entry is used.
//! Whoever uses an entry holds a shared lock on its folder, so that nobody deletes it meanwhile.
//!
//! An entry is made in `tmp/` and renamed into place when it is whole and on stable storage, so that neither a
//! killed process nor a power cut leaves a part of one. A process that makes an entry holds a lock on a file
//! in `held/`; the kernel releases it however the process ends. These files are never deleted, because deleting
//! a lock file that another process has opened would let two of them in.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::seal;

/// How long another process may hold an entry: more than fetching a kernel and making a root over a slow line.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// How often a held lock is tried.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// What is left in `tmp/` by killed processes is deleted at this age.
const STALE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is deleted is called so in a folder of `tmp/`.
const DISCARDED: &str = "discarded";

/// Marks the folder for backup programs (see <https://bford.info/cachedir/>).
const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Cowbird's cache; deleting it costs a download.\n";

/// The kinds of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Kernels,
    Roots,
    Modules,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Kernels => "kernels",
            Self::Roots => "roots",
            Self::Modules => "modules",
        }
    }
}

/// The cache's folder.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

/// Where an entry is made.
pub(crate) struct Staging {
    temp: TempDir,
    _in_use: InUse,
}

impl Staging {
    /// The folder that becomes the entry.
    pub(crate) fn entry(&self) -> PathBuf {
        self.temp.path().join("entry")
    }

    /// A folder for what is not kept.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.temp.path().join("scratch")
    }
}

/// A held lock; released when dropped.
pub(crate) struct Held(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Cache {
    /// Opens the cache, creating what is missing and deleting what killed processes left.
    pub(crate) fn open(dir: PathBuf) -> Result<Self> {
        // One that was there may have other things in it, which are not ours to close.
        if !dir.exists() {
            create_dir(&dir)?;
            close_to_others(&dir)?;
        }
        for folder in [
            "apt", "debs", "locks", "kernels", "roots", "modules", "logs", "held", "tmp",
        ] {
            create_dir(&dir.join(folder))?;
            close_to_others(&dir.join(folder))?;
        }
        let tag = dir.join("CACHEDIR.TAG");
        if !tag.exists() {
            fs::write(&tag, CACHE_TAG).map_err(Error::io("write", &tag))?;
        }
        let cache = Self { dir };
        cache.remove_stale()?;
        Ok(cache)
    }

    /// A path in the cache.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// A log file in the cache.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Where an entry is or would be.
    pub(crate) fn entry(&self, kind: Kind, name: &str) -> PathBuf {
        self.dir.join(kind.folder()).join(name)
    }

    /// Returns an entry, and whether it was there. One that is absent or not `valid` is made by `make`, while other
    /// processes that want it wait; `waiting` is called once if this one has to.
    pub(crate) fn get_or_make(
        &self,
        kind: Kind,
        name: &str,
        valid: impl Fn(&Path) -> bool,
        waiting: impl FnOnce(),
        make: impl FnOnce(&Staging) -> Result<()>,
    ) -> Result<(PathBuf, bool)> {
        let path = self.entry(kind, name);
        if valid(&path) {
            return Ok((path, true));
        }
        let _held = self.hold(&format!("{}-{name}", kind.folder()), waiting)?;
        if valid(&path) {
            return Ok((path, true));
        }
        let staging = self.staging()?;
        make(&staging)?;
        self.publish(kind, &staging, &path)?;
        Ok((path, false))
    }

    /// Takes the lock of this name, waiting at most [`LOCK_WAIT_MAX`].
    pub(crate) fn hold(&self, name: &str, waiting: impl FnOnce()) -> Result<Held> {
        let (path, file) = self.lock_file(name)?;
        let started = Instant::now();
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Held(file)),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            let waited = started.elapsed();
            if waited >= LOCK_WAIT_MAX {
                return Err(Error::LockTimeout { lock: path, waited });
            }
            thread::sleep(LOCK_POLL);
        }
    }

    /// Takes the lock of this name, or nothing while somebody else has it.
    pub(crate) fn try_hold(&self, name: &str) -> Result<Option<Held>> {
        let (path, file) = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Held(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }

    fn lock_file(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.dir.join("held").join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        Ok((path, file))
    }

    /// Deletes a file or an entry. It vanishes at once and whole, because it is moved away first. What is still in use is
    /// only moved: its users keep what they have open or mounted, and it is deleted with what killed processes left.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let staging = self.staging()?;
        let away = staging.temp.path().join(DISCARDED);
        fs::rename(path, &away).map_err(Error::io("move away", path))?;
        if InUse::by_anybody(&away) {
            let _kept = staging.temp.keep();
        }
        Ok(())
    }

    /// A fresh folder to make an entry in; removed when dropped.
    pub(crate) fn staging(&self) -> Result<Staging> {
        let tmp = self.dir.join("tmp");
        let temp = tempfile::Builder::new()
            .prefix("make-")
            .tempdir_in(&tmp)
            .map_err(Error::io("create a folder in", &tmp))?;
        let _in_use = InUse::of(temp.path());
        let staging = Staging { temp, _in_use };
        create_dir(&staging.entry())?;
        create_dir(&staging.scratch())?;
        Ok(staging)
    }

    /// Puts a finished entry in its place, all of it on stable storage first.
    fn publish(&self, kind: Kind, staging: &Staging, path: &Path) -> Result<()> {
        seal::write(&staging.entry())?;
        match kind {
            // Thousands of files: one call for the whole file system is the quickest.
            Kind::Kernels | Kind::Roots => {
                let dir = File::open(&self.dir).map_err(Error::io("open", &self.dir))?;
                rustix::fs::syncfs(&dir)
                    .map_err(|error| Error::io("sync", &self.dir)(error.into()))?;
            }
            // Three files: they need not wait for what guests on the same file system have written.
            Kind::Modules => sync_files(&staging.entry())?,
        }
        if path.exists() {
            // Damaged, or its checker would have accepted it.
            self.discard(path)?;
        }
        fs::rename(staging.entry(), path).map_err(Error::io("create", path))?;
        sync_folder_of(path)
    }

    /// Writes a small file so that it is there whole or not at all.
    pub(crate) fn write_file(&self, path: &Path, content: &str) -> Result<()> {
        self.write_file_by(&self.dir.join("tmp"), path, content)
    }

    /// The same with a draft in another folder.
    pub(crate) fn write_file_by(&self, drafts: &Path, path: &Path, content: &str) -> Result<()> {
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;
        let mut file = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(drafts)
            .map_err(Error::io("create a file in", drafts))?;
        file.write_all(content.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(Error::io("write", path))?;
        file.persist(path)
            .map_err(|error| Error::io("create", path)(error.error))?;
        sync_folder_of(path)
    }

    /// Puts a file in its place, on stable storage before anybody sees it there.
    pub(crate) fn keep_file(&self, from: &Path, to: &Path) -> Result<()> {
        File::open(from)
            .and_then(|file| file.sync_all())
            .map_err(Error::io("sync", from))?;
        fs::rename(from, to).map_err(Error::io("create", to))?;
        sync_folder_of(to)
    }

    fn remove_stale(&self) -> Result<()> {
        let tmp = self.dir.join("tmp");
        let oldest = SystemTime::now() - STALE_AGE;
        for entry in fs::read_dir(&tmp).map_err(Error::io("list", &tmp))? {
            let path = entry.map_err(Error::io("list", &tmp))?.path();
            // Another process may be deleting the same leftovers: failures are left to the next run.
            let stale = path
                .metadata()
                .and_then(|meta| meta.modified())
                .is_ok_and(|time| time < oldest);
            // A clock may jump, and a machine sleep, while somebody works in it.
            if stale
                && !InUse::by_anybody(&path)
                && !InUse::by_anybody(&path.join(DISCARDED))
                && fs::remove_dir_all(&path).is_err()
            {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

/// Takes all rights on a folder of the cache from other users. What is in it is executed and booted, and is that of whole systems
/// that nobody updates. A folder of somebody else is his affair: who uses it trusts him.
fn close_to_others(dir: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let meta = fs::metadata(dir).map_err(Error::io("look at", dir))?;
    let open = meta.permissions().mode() & 0o077 != 0;
    if open && meta.uid() == rustix::process::geteuid().as_raw() {
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir, closed).map_err(Error::io("close to others", dir))?;
    }
    Ok(())
}

/// Creates a folder with its parents.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// Brings the name of a file or an entry to stable storage.
fn sync_folder_of(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(Error::io("sync", parent))
}

/// Something of the cache that is in use: it is not deleted while this exists.
#[derive(Clone, Debug, Default)]
pub struct InUse(
    #[expect(dead_code, reason = "closing the file releases the lock")] Option<Arc<File>>,
);

impl InUse {
    /// Of a file or an entry. Where the file system has no locks nothing is held; deleting what is in use is then
    /// nobody's fault but of whoever asks for it.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let file = File::open(path).ok();
        Self(file.filter(|file| file.lock_shared().is_ok()).map(Arc::new))
    }

    /// Holds it so that nobody else has it, if nobody does; whoever wants to use it meanwhile waits.
    #[must_use]
    pub fn alone(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        file.try_lock().ok()?;
        Some(Self(Some(Arc::new(file))))
    }

    /// Whether somebody uses it.
    #[must_use]
    pub fn by_anybody(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

/// Brings the files of one folder, and the folder, to stable storage.
fn sync_files(dir: &Path) -> Result<()> {
    let sync = |path: &Path| {
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(Error::io("sync", path))
    };
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        sync(&entry.map_err(Error::io("list", dir))?.path())?;
    }
    sync(dir)
}

/// Bytes of all files below a folder, which must not change meanwhile.
pub(crate) fn tree_bytes(dir: &Path) -> Result<u64> {
    let mut total = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let entry = entry.map_err(Error::io("list", &folder))?;
            let meta = entry.metadata().map_err(Error::io("inspect", &folder))?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                total += meta.len();
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn whole(path: &Path) -> bool {
        path.join("whole").exists()
    }

    fn fill(staging: &Staging) -> Result<()> {
        let path = staging.entry().join("whole");
        fs::write(&path, "x").map_err(Error::io("write", &path))
    }

    fn leftovers(cache: &Cache) -> usize {
        fs::read_dir(cache.path("tmp")).unwrap().count()
    }

    /// Goal: an entry whose making fails midway is absent, and the next attempt makes it whole.
    #[test]
    fn a_failed_entry_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        let failed = cache.get_or_make(
            Kind::Modules,
            "m",
            whole,
            || {},
            |staging| {
                fs::write(staging.entry().join("half"), "x").unwrap();
                Err(Error::NoCacheFolder)
            },
        );
        assert!(failed.is_err());
        assert!(!cache.entry(Kind::Modules, "m").exists());
        assert_eq!(leftovers(&cache), 0);
        let (path, cached) = cache
            .get_or_make(Kind::Modules, "m", whole, || {}, fill)
            .unwrap();
        assert!(!cached && whole(&path) && !path.join("half").exists());
        let (_, cached) = cache
            .get_or_make(Kind::Modules, "m", whole, || {}, |_| panic!("it is there"))
            .unwrap();
        assert!(cached);
    }

    /// Goal: a damaged entry is replaced, not taken for whole.
    #[test]
    fn a_damaged_entry_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        fs::create_dir(cache.entry(Kind::Roots, "r")).unwrap();
        let (path, cached) = cache
            .get_or_make(Kind::Roots, "r", whole, || {}, fill)
            .unwrap();
        assert!(!cached && whole(&path));
        assert_eq!(leftovers(&cache), 0);
    }

    /// Goal: of many that want one entry, exactly one makes it and the others wait for it. Method: eight
    /// threads, each with its own view of the cache as separate processes have; locks are per open file.
    #[test]
    fn one_makes_it_and_the_others_wait() {
        let dir = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = Cache::open(dir.path().to_owned()).unwrap();
                    let make = |staging: &Staging| {
                        made.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(50));
                        fill(staging)
                    };
                    let (path, _) = cache
                        .get_or_make(Kind::Kernels, "k", whole, || {}, make)
                        .unwrap();
                    assert!(whole(&path));
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    /// Goal: a process that is killed while it makes an entry leaves neither an entry nor a held lock.
    /// Method: this test runs itself as a child that stops midway, and kills it there.
    #[test]
    fn a_killed_maker_leaves_nothing() {
        const DIR: &str = "COWBIRD_TEST_KILLED_MAKER";
        if let Some(dir) = std::env::var_os(DIR) {
            let cache = Cache::open(dir.into()).unwrap();
            let _ = cache.get_or_make(
                Kind::Modules,
                "m",
                whole,
                || {},
                |staging| {
                    fill(staging)?;
                    fs::write(cache.path("reached"), "x").unwrap();
                    thread::sleep(Duration::from_secs(60));
                    Ok(())
                },
            );
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache::tests::a_killed_maker_leaves_nothing"])
            .env(DIR, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !dir.path().join("reached").exists() {
            assert!(
                Instant::now() < deadline,
                "the child never came to the middle"
            );
            thread::sleep(LOCK_POLL);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        assert!(!cache.entry(Kind::Modules, "m").exists());
        let started = Instant::now();
        let (_, cached) = cache
            .get_or_make(Kind::Modules, "m", whole, || {}, fill)
            .unwrap();
        assert!(!cached);
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "the dead child's lock was still held"
        );
    }

    /// Goal: nobody else reads or runs what is in the cache, one of earlier versions included.
    #[test]
    fn the_cache_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("cache");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        Cache::open(dir.clone()).unwrap();
        assert_eq!(mode(&dir), 0o700);
        let roots = dir.join("roots");
        for path in [&dir, &roots] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Cache::open(dir.clone()).unwrap();
        assert_eq!(mode(&roots), 0o700);
        assert_eq!(mode(&dir), 0o755, "somebody may keep other things in it");
    }

    /// Goal: leftovers of killed processes go away, those of running ones stay. Method: one old and one fresh.
    #[test]
    fn stale_leftovers_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        let (old, fresh) = (cache.path("tmp/old"), cache.path("tmp/fresh"));
        fs::create_dir(&old).unwrap();
        fs::create_dir(&fresh).unwrap();
        let time = SystemTime::now() - 2 * STALE_AGE;
        File::open(&old).unwrap().set_modified(time).unwrap();
        Cache::open(dir.path().to_owned()).unwrap();
        assert!(!old.exists() && fresh.exists());
    }
}
