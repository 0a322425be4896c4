//! fio's iolog, version 3: microseconds, file, action, offset and length in bytes. A file is
//! added and opened before its first action and closed behind the last.

use std::collections::BTreeSet;
use std::io::{self, Write};

use cowbird_events::devices::{self, BlockDevice};
use cowbird_events::event::{DeviceNumber, Kind, Op, Record, SECTOR_BYTES, Sector};
use cowbird_outside::printable;

use crate::commands::Overview;

pub struct Iolog<'a> {
    overview: &'a Overview,
    device: Option<&'a BlockDevice>,
    open: BTreeSet<String>,
    started: bool,
    last_us: u64,
}

/// fio's name of an operation; `None` for what it cannot replay.
fn action(op: Op) -> Option<&'static str> {
    Some(match op {
        Op::Read => "read",
        Op::Write => "write",
        Op::Discard | Op::SecureErase => "trim",
        Op::Flush => "sync",
        _ => return None,
    })
}

/// A name as one word of a line: what a trace says of devices may be anything.
fn word(name: &str) -> String {
    printable(name).replace(char::is_whitespace, r"\040")
}

impl<'a> Iolog<'a> {
    pub fn new(overview: &'a Overview, device: Option<&'a BlockDevice>) -> Self {
        Self {
            overview,
            device,
            open: BTreeSet::new(),
            started: false,
            last_us: 0,
        }
    }

    fn place(&self, record: &Record) -> (String, u64) {
        if let Some(device) = self.device {
            let sector = record.sector.saturating_sub(device.start_sector);
            return (word(&device.name), sector);
        }
        let disk = DeviceNumber(record.disk);
        // A place that no partition holds: the disk itself is meant.
        let name = devices::name_of(self.overview.devices(), disk, Sector(u64::MAX));
        (word(&name), record.sector)
    }

    pub fn put(&mut self, out: &mut impl Write, record: &Record) -> io::Result<()> {
        let action = match (record.kind, action(record.op)) {
            // A flush without data is a write of nothing.
            (Kind::BioQueue, Some("write")) if record.amount == 0 => "sync",
            (Kind::BioQueue, Some(action)) => action,
            _ => return Ok(()),
        };
        if !std::mem::replace(&mut self.started, true) {
            writeln!(out, "fio version 3 iolog")?;
        }
        let (name, sector) = self.place(record);
        // Events of different CPUs may be some microseconds out of order; fio's may not.
        let us = record.time_ns.saturating_sub(self.overview.start_ns()) / 1000;
        self.last_us = self.last_us.max(us);
        let us = self.last_us;
        if self.open.insert(name.clone()) {
            writeln!(out, "{us} /dev/{name} add\n{us} /dev/{name} open")?;
        }
        let offset = sector.saturating_mul(SECTOR_BYTES);
        writeln!(out, "{us} /dev/{name} {action} {offset} {}", record.amount)
    }

    pub fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        for name in &self.open {
            writeln!(out, "{} /dev/{name} close", self.last_us)?;
        }
        Ok(())
    }
}
