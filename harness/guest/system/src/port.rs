//! The virtio-serial port: finding it, and writing whole frames to it from many threads. A recorded guest has one
//! for each direction.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cowbird_proto::frame::{self, Decoder};
use cowbird_proto::message::{Event, FromGuest, ToGuest};
use cowbird_proto::{PORT_NAME, SEND_PORT_NAME};

use crate::error::{Context, GuestResult, failure};

/// The port appears when the driver has talked to the host; it has this long.
const PORT_LIMIT: Duration = Duration::from_secs(20);

/// Pause between two looks for the port.
const PORT_POLL: Duration = Duration::from_millis(5);

const READ_BYTES: usize = 64 << 10;

/// The driver of the port, and where its devices are bound and unbound.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_console";

/// Both directions, and how often they were opened.
struct Opened {
    read: File,
    write: File,
    times: u64,
}

impl Opened {
    fn open(times: u64) -> GuestResult<Self> {
        let read = open(&find()?)?;
        let write = match look_for_port(SEND_PORT_NAME) {
            Some(path) => open(&path)?,
            None => duplicate(&read)?,
        };
        Ok(Self { read, write, times })
    }
}

/// The guest's end of the protocol stream.
pub struct Port {
    opened: Mutex<Opened>,
}

impl Port {
    /// Finds and opens the port; the second value reads what the host sends.
    pub fn open() -> GuestResult<(Arc<Self>, PortReader)> {
        let opened = Opened::open(1)?;
        let file = duplicate(&opened.read)?;
        let port = Arc::new(Self {
            opened: Mutex::new(opened),
        });
        let reader = PortReader {
            port: Arc::clone(&port),
            file,
            times: 1,
            decoder: Decoder::new(),
            buffer: vec![0; READ_BYTES],
        };
        Ok((port, reader))
    }

    /// Does something with the port's driver away from its devices. The host must not send meanwhile; what the
    /// guest sends waits.
    pub fn without_driver<T>(&self, work: impl FnOnce() -> T) -> GuestResult<T> {
        let mut opened = self.lock();
        let devices = bound()?;
        for device in &devices {
            tell("unbind", device)?;
        }
        let done = work();
        for device in &devices {
            tell("bind", device)?;
        }
        *opened = Opened::open(opened.times + 1)?;
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one message. A message that cannot be sent is told on the console: the host sees the
    /// answer missing and finds the reason there.
    pub fn send(&self, message: &FromGuest) {
        let sent = frame::encode(message)
            .map_err(|error| failure(error.to_string()))
            .and_then(|bytes| {
                let mut opened = self.lock();
                opened.write.write_all(&bytes).context("write to the port")
            });
        if let Err(error) = sent {
            crate::say!("cowbird-guest: message not sent: {error}");
        }
    }

    /// Sends one event.
    pub fn event(&self, event: Event) {
        self.send(&FromGuest::Event(event));
    }

    /// Sends one line for the log of the cell.
    pub fn log(&self, line: impl Into<String>) {
        self.event(Event::Log { line: line.into() });
    }

    /// Keeps the port for ever, so that no other thread sends any more.
    pub fn silence(&self) -> ! {
        let _held = self.lock();
        loop {
            std::thread::park();
        }
    }
}

/// Reads requests.
pub struct PortReader {
    port: Arc<Port>,
    file: File,
    /// The opening that the file is of.
    times: u64,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl PortReader {
    /// The next message; waits for it.
    pub fn next_message(&mut self) -> GuestResult<ToGuest> {
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(failure(error.to_string())),
            }
            match self.file.read(&mut self.buffer) {
                Ok(count) if count > 0 => self.decoder.push(&self.buffer[..count]),
                ended => self.reopen(ended)?,
            }
        }
    }

    /// Goes on where the port was opened again; else that it ended is an error.
    fn reopen(&mut self, ended: std::io::Result<usize>) -> GuestResult<()> {
        let opened = self.port.lock();
        if opened.times == self.times {
            ended.context("read from the port")?;
            return Err(failure("the host closed the port"));
        }
        self.file = duplicate(&opened.read)?;
        self.times = opened.times;
        Ok(())
    }
}

fn duplicate(file: &File) -> GuestResult<File> {
    file.try_clone().context("duplicate the port")
}

/// The devices of the port's driver.
fn bound() -> GuestResult<Vec<String>> {
    let entries = fs::read_dir(DRIVER).context(format_args!("list {DRIVER}"))?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with("virtio")).collect())
}

fn tell(what: &str, device: &str) -> GuestResult<()> {
    fs::write(format!("{DRIVER}/{what}"), device).context(format_args!("{what} {device}"))
}

fn open(path: &Path) -> GuestResult<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context(format_args!("open {}", path.display()))
}

/// The port that the host sends on. The other one is added to the device before it, so that it is there by then.
fn find() -> GuestResult<PathBuf> {
    let deadline = Instant::now() + PORT_LIMIT;
    loop {
        if let Some(path) = look_for_port(PORT_NAME) {
            return Ok(path);
        }
        if Instant::now() > deadline {
            return Err(failure(format!(
                "no virtio port named {PORT_NAME} under /sys/class/virtio-ports after \
                 {PORT_LIMIT:?}; is virtio_console loaded?"
            )));
        }
        std::thread::sleep(PORT_POLL);
    }
}

fn look_for_port(port: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/class/virtio-ports").ok()?;
    entries.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        let device = PathBuf::from("/dev").join(entry.file_name());
        (name.trim() == port && device.exists()).then_some(device)
    })
}
