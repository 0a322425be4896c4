//! Hibernation: the kernel makes an image of its memory, writes it to a swap area, reads it back and goes on
//! from it, all in one boot. To everything in the kernel it is as if the machine had been off in between.

use std::fs;

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_guest_system::port::Port;
use cowbird_guest_system::swap::make_swap;
use cowbird_guest_system::{files, sys};
use cowbird_proto::message::GuestError;
use rustix::fs::{major, minor, stat};

/// Where the kernel says whether it can, and is told to, and the ways that it has.
const STATE: &str = "/sys/power/state";
const WAYS: &str = "/sys/power/disk";
/// How gladly memory is swapped out.
const SWAPPINESS: &str = "/proc/sys/vm/swappiness";
/// The device that the image goes to.
const RESUME: &str = "/sys/power/resume";

/// Writes the image, and goes on from it at once.
const WAY: &str = "test_resume";

/// Makes the device a swap area, hibernates to it, and gives it up again. Tells how far it came: some kernels
/// (6.1) cannot read the image back in the same boot.
pub fn hibernate(device: &str, port: &Port) -> GuestResult<String> {
    let ways = fs::read_to_string(WAYS).unwrap_or_default();
    let knows = |all: &str, one: &str| {
        all.split_whitespace()
            .any(|word| word.trim_matches(['[', ']']) == one)
    };
    if !knows(&files::read_text(STATE)?, "disk") || !knows(&ways, WAY) {
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
