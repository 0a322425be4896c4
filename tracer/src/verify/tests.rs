//! Goal: each broken invariant is found and a sound run is not blamed. Method: short traces written
//! by hand, of an origin that begins at sector 2048 of its disk.

use cowbird_events::devices::{BLOCK_SECTORS, BlockDevice};
use cowbird_events::event::DeviceNumber;

use super::finding::{PHASE_ACTIVE, PHASE_TRACKING};
use super::*;

const DISK: u32 = 254 << 20;
const SNAPSHOT_DISK: u32 = 251 << 20;
const START: u64 = 2048;
const OLD: u64 = 0x01d;
const NEW: u64 = 0x4e3;

fn device(name: &str, disk: u32, start: u64) -> BlockDevice {
    BlockDevice {
        name: name.to_owned(),
        number: DeviceNumber(disk).to_string(),
        disk_number: DeviceNumber(disk).to_string(),
        start_sector: start,
        sectors: 8000,
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        minor: 0,
        block_device: "/dev/vda1".to_owned(),
        origin: Some(device("vda1", DISK, START)),
        device: Some(device("cowbird0", SNAPSHOT_DISK, 0)),
    }
}

/// A trace that grows.
#[derive(Default)]
struct Story(Vec<Record>);

impl Story {
    fn add(mut self, record: Record) -> Self {
        let sequence = self.0.len() as u64 + 1;
        self.0.push(Record { sequence, ..record });
        self
    }

    fn module(self, kind: Kind, sector: u64, amount: u32) -> Self {
        self.add(Record {
            kind,
            sector,
            second: sector,
            amount,
            tid: 7,
            ..Record::default()
        })
    }

    fn block(self, kind: Kind, op: Op, block: u64, io: u64) -> Self {
        self.add(Record {
            kind,
            op,
            disk: DISK,
            sector: START + block * BLOCK_SECTORS,
            amount: 4096,
            io: IoId(io),
            tid: 9,
            ..Record::default()
        })
    }

    fn print(self, op: Op, disk: u32, block: u64, io: u64, print: u64) -> Self {
        let start = if disk == DISK { START } else { 0 };
        self.add(Record {
            kind: Kind::Fingerprint,
            op,
            disk,
            sector: start + block * BLOCK_SECTORS,
            amount: 4096,
            second: print,
            io: IoId(io),
            ..Record::default()
        })
    }

    fn instant() -> Self {
        Self::default()
            .module(Kind::Epoch, 1, STEP_DRAINED)
            .module(Kind::State, 0, PHASE_ACTIVE)
            .module(Kind::Epoch, 1, STEP_BEGUN)
    }

    /// The module reads a block's content and declares it preserved.
    fn preserve(self, block: u64, io: u64) -> Self {
        self.module(Kind::PreserveBegin, block, 1)
            .block(Kind::BioQueue, Op::Read, block, io)
            .block(Kind::RqComplete, Op::Read, block, io)
            .print(Op::Read, DISK, block, io, OLD)
            .module(Kind::PreserveComplete, block, 0)
    }

    fn overwrite(self, block: u64, io: u64) -> Self {
        self.block(Kind::BioQueue, Op::Write, block, io)
            .print(Op::Write, DISK, block, io, NEW)
    }

    fn snapshot_read(self, block: u64, print: u64) -> Self {
        self.print(Op::Read, SNAPSHOT_DISK, block, 99, print)
    }

    fn verdict(&self) -> Verdict {
        let mut verifier = Verifier::new(&[snapshot()]);
        self.0.iter().for_each(|record| verifier.take(record));
        verifier.finish()
    }

    fn faults(&self) -> Vec<(u64, Fault)> {
        let verdict = self.verdict();
        verdict
            .findings
            .iter()
            .map(|finding| (finding.block.0, finding.fault))
            .collect()
    }
}

#[test]
fn a_sound_run_is_not_blamed() {
    let story = Story::instant()
        .snapshot_read(5, OLD)
        .preserve(5, 1)
        .overwrite(5, 2)
        .snapshot_read(5, OLD);
    let verdict = story.verdict();
    assert_eq!(verdict.findings, []);
    assert_eq!((verdict.instants, verdict.blocks_compared), (1, 2));
    assert_eq!(verdict.writes, 1);
}

