//! The virtio-serial port: finding it, and writing whole frames to it from many threads. A recorded guest has one
//! for each direction.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
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

/// The guest's end of the protocol stream.
pub struct Port {
    write: Mutex<File>,
}

impl Port {
    /// Finds and opens the port; the second value reads what the host sends.
    pub fn open() -> GuestResult<(Self, PortReader)> {
        let read = open(&find()?)?;
        let write = match look_for_port(SEND_PORT_NAME) {
            Some(path) => open(&path)?,
            None => read.try_clone().context("duplicate the port")?,
        };
        Ok((
            Self {
                write: Mutex::new(write),
            },
            PortReader {
                file: read,
                decoder: Decoder::new(),
                buffer: vec![0; READ_BYTES],
            },
        ))
    }

    /// Sends one message. A message that cannot be sent is told on the console: the host sees the
    /// answer missing and finds the reason there.
    pub fn send(&self, message: &FromGuest) {
        let sent = frame::encode(message)
            .map_err(|error| failure(error.to_string()))
            .and_then(|bytes| {
                let mut file = self.write.lock().unwrap_or_else(|held| held.into_inner());
                file.write_all(&bytes).context("write to the port")
            });
        if let Err(error) = sent {
            eprintln!("cowbird-guest: message not sent: {error}");
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
        let _held = self.write.lock();
        loop {
            std::thread::park();
        }
    }
}

/// Reads requests.
pub struct PortReader {
    file: File,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl PortReader {
    /// The next message; waits for it.
    pub fn next(&mut self) -> GuestResult<ToGuest> {
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(failure(error.to_string())),
            }
            let count = self
                .file
                .read(&mut self.buffer)
                .context("read from the port")?;
            if count == 0 {
                return Err(failure("the host closed the port"));
            }
            self.decoder.push(&self.buffer[..count]);
        }
    }
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
