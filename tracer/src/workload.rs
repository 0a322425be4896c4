//! A trace as a workload: the bios of one device, as their submitters meant them.
//!
//! Taken is each bio when it is queued. What the module adds by itself (it reads old content and writes
//! the COW file, in its threads `cowbird/N`) is left out; the writes that such a thread releases are those of
//! users and are taken, when they are released. Fingerprints tell which blocks of writes were alike; they
//! are numbered in the order of their appearance, so that nothing of the content leaves the trace.

use std::collections::HashMap;

use cowbird_events::devices::{BLOCK_SECTORS, BlockDevice};
use cowbird_events::event::{DeviceNumber, IoId, Kind, Op, Record, Sector};
use cowbird_events::format::Meta;
use cowbird_events::prints::zero_prints;
use cowbird_workload::{Action, Builder, Content, Extent, Flags, SECTOR_BYTES, Workload};

/// Start of the names of the module's threads.
const MODULE_THREAD: &[u8] = b"cowbird/";

/// Takes the records of one device.
#[derive(Debug)]
pub struct Collector<'a> {
    device: &'a BlockDevice,
    builder: Builder,
    /// The place in the workload of each write, for its fingerprints.
    writes: HashMap<IoId, usize>,
    /// Whether blocks were fingerprinted where the device has its blocks.
    fingerprints_fit: bool,
    contents: HashMap<(u32, u64), Content>,
    /// The last release of a held write by each thread: where it goes.
    released: HashMap<u32, (u64, u32)>,
    left_out: LeftOut,
}

/// What no workload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Bios of the module itself.
    pub of_module: u64,
    /// Bios of zones, drivers and the like.
    pub other: u64,
}

/// What an operation becomes; none for what cannot be replayed.
fn action(record: &Record) -> Option<Action> {
    Some(match record.op {
        // A flush without data is a write of nothing.
        Op::Write if record.amount == 0 => Action::Flush,
        Op::Read => Action::Read,
        Op::Write | Op::WriteSame => Action::Write,
        Op::Flush => Action::Flush,
        Op::Discard | Op::SecureErase => Action::Discard,
        Op::WriteZeroes => Action::WriteZeroes,
        Op::Zone | Op::Driver | Op::Other | Op::None => return None,
    })
}

fn flags(record: &Record) -> Flags {
    let set = |name: &str| {
        let names = cowbird_events::event::Flags::NAMES.iter();
        let bit = names.clone().position(|(known, _)| *known == name);
        bit.is_some_and(|bit| record.flags.0 & 1 << bit != 0)
    };
    Flags::default()
        .with(Flags::SYNC, set("sync"))
        .with(Flags::FUA, set("fua"))
        .with(Flags::PREFLUSH, set("preflush"))
}

impl<'a> Collector<'a> {
    /// For the bios of `device` in a trace that begins with this.
    #[must_use]
    pub fn new(device: &'a BlockDevice, meta: &Meta) -> Self {
        let grid = device.start_sector % BLOCK_SECTORS;
        let of_zeros = match meta.fingerprints_sealed {
            true => meta.zero_prints.clone(),
            false => zero_prints(None),
        };
        let zeroes = (1..=BLOCK_SECTORS).zip(of_zeros).map(|(sectors, print)| {
            let bytes = sectors * SECTOR_BYTES;
            ((bytes as u32, print), Content::Zeroes)
        });
        Self {
            device,
            builder: Builder::default(),
            writes: HashMap::new(),
            fingerprints_fit: meta.fingerprint_grid.map(u64::from) == Some(grid),
            contents: zeroes.collect(),
            released: HashMap::new(),
            left_out: LeftOut::default(),
        }
    }

    /// Takes the next record.
    pub fn take(&mut self, record: &Record) {
        match record.kind {
            Kind::Release => {
                let place = (record.sector, record.amount);
                self.released.insert(record.tid, place);
            }
            Kind::BioQueue if self.has(record) => self.bio(record),
            Kind::Fingerprint if self.has(record) => self.fingerprint(record),
            _ => {}
        }
    }