#[test]
fn a_read_from_the_future_is_named() {
    let story = Story::instant()
        .preserve(5, 1)
        .overwrite(5, 2)
        .snapshot_read(5, NEW)
        .snapshot_read(5, NEW ^ OLD);
    assert_eq!(story.faults(), [(5, Fault::Future), (5, Fault::Wrong)]);
}

/// The copy that is read late, by the module itself, must not pass for the content at the instant.
#[test]
fn a_write_before_its_block_was_read_is_named() {
    let story = Story::instant().overwrite(5, 1).preserve(5, 2);
    assert_eq!(story.faults(), [(5, Fault::WrittenUnpreserved)]);
    let of_another = Story::instant().preserve(6, 1).overwrite(5, 2);
    assert_eq!(of_another.faults(), [(5, Fault::WrittenUnpreserved)]);
}

/// A read that began before the module wanted the block may have any content.
#[test]
fn an_older_read_does_not_preserve() {
    let story = Story::instant()
        .block(Kind::BioQueue, Op::Read, 5, 1)
        .module(Kind::PreserveBegin, 5, 1)
        .block(Kind::RqComplete, Op::Read, 5, 1)
        .overwrite(5, 2);
    assert_eq!(story.faults(), [(5, Fault::WrittenUnpreserved)]);
}

#[test]
fn a_write_in_flight_at_the_cut_is_named() {
    let in_flight = Story::default()
        .block(Kind::RqIssue, Op::Write, 3, 1)
        .module(Kind::Epoch, 1, STEP_DRAINED);
    assert_eq!(in_flight.faults(), [(3, Fault::InFlightAtCut)]);
    let done = Story::default()
        .block(Kind::RqIssue, Op::Write, 3, 1)
        .block(Kind::RqComplete, Op::Write, 3, 1)
        .module(Kind::Epoch, 1, STEP_DRAINED);
    assert_eq!(done.faults(), []);
    let slipped = Story::default().module(Kind::Epoch, 1, STEP_DRAINED).block(
        Kind::BioQueue,
        Op::Write,
        4,
        1,
    );
    assert_eq!(slipped.faults(), [(4, Fault::InFlightAtCut)]);
}

#[test]
fn a_change_that_is_not_in_the_map_is_named() {
    let tracking = || Story::instant().module(Kind::State, 0, PHASE_TRACKING);
    assert_eq!(tracking().overwrite(5, 1).faults(), [(5, Fault::NotInMap)]);
    let noted = tracking().module(Kind::Change, 5, 0).overwrite(5, 1);
    assert_eq!(noted.faults(), []);
}

#[test]
fn the_module_writes_where_it_likes() {
    let mut story = Story::instant().block(Kind::BioQueue, Op::Write, 5, 1);
    story.0[3].comm = *b"cowbird/0\0\0\0\0\0\0\0";
    assert_eq!(story.faults(), []);
    // The same thread lets held writes go, and says so.
    let release = Record {
        kind: Kind::Release,
        sector: START + 5 * BLOCK_SECTORS,
        amount: 4096,
        tid: 9,
        ..Record::default()
    };
    story.0.insert(3, release);
    assert_eq!(story.faults(), [(5, Fault::WrittenUnpreserved)]);
}

#[test]
fn what_cannot_be_checked_is_said() {
    let before = Story::default().preserve(5, 1).overwrite(5, 2);
    let verdict = before.verdict();
    assert_eq!(verdict.instants, 0);
    assert!(verdict.unchecked[0].contains("its instant is not in the trace"));
    let nameless = Snapshot::default();
    assert_eq!(Verifier::new(&[nameless]).finish().unchecked.len(), 1);
}

/// Goal: a forged event takes no memory that is not there. Method: events of all blocks that there could be.
#[test]
fn an_event_is_about_no_more_blocks_than_a_request() {
    use super::finding::of_request;
    use cowbird_events::event::BlockIndex;
    let blocks = |first, last| of_request(BlockIndex(first), BlockIndex(last)).count();
    assert_eq!(blocks(7, 9), 3);
    assert_eq!(blocks(0, u64::MAX), (1 << 20) + 1);
    assert_eq!(blocks(u64::MAX - 1, u64::MAX), 2);
    assert_eq!(blocks(9, 7), 0);
}
