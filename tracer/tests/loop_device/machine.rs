//! Loop devices, workloads and the program under test.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use cowbird_events::event::Record;
use cowbird_events::format::{Chunk, Footer, TraceReader};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::{NamedTempFile, TempDir};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cowbird-trace");
const DISK_BYTES: u64 = 128 << 20;
const NOBODY: u32 = 65534;

/// A loop device on a file of its own; detached when dropped.
pub struct Loop {
    pub path: String,
    _file: NamedTempFile,
}

impl Loop {
    /// Where the partition of [`Self::create_partitioned`] begins.
    pub const PARTITION_SECTOR: u64 = 8192;
    const PARTITION_SECTORS: u64 = 16384;

    pub fn create() -> Self {
        Self::try_create().unwrap()
    }

    pub fn try_create() -> Result<Self, String> {
        let file = NamedTempFile::new().map_err(|error| error.to_string())?;
        file.as_file()
            .set_len(DISK_BYTES)
            .map_err(|error| error.to_string())?;
        Self::attach(file)
    }

    /// With one partition, told to the kernel directly: not every kernel reads partition tables.
    pub fn create_partitioned() -> Self {
        let device = Self::create();
        device.write_table();
        let status = Command::new("partx")
            .args(["--add", "--nr", "1", &device.path])
            .status();
        assert!(status.unwrap().success(), "partx {}", device.path);
        device
    }

    /// A partition table of DOS with one entry.
    fn write_table(&self) {
        const ENTRY: usize = 446;
        const LINUX: u8 = 0x83;
        let mut sector = [0; 512];
        sector[ENTRY + 4] = LINUX;
        let place = [Self::PARTITION_SECTOR, Self::PARTITION_SECTORS];
        for (at, value) in place.into_iter().enumerate() {
            let value = u32::try_from(value).expect("a small device");
            sector[ENTRY + 8 + at * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        sector[510..].copy_from_slice(&[0x55, 0xAA]);
        let disk = OpenOptions::new().write(true).open(&self.path);
        let disk = disk.expect("the device was made");
        disk.write_all_at(&sector, 0).expect("it can be written");
        disk.sync_all().expect("it can be written");
    }

    /// Name of the partition.
    pub fn partition(&self) -> String {
        format!("{}p1", self.path.trim_start_matches("/dev/"))
    }

    fn attach(file: NamedTempFile) -> Result<Self, String> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--partscan"])
            .arg(file.path())
            .output()
            .map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(Self {
            path: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            _file: file,
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let status = Command::new("losetup")
            .args(["--detach", &self.path])
            .status();
        assert!(status.unwrap().success(), "{} stays attached", self.path);
    }
}

/// Threads that write 4 KiB each, past the page cache, to every other block, so that no two
/// writes can be merged; no block twice.
pub struct Workload {
    pub writers: u64,
    pub writes_each: u64,
    pub first_block: u64,
}

#[repr(align(4096))]
struct Page([u8; 4096]);

impl Workload {
    fn block(&self, writer: u64, write: u64) -> u64 {
        self.first_block + 2 * (write * self.writers + writer)
    }

    /// Every block that is written, in order.
    pub fn blocks(&self) -> Vec<u64> {
        let last = self.writers * self.writes_each;
        (0..last)
            .map(|index| self.first_block + 2 * index)
            .collect()
    }

    /// Writes them all.
    pub fn run(&self, device: &str) {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(device)
            .unwrap();
        thread::scope(|scope| {
            for writer in 0..self.writers {
                let file = &file;
                scope.spawn(move || {
                    let page = Box::new(Page([writer as u8 + 1; 4096]));
                    for write in 0..self.writes_each {
                        let offset = self.block(writer, write) * 4096;
                        file.write_all_at(&page.0, offset).unwrap();
                    }
                });
            }
        });
    }
}

/// What a trace file holds.
pub struct Trace {
    pub records: Vec<Record>,
    pub footer: Option<Footer>,
    pub defects: Vec<String>,
}

impl Trace {
    pub fn parse(bytes: &[u8]) -> Self {
        let mut reader = TraceReader::new(bytes).unwrap();
        let (mut records, mut footer) = (Vec::new(), None);
        while let Some(chunk) = reader.next_chunk().unwrap() {
            match chunk {
                Chunk::Meta(_) => {}
                Chunk::Events(events) => records.extend(events),
                Chunk::Footer(found) => footer = Some(*found),
            }
        }
        Self {
            records,
            footer,
            defects: reader.defects(),
        }
    }
}

/// The program, recording one device.
pub struct Recording {
    child: Child,
    output: Arc<NamedTempFile>,
}

impl Recording {
    /// Returns when every event from now on will be recorded.
    pub fn start(device: &str, options: &[&str]) -> Self {
        let output = Arc::new(NamedTempFile::new().unwrap());
        let mut child = Command::new(PROGRAM)
            .args(["record", "--seconds", "120", "--device", device, "-o"])
            .arg(output.path())
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut messages = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        messages.read_line(&mut line).unwrap();
        assert!(line.starts_with("recording "), "{line}");
        // The rest is passed on, so that the program never waits for its reader.
        thread::spawn(move || {
            for line in messages.lines().map_while(Result::ok) {
                println!("    {line}");
            }
        });
        Self { child, output }
    }

    /// A line of what the kernel says of the process.
    pub fn status(&self, field: &str) -> String {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    }

    pub fn file(&self) -> Arc<NamedTempFile> {
        Arc::clone(&self.output)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Nothing is taken from the ring buffer from now on.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends [`Self::suspend`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn end(mut self, signal: Signal) -> (Option<i32>, Trace) {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        let bytes = fs::read(self.output.path()).unwrap();
        (status.code(), Trace::parse(&bytes))
    }

    /// Ends the recording as a user does; gives the exit status.
    pub fn stop(self) -> (Option<i32>, Trace) {
        self.end(Signal::INT)
    }

    /// Ends the recording without a chance to tidy up.
    pub fn kill(self) -> Trace {
        self.end(Signal::KILL).1
    }
}

/// What the program writes to standard output when all is well with a file.
pub fn output_of(arguments: &[&str], file: &Path) -> Vec<u8> {
    let output = Command::new(PROGRAM)
        .args(arguments)
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", output.status);
    output.stdout
}

/// Runs the program without any privilege; gives its exit status and all that it printed.
pub fn run_as_nobody(arguments: &[&str]) -> (Option<i32>, String) {
    // The build directory may be closed to others.
    let directory = TempDir::new().unwrap();
    let open = |path: &Path| {
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, all).unwrap();
    };
    let program: PathBuf = directory.path().join("cowbird-trace");
    fs::copy(PROGRAM, &program).unwrap();
    open(directory.path());
    open(&program);
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let output = Command::new(&program)
        .args(arguments)
        .current_dir(directory.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}
