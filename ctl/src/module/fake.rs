//! A module that is none: a list of snapshots, and what was asked of it.

use std::cell::RefCell;

use anyhow::{Result, bail};

use super::Module;
use crate::control::Reload;
use crate::info::{Device, Report};

/// What it has, and what it does.
#[derive(Default)]
pub struct Fake {
    /// Its snapshots; none where there is no module.
    pub devices: RefCell<Option<Vec<Device>>>,
    /// Minors of which everything that is asked is refused.
    pub refuses: Vec<u32>,
    /// What was asked, in order.
    pub asked: RefCell<Vec<String>>,
    /// Whether a refused suspension has ended the snapshot all the same.
    pub ends_nevertheless: bool,
}

/// A snapshot that is well and whose COW file is in use.
pub fn device(minor: u32, series: &str) -> Device {
    serde_json::from_value(serde_json::json!({
        "minor": minor, "cow_file": "/none/cow", "block_device": "/dev/none", "cow_inode": 1, "max_cache": 1, "seq_id": 1,
        "uuid": series, "error": 0, "error_text": "", "state_name": "active snapshot", "origin_sectors": 8, "cow_slots": 8,
        "cow_slots_used": 1, "origin_device": "0:0", "cow_device": "0:0", "cow_sector": 8, "cow_is_pinned": true,
        "tracks": true, "changes_from_epoch": 0, "preserved_blocks": 0, "memory_blocks": 0
    }))
    .unwrap()
}

impl Fake {
    /// One with these snapshots.
    pub fn with(devices: Vec<Device>) -> Self {
        Self {
            devices: RefCell::new(Some(devices)),
            ..Self::default()
        }
    }

    fn ask(&self, what: &str, minor: u32) -> Result<()> {
        self.asked.borrow_mut().push(format!("{what} {minor}"));
        if self.refuses.contains(&minor) {
            bail!("{what} {minor} is refused");
        }
        Ok(())
    }

    fn end(&self, minor: u32) {
        if let Some(devices) = self.devices.borrow_mut().as_mut() {
            devices.retain(|device| device.minor != minor);
        }
    }
}

impl Module for Fake {
    fn report(&self) -> Result<Report> {
        match &*self.devices.borrow() {
            Some(devices) => Ok(Report::of(devices.clone())),
            None => bail!("there is no module"),
        }
    }

    fn is_there(&self) -> bool {
        self.devices.borrow().is_some()
    }

    fn reload(&self, reload: &Reload) -> Result<u32> {
        self.ask("reload", reload.minor).map(|()| 0)
    }

    fn verify(&self, device: &Device) -> Result<()> {
        self.ask("verify", device.minor)
    }

    fn suspend(&self, minor: u32) -> Result<()> {
        let asked = self.ask("suspend", minor);
        if asked.is_ok() || self.ends_nevertheless {
            self.end(minor);
        }
        asked
    }

    fn destroy(&self, minor: u32) -> Result<()> {
        self.ask("destroy", minor)?;
        self.end(minor);
        Ok(())
    }
}
