//! Devices that others are stacked on.

use std::fs::{File, OpenOptions};

use cowbird_guest_system::error::{Context, GuestResult};

/// The loop device.
pub(super) const LOOP_DEVICE: &str = "/dev/loop0";

/// Opens a device for reading and writing.
pub(super) fn open(path: &str) -> GuestResult<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(path).context(format_args!("open {path}"))
}
