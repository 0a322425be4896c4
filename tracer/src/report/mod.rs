//! A trace as one HTML page that needs nothing else: no network, no script.
//!
//! [`Collector`] takes the records and counts them into bins; [`page`] draws the bins. Both know
//! nothing of files.

use std::collections::BTreeMap;

use cowbird_events::event::{IoId, Kind, Op, Record};
use hdrhistogram::Histogram;

mod page;
mod plot;

pub use page::{Head, page};

/// Bins of time across a plot.
pub const COLUMNS: usize = 160;

/// Bins of addresses down a plot.
pub const ROWS: usize = 48;

/// Latencies are counted from 1 us to 1000 s with two digits.
const MAX_LATENCY_US: u64 = 1_000_000_000;

/// Requests that are waited for at the same time; what is forgotten has no latency.
const MAX_PENDING: usize = 1 << 20;

/// Counts over time and address.
#[derive(Debug, Clone)]
pub struct Heat {
    cells: Vec<u32>,
    /// Address, in whatever unit, of one past the last row.
    end: u64,
}

impl Heat {
    fn new(end: u64) -> Self {
        Self {
            cells: vec![0; COLUMNS * ROWS],
            end: end.max(1),
        }
    }

    fn add(&mut self, column: usize, first: u64, last: u64) {
        let row = |at: u64| {
            let row = u128::from(at.min(self.end - 1)) * ROWS as u128 / u128::from(self.end);
            usize::try_from(row).unwrap_or(ROWS - 1)
        };
        for row in row(first)..=row(last) {
            self.cells[row * COLUMNS + column] += 1;
        }
    }

    /// Count of a bin.
    #[must_use]
    pub fn cell(&self, column: usize, row: usize) -> u32 {
        self.cells[row * COLUMNS + column]
    }

    /// The largest count.
    #[must_use]
    pub fn peak(&self) -> u32 {
        self.cells.iter().copied().max().unwrap_or(0)
    }
}

/// One direction of a disk.
#[derive(Debug, Clone)]
pub struct Direction {
    /// Bios.
    pub bios: u64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes in each bin of time.
    pub rate: Vec<u64>,
    /// Where and when.
    pub heat: Heat,
    /// Microseconds from issue (or queueing, without requests) to completion.
    pub latency: Histogram<u64>,
}

impl Direction {
    fn new(sectors: u64) -> Self {
        Self {
            bios: 0,
            bytes: 0,
            rate: vec![0; COLUMNS],
            heat: Heat::new(sectors),
            latency: Histogram::new_with_max(MAX_LATENCY_US, 2)
                .expect("a maximum above 1 and 2 digits are allowed"),
        }
    }
}

/// What happened on one disk.
#[derive(Debug, Clone)]
pub struct DiskStats {
    /// Reads.
    pub read: Direction,
    /// Writes, and everything else that changes content.
    pub write: Direction,
    /// Completions with an error.
    pub errors: u64,
}

/// What happened to one snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotStats {
    /// Preserved blocks, where and when.
    pub preserved: Heat,
    /// Blocks that were preserved.
    pub preserved_blocks: u64,
    /// Blocks that were stored in the COW file.
    pub stored_blocks: u64,
    /// Writes that had to wait.
    pub intercepted: u64,
    /// Blocks of snapshot reads by source, in each bin of time.
    pub reads: [Vec<u64>; 5],
    /// Of these, read twice because a write overtook them.
    pub overtaken: u64,
    /// When it came into which phase.
    pub phases: Vec<(u64, u32)>,
    /// Steps of the cut.
    pub epochs: Vec<(u64, u32)>,
    /// Bounds that were reached.
    pub overflows: u64,
    /// The error with which it failed.
    pub error: i32,
}

/// The time that a trace spans.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// First nanosecond.
    pub start_ns: u64,
    /// One past the last.
    pub end_ns: u64,
}

impl Span {
    fn column(self, time_ns: u64) -> usize {
        let length = u128::from(self.end_ns.saturating_sub(self.start_ns).max(1));
        let at = u128::from(time_ns.saturating_sub(self.start_ns)) * COLUMNS as u128 / length;
        usize::try_from(at).map_or(COLUMNS - 1, |at| at.min(COLUMNS - 1))
    }

    /// Seconds from first to last.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.end_ns.saturating_sub(self.start_ns) as f64 / 1e9
    }
}

