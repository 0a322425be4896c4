//! The lines of `cowbird-trace export --format jsonl`, sorted by disk. The tracer's library is not linked
//! here: it takes a compiler for BPF to build.

use std::collections::{BTreeMap, HashMap};

use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_model::{
    Change, Epoch, Place, Print, Sector, SectorRange, TracedBio, TracedDisk, TracedFlush,
    TracedInstant, TracedRequest,
};
use serde::Deserialize;

const SECTOR_BYTES: u64 = 512;

/// The fields that matter here, of all kinds of event.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    sequence: u64,
    time_ns: u64,
    event: &'a str,
    #[serde(default)]
    disk: Option<&'a str>,
    #[serde(default)]
    minor: u32,
    #[serde(default)]
    op: &'a str,
    #[serde(default)]
    flags: &'a str,
    #[serde(default)]
    sector: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    status: i32,
    #[serde(default)]
    io: u64,
    #[serde(default)]
    xxh64: &'a str,
    #[serde(default)]
    epoch: u64,
    #[serde(default)]
    step: &'a str,
}

impl Line<'_> {
    fn place(&self) -> Place {
        Place(self.sequence)
    }

    fn range(&self) -> SectorRange {
        SectorRange::new(Sector(self.sector), self.bytes / SECTOR_BYTES)
    }

    fn change(&self) -> Option<Change> {
        match self.op {
            _ if self.bytes == 0 => None,
            "write" | "write_same" => Some(Change::Write),
            "write_zeroes" => Some(Change::Zeroes),
            "discard" | "secure_erase" => Some(Change::Discard),
            _ => None,
        }
    }
}

/// A request that was issued.
struct Issued {
    place: Place,
    change: Option<Change>,
    range: SectorRange,
    fua: bool,
    /// Whether a part of it is complete.
    completed: bool,
}

/// One disk of the trace while it is read.
#[derive(Default)]
struct Reader {
    disk: TracedDisk,
    /// The last bio of each name.
    bios: HashMap<u64, usize>,
    open: HashMap<u64, Issued>,
}

/// A trace as the model takes it.
#[derive(Default)]
pub struct Events {
    /// By device number.
    pub disks: BTreeMap<String, TracedDisk>,
    /// Epochs that began.
    pub instants: Vec<TracedInstant>,
}

/// Reads all lines.
pub fn read(text: &str) -> HarnessResult<Events> {
    let mut readers = BTreeMap::<String, Reader>::new();
    let mut instants = Vec::new();
    let mut drained = HashMap::<u32, Place>::new();
    for text in text.lines() {
        let line: Line<'_> =
            serde_json::from_str(text).map_err(|error| HarnessError::Protocol {
                detail: format!("a line of the exported trace, {text}: {error}"),
            })?;
        match (line.event, line.step) {
            ("cowbird_epoch", "drained") => {
                drained.insert(line.minor, line.place());
            }
            ("cowbird_epoch", "begun") => instants.push(TracedInstant {
                minor: line.minor,
                epoch: Epoch(line.epoch),
                drained: drained.remove(&line.minor).unwrap_or_default(),
                begun: line.place(),
            }),
            _ => {}
        }
        if let Some(disk) = line.disk {
            if !readers.contains_key(disk) {
                readers.insert(disk.to_owned(), Reader::default());
            }
            if let Some(reader) = readers.get_mut(disk) {
                reader.take(&line);
            }
        }
    }
    let disks = readers.into_iter();
    Ok(Events {
        disks: disks
            .map(|(disk, reader)| (disk, reader.finish()))
            .collect(),
        instants,
    })
}

impl Reader {
    fn take(&mut self, line: &Line<'_>) {
        match line.event {
            "bio_queue" => {
                let Some(change) = line.change() else { return };
                self.bios.insert(line.io, self.disk.bios.len());
                self.disk.bios.push(TracedBio {
                    queued: line.place(),
                    queued_ns: line.time_ns,
                    change,
                    range: line.range(),
                    prints: Vec::new(),
                });
            }
            "fingerprint" if line.op == "write" => {
                let xxh64 = u64::from_str_radix(line.xxh64, 16).unwrap_or_default();
                let range = line.range();
                if let Some(at) = self.bios.get(&line.io) {
                    self.disk.bios[*at].prints.push(Print { range, xxh64 });
                }
            }
            "rq_issue" if line.change().is_some() || line.op == "flush" => {
                let issued = Issued {
                    place: line.place(),
                    change: line.change(),
                    range: line.range(),
                    fua: line.flags.split('|').any(|flag| flag == "fua"),
                    completed: false,
                };
                self.open.insert(line.io, issued);
            }
            "rq_complete" => self.complete(line),
            _ => {}
        }
    }

