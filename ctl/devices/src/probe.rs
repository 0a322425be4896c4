//! Whether a device answers, and what it says of itself, asked in a process of its own.
//!
//! Opening a drive may block in the kernel, where no signal reaches: a floppy drive without a medium, a disk whose
//! partition table is being read from a path that is gone. A thread that hangs there keeps its whole process from ending,
//! so another process asks, and is left behind if it must be. The same is true of whoever removes a file from a disk that
//! does not answer.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a device may take to be opened: longer than any drive spins up.
const LIMIT: Duration = Duration::from_secs(15);

/// How often the answer is looked for.
const POLL: Duration = Duration::from_millis(5);

/// More files than this tool ever has open.
const FILES: libc::c_int = 1024;

/// A filesystem that may span devices, and has no device number of its own that leads to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spanning {
    /// btrfs.
    Btrfs,
    /// ZFS.
    Zfs,
}

impl Spanning {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Btrfs => "a btrfs",
            Self::Zfs => "a part of a ZFS pool",
        }
    }
}

/// What tells such a filesystem from others: eight bytes at a place.
struct Signature {
    of: Spanning,
    at: u64,
    magic: [u8; 8],
}

/// Of ZFS, the magic number of the checksum that ends the configuration in its first two labels: `zec_magic` of
/// `zio_eck_t`, in the byte order of whoever wrote it. Labels take 256 KiB, and the configuration in them ends at 128 KiB.
const ZFS_MAGIC: u64 = 0x0210_da7a_b10c_7a11;
const ZFS_LABEL_BYTES: u64 = 256 << 10;
const ZFS_MAGIC_AT: u64 = (128 << 10) - 40;

const SIGNATURES: [Signature; 5] = [
    // `magic` of `struct btrfs_super_block`, the first of which is at 64 KiB.
    Signature {
        of: Spanning::Btrfs,
        at: (64 << 10) + 0x40,
        magic: *b"_BHRfS_M",
    },
    Signature {
        of: Spanning::Zfs,
        at: ZFS_MAGIC_AT,
        magic: ZFS_MAGIC.to_le_bytes(),
    },
    Signature {
        of: Spanning::Zfs,
        at: ZFS_MAGIC_AT,
        magic: ZFS_MAGIC.to_be_bytes(),
    },
    Signature {
        of: Spanning::Zfs,
        at: ZFS_LABEL_BYTES + ZFS_MAGIC_AT,
        magic: ZFS_MAGIC.to_le_bytes(),
    },
    Signature {
        of: Spanning::Zfs,
        at: ZFS_LABEL_BYTES + ZFS_MAGIC_AT,
        magic: ZFS_MAGIC.to_be_bytes(),
    },
];

/// The child's exit code is this and the place of a signature in [`SIGNATURES`]: above all errors of Linux.
const FOUND: i32 = 200;

/// Opens the device for reading and closes it again.
///
/// # Errors
/// When it cannot be opened, or when that takes too long.
pub fn opens(path: &Path) -> Result<()> {
    ask_within(path, &[], LIMIT).map(|_| ())
}

/// Looks for filesystems that may span devices, which begin at one of these bytes of the device. Where the device cannot
/// be read there is none.
///
/// # Errors
/// When it cannot be opened, or when that or reading takes too long.
pub fn spanning(path: &Path, begins: &[u64]) -> Result<Option<Spanning>> {
    ask_within(path, begins, LIMIT)
}

fn ask_within(path: &Path, begins: &[u64], limit: Duration) -> Result<Option<Spanning>> {
    let name = CString::new(path.as_os_str().as_bytes())
        .with_context(|| format!("bad path {}", path.display()))?;
    let child = begin_child(|| ask(&name, begins))?;
    match end_within(child, limit)? {
        Some(0) => Ok(None),
        Some(code) => {
            let found = usize::try_from(code - FOUND).ok();
            match found.and_then(|found| SIGNATURES.get(found)) {
                Some(signature) => Ok(Some(signature.of)),
                None => Err(io::Error::from_raw_os_error(code))
                    .with_context(|| format!("cannot open {}", path.display())),
            }
        }
        None => {
            // SAFETY: it is our child and has not been waited for. It may end long after us.
            unsafe { libc::kill(child, libc::SIGKILL) };
            bail!(
                "{} does not answer: it has taken more than {} s; look at the drive and at the kernel \
                 log. Process {child} still waits for it",
                path.display(),
                limit.as_secs()
            );
        }
    }
}

/// Whether an attribute in `/sys` can be read: drivers ask the disk for some of them.
pub fn can_be_read(path: &Path) -> bool {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let child = begin_child(|| read_some(&name));
    child.is_ok_and(|child| match end_within(child, LIMIT) {
        Ok(Some(code)) => code == 0,
        _ => {
            // SAFETY: it is our child and has not been waited for. It may end long after us.
            unsafe { libc::kill(child, libc::SIGKILL) };
            false
        }
    })
}

/// Starts a process that does this, and ends with exit code 0 unless that ends it with another one. It must not call what may not
/// be called between fork and exit of a process with threads.
pub(crate) fn begin_child(acts: impl FnOnce()) -> Result<libc::pid_t> {
    keep_ends();
    // SAFETY: the child calls only what may be called between fork and exit of a process with threads.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("cannot start a process"),
        0 => {
            acts();
            // SAFETY: a plain system call.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child),
    }
}

