//! A trace as a workload, which the harness replays.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cowbird_events::devices::{self, BlockDevice};
use cowbird_events::event::{DeviceNumber, Kind, Op, Record, Sector};
use cowbird_trace::workload::Collector;

use crate::commands::{Outcome, Overview, open, read};
use crate::complain::complain;

/// Disks that were written to, or else all that were used.
#[derive(Default)]
struct Disks {
    written: BTreeSet<DeviceNumber>,
    used: BTreeSet<DeviceNumber>,
}

impl Disks {
    fn take(&mut self, record: &Record) {
        if record.kind != Kind::BioQueue {
            return;
        }
        self.used.insert(DeviceNumber(record.disk));
        if record.op != Op::Read {
            self.written.insert(DeviceNumber(record.disk));
        }
    }

    /// The one that is meant when nobody says which.
    fn only<'a>(&self, overview: &'a Overview) -> Result<&'a BlockDevice> {
        let disks = match self.written.is_empty() {
            true => &self.used,
            false => &self.written,
        };
        let name =
            |disk: &DeviceNumber| devices::name_of(overview.devices(), *disk, Sector(u64::MAX));
        let names: Vec<String> = disks.iter().map(name).collect();
        match &names[..] {
            [] => bail!("the trace has no bios; record while the device is in use"),
            [name] => Ok(devices::find_in(overview.devices(), name)?),
            _ => bail!(
                "the trace has bios of {}; choose one of them, or a partition, with --device",
                names.join(" and ")
            ),
        }
    }
}

pub fn run(file: &Path, device: Option<&String>) -> Result<Outcome> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        bail!("a workload is no text; send it to a file, as with `> customer.cbw`");
    }
    let mut disks = Disks::default();
    let input = open(file)?;
    let overview = read(&input, |record| {
        disks.take(record);
        Ok(())
    })?;
    let meta = overview.meta.clone().unwrap_or_default();
    let recorded = meta.filter.as_ref();
    let device = match device.or(recorded) {
        Some(name) => devices::find_in(overview.devices(), name)?,
        None => disks.only(&overview)?,
    };
    let mut collector = Collector::new(device, &meta);
    read(&input, |record| {
        collector.take(record);
        Ok(())
    })?;
    let (workload, left_out) = collector.finish(&overview.losses);
    if workload.operations().is_empty() {
        bail!(
            "the trace has no bios of {}; `cowbird-trace info` says what it has",
            device.name
        );
    }
    for (count, whose) in [
        (left_out.of_module, "of the module itself"),
        (left_out.other, "that cannot be replayed"),
    ] {
        if count > 0 {
            complain!("{count} bios {whose} are left out");
        }
    }
    out.write_all(&workload.encode())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    Ok(overview.warn())
}
