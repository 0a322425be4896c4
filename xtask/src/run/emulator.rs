//! Which QEMU makes and plays tapes.

use anyhow::{Context, Result};
use cowbird_harness::tape;
use cowbird_images::{Catalogue, InUse, Store};
use cowbird_vm::emulator::Emulator;

use crate::ui::Ui;

/// Finds a QEMU that can make tapes: the host's, or one in a root of the cache, which is made if it is not there, and stays as
/// long as it is held.
pub fn recording(store: &Store, catalogue: &Catalogue, ui: &Ui) -> Result<(Emulator, InUse)> {
    let reason = match tape::check_emulator(&Emulator::Host) {
        Ok(_) => return Ok((Emulator::Host, InUse::default())),
        Err(reason) => reason,
    };
    let what_to_do = || {
        format!(
            "{reason}, and there is none in a root of the cache: install QEMU {} or later, or let this command make the \
             root (with the network, and as root or with uidmap installed)",
            tape::MIN_QEMU
        )
    };
    let (root, in_use) = store
        .emulator(&catalogue.emulator)
        .with_context(what_to_do)?;
    let emulator = Emulator::Root(root);
    let version = tape::check_emulator(&emulator)
        .with_context(|| format!("the root {}", catalogue.emulator.name))?;
    ui.line(&format!("tapes are made and played by {version}"));
    Ok((emulator, in_use))
}
