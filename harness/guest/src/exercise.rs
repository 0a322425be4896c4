//! A filesystem exerciser: one process does to the files of a folder everything that changes them, in an order that the seed
//! alone decides, reads them again, and says in one line what they hold in the end. On two filesystems that are in
//! order it says the same.
//!
//! It knows what each file must hold, and ends at the first read that differs.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::{open_direct, write_text};
use cowbird_guest_system::sys::{self, DirectBuffer, Mapping};
use cowbird_proto::rng::Rng;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::mm::{MapFlags, ProtFlags};
use sha2::{Digest, Sha256};

/// The argument by which this binary exercises: then folder, seed, number of operations and report.
pub const EXERCISE_ARGUMENT: &str = "exercise";

/// The argument by which it says what a folder holds: then folder and report.
pub const DIGEST_ARGUMENT: &str = "digest";

/// The argument by which it shuts a filesystem down as if the machine had stopped, after all was written: then a folder.
pub const SHUTDOWN_ARGUMENT: &str = "shutdown";

/// Folders, and files of each of them at most.
const FOLDERS: u64 = 4;
const FILES: u64 = 6;

/// Longest file, and longest access, bytes.
const MAX_FILE: u64 = 384 << 10;
const MAX_ACCESS: u64 = 48 << 10;

/// What direct accesses and moves of blocks are aligned to: every block size that is tried divides it.
const ALIGN: u64 = 4096;

/// Does what the arguments say.
pub fn run(what: &str, arguments: &[String]) -> GuestResult<()> {
    match (what, arguments) {
        (EXERCISE_ARGUMENT, [folder, seed, operations, report]) => {
            let number = |text: &str| {
                text.parse()
                    .map_err(|_| failure(format!("{text} is no number")))
            };
            let said = exercise(Path::new(folder), number(seed)?, number(operations)?)?;
            write_text(report, &said)
        }
        (DIGEST_ARGUMENT, [folder, report]) => write_text(report, &digest_of(Path::new(folder))?),
        (SHUTDOWN_ARGUMENT, [folder]) => {
            let folder = File::open(folder).context(format_args!("open {folder}"))?;
            sys::shut_down(&folder).context("shut the filesystem down")
        }
        _ => Err(failure(format!(
            "{what} with {} arguments",
            arguments.len()
        ))),
    }
}

/// One folder under exercise.
struct Exerciser {
    root: PathBuf,
    rng: Rng,
    /// What each file must hold, by its name below the root.
    model: BTreeMap<String, Vec<u8>>,
}

fn exercise(root: &Path, seed: u64, operations: u64) -> GuestResult<String> {
    for folder in 0..FOLDERS {
        let path = root.join(format!("d{folder}"));
        fs::create_dir_all(&path).context(format_args!("make {}", path.display()))?;
    }
    let mut exerciser = Exerciser {
        root: root.to_owned(),
        rng: Rng::new(seed),
        model: BTreeMap::new(),
    };
    // An earlier round has left files.
    for name in names(root)? {
        let path = root.join(&name);
        let content = fs::read(&path).context(format_args!("read {}", path.display()))?;
        exerciser.model.insert(name, content);
    }
    for _ in 0..operations {
        exerciser.step()?;
    }
    exerciser.verify_all()?;
    digest_of(root)
}

impl Exerciser {
    /// One operation on one file, which is made if it is not there.
    fn step(&mut self) -> GuestResult<()> {
        let name = self.name();
        let path = self.root.join(&name);
        if !self.model.contains_key(&name) {
            File::create(&path).context(format_args!("create {}", path.display()))?;
            self.model.insert(name.clone(), Vec::new());
        }
        let what = self.rng.below(14);
        let done = match what {
            0..=2 => self.write(&path, &name),
            3 => self.write_direct(&path, &name),
            4 => self.store(&path, &name),
            5 => self.truncate(&path, &name),
            6 => self.punch(&path, &name, FallocateFlags::PUNCH_HOLE),
            7 => self.punch(&path, &name, FallocateFlags::ZERO_RANGE),
            8 => self.collapse(&path, &name),
            9 => self.rename(&path, &name),
            10 => self.remove(&path, &name),
            11 => self.sync(&path),
            _ => self.verify(&name),
        };
        done.map_err(|error| failure(format!("operation {what} on {name}: {}", error.message)))
    }

