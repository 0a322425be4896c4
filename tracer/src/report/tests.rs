//! Goal: the report counts right and its page stands alone. Method: a short trace by hand.

use cowbird_events::event::{IoId, SECTOR_BYTES};

use super::*;

const DISK: u32 = 8 << 20;

fn record(kind: Kind, op: Op, time_us: u64, sector: u64, io: u64) -> Record {
    Record {
        kind,
        op,
        time_ns: time_us * 1000,
        disk: DISK,
        sector,
        amount: 4096,
        io: IoId(io),
        ..Record::default()
    }
}

fn collected() -> Collector {
    let span = Span {
        start_ns: 0,
        end_ns: 1_000_000_000,
    };
    let mut collector = Collector::new(
        span,
        BTreeMap::from([(DISK, 1000)]),
        BTreeMap::from([(0, 100)]),
    );
    let module = |kind, time_us: u64, sector, amount| Record {
        kind,
        time_ns: time_us * 1000,
        sector,
        amount,
        ..Record::default()
    };
    let records = [
        record(Kind::BioQueue, Op::Write, 0, 0, 1),
        record(Kind::RqIssue, Op::Write, 10, 0, 2),
        record(Kind::RqComplete, Op::Write, 110, 0, 2),
        record(Kind::BioQueue, Op::Read, 999_999, 992, 3),
        module(Kind::State, 100_000, 0, 2),
        module(Kind::PreserveComplete, 500_000, 99, 0),
        module(Kind::SnapshotRead, 500_000, 99, 2),
    ];
    records.iter().for_each(|record| collector.take(record));
    collector
}

#[test]
fn bins_hold_what_happened() {
    let collector = collected();
    let disk = &collector.disks[&DISK];
    assert_eq!((disk.write.bios, disk.read.bytes), (1, 4096));
    assert_eq!(disk.write.latency.len(), 1);
    assert_eq!(disk.write.latency.max(), 100);
    assert_eq!(disk.write.heat.cell(0, 0), 1);
    assert_eq!(disk.read.heat.cell(COLUMNS - 1, ROWS - 1), 1);
    let snapshot = &collector.snapshots[&0];
    assert_eq!(snapshot.preserved.cell(COLUMNS / 2, ROWS - 1), 1);
    assert_eq!(snapshot.reads[2].iter().sum::<u64>(), 1);
    assert_eq!(collector.events, 7);
    assert_eq!(disk.read.rate.iter().sum::<u64>(), 8 * SECTOR_BYTES);
}

#[test]
fn the_page_stands_alone_and_says_what_is_missing() {
    let head = Head {
        title: "<trace> & co".to_owned(),
        facts: vec![("kernel".to_owned(), "6.1".to_owned())],
        losses: vec!["3 events dropped".to_owned()],
    };
    let text = page(&head, &collected(), |_| "sda".to_owned());
    assert!(text.contains("&lt;trace&gt; &amp; co"));
    assert!(text.contains("The trace is not complete") && text.contains("3 events dropped"));
    assert!(text.contains("<h2>Snapshot 0</h2>") && text.contains("<h2>sda</h2>"));
    for outside in ["http", "<script", "src=", "@import", "url("] {
        assert!(!text.contains(outside), "the page refers to {outside}");
    }
}
