//! What keeps a filesystem from its end although it was unmounted.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::mounts::leave_namespace;
use cowbird_proto::message::HoldBy;

/// Bytes of one write.
const CHUNK_BYTES: usize = 64 << 10;

/// At most one thread that holds something.
#[derive(Default)]
pub struct MountPin {
    held: Mutex<Option<Held>>,
}

struct Held {
    orders: Sender<u64>,
    answers: Receiver<GuestResult<()>>,
    thread: JoinHandle<()>,
}

impl MountPin {
    /// Begins to hold the filesystem that a file is on.
    pub fn hold(&self, path: String, by: HoldBy) -> GuestResult<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Err(failure("something is held already"));
        }
        let (orders, to_do) = channel();
        let (done, answers) = channel();
        let thread = std::thread::spawn(move || run(&path, by, &to_do, &done));
        let new = Held {
            orders,
            answers,
            thread,
        };
        new.answer()?;
        *held = Some(new);
        Ok(())
    }

    /// Writes through what is held, and syncs it.
    pub fn write(&self, bytes: u64) -> GuestResult<()> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.as_ref().ok_or_else(|| failure("nothing is held"))?;
        held.orders
            .send(bytes)
            .map_err(|_| failure("what holds the filesystem has ended"))?;
        held.answer()
    }

    /// Ends it; the filesystem ends with it when nothing else has it.
    pub fn let_go(&self) -> GuestResult<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.take().ok_or_else(|| failure("nothing is held"))?;
        drop(held.orders);
        held.thread
            .join()
            .map_err(|_| failure("what holds the filesystem panicked"))
    }
}

impl Held {
    fn answer(&self) -> GuestResult<()> {
        self.answers
            .recv()
            .map_err(|_| failure("what holds the filesystem has ended"))?
    }
}

/// The thread: answers once when it holds, then once for each order.
fn run(path: &str, by: HoldBy, orders: &Receiver<u64>, done: &Sender<GuestResult<()>>) {
    let opened = match by {
        HoldBy::File => open(path).map(Some),
        HoldBy::Namespace => leave_namespace().map(|()| None),
    };
    let file = match opened {
        Ok(file) => file,
        Err(error) => return drop(done.send(Err(error))),
    };
    if done.send(Ok(())).is_err() {
        return;
    }
    for bytes in orders {
        let result = match &file {
            Some(file) => write(path, file, bytes),
            // Not kept open: then the namespace alone holds the filesystem.
            None => open(path).and_then(|file| write(path, &file, bytes)),
        };
        if done.send(result).is_err() {
            return;
        }
    }
}

fn open(path: &str) -> GuestResult<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    options.open(path).context(format_args!("open {path}"))
}

fn write(path: &str, mut file: &File, bytes: u64) -> GuestResult<()> {
    let chunk = vec![0xA5; CHUNK_BYTES];
    let mut left = bytes as usize;
    while left > 0 {
        let length = left.min(chunk.len());
        file.write_all(&chunk[..length])
            .context(format_args!("write {path}"))?;
        left -= length;
    }
    file.sync_all().context(format_args!("sync {path}"))
}