    fn complete(&mut self, line: &Line<'_>) {
        let issued = self.open.get_mut(&line.io);
        if line.op == "flush" {
            self.disk.flushes.push(TracedFlush {
                issued: issued.map(|issued| issued.place),
                completed: (line.status == 0).then(|| line.place()),
            });
            self.open.remove(&line.io);
            return;
        }
        let Some(change) = line.change() else { return };
        let request = TracedRequest {
            issued: issued.as_ref().map(|issued| issued.place),
            completed: Some(line.place()),
            completed_ns: line.time_ns,
            change,
            range: line.range(),
            failed: line.status != 0,
            fua: issued.as_ref().is_some_and(|issued| issued.fua),
        };
        if let Some(issued) = issued {
            issued.completed = true;
        }
        self.disk.requests.push(request);
    }

    /// What was issued and is not complete may have reached the disk or not.
    fn finish(mut self) -> TracedDisk {
        for issued in self.open.into_values().filter(|issued| !issued.completed) {
            match issued.change {
                Some(change) => self.disk.requests.push(TracedRequest {
                    issued: Some(issued.place),
                    completed: None,
                    completed_ns: 0,
                    change,
                    range: issued.range,
                    failed: false,
                    fua: issued.fua,
                }),
                None => self.disk.flushes.push(TracedFlush {
                    issued: Some(issued.place),
                    completed: None,
                }),
            }
        }
        self.disk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"sequence":1,"time_ns":10,"event":"bio_queue","cpu":0,"comm":"a \"b\"","disk":"254:0","op":"write","flags":"sync|fua","sector":8,"bytes":8192,"status":0,"io":1,"parent":0}
{"sequence":2,"time_ns":10,"event":"fingerprint","comm":"","disk":"254:0","op":"write","sector":8,"bytes":4096,"xxh64":"00000000000000ff","io":1}
{"sequence":3,"time_ns":11,"event":"bio_queue","comm":"","disk":"254:16","op":"read","flags":"","sector":8,"bytes":4096,"status":0,"io":2,"parent":0}
{"sequence":4,"time_ns":12,"event":"rq_issue","comm":"","disk":"254:0","op":"write","flags":"sync|fua","sector":8,"bytes":8192,"status":0,"io":3,"parent":1}
{"sequence":5,"time_ns":13,"event":"rq_complete","comm":"","disk":"254:0","op":"write","flags":"sync|fua","sector":8,"bytes":4096,"status":0,"io":3,"parent":1}
{"sequence":6,"time_ns":14,"event":"rq_complete","comm":"","disk":"254:0","op":"write","flags":"sync|fua","sector":16,"bytes":4096,"status":-5,"io":3,"parent":1}
{"sequence":7,"time_ns":15,"event":"rq_issue","comm":"","disk":"254:0","op":"flush","flags":"","sector":0,"bytes":0,"status":0,"io":4,"parent":0}
{"sequence":8,"time_ns":16,"event":"cowbird_epoch","comm":"","minor":3,"epoch":7,"step":"drained"}
{"sequence":9,"time_ns":17,"event":"cowbird_epoch","comm":"","minor":3,"epoch":7,"step":"begun"}
"#;

    #[test]
    fn lines_become_bios_requests_flushes_and_instants() {
        let events = read(LINES).expect("lines");
        let disk = &events.disks["254:0"];
        let print = Print {
            range: SectorRange::new(Sector(8), 8),
            xxh64: 0xff,
        };
        assert_eq!(disk.bios.len(), 1);
        assert_eq!(disk.bios[0].prints, [print]);
        let requests: Vec<_> = disk
            .requests
            .iter()
            .map(|r| (r.issued, r.completed, r.range.start.0, r.failed, r.fua))
            .collect();
        assert_eq!(
            requests,
            [
                (Some(Place(4)), Some(Place(5)), 8, false, true),
                (Some(Place(4)), Some(Place(6)), 16, true, true)
            ]
        );
        let flush = TracedFlush {
            issued: Some(Place(7)),
            completed: None,
        };
        assert_eq!(disk.flushes, [flush]);
        assert!(
            events.disks["254:16"].bios.is_empty(),
            "reads change nothing"
        );
        let instant = TracedInstant {
            minor: 3,
            epoch: Epoch(7),
            drained: Place(8),
            begun: Place(9),
        };
        assert_eq!(events.instants, [instant]);
    }

    #[test]
    fn what_is_no_line_is_an_error() {
        assert!(read("{\"sequence\":1}").is_err());
    }
}