    fn name(&mut self) -> String {
        format!("d{}/f{}", self.rng.below(FOLDERS), self.rng.below(FILES))
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let mut content = Vec::with_capacity(length as usize + 8);
        while (content.len() as u64) < length {
            content.extend_from_slice(&self.rng.next_u64().to_le_bytes());
        }
        content.truncate(length as usize);
        content
    }

    fn length_of(&self, name: &str) -> u64 {
        self.model
            .get(name)
            .map_or(0, |content| content.len() as u64)
    }

    /// A range that begins in a file of this length, or at its end, as the alignment says.
    fn range(&mut self, length: u64, align: u64) -> (u64, u64) {
        let from = self.rng.below(length.min(MAX_FILE - MAX_ACCESS) + 1) / align * align;
        let bytes = self.rng.between(1, MAX_ACCESS).div_ceil(align) * align;
        (from, bytes)
    }

    fn put(&mut self, name: &str, at: u64, content: &[u8]) {
        if let Some(file) = self.model.get_mut(name) {
            let end = at as usize + content.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[at as usize..end].copy_from_slice(content);
        }
    }

    fn write(&mut self, path: &Path, name: &str) -> GuestResult<()> {
        let (at, bytes) = self.range(self.length_of(name), 1);
        let content = self.bytes(bytes);
        open(path)?.write_all_at(&content, at).context("write")?;
        self.put(name, at, &content);
        Ok(())
    }

    fn write_direct(&mut self, path: &Path, name: &str) -> GuestResult<()> {
        let (at, bytes) = self.range(self.length_of(name), ALIGN);
        let content = self.bytes(bytes);
        let mut buffer = DirectBuffer::new(content.len());
        buffer[..content.len()].copy_from_slice(&content);
        open_direct(&path.display().to_string(), true)?
            .write_all_at(&buffer[..content.len()], at)
            .context("write past the page cache")?;
        self.put(name, at, &content);
        Ok(())
    }

    /// Writes through a mapping, inside of the file.
    fn store(&mut self, path: &Path, name: &str) -> GuestResult<()> {
        let length = self.length_of(name);
        let (at, bytes) = self.range(length, ALIGN);
        let bytes = bytes.min(length.saturating_sub(at));
        if bytes == 0 {
            return Ok(());
        }
        let content = self.bytes(bytes);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let mut mapping =
            Mapping::new(open(path)?, at, bytes as usize, protection, flags).context("map")?;
        mapping.store(0, &content);
        if self.rng.percent(30) {
            mapping.sync().context("sync a mapping")?;
        }
        self.put(name, at, &content);
        Ok(())
    }

    fn truncate(&mut self, path: &Path, name: &str) -> GuestResult<()> {
        let length = self.rng.below(MAX_FILE);
        open(path)?.set_len(length).context("truncate")?;
        if let Some(file) = self.model.get_mut(name) {
            file.resize(length as usize, 0);
        }
        Ok(())
    }

    /// Zeros a range inside of the file, in one of two ways.
    fn punch(&mut self, path: &Path, name: &str, how: FallocateFlags) -> GuestResult<()> {
        let length = self.length_of(name);
        let (at, bytes) = self.range(length, 1);
        let bytes = bytes.min(length.saturating_sub(at));
        if bytes == 0 {
            return Ok(());
        }
        fallocate(open(path)?, how | FallocateFlags::KEEP_SIZE, at, bytes).context("zero")?;
        let zeros = vec![0; bytes as usize];
        self.put(name, at, &zeros);
        Ok(())
    }

    /// Takes whole blocks out of the file.
    fn collapse(&mut self, path: &Path, name: &str) -> GuestResult<()> {
        let length = self.length_of(name);
        let (at, bytes) = self.range(length, ALIGN);
        if at + bytes >= length {
            return Ok(());
        }
        fallocate(open(path)?, FallocateFlags::COLLAPSE_RANGE, at, bytes).context("collapse")?;
        if let Some(file) = self.model.get_mut(name) {
            file.drain(at as usize..(at + bytes) as usize);
        }
        Ok(())
    }

