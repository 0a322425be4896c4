//! A loop device that cannot be opened, because its partitions are being read.

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cowbird_guest_system::error::{Context, GuestResult, failure};
use rustix::thread::gettid;

/// The kernel's function that reads partitions; it has the lock that opening takes.
const SCAN: &str = "bdev_disk_changed";

/// Is there while something is under the device.
const BOUND: &str = "/sys/block/loop0/loop";

/// Time for it to begin, or to end when nothing keeps it, and pause between two looks.
const LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// Who waits for the partitions.
static SCANNER: Mutex<Option<JoinHandle<GuestResult<String>>>> = Mutex::new(None);

/// Puts the device on another one, and returns when its partitions are being read.
pub fn stack(device: &str) -> GuestResult<String> {
    let (send, receive) = channel();
    let device = device.to_owned();
    let scanner = std::thread::spawn(move || {
        // Whoever waits for it is there until we end.
        let _ = send.send(gettid().as_raw_nonzero());
        super::loop_device::stack_loop(
            &device,
            super::loop_device::LO_DIRECT_IO | super::loop_device::LO_PARTSCAN,
        )
    });
    let thread = receive
        .recv()
        .map_err(|_| failure("the thread that reads partitions did not begin"))?;
    let stack = format!("/proc/self/task/{thread}/stack");
    let begin = Instant::now();
    loop {
        if scanner.is_finished() {
            let ended = scanner
                .join()
                .map_err(|_| failure("reading partitions failed"))?;
            return Err(failure(format!("the partitions have been read: {ended:?}")));
        }
        let calls = std::fs::read_to_string(&stack).context(format_args!("read {stack}"))?;
        if calls.contains(SCAN) {
            break;
        }
        if begin.elapsed() > LIMIT {
            return Err(failure(format!("nobody reads partitions, but: {calls}")));
        }
        std::thread::sleep(POLL);
    }
    *SCANNER.lock().unwrap_or_else(PoisonError::into_inner) = Some(scanner);
    Ok(super::device::LOOP_DEVICE.to_owned())
}

/// Waits until they have been read, and takes the device off: when the last who waited to open it has closed it.
pub fn unstack() -> GuestResult<()> {
    let scanner = SCANNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let scanner = scanner.ok_or_else(|| failure("nobody reads partitions"))?;
    scanner
        .join()
        .map_err(|_| failure("reading partitions failed"))??;
    super::loop_device::unstack_loop()?;
    let begin = Instant::now();
    while Path::new(BOUND).exists() {
        if begin.elapsed() > LIMIT {
            return Err(failure(format!(
                "somebody keeps {} open",
                super::device::LOOP_DEVICE
            )));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
