//! Hibernation: the kernel makes an image of its memory, writes it to a swap area, reads it back and goes on
//! from it, all in one boot. To everything in the kernel it is as if the machine had been off in between.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use cowbird_proto::message::GuestError;
use rustix::fs::{major, minor, stat};

use crate::error::{Context, GuestResult, failure};
use crate::port::Port;
use crate::{ops, sys};

/// Where the kernel says whether it can, and is told to, and the ways that it has.
const STATE: &str = "/sys/power/state";
const WAYS: &str = "/sys/power/disk";
/// How gladly memory is swapped out.
const SWAPPINESS: &str = "/proc/sys/vm/swappiness";
/// The device that the image goes to.
const RESUME: &str = "/sys/power/resume";

/// Writes the image, and goes on from it at once.
const WAY: &str = "test_resume";

/// Bytes of a page, which is the unit of a swap area.
const PAGE_BYTES: usize = 4096;

/// What ends the first page of a swap area.
const SIGNATURE: &[u8] = b"SWAPSPACE2";

/// Where its version and its last page are noted, bytes.
const VERSION_AT: usize = 1024;
const LAST_PAGE_AT: usize = 1028;

/// Makes the device a swap area, hibernates to it, and gives it up again. Tells how far it came: some kernels
/// (6.1) cannot read the image back in the same boot.
pub fn hibernate(device: &str, port: &Port) -> GuestResult<String> {
    let ways = fs::read_to_string(WAYS).unwrap_or_default();
    let knows = |all: &str, one: &str| {
        all.split_whitespace()
            .any(|word| word.trim_matches(['[', ']']) == one)
    };
    if !knows(&ops::read_text(STATE)?, "disk") || !knows(&ways, WAY) {
        return Err(GuestError {
            message: format!("this kernel does not hibernate ({WAYS}: {})", ways.trim()),
            errno: Some(libc::EOPNOTSUPP),
        });
    }
    make_swap(device)?;
    // So that nothing else is ever written there.
    tell(SWAPPINESS, "0")?;
    sys::swap_on(device).context(format_args!("swap to {device}"))?;
    // The driver of 7.3 does not find its host again.
    match port.without_driver(|| go(device))? {
        Ok(()) => {
            sys::swap_off(device).context(format_args!("end swapping to {device}"))?;
            Ok("came back from its image".to_owned())
        }
        // The image was written, and cannot be opened beside the swap area that it is in. Its pages are never
        // given back, for which the end of swapping would wait for ever.
        Err(error) if error.errno == Some(libc::EBUSY) => Ok(format!(
            "wrote its image and could not come back from it: {error}"
        )),
        Err(error) => Err(error),
    }
}

fn go(device: &str) -> GuestResult<()> {
    let number = stat(device)
        .context(format_args!("look at {device}"))?
        .st_rdev;
    tell(RESUME, &format!("{}:{}", major(number), minor(number)))?;
    tell(WAYS, WAY)?;
    tell(STATE, "disk")
}

fn tell(path: &str, word: &str) -> GuestResult<()> {
    fs::write(path, word).context(format_args!("write {word} to {path}"))
}

/// What `mkswap` writes.
pub fn make_swap(device: &str) -> GuestResult<()> {
    let pages = ops::size_of(device)? / PAGE_BYTES as u64;
    let last = u32::try_from(pages.saturating_sub(1))
        .map_err(|_| failure(format!("{device} is too large to swap to")))?;
    let mut page = vec![0; PAGE_BYTES];
    page[VERSION_AT..VERSION_AT + 4].copy_from_slice(&1u32.to_ne_bytes());
    page[LAST_PAGE_AT..LAST_PAGE_AT + 4].copy_from_slice(&last.to_ne_bytes());
    page[PAGE_BYTES - SIGNATURE.len()..].copy_from_slice(SIGNATURE);
    let write = || format!("make {device} a swap area");
    let file = OpenOptions::new().write(true).open(device);
    let file = file.context(write())?;
    file.write_all_at(&page, 0).context(write())?;
    file.sync_all().context(write())
}