    fn rename(&mut self, path: &Path, name: &str) -> GuestResult<()> {
        let to = self.name();
        fs::rename(path, self.root.join(&to)).context(format_args!("rename to {to}"))?;
        if let Some(content) = self.model.remove(name) {
            self.model.insert(to, content);
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path, name: &str) -> GuestResult<()> {
        // Seldom, so that there is something to work on.
        if self.rng.percent(40) {
            fs::remove_file(path).context("remove")?;
            self.model.remove(name);
        }
        Ok(())
    }

    fn sync(&mut self, path: &Path) -> GuestResult<()> {
        let file = open(path)?;
        if self.rng.percent(50) {
            file.sync_all().context("sync")
        } else {
            file.sync_data().context("sync data")
        }
    }

    /// Reads a file, half of the time from the disk and not from the page cache.
    fn verify(&mut self, name: &str) -> GuestResult<()> {
        let path = self.root.join(name);
        if self.rng.percent(50) {
            forget_pages(&path)?;
        }
        let found = fs::read(&path).context("read")?;
        let expected = self.model.get(name).map_or(&[][..], Vec::as_slice);
        if found == expected {
            return Ok(());
        }
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        Err(failure(format!(
            "{} holds {} bytes and must hold {}; the first that differs is {:?}",
            path.display(),
            found.len(),
            expected.len(),
            first
        )))
    }

    fn verify_all(&mut self) -> GuestResult<()> {
        let known: Vec<String> = self.model.keys().cloned().collect();
        let found = names(&self.root)?;
        if found != known {
            return Err(failure(format!("there are {found:?} instead of {known:?}")));
        }
        for name in known {
            forget_pages(&self.root.join(&name))?;
            self.verify(&name)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> GuestResult<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(path).context("open")
}

fn forget_pages(path: &Path) -> GuestResult<()> {
    let file = open(path)?;
    file.sync_all().context("sync")?;
    fadvise(&file, 0, None, Advice::DontNeed).context("drop pages")
}

/// The files below a folder, sorted.
fn names(root: &Path) -> GuestResult<Vec<String>> {
    let mut names = Vec::new();
    for folder in 0..FOLDERS {
        let path = root.join(format!("d{folder}"));
        let entries = fs::read_dir(&path).context(format_args!("list {}", path.display()))?;
        for entry in entries {
            let entry = entry.context(format_args!("list {}", path.display()))?;
            names.push(format!("d{folder}/{}", entry.file_name().display()));
        }
    }
    names.sort();
    Ok(names)
}

/// What a folder holds, in one line.
fn digest_of(root: &Path) -> GuestResult<String> {
    let mut digest = Sha256::new();
    let names = names(root)?;
    for name in &names {
        let path = root.join(name);
        let content = fs::read(&path).context(format_args!("read {}", path.display()))?;
        digest.update(name.as_bytes());
        digest.update((content.len() as u64).to_le_bytes());
        digest.update(&content);
    }
    let bytes: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!("{} files, {bytes}\n", names.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a filesystem says that cannot collapse ranges, or opens nothing past the page cache.
    const UNSUPPORTED: [&str; 2] = ["os error 95", "os error 22"];

    /// Goal: the seed alone decides what the files hold, whatever was read or dropped from memory meanwhile.
    #[test]
    fn the_same_seed_ends_with_the_same_files() {
        let root = std::env::temp_dir().join(format!("exercise-{}", std::process::id()));
        let mut said = Vec::new();
        for (folder, seed) in [("a", 5), ("b", 5), ("c", 6)] {
            let folder = root.join(folder);
            match exercise(&folder, seed, 400) {
                Ok(line) => {
                    assert_eq!(line, digest_of(&folder).unwrap());
                    said.push(line);
                }
                Err(error) if UNSUPPORTED.iter().any(|said| error.message.contains(said)) => {
                    cowbird_guest_system::say!("not tried: {}", error.message);
                    let _ = fs::remove_dir_all(&root);
                    return;
                }
                Err(error) => panic!("{}", error.message),
            }
        }
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(said[0], said[1]);
        assert_ne!(said[0], said[2]);
    }
}
