//! What is asked of the module for the series that it has. A trait, so that what is decided by the answers can be tried without
//! the module.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use cowbird_abi::cowbird_extent;

use crate::control::{Control, Reload};
use crate::cow_file::CowFile;
use crate::info::{self, Device, Report};
use crate::{names, way};

/// What answers.
pub trait Module {
    /// Its report.
    ///
    /// # Errors
    /// When there is none, or when it makes no sense.
    fn report(&self) -> Result<Report>;

    /// Whether there is one.
    fn is_there(&self) -> bool;

    /// Takes a series up; its state, `COWBIRD_STATE_*`.
    ///
    /// # Errors
    /// When it refuses.
    fn reload(&self, reload: &Reload) -> Result<u32>;

    /// Hands over the COW file of a series that was taken up again.
    ///
    /// # Errors
    /// When it is not there, is not the COW file, or is refused.
    fn verify(&self, device: &Device) -> Result<()>;

    /// Saves a series and removes it from memory.
    ///
    /// # Errors
    /// When it refuses.
    fn suspend(&self, minor: u32) -> Result<()>;

    /// Ends a snapshot.
    ///
    /// # Errors
    /// When it refuses.
    fn destroy(&self, minor: u32) -> Result<()>;

    /// One snapshot of the report.
    ///
    /// # Errors
    /// When it is not there, or cannot be understood.
    fn find(&self, minor: u32) -> Result<Device> {
        self.report()?.find(minor)
    }
}

/// The one that this kernel has, if it has one.
pub struct Loaded;

impl Module for Loaded {
    fn report(&self) -> Result<Report> {
        info::read()
    }

    fn is_there(&self) -> bool {
        info::is_there()
    }

    fn reload(&self, reload: &Reload) -> Result<u32> {
        Control::open()?.reload(reload)
    }

    fn verify(&self, device: &Device) -> Result<()> {
        let control = Control::open()?;
        let cow = CowFile::open(&device.cow_file).map_err(|error| {
            anyhow!(
                "{error:#}; mount its filesystem, or destroy minor {} if the file is gone",
                device.minor
            )
        })?;
        // Its extents are fixed only then; if it is not handed over, it is let go when the control device is closed.
        control.pin(cow.file()).context("cannot pin the COW file")?;
        hand_over(device, &cow, |extents| {
            control.verify(device.minor, extents)
        })
    }

    fn suspend(&self, minor: u32) -> Result<()> {
        Control::open()?.suspend(minor)
    }

    fn destroy(&self, minor: u32) -> Result<()> {
        Control::open()?.destroy(minor)
    }
}

/// The module ends a series whose COW file is not the one that it was. In a folder that somebody else can change he decides
/// what has the file's name, so another file there proves nothing, and is not shown to the module.
fn hand_over(
    device: &Device,
    cow: &CowFile,
    verify: impl FnOnce(&[cowbird_extent]) -> Result<()>,
) -> Result<()> {
    let extents = cow.extents()?;
    let first = extents.iter().map(|extent| extent.sector).min();
    let folder = device.cow_file.parent().unwrap_or(Path::new("/"));
    if first != Some(device.cow_sector)
        && let Some(open) = way::movable(folder)
    {
        bail!(
            "{} is not the COW file of minor {}, and others can put files there, because {} is another user's or can be changed \
             by others; the series was left as it is: put the COW file back and verify again, or destroy minor {}",
            names::shown(&device.cow_file),
            device.minor,
            names::shown(open),
            device.minor
        );
    }
    verify(&extents).with_context(|| format!("cannot verify {}", names::shown(&device.cow_file)))
}

#[cfg(test)]
pub mod fake;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Goal: who can exchange the file cannot have a series ended. Method: a file that lies elsewhere, in a folder of one's own,
    /// where only the module knows what became of the file, and in one that all can change.
    #[test]
    fn a_file_of_somebody_else_is_not_shown_to_the_module() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cow");
        fs::write(&path, vec![1; 64 << 10]).unwrap();
        let cow = CowFile::open(&path).unwrap();
        cow.file().sync_all().unwrap();
        let Ok(extents) = cow.extents() else {
            println!("SKIP: this filesystem does not tell where files lie");
            return;
        };
        let first = extents.iter().map(|extent| extent.sector).min().unwrap();
        let try_with = |mode, cow_sector| {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let device = Device {
                cow_file: path.clone(),
                cow_sector,
                ..fake::device(3, "aa")
            };
            let shown = Cell::new(false);
            let result = hand_over(&device, &cow, |_| {
                shown.set(true);
                Ok(())
            });
            assert_eq!(result.is_ok(), shown.get());
            result
        };
        assert!(try_with(0o700, first).is_ok());
        assert!(try_with(0o777, first).is_ok());
        assert!(try_with(0o700, first + 8).is_ok());
        let said = try_with(0o777, first + 8).unwrap_err().to_string();
        assert!(said.contains("left as it is"), "{said}");
    }
}