/// Counts records into bins.
#[derive(Debug)]
pub struct Collector {
    span: Span,
    /// Sectors of each disk, where they are known.
    sizes: BTreeMap<u32, u64>,
    /// Blocks of each snapshot's origin.
    origins: BTreeMap<u32, u64>,
    begun: BTreeMap<IoId, u64>,
    /// By disk.
    pub disks: BTreeMap<u32, DiskStats>,
    /// By minor.
    pub snapshots: BTreeMap<u32, SnapshotStats>,
    /// All events.
    pub events: u64,
}

impl Collector {
    /// `sizes` are the sectors of disks, `origins` the blocks of snapshots' origins.
    #[must_use]
    pub fn new(span: Span, sizes: BTreeMap<u32, u64>, origins: BTreeMap<u32, u64>) -> Self {
        Self {
            span,
            sizes,
            origins,
            begun: BTreeMap::new(),
            disks: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            events: 0,
        }
    }

    /// The time that is spanned.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }

    /// Takes the next record.
    pub fn take(&mut self, record: &Record) {
        self.events += 1;
        match record.kind {
            Kind::BioQueue => self.queued(record),
            Kind::RqIssue => self.begin(record),
            Kind::RqComplete | Kind::BioComplete => self.complete(record),
            Kind::Fingerprint => {}
            _ => self.module_event(record),
        }
    }

    fn disk(&mut self, record: &Record) -> &mut DiskStats {
        // A disk that is gone ends where its last I/O does, as far as is known now.
        let sectors = self.sizes.get(&record.disk).copied();
        self.disks.entry(record.disk).or_insert_with(|| {
            let sectors = sectors.unwrap_or(record.sector.saturating_mul(2));
            DiskStats {
                read: Direction::new(sectors),
                write: Direction::new(sectors),
                errors: 0,
            }
        })
    }

    fn direction(&mut self, record: &Record) -> &mut Direction {
        let disk = self.disk(record);
        match record.op {
            Op::Read => &mut disk.read,
            _ => &mut disk.write,
        }
    }

    fn begin(&mut self, record: &Record) {
        if self.begun.len() < MAX_PENDING {
            self.begun.insert(record.io, record.time_ns);
        }
    }

    fn queued(&mut self, record: &Record) {
        self.begin(record);
        let Some((first, end)) = record.disk_range() else {
            return; // a flush has no place
        };
        let column = self.span.column(record.time_ns);
        let direction = self.direction(record);
        direction.bios += 1;
        direction.bytes += u64::from(record.amount);
        direction.rate[column] += u64::from(record.amount);
        direction.heat.add(column, first.0, end.0 - 1);
    }

    fn complete(&mut self, record: &Record) {
        let begun = self.begun.remove(&record.io);
        // With the request, its first bio is done; others have no latency of their own.
        self.begun.remove(&record.parent);
        if record.status != 0 {
            self.disk(record).errors += 1;
        }
        if let (Some(begun), true) = (begun, record.amount > 0) {
            let us = record.time_ns.saturating_sub(begun) / 1000;
            self.direction(record).latency.saturating_record(us.max(1));
        }
    }

    fn module_event(&mut self, record: &Record) {
        let Some(minor) = record.minor() else { return };
        let column = self.span.column(record.time_ns);
        let blocks = self.origins.get(&minor).copied().unwrap_or(1);
        let snapshot = self
            .snapshots
            .entry(minor)
            .or_insert_with(|| SnapshotStats {
                preserved: Heat::new(blocks),
                preserved_blocks: 0,
                stored_blocks: 0,
                intercepted: 0,
                reads: std::array::from_fn(|_| vec![0; COLUMNS]),
                overtaken: 0,
                phases: Vec::new(),
                epochs: Vec::new(),
                overflows: 0,
                error: 0,
            });
        match record.kind {
            Kind::PreserveComplete => {
                snapshot.preserved_blocks += 1;
                snapshot.preserved.add(column, record.sector, record.sector);
            }
            Kind::PreserveStore => snapshot.stored_blocks += 1,
            Kind::Intercept => snapshot.intercepted += 1,
            Kind::SnapshotRead => {
                snapshot.overtaken += u64::from(record.bdev != 0);
                if let Some(reads) = snapshot.reads.get_mut(record.amount as usize) {
                    reads[column] += 1;
                }
            }
            Kind::State => snapshot.phases.push((record.time_ns, record.amount)),
            Kind::Epoch => snapshot.epochs.push((record.time_ns, record.amount)),
            Kind::Overflow => snapshot.overflows += 1,
            Kind::Error => snapshot.error = record.status,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