    /// The workload; `losses` are the reasons why the trace is not complete.
    #[must_use]
    pub fn finish(self, losses: &[String]) -> (Workload, LeftOut) {
        let source = format!("a trace of {}", self.device.name);
        (self.builder.finish(source, losses.to_vec()), self.left_out)
    }

    fn has(&self, record: &Record) -> bool {
        let (first, end) = self.device.range();
        let sector = Sector(record.sector);
        // An empty flush of a partition names no place on it.
        let inside = first <= sector && sector < end || record.amount == 0;
        record.disk().map(|DeviceNumber(number)| number)
            == self.device.disk().map(|DeviceNumber(number)| number)
            && inside
    }

    fn bio(&mut self, record: &Record) {
        let released = self.released.remove(&record.tid) == Some((record.sector, record.amount));
        if record.comm.starts_with(MODULE_THREAD) && !released {
            self.left_out.of_module += 1;
            return;
        }
        let Some(action) = action(record) else {
            self.left_out.other += 1;
            return;
        };
        let sector = record.sector.saturating_sub(self.device.start_sector);
        let extent = Extent::of_bytes(sector.saturating_mul(SECTOR_BYTES), record.amount.into());
        let at = self
            .builder
            .push(record.time_ns, action, flags(record), extent);
        if let (Some(at), Action::Write, true) = (at, action, record.io != IoId(0)) {
            self.writes.insert(record.io, at);
        }
    }

