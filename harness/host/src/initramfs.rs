//! The initramfs: a `newc` cpio archive written in process.
//!
//! The kernel unpacks several archives laid end to end, so the part that all cells of a kernel
//! share is made once and the part of the cell is appended. Not compressed: QEMU maps the file
//! into the guest, and under software emulation the guest's decompressor costs more than it saves.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::error::{HarnessResult, PathContext};

/// Where the guest's init finds the modules to load, one path a line.
const MODULE_LIST: &str = "modules.list";

/// Where the module under test is in the guest.
pub const COWBIRD_KO: &str = "/cowbird.ko";

/// Where the control tool is in the guest.
pub const COWBIRDCTL: &str = "/bin/cowbirdctl";

/// Where the tracer is in the guest.
pub const TRACER: &str = "/bin/cowbird-trace";

/// Where the tracer's trial is in the guest.
pub const TRACER_TRIAL: &str = "/bin/trial";

/// Where a recorded workload is in the guest.
pub const WORKLOAD: &str = "/workload.cbw";

/// Base archives kept in memory; a matrix has few kernels, each archive some 10 MB.
const MAX_CACHED_BASES: usize = 8;

const MODE_DIRECTORY: u32 = 0o040_755;
const MODE_FILE: u32 = 0o100_755;
const MODE_CHAR_DEVICE: u32 = 0o020_600;

/// Writes one archive.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; its parent must be there already.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, MODE_DIRECTORY, (0, 0), &[]);
    }

    /// Adds an executable file; its directory must be there already.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, MODE_FILE, (0, 0), content);
    }

    /// Adds a character device.
    pub fn char_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, MODE_CHAR_DEVICE, (major, minor), &[]);
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    /// The format is described in the kernel's
    /// `Documentation/driver-api/early-userspace/buffer-format.rst`.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inodes += 1;
        let name = name.trim_start_matches('/');
        let fields = [
            self.inodes,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // mtime: fixed, so that equal inputs make equal archives
            u32::try_from(content.len()).unwrap_or(u32::MAX),
            0, // device of the file itself
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // checksum, unused in newc
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// What goes into an initramfs.
#[derive(Debug, Clone)]
pub struct Contents<'a> {
    /// The guest's init.
    pub guest_init: &'a Path,
    /// Modules to load at boot, in order.
    pub boot_modules: &'a [(String, PathBuf)],
    /// Further files: path in the guest, path on the host.
    pub files: &'a [(String, PathBuf)],
}

/// Makes the initramfs.
///
/// # Errors
/// When one of the files cannot be read.
pub fn build(contents: &Contents<'_>) -> HarnessResult<Vec<u8>> {
    let base = cached_base(contents)?;
    let cell = part(contents.files)?;
    let mut bytes = Vec::with_capacity(base.len() + cell.len());
    bytes.extend_from_slice(&base);
    bytes.extend_from_slice(&cell);
    Ok(bytes)
}

/// Makes an archive to be laid behind others: files as (path in the guest, path on the host).
///
/// # Errors
/// When one of the files cannot be read.
pub fn part(files: &[(String, PathBuf)]) -> HarnessResult<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in folders_of(files) {
        archive.directory(&folder);
    }
    for (guest_path, host_path) in files {
        archive.file(guest_path, &fs::read(host_path).on("read", host_path)?);
    }
    Ok(archive.finish())
}

/// The folders that files are in, each after the one that it is in. One that is there already stays.
fn folders_of(files: &[(String, PathBuf)]) -> BTreeSet<String> {
    files
        .iter()
        .flat_map(|(path, _)| Path::new(path).ancestors().skip(1))
        .map(|folder| folder.display().to_string())
        .filter(|folder| !folder.is_empty() && folder != "/")
        .collect()
}

/// Path and time of last change of every input.
type BaseKey = Vec<(PathBuf, std::time::SystemTime)>;

static BASES: LazyLock<Mutex<HashMap<BaseKey, Arc<Vec<u8>>>>> = LazyLock::new(Mutex::default);

fn cached_base(contents: &Contents<'_>) -> HarnessResult<Arc<Vec<u8>>> {
    let mut key = BaseKey::new();
    let modules = contents.boot_modules.iter().map(|(_, path)| path.as_path());
    for path in modules.chain([contents.guest_init]) {
        let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
        key.push((path.to_owned(), changed.on("stat", path)?));
    }
    let mut bases = BASES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(base) = bases.get(&key) {
        return Ok(Arc::clone(base));
    }
    let base = Arc::new(base(contents)?);
    if bases.len() >= MAX_CACHED_BASES {
        bases.clear();
    }
    bases.insert(key, Arc::clone(&base));
    Ok(base)
}

fn base(contents: &Contents<'_>) -> HarnessResult<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "lib", "mnt", "proc", "sys", "tmp"] {
        archive.directory(directory);
    }
    // The kernel opens it for init's standard streams before devtmpfs is mounted.
    archive.char_device("dev/console", 5, 1);
    archive.file(
        "init",
        &fs::read(contents.guest_init).on("read", contents.guest_init)?,
    );
    let mut list = String::new();
    for (name, path) in contents.boot_modules {
        let guest_path = format!("/lib/{name}.ko");
        archive.file(&guest_path, &fs::read(path).on("read", path)?);
        list.push_str(&guest_path);
        list.push('\n');
    }
    archive.file(MODULE_LIST, list.as_bytes());
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_comes_after_the_one_that_it_is_in() {
        let files = ["/usr/bin/fio", "/lib64/ld.so", "/usr/lib/a.so"]
            .map(|path| (path.to_owned(), PathBuf::new()));
        let folders: Vec<String> = folders_of(&files).into_iter().collect();
        assert_eq!(folders, ["/lib64", "/usr", "/usr/bin", "/usr/lib"]);
    }

    /// Goal: the layout is the documented one. Method: the first entry, field by field.
    #[test]
    fn an_entry_has_the_documented_layout() {
        let mut archive = Archive::new();
        archive.file("/a/bc", b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6 + 8..6 + 16], b"000081ed");
        assert_eq!(&bytes[6 + 48..6 + 56], b"00000005", "file size");
        assert_eq!(
            &bytes[6 + 88..6 + 96],
            b"00000005",
            "name size with its zero"
        );
        assert_eq!(&bytes[110..115], b"a/bc\0");
        assert_eq!(&bytes[116..121], b"hello");
        assert_eq!(bytes.len() % 4, 0);
        let trailer = bytes.windows(10).position(|window| window == b"TRAILER!!!");
        assert_eq!(trailer, Some(124 + 110));
    }
}
