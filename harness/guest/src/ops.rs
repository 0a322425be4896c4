//! The operations behind the requests.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowbird_proto::message::{Exited, MountApi, MountSpec, Reply};
use cowbird_proto::rng::Rng;
use rustix::fs::OFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};
use rustix::time::{ClockId, clock_gettime, clock_settime};

use crate::error::{Context, GuestResult, failure};
use crate::sys::{self, DirectBuffer};

/// What is kept of a program's standard output and standard error, each.
const OUTPUT_LIMIT_BYTES: u64 = 128 << 10;

/// Longest text file that can be read or that a page of text may hold.
const TEXT_LIMIT_BYTES: u64 = 512 << 10;

/// Pause between two looks whether a program has ended.
const CHILD_POLL: Duration = Duration::from_millis(2);

/// Loads a module file.
pub fn insert_module(path: &str, params: &str) -> GuestResult<()> {
    let file = File::open(path).context(format_args!("open module {path}"))?;
    let params = CString::new(params)
        .map_err(|_| failure(format!("module {path}: parameters contain a zero byte")))?;
    rustix::system::finit_module(&file, &params, 0).context(format_args!("insert module {path}"))
}

/// Unloads a module.
pub fn remove_module(name: &str) -> GuestResult<()> {
    let c_name = CString::new(name).map_err(|_| failure("the module name contains a zero byte"))?;
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    rustix::system::delete_module(&c_name, nonblocking)
        .context(format_args!("remove module {name}"))
}

/// Runs a program to its end.
pub fn run_program(program: &str, args: &[String], limit: Duration) -> GuestResult<Exited> {
    run(program, args, None, limit)
}

/// Runs a program, and kills it after a while.
pub fn run_and_kill(
    program: &str,
    args: &[String],
    after: Duration,
    limit: Duration,
) -> GuestResult<Exited> {
    run(program, args, Some(after), limit)
}

fn run(
    program: &str,
    args: &[String],
    kill_after: Option<Duration>,
    limit: Duration,
) -> GuestResult<Exited> {
    let mut kill_at = kill_after.map(|after| Instant::now() + after);
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(format_args!("start {program}"))?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .context(format_args!("wait for {program}"))?
        {
            break status;
        }
        if Instant::now() > deadline {
            return Err(overdue(&mut child, program, limit));
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            child.kill().context(format_args!("kill {program}"))?;
            kill_at = None;
        }
        std::thread::sleep(CHILD_POLL);
    };
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Exited {
        code: status.code(),
        signal: status.signal(),
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

/// Kills a program without waiting for it: in a system call that never ends it would not die.
fn overdue(
    child: &mut Child,
    program: &str,
    limit: Duration,
) -> cowbird_proto::message::GuestError {
    let stack = fs::read_to_string(format!("/proc/{}/stack", child.id())).unwrap_or_default();
    let _ = child.kill();
    failure(format!(
        "{program} did not end within {limit:?}; its kernel stack:\n{stack}"
    ))
}

/// Reads a stream of a program to its end, and keeps the beginning.
pub fn collect(stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut bounded = stream.take(OUTPUT_LIMIT_BYTES);
        // What arrived before an error is still worth reading.
        let _ = bounded.read_to_end(&mut bytes);
        let mut rest = bounded.into_inner();
        let _ = std::io::copy(&mut rest, &mut std::io::sink());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Mounts a filesystem and makes the mount point.
pub fn mount(spec: &MountSpec) -> GuestResult<()> {
    let MountSpec { source, target, .. } = spec;
    fs::create_dir_all(target).context(format_args!("make mount point {target}"))?;
    match spec.api {
        MountApi::Mount => mount_in_one(spec),
        MountApi::Fsmount => mount_in_steps(spec),
    }
    .context(format_args!(
        "mount {source} on {target} as {}",
        spec.fstype
    ))
}

fn mount_in_one(spec: &MountSpec) -> rustix::io::Result<()> {
    let mut flags = MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, spec.read_only);
    let options = CString::new(spec.options.as_str()).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount(
        spec.source.as_str(),
        spec.target.as_str(),
        spec.fstype.as_str(),
        flags,
        options.as_c_str(),
    )
}

fn mount_in_steps(spec: &MountSpec) -> rustix::io::Result<()> {
    let context = fsopen(spec.fstype.as_str(), FsOpenFlags::empty())?;
    fsconfig_set_string(&context, "source", spec.source.as_str())?;
    if spec.read_only {
        fsconfig_set_flag(&context, "ro")?;
    }
    for option in spec.options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option)?,
        }
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mounted = fsmount(&context, FsMountFlags::empty(), attributes)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mounted, "", rustix::fs::CWD, spec.target.as_str(), flags)
}