    fn fingerprint(&mut self, record: &Record) {
        if record.op != Op::Write || !self.fingerprints_fit {
            return;
        }
        let Some(&at) = self.writes.get(&record.io) else {
            return;
        };
        let Some(extent) = self.builder.operation(at).map(|write| write.extent) else {
            return;
        };
        let sector = record.sector.saturating_sub(self.device.start_sector);
        let Some(piece) = (sector / BLOCK_SECTORS).checked_sub(extent.start.0 / BLOCK_SECTORS)
        else {
            return;
        };
        let next = u32::try_from(self.contents.len()).map_or(Content::Unknown, Content::Known);
        let content = self.contents.entry((record.amount, record.second));
        let content = *content.or_insert(next);
        self.builder.content(at, piece, content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_events::prints::{PrintKey, print_of};

    const DISK: u32 = 8 << 20;

    /// A partition that begins on a block of its disk.
    fn device() -> BlockDevice {
        BlockDevice {
            name: "sda1".to_owned(),
            number: "8:1".to_owned(),
            disk_number: "8:0".to_owned(),
            start_sector: 2048,
            sectors: 8000,
        }
    }

    fn bio(op: Op, block: u64, bytes: u32, io: u64) -> Record {
        Record {
            kind: Kind::BioQueue,
            op,
            time_ns: 1000 + io,
            disk: DISK,
            sector: 2048 + block * BLOCK_SECTORS,
            amount: bytes,
            io: IoId(io),
            tid: 5,
            ..Record::default()
        }
    }

    fn print(block: u64, bytes: u32, io: u64, print: u64) -> Record {
        Record {
            kind: Kind::Fingerprint,
            second: print,
            ..bio(Op::Write, block, bytes, io)
        }
    }

    fn collect(records: &[Record], grid: Option<u32>) -> (Workload, LeftOut) {
        let meta = Meta {
            fingerprint_grid: grid,
            ..Meta::default()
        };
        collect_from(records, &meta)
    }

    fn collect_from(records: &[Record], meta: &Meta) -> (Workload, LeftOut) {
        let device = device();
        let mut collector = Collector::new(&device, meta);
        for record in records {
            collector.take(record);
        }
        collector.finish(&["a loss".to_owned()])
    }

    /// Goal: zeros are known for what they are although fingerprints are sealed, and a plain fingerprint of zeros is
    /// none among sealed ones.
    #[test]
    fn zeros_are_known_in_a_sealed_trace() {
        let key = PrintKey::random().unwrap();
        let meta = Meta {
            fingerprint_grid: Some(0),
            fingerprints_sealed: true,
            zero_prints: zero_prints(Some(&key)),
            ..Meta::default()
        };
        let records = [
            bio(Op::Write, 1, 2 * 4096, 1),
            print(1, 4096, 1, print_of(&[0; 4096], Some(&key))),
            print(2, 4096, 1, print_of(&[0; 4096], None)),
        ];
        let (workload, _) = collect_from(&records, &meta);
        let contents = &workload.operations()[0].contents;
        assert_eq!(contents[0], Content::Zeroes);
        assert!(matches!(contents[1], Content::Known(_)), "{contents:?}");
    }

    /// Goal: blocks with the same content are the same afterwards, zeros are zeros, and what nobody
    /// looked at is unknown.
    #[test]
    fn equal_blocks_stay_equal() {
        let zeros = print_of(&[0; 4096], None);
        let records = [
            bio(Op::Write, 1, 4 * 4096, 1),
            print(1, 4096, 1, 0xA),
            print(2, 4096, 1, zeros),
            print(4, 4096, 1, 0xB),
            bio(Op::Write, 9, 512, 2),
            print(9, 512, 2, 0xA),
            bio(Op::Write, 3, 4096, 3),
            print(3, 4096, 3, 0xB),
        ];
        let (workload, _) = collect(&records, Some(0));
        let contents: Vec<&[Content]> = workload
            .operations()
            .iter()
            .map(|write| &*write.contents)
            .collect();
        let (Content::Known(a), Content::Known(b)) = (contents[0][0], contents[0][3]) else {
            panic!("{contents:?}");
        };
        assert_ne!(a, b);
        assert_eq!(contents[0][1..3], [Content::Zeroes, Content::Unknown]);
        // As long as the other 0xA it is not.
        assert!(matches!(contents[1], [Content::Known(c)] if ![a, b].contains(c)));
        assert_eq!(contents[2], [Content::Known(b)]);
        assert_eq!(workload.doubts(), ["a loss"]);

        for grid in [None, Some(3)] {
            let (workload, _) = collect(&records, grid);
            let mut writes = workload.operations().iter();
            assert!(writes.all(|write| write.contents.is_empty()));
        }
    }

    #[test]
    fn places_count_from_the_partition_and_others_stay_out() {
        let mut fua = bio(Op::Write, 0, 1024, 3);
        fua.flags.0 = 1 << 3 | 1;
        let records = [
            bio(Op::Read, 7, 4096, 1),
            bio(Op::Discard, 100, 1 << 20, 2),
            fua,
            Record {
                disk: DISK + 1,
                ..bio(Op::Write, 5, 4096, 4)
            },
            bio(Op::Write, 1000, 4096, 5),
            Record {
                sector: 0,
                ..bio(Op::Write, 0, 0, 6)
            },
            bio(Op::Zone, 3, 4096, 7),
        ];
        let (workload, left_out) = collect(&records, None);
        let listed: Vec<(u64, Action, u64, u64)> = workload
            .operations()
            .iter()
            .map(|operation| {
                let extent = operation.extent;
                (
                    operation.at_ns,
                    operation.action,
                    extent.start.0,
                    extent.sectors,
                )
            })
            .collect();
        let expected = [
            (0, Action::Read, 56, 8),
            (1, Action::Discard, 800, 2048),
            (2, Action::Write, 0, 2),
            (5, Action::Flush, 0, 0),
        ];
        assert_eq!(listed, expected);
        assert_eq!(
            workload.operations()[2].flags,
            Flags::FUA.with(Flags::SYNC, true)
        );
        assert_eq!(left_out.other, 1);
    }

    /// Goal: what the module does is not taken for what users do, and what it releases is.
    #[test]
    fn the_modules_own_bios_are_left_out() {
        let mut comm = [0; 16];
        comm[..9].copy_from_slice(b"cowbird/0");
        let engine = |record: Record| Record { comm, ..record };
        let release = Record {
            kind: Kind::Release,
            ..bio(Op::Write, 4, 4096, 0)
        };
        let records = [
            engine(bio(Op::Read, 4, 4096, 1)),
            engine(release),
            engine(bio(Op::Write, 4, 4096, 2)),
            engine(bio(Op::Write, 20, 4096, 3)),
        ];
        let (workload, left_out) = collect(&records, None);
        assert_eq!(workload.operations().len(), 1);
        assert_eq!(workload.operations()[0].extent.start.0, 32);
        assert_eq!(left_out.of_module, 2);
    }
}
