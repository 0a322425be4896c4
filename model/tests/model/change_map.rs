//! Change maps against hand-made logs of two epochs.

use cowbird_model::{
    BlockIndex, BlockSet, ChangeMapInput, ChangeReport, Class, DiscardModel, Epoch, MarkerKey,
    Sector, SectorRange, WitnessLog, check_changes, find_marker,
};

use crate::common::{LogBuilder, UUID, pattern};

/// The origin: four blocks and a short one, not at the start of the disk.
const ORIGIN: SectorRange = SectorRange {
    start: Sector(3),
    sectors: 35,
};

/// Where the headers go: behind the origin.
const HEADER_AT: u64 = 64;

const DISK_SECTORS: u64 = 128;

fn set(blocks: &[u64]) -> BlockSet {
    blocks.iter().copied().map(BlockIndex).collect()
}

/// Block 0 changes and changes back, 1 changes in one sector, 2 is discarded, 3 is the COW file's,
/// 4 (the short one) changes; block 2 had been written before the first epoch.
fn check(map: &[u64]) -> ChangeReport {
    let base = pattern(0, DISK_SECTORS, 0);
    let mut builder = LogBuilder::new();
    builder
        .write(19, &pattern(19, 8, 1))
        .marker(HEADER_AT, ORIGIN.sectors, 1)
        .write(3, &pattern(3, 8, 2))
        .write(14, &pattern(14, 1, 2))
        .discard(19, 8)
        .write(27, &pattern(27, 8, 2))
        .write(37, &pattern(37, 1, 2))
        .write(3, &pattern(3, 8, 0))
        .marker(HEADER_AT, ORIGIN.sectors, 2)
        .write(3, &pattern(3, 8, 3));
    let bytes = builder.finish();
    let log = WitnessLog::parse(&bytes).expect("the log is well formed");
    let marker = |epoch| {
        let key = MarkerKey {
            uuid: UUID,
            epoch: Epoch(epoch),
        };
        find_marker(&log, &key).expect("the test wrote it")
    };
    check_changes(&ChangeMapInput {
        base: &base,
        log: &log,
        from: marker(1),
        to: marker(2),
        origin: ORIGIN,
        map: &set(map),
        own: &set(&[3]),
        discard: DiscardModel::Zeroes,
    })
    .expect("the input fits together")
}

/// Goal: a map that has all changes is right, whatever else is in it, and that is counted.
#[test]
fn a_superset_is_right_and_its_surplus_is_counted() {
    let exact = check(&[1, 2, 4]);
    assert_eq!((exact.changed, exact.listed, exact.surplus), (3, 3, 0));
    assert!(exact.missed.is_empty());
    let larger = check(&[0, 1, 2, 3, 4]);
    assert!(larger.missed.is_empty());
    assert_eq!((larger.surplus, larger.own_listed), (1, 1));
}

/// Goal: each kind of change that a map lacks is missed, by its last write. Method: leave out one
/// after the other.
#[test]
fn every_change_that_is_not_in_the_map_is_missed() {
    for (block, entry) in [(1, 3), (2, 4), (4, 6)] {
        let map: Vec<u64> = [1, 2, 4]
            .into_iter()
            .filter(|other| *other != block)
            .collect();
        let missed = check(&map).missed;
        assert_eq!(missed.len(), 1, "{missed:?}");
        assert_eq!(missed[0].block, BlockIndex(block));
        assert_eq!(missed[0].class, Class::MissedChange);
        let culprit = missed[0].culprit.expect("a write changed it");
        assert_eq!(culprit.entry.0, entry);
    }
}