/// Makes a mounted filesystem read-only, or writable again.
pub fn remount(target: &str, read_only: bool) -> GuestResult<()> {
    let mut flags = MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, read_only);
    rustix::mount::mount_remount(target, flags, c"").context(format_args!("remount {target}"))
}

/// Makes a mounted ext4 larger.
pub fn grow_ext4(path: &str, blocks: u64) -> GuestResult<()> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    sys::resize_ext4(&file, blocks).context(format_args!("resize the filesystem of {path}"))
}

/// Moves the wall clock.
pub fn shift_clock(seconds: i64) -> GuestResult<()> {
    let mut now = clock_gettime(ClockId::Realtime);
    now.tv_sec = now.tv_sec.saturating_add(seconds);
    clock_settime(ClockId::Realtime, now).context(format_args!("set the clock by {seconds} s"))
}

/// Freezes the filesystem that is mounted there.
pub fn freeze(path: &str) -> GuestResult<()> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    sys::freeze(&file).context(format_args!("freeze {path}"))
}

/// Thaws the filesystem that is mounted there.
pub fn thaw(path: &str) -> GuestResult<()> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    sys::thaw(&file).context(format_args!("thaw {path}"))
}

/// Unmounts.
pub fn unmount(target: &str) -> GuestResult<()> {
    rustix::mount::unmount(target, UnmountFlags::empty()).context(format_args!("unmount {target}"))
}

/// Takes a mount out of the tree.
pub fn detach(target: &str) -> GuestResult<()> {
    rustix::mount::unmount(target, UnmountFlags::DETACH).context(format_args!("detach {target}"))
}

/// Gives a file another name, and puts a copy of it in its place.
pub fn replace_by_copy(path: &str, kept: &str) -> GuestResult<()> {
    fs::rename(path, kept).context(format_args!("rename {path} to {kept}"))?;
    fs::copy(kept, path).context(format_args!("copy {kept} to {path}"))?;
    rustix::fs::sync();
    Ok(())
}

/// Removes a file.
pub fn remove_file(path: &str) -> GuestResult<()> {
    fs::remove_file(path).context(format_args!("remove {path}"))
}

/// Physical extents of a file.
pub fn fiemap(path: &str, from: u64) -> GuestResult<Reply> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    let (extents, complete) =
        sys::fiemap(&file, from, true).context(format_args!("ask for the extents of {path}"))?;
    Ok(Reply::Extents { extents, complete })
}

/// Size of a file or block device, bytes.
pub fn size_of(path: &str) -> GuestResult<u64> {
    use std::os::unix::fs::FileTypeExt;
    let file = File::open(path).context(format_args!("open {path}"))?;
    let metadata = file.metadata().context(format_args!("stat {path}"))?;
    if metadata.file_type().is_block_device() {
        sys::device_bytes(&file).context(format_args!("ask for the size of {path}"))
    } else {
        Ok(metadata.len())
    }
}

/// Reads a small text file.
pub fn read_text(path: &str) -> GuestResult<String> {
    Ok(String::from_utf8_lossy(&read_file(path)?).into_owned())
}

/// Reads a small file.
pub fn read_file(path: &str) -> GuestResult<Vec<u8>> {
    let file = File::open(path).context(format_args!("open {path}"))?;
    let mut bytes = Vec::new();
    file.take(TEXT_LIMIT_BYTES)
        .read_to_end(&mut bytes)
        .context(format_args!("read {path}"))?;
    Ok(bytes)
}

/// Reads the part of a file that begins at `from_byte`; nothing behind its end.
pub fn read_part(path: &str, from_byte: u64) -> GuestResult<Vec<u8>> {
    let mut file = File::open(path).context(format_args!("open {path}"))?;
    file.seek(SeekFrom::Start(from_byte))
        .context(format_args!("seek in {path}"))?;
    let mut bytes = Vec::new();
    file.take(TEXT_LIMIT_BYTES)
        .read_to_end(&mut bytes)
        .context(format_args!("read {path}"))?;
    Ok(bytes)
}

