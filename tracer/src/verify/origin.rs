//! What a trace says about one origin and its snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};

use cowbird_events::devices::Snapshot;
use cowbird_events::event::{BlockIndex, Record, SECTOR_BYTES, Sector};

use super::finding::{
    Fault, Finding, PHASE_ACTIVE, PHASE_TRACKING, Verdict, of_request, touched, whole_block,
};

/// What was written to a block since the instant, and when first.
#[derive(Debug, Default)]
struct Overwritten {
    first: u64,
    prints: HashSet<u64>,
}

/// A whole block that a reader of the snapshot got.
#[derive(Debug)]
struct SnapshotRead {
    block: u64,
    print: u64,
    sequence: u64,
    time_ns: u64,
}

/// One origin, while its snapshot goes from instant to instant.
#[derive(Debug)]
pub struct Origin {
    disk: u32,
    first: Sector,
    end: Sector,
    snapshot_disk: Option<u32>,
    phase: u32,
    /// Sequence of the instant; none before.
    instant: Option<u64>,
    seen: bool,
    /// Between drained and begun.
    cutting: Option<u32>,
    /// Blocks whose preservation began, and when.
    preserving: HashMap<u64, u64>,
    /// Blocks whose content at the instant has been read for the module.
    loaded: HashSet<u64>,
    /// Blocks that are preserved or in the change map.
    noted: HashSet<u64>,
    /// Writes at the device: first sector, sectors.
    in_flight: BTreeMap<u64, u64>,
    overwritten: HashMap<u64, Overwritten>,
    /// Fingerprints at the instant.
    content: HashMap<u64, u64>,
    reads: Vec<SnapshotRead>,
}

impl Origin {
    /// None if the snapshot's devices are not known.
    pub fn new(snapshot: &Snapshot) -> Option<Self> {
        let origin = snapshot.origin.as_ref()?;
        let (first, end) = origin.range();
        let device = snapshot.device.as_ref().and_then(|device| device.disk());
        Some(Self {
            disk: origin.disk()?.0,
            first,
            end,
            snapshot_disk: device.map(|device| device.0),
            phase: 0,
            instant: None,
            seen: false,
            cutting: None,
            preserving: HashMap::new(),
            loaded: HashSet::new(),
            noted: HashSet::new(),
            in_flight: BTreeMap::new(),
            overwritten: HashMap::new(),
            content: HashMap::new(),
            reads: Vec::new(),
        })
    }

    pub fn disk(&self) -> Option<u32> {
        Some(self.disk)
    }

    pub fn snapshot_disk(&self) -> Option<u32> {
        self.snapshot_disk
    }

    pub fn instant_seen(&self) -> bool {
        self.seen
    }

    /// The part of a record on this origin: its first sector, from the origin's start, and bytes.
    fn clip(&self, record: &Record) -> Option<(u64, u64)> {
        let sectors = u64::from(record.amount).div_ceil(SECTOR_BYTES);
        let start = record.sector.max(self.first.0);
        let end = record.sector.saturating_add(sectors).min(self.end.0);
        (start < end).then(|| (start - self.first.0, (end - start) * SECTOR_BYTES))
    }

    /// The block of this origin that a record is all about.
    fn whole_block(&self, record: &Record) -> Option<u64> {
        whole_block(record.sector.checked_sub(self.first.0)?, record.amount)
    }

    fn finding(record: &Record, minor: u32, block: u64, fault: Fault) -> Finding {
        Finding {
            minor,
            block: BlockIndex(block),
            fault,
            sequence: record.sequence,
            time_ns: record.time_ns,
            expected: None,
            found: None,
        }
    }

    /// A write is submitted.
    pub fn write(&mut self, minor: u32, record: &Record, verdict: &mut Verdict) {
        let Some((sector, bytes)) = self.clip(record) else {
            return;
        };
        // The epoch's header comes from whoever makes the cut.
        if self.cutting.is_some_and(|tid| tid != record.tid) {
            let block = *touched(sector, bytes).start();
            verdict.add(Self::finding(record, minor, block, Fault::InFlightAtCut));
        }
        if self.instant.is_none() {
            return;
        }
        verdict.writes += 1;
        for block in touched(sector, bytes) {
            let first = self.overwritten.entry(block).or_default();
            if first.first == 0 {
                first.first = record.sequence;
                self.check_first_write(minor, record, block, verdict);
            }
        }
    }

    fn check_first_write(&self, minor: u32, record: &Record, block: u64, verdict: &mut Verdict) {
        if self.phase == PHASE_ACTIVE && !self.loaded.contains(&block) {
            verdict.add(Self::finding(
                record,
                minor,
                block,
                Fault::WrittenUnpreserved,
            ));
        }
        // While the snapshot is active, preserving a block puts it into the map; the event may
        // come just after that of a write which saw it there.
        if self.phase == PHASE_TRACKING && !self.noted.contains(&block) {
            verdict.add(Self::finding(record, minor, block, Fault::NotInMap));
        }
    }

