//! Which QEMU makes tapes.

use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_vm::emulator::{Emulator, major_version};

/// The first QEMU whose replays of this machine were seen to be exact. With 7.2 they fail.
pub const MIN_QEMU: u32 = 10;

/// Whether this QEMU can make tapes; the value is what it says of itself.
///
/// # Errors
/// When there is no QEMU, or one too old.
pub fn check_emulator(emulator: &Emulator) -> HarnessResult<String> {
    let version = emulator.version()?;
    if major_version(&version).is_some_and(|major| major >= MIN_QEMU) {
        return Ok(version);
    }
    let detail = format!("{version} cannot record a guest; QEMU {MIN_QEMU} or later can");
    Err(HarnessError::Plan { detail })
}