/// Writes to a block device with direct I/O.
pub fn write_direct(path: &str, offset: u64, content: &[u8]) -> GuestResult<()> {
    let device = open_direct(path, true)?;
    let mut buffer = DirectBuffer::new(content.len());
    buffer[..content.len()].copy_from_slice(content);
    device
        .write_all_at(&buffer[..content.len()], offset)
        .context(format_args!("write to {path}"))
}

/// Zeroes a part of a block device.
pub fn zero_out(path: &str, offset: u64, bytes: u64) -> GuestResult<()> {
    let device = open_direct(path, true)?;
    sys::zero_out(&device, offset, bytes)
        .context(format_args!("zero {bytes} bytes of {path} at {offset}"))
}

/// Writes a small text file, and makes its folder.
pub fn write_text(path: &str, text: &str) -> GuestResult<()> {
    if let Some(folder) = std::path::Path::new(path).parent() {
        fs::create_dir_all(folder).context(format_args!("make the folder of {path}"))?;
    }
    fs::write(path, text).context(format_args!("write {path}"))
}

/// Opens a file or device for direct I/O.
pub fn open_direct(path: &str, write: bool) -> GuestResult<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)
        .context(format_args!("open {path} for direct I/O"))
}

/// Reads the partition table of a disk again.
pub fn read_partitions(disk: &str) -> GuestResult<()> {
    let file = File::open(disk).context(format_args!("open {disk}"))?;
    sys::read_partitions(&file).context(format_args!("read the partition table of {disk}"))
}

/// Gives a partition another size.
pub fn resize_partition(disk: &str, number: u32, start: u64, bytes: u64) -> GuestResult<()> {
    let file = File::open(disk).context(format_args!("open {disk}"))?;
    sys::resize_partition(&file, number, start, bytes).context(format_args!(
        "resize partition {number} of {disk} to {bytes} bytes"
    ))
}

/// Writes to so many pages of a file through the page cache, each once, in no order, and no two next to each other.
pub fn make_dirty(path: &str, pages: u32, seed: u64) -> GuestResult<()> {
    const PAGE_BYTES: usize = 4096;
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .context(format_args!("open {path}"))?;
    let mut order: Vec<u64> = (0..size_of(path)? / PAGE_BYTES as u64).step_by(2).collect();
    if order.len() < pages as usize {
        return Err(failure(format!(
            "{path} has less than {pages} pages that are not next to each other"
        )));
    }
    let mut rng = Rng::new(seed);
    for taken in 0..pages as usize {
        let rest = (order.len() - taken) as u64;
        order.swap(taken, taken + rng.below(rest) as usize);
        let word = rng.next_u64().to_ne_bytes();
        let offset = order[taken] * PAGE_BYTES as u64;
        file.write_all_at(&word.repeat(PAGE_BYTES / word.len()), offset)
            .context(format_args!("write {path} at {offset}"))?;
    }
    Ok(())
}

/// Copies a block device, or so many bytes of it, to a place on another.
pub fn copy_device(
    from: &str,
    bytes: Option<u64>,
    to: &str,
    to_byte: u64,
    chunk_bytes: usize,
) -> GuestResult<u64> {
    let source = open_direct(from, false)?;
    let target = open_direct(to, true)?;
    let total = match bytes {
        Some(bytes) => bytes,
        None => size_of(from)?,
    };
    let mut buffer = DirectBuffer::new(chunk_bytes.max(sys::DIRECT_ALIGN_BYTES));
    let mut offset = 0;
    while offset < total {
        let length = (total - offset).min(buffer.len() as u64) as usize;
        let chunk = &mut buffer[..length];
        source
            .read_exact_at(chunk, offset)
            .context(format_args!("read {from} at {offset}"))?;
        let place = to_byte + offset;
        target
            .write_all_at(chunk, place)
            .context(format_args!("write {to} at {place}"))?;
        offset += length as u64;
    }
    target.sync_all().context(format_args!("sync {to}"))?;
    Ok(total)
}