    /// A write goes to the device.
    pub fn issued(&mut self, record: &Record) {
        let sectors = u64::from(record.amount) / SECTOR_BYTES;
        if sectors > 0 && self.clip(record).is_some() {
            self.in_flight.insert(record.sector, sectors);
        }
    }

    /// A write, or the first part of it, is done.
    pub fn written(&mut self, record: &Record) {
        let done = u64::from(record.amount) / SECTOR_BYTES;
        if let Some(sectors) = self.in_flight.remove(&record.sector)
            && done < sectors
            && done > 0
        {
            let rest = record.sector.saturating_add(done);
            self.in_flight.insert(rest, sectors - done);
        }
    }

    /// A read of the origin is complete that was submitted at `begun`.
    pub fn read(&mut self, record: &Record, begun: u64) {
        let Some((sector, bytes)) = self.clip(record) else {
            return;
        };
        for block in touched(sector, bytes) {
            if self
                .preserving
                .get(&block)
                .is_some_and(|start| *start < begun)
            {
                self.loaded.insert(block);
            }
        }
    }

    /// Content on its way to the origin.
    pub fn new_content(&mut self, record: &Record) {
        if self.instant.is_none() || self.clip(record).is_none() {
            return;
        }
        if let Some(block) = self.whole_block(record)
            && let Some(overwritten) = self.overwritten.get_mut(&block)
        {
            overwritten.prints.insert(record.second);
        }
    }

    /// Content that came from the origin, of a read that was submitted at `begun`.
    pub fn old_content(&mut self, record: &Record, begun: Option<u64>) {
        let (Some(instant), Some(begun), Some(_)) = (self.instant, begun, self.clip(record)) else {
            return;
        };
        if begun < instant {
            return;
        }
        if let Some(block) = self.whole_block(record)
            && !self.overwritten.contains_key(&block)
        {
            self.content.insert(block, record.second);
        }
    }

    /// Content that a reader of the snapshot got.
    pub fn snapshot_content(&mut self, record: &Record) {
        if self.instant.is_none() || self.phase != PHASE_ACTIVE {
            return;
        }
        if let Some(block) = whole_block(record.sector, record.amount) {
            self.reads.push(SnapshotRead {
                block,
                print: record.second,
                sequence: record.sequence,
                time_ns: record.time_ns,
            });
        }
    }

    pub fn preserving(&mut self, record: &Record) {
        let Some((first, last)) = record.origin_blocks() else {
            return;
        };
        for block in of_request(first, last) {
            self.preserving.entry(block).or_insert(record.sequence);
        }
    }

    pub fn noted(&mut self, record: &Record) {
        if let Some((first, last)) = record.origin_blocks() {
            self.noted.extend(of_request(first, last));
        }
    }

    /// The module says that nothing is in flight.
    pub fn drained(&mut self, minor: u32, record: &Record, verdict: &mut Verdict) {
        self.cutting = Some(record.tid);
        for sector in self.in_flight.keys() {
            let block =
                sector.saturating_sub(self.first.0) / cowbird_events::devices::BLOCK_SECTORS;
            verdict.add(Self::finding(record, minor, block, Fault::InFlightAtCut));
        }
    }

    pub fn begun(&mut self) {
        self.cutting = None;
    }

    /// The phase changes; a new instant begins when the snapshot becomes active.
    pub fn phase(&mut self, minor: u32, phase: u32, sequence: u64, verdict: &mut Verdict) {
        self.phase = phase;
        if phase != PHASE_ACTIVE {
            return;
        }
        self.close(minor, verdict);
        verdict.instants += 1;
        self.seen = true;
        self.instant = Some(sequence);
        self.preserving.clear();
        self.loaded.clear();
        self.noted.clear();
        self.overwritten.clear();
        self.content.clear();
    }

    /// Compares what readers of the snapshot got since the instant.
    pub fn close(&mut self, minor: u32, verdict: &mut Verdict) {
        for read in std::mem::take(&mut self.reads) {
            let overwritten = self.overwritten.get(&read.block);
            let from_after = overwritten.is_some_and(|writes| writes.prints.contains(&read.print));
            let expected = self.content.get(&read.block).copied();
            match expected {
                Some(expected) if expected == read.print => verdict.blocks_compared += 1,
                None if !from_after => verdict.blocks_unknown += 1,
                expected => {
                    verdict.blocks_compared += 1;
                    verdict.add(Finding {
                        minor,
                        block: BlockIndex(read.block),
                        fault: match from_after {
                            true => Fault::Future,
                            false => Fault::Wrong,
                        },
                        sequence: read.sequence,
                        time_ns: read.time_ns,
                        expected,
                        found: Some(read.print),
                    });
                }
            }
        }
    }
}