/// Whoever started this program may have let it ignore the ends of its processes. The kernel then keeps none for who waits, and no
/// answer of a child would ever arrive.
fn keep_ends() {
    // SAFETY: all zeros are a valid `struct sigaction`, of which the kernel writes one, and reads one that is the default.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut now) == 0;
        let ignores = now.sa_sigaction == libc::SIG_IGN || now.sa_flags & libc::SA_NOCLDWAIT != 0;
        if known && ignores {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(libc::SIGCHLD, &raw const default, std::ptr::null_mut());
        }
    }
}

/// The exit code of a child; none when it has not ended in time.
pub(crate) fn end_within(child: libc::pid_t, limit: Duration) -> Result<Option<i32>> {
    let begin = Instant::now();
    loop {
        let code = ended(child).with_context(|| format!("cannot wait for process {child}"))?;
        if code.is_some() || begin.elapsed() >= limit {
            return Ok(code);
        }
        std::thread::sleep(POLL);
    }
}

/// In a child: keeps nothing of ours open, least of all a pipe whose reader waits for our end.
pub(crate) fn close_all() {
    // SAFETY: plain system calls.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) != 0 {
            // A kernel before 5.9.
            for file in 0..FILES {
                libc::close(file);
            }
        }
    }
}

/// What a child does that reads an attribute.
fn read_some(name: &CStr) {
    close_all();
    let mut bytes = [0u8; 512];
    // SAFETY: these are system calls. Of our memory they take `name`, which ends with a zero, and `bytes`, with its length.
    unsafe {
        let file = libc::open(name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file == -1 || libc::read(file, bytes.as_mut_ptr().cast(), bytes.len()) == -1 {
            libc::_exit(*libc::__errno_location());
        }
    }
}

/// What a child does that asks a device.
fn ask(name: &CStr, begins: &[u64]) {
    close_all();
    // SAFETY: these are system calls. Of our memory they take `name`, which ends with a zero, and `bytes`, with its length.
    unsafe {
        let file = libc::open(name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file == -1 {
            libc::_exit(*libc::__errno_location());
        }
        let mut bytes = [0u8; 8];
        for begin in begins {
            for (code, signature) in (FOUND..).zip(&SIGNATURES) {
                let at = begin.saturating_add(signature.at) as libc::off_t;
                let read = libc::pread(file, bytes.as_mut_ptr().cast(), bytes.len(), at);
                if read == bytes.len() as isize && bytes == signature.magic {
                    libc::_exit(code);
                }
            }
        }
    }
}

/// The exit code of a child that has ended.
fn ended(child: libc::pid_t) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: waitpid writes one number at the address, which is `status`.
    match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ if libc::WIFEXITED(status) => Ok(Some(libc::WEXITSTATUS(status))),
        // Somebody killed it.
        _ => Ok(Some(libc::EINTR)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_opens() {
        assert!(opens(Path::new("/dev/null")).is_ok());
        let error = opens(Path::new("/dev/missing")).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "cannot open /dev/missing: No such file or directory (os error 2)"
        );
    }

    /// Goal: what does not open is given up in time. Method: a pipe that nobody writes to.
    #[test]
    fn what_blocks_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let error = ask_within(&path, &[], Duration::from_secs(1)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("pipe does not answer: it has taken more than 1 s"),
            "{text}"
        );
    }

    #[test]
    fn what_takes_too_long_is_left_to_its_process() {
        let limit = Duration::from_secs(10);
        let sleeper = begin_child(|| std::thread::sleep(Duration::from_secs(60))).unwrap();
        let early = end_within(sleeper, Duration::from_millis(50)).unwrap();
        // SAFETY: it is our child, and still there.
        unsafe { libc::kill(sleeper, libc::SIGKILL) };
        assert_eq!(early, None);
        assert_eq!(end_within(sleeper, limit).unwrap(), Some(libc::EINTR));
    }

    /// Goal: each signature is found where its filesystem begins, and nowhere else. The places are those at which a btrfs of
    /// mkfs.btrfs 6.2 and the devices of a pool of ZFS 2.1.11 have them.
    #[test]
    fn filesystems_that_span_devices() {
        use std::os::unix::fs::FileExt;
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        for (of, at, magic) in [
            (Spanning::Btrfs, 65600, *b"_BHRfS_M"),
            (Spanning::Zfs, 131_032, *b"\x11\x7a\x0c\xb1\x7a\xda\x10\x02"),
            (Spanning::Zfs, 393_176, *b"\x02\x10\xda\x7a\xb1\x0c\x7a\x11"),
        ] {
            let path = dir.path().join("device");
            let file = std::fs::File::create(&path).unwrap();
            file.set_len(4 * MIB).unwrap();
            assert_eq!(spanning(&path, &[0, MIB]).unwrap(), None);
            file.write_all_at(&magic, MIB + at).unwrap();
            assert_eq!(spanning(&path, &[0, 2 * MIB]).unwrap(), None);
            assert_eq!(spanning(&path, &[0, MIB]).unwrap(), Some(of));
            file.set_len(MIB).unwrap();
            assert_eq!(spanning(&path, &[0, MIB]).unwrap(), None);
        }
    }
}
