//! Trace Event JSON: a process for each disk, whose requests are spans and
//! whose bios are instants, and one for each snapshot, whose events are instants.

use std::collections::BTreeSet;
use std::io::{self, Write};

use cowbird_events::devices;
use cowbird_events::event::{DeviceNumber, IoId, Kind, Record, Sector};
use cowbird_outside::printable_json;
use serde_json::{Value, json};

use super::text;
use crate::commands::Overview;

/// Snapshots come behind the disks, whose numbers are their processes.
const SNAPSHOT_PROCESS: u64 = 1 << 32;

pub struct Writer<'a> {
    overview: &'a Overview,
    named: BTreeSet<u64>,
    /// Spans that have begun: only these are ended.
    begun: BTreeSet<IoId>,
    first: bool,
}

impl<'a> Writer<'a> {
    pub fn new(overview: &'a Overview) -> Self {
        Self {
            overview,
            named: BTreeSet::new(),
            begun: BTreeSet::new(),
            first: true,
        }
    }

    pub fn begin(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")
    }

    pub fn end(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\n]}}")
    }

    fn event(&mut self, out: &mut impl Write, event: &Value) -> io::Result<()> {
        let comma = if std::mem::take(&mut self.first) {
            ""
        } else {
            ","
        };
        write!(out, "{comma}\n{}", printable_json(&event.to_string()))
    }

    /// The process of a record; its name goes ahead of its first event.
    fn process(&mut self, out: &mut impl Write, record: &Record) -> io::Result<u64> {
        let (process, name) = match record.minor() {
            Some(minor) => (
                SNAPSHOT_PROCESS + u64::from(minor),
                format!("snapshot {minor}"),
            ),
            None => {
                let disk = DeviceNumber(record.disk);
                let name = devices::name_of(self.overview.devices(), disk, Sector(u64::MAX));
                (u64::from(record.disk), name)
            }
        };
        if self.named.insert(process) {
            let event = json!({
                "ph": "M", "name": "process_name", "pid": process, "args": {"name": name},
            });
            self.event(out, &event)?;
        }
        Ok(process)
    }

    pub fn put(&mut self, out: &mut impl Write, record: &Record) -> io::Result<()> {
        let phase = match record.kind {
            Kind::Fingerprint => return Ok(()),
            Kind::RqIssue => "b",
            Kind::RqComplete if self.begun.remove(&record.io) => "e",
            _ => "i",
        };
        if phase == "b" {
            self.begun.insert(record.io);
        }
        let name = match phase {
            "i" => record.kind.name(),
            _ => record.op.name(),
        };
        let process = self.process(out, record)?;
        let us = record.time_ns.saturating_sub(self.overview.start_ns()) as f64 / 1000.0;
        let event = json!({
            "ph": phase, "name": name, "cat": "block", "id": record.io, "s": "p",
            "pid": process, "tid": record.cpu, "ts": us, "args": text::to_json(record, false),
        });
        self.event(out, &event)
    }
}
