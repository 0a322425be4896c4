//! The witness parser against logs that QEMU wrote, and against logs broken by hand.

use crate::common::{LogBuilder, UUID, pattern};
use cowbird_model::{
    DiscardModel, EntryIndex, EntryKind, Epoch, EpochHeader, HeaderError, MarkerError, MarkerKey,
    Sector, SelfCheckError, Tail, Truth, TruthError, WitnessError, WitnessLog, find_marker,
    find_markers, self_check,
};

/// Every fixture disk before its log began.
const FIXTURE_BASE: [u8; 16384] = [0xee; 16384];

/// Goal: logs of the real QEMU parse, and explain the disk that QEMU left, to the byte.
/// Method: fold each golden log over the disk of before and compare with the disk of after.
#[test]
fn golden_logs_explain_their_disks() {
    macro_rules! golden {
        ($name:literal, $log_sector_bytes:literal, $entries:literal) => {
            check_golden(
                $name,
                include_bytes!(concat!("fixtures/", $name, ".log")),
                include_bytes!(concat!("fixtures/", $name, ".disk")),
                $log_sector_bytes,
                $entries,
            )
        };
    }
    golden!("all-kinds", 512, 9);
    golden!("big-sectors", 4096, 4);
    golden!("in-flight", 512, 5);
    golden!("lagging", 512, 3);
}

fn check_golden(name: &str, log: &[u8], disk: &[u8], log_sector_bytes: u32, entries: usize) {
    let log = WitnessLog::parse(log).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(log.log_sector_bytes(), log_sector_bytes, "{name}");
    assert_eq!(log.entries().len(), entries, "{name}");
    self_check(&FIXTURE_BASE, &log, disk, DiscardModel::Zeroes)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn golden_log_has_each_kind() {
    let log = WitnessLog::parse(include_bytes!("fixtures/all-kinds.log")).expect("golden");
    let kinds: Vec<_> = log
        .entries()
        .iter()
        .map(|entry| (entry.sector.0, entry.sectors, entry.kind, entry.data.len()))
        .collect();
    use EntryKind::{Discard, Flush, Write};
    assert_eq!(
        kinds,
        [
            (0, 8, Write, 4096),
            (8, 1, Write, 512),
            // QEMU turns FUA into a flush, and logs a write-zeroes with its zeros.
            (0, 0, Flush, 0),
            (16, 2, Write, 1024),
            (20, 1, Write, 512),
            (1, 2, Discard, 0),
            (0, 0, Flush, 0),
            (7, 2, Write, 1024),
            (0, 0, Flush, 0),
        ]
    );
    assert_eq!(log.tail(), &Tail::None);
    assert!(log.entries()[3].data.iter().all(|byte| *byte == 0));
    let big = WitnessLog::parse(include_bytes!("fixtures/big-sectors.log")).expect("golden");
    assert_eq!(big.entries()[2].sector, Sector(16));
    assert_eq!(big.entries()[2].sectors, 8);
}

/// Goal: the wrong discard model does not go unnoticed. Method: the golden log has a discard that
/// the disk obeyed.
#[test]
fn self_check_finds_the_wrong_discard_model() {
    let log = WitnessLog::parse(include_bytes!("fixtures/all-kinds.log")).expect("golden");
    let disk = include_bytes!("fixtures/all-kinds.disk");
    let error = self_check(&FIXTURE_BASE, &log, disk, DiscardModel::Ignored)
        .expect_err("sectors 1 and 2 were discarded");
    let SelfCheckError::Disagree(wrong) = &error else {
        panic!("{error}")
    };
    assert_eq!(wrong.sectors, 2);
    assert_eq!(wrong.first[0].sector, Sector(1));
    assert_eq!(wrong.first[0].writer, Some(EntryIndex(0)));
    insta::assert_snapshot!(error, @"the witness and its disk disagree on 2 sectors, the first are 1 (entry #0) 2 (entry #0); check the discard setting of the disk, and that the workload has no overlapping writes in flight");
}

#[test]
fn a_lagging_superblock_is_made_up_for() {
    let log = WitnessLog::parse(include_bytes!("fixtures/lagging.log")).expect("golden");
    assert_eq!(log.counted(), 2);
    assert_eq!(log.tail(), &Tail::Recovered { entries: 1 });
    let never = WitnessLog::parse(include_bytes!("fixtures/never-flushed.log"));
    assert_eq!(never.expect_err("no flush"), WitnessError::NoSuperblock);
}

/// Goal: a tail is taken whole or not at all. Method: two counted entries and two more, then cut
/// off, with a hole, and followed by preallocated zeros.
#[test]
fn a_doubtful_tail_is_left_out() {
    let mut builder = LogBuilder::new();
    builder.write(0, &pattern(0, 2, 1)).flush();
    let counted_bytes = builder.finish().len();
    builder
        .write(4, &pattern(4, 1, 1))
        .write(8, &pattern(8, 4, 1));
    let log = builder.finish_counting(2);

    let whole = WitnessLog::parse(&log).expect("counted entries are whole");
    assert_eq!(
        (whole.entries().len(), whole.tail()),
        (4, &Tail::Recovered { entries: 2 })
    );

    let mut zeros_after = log.clone();
    zeros_after.resize(log.len() + 8192, 0);
    let padded = WitnessLog::parse(&zeros_after).expect("counted entries are whole");
    assert_eq!(padded.tail(), &Tail::Recovered { entries: 2 });

    let cut = WitnessLog::parse(&log[..log.len() - 512]).expect("counted entries are whole");
    assert_eq!(cut.entries().len(), 2);
    assert!(matches!(
        cut.tail(),
        Tail::Rejected {
            plausible: 1,
            reason: WitnessError::Truncated {
                entry: EntryIndex(3),
                ..
            }
        }
    ));

    let mut hole = log.clone();
    hole[counted_bytes..counted_bytes + 1024].fill(0);
    let hole = WitnessLog::parse(&hole).expect("counted entries are whole");
    assert!(matches!(
        hole.tail(),
        Tail::Rejected {
            plausible: 0,
            reason: WitnessError::Unwritten { .. }
        }
    ));
}

/// Goal: no damage of a counted entry passes. Method: one broken rule per log.
#[test]
fn damaged_logs_are_refused() {
    fn error(log: &[u8]) -> WitnessError {
        WitnessLog::parse(log).expect_err("the log is damaged")
    }
    fn good() -> LogBuilder {
        let mut builder = LogBuilder::new();
        builder.write(0, &pattern(0, 2, 1)).discard(4, 4).flush();
        builder
    }
    let log = good().finish();
    assert!(WitnessLog::parse(&log).is_ok());

    assert_eq!(error(&log[..511]), WitnessError::TooShort { bytes: 511 });
    assert_eq!(error(&[]), WitnessError::TooShort { bytes: 0 });
    assert_eq!(error(&[0; 4096]), WitnessError::NoSuperblock);

    let patched = |at: usize, byte: u8| {
        let mut log = good().finish();
        log[at] = byte;
        log
    };
    assert!(matches!(
        error(&patched(0, 0xff)),
        WitnessError::BadMagic { .. }
    ));
    assert_eq!(
        error(&patched(8, 2)),
        WitnessError::UnsupportedVersion { found: 2 }
    );
    assert_eq!(
        error(&patched(25, 3)),
        WitnessError::BadSectorSize { found: 768 }
    );
    assert_eq!(
        error(&patched(25, 0)),
        WitnessError::BadSectorSize { found: 0 }
    );
    // One more entry than the file has, and as many as nobody could store.
    assert!(matches!(
        error(&good().finish_counting(4)),
        WitnessError::Truncated {
            entry: EntryIndex(3),
            have: 0,
            ..
        }
    ));
    assert!(matches!(
        error(&good().finish_counting(u64::MAX)),
        WitnessError::Truncated {
            entry: EntryIndex(3),
            ..
        }
    ));
    assert!(matches!(
        error(&log[..1200]),
        WitnessError::Truncated {
            entry: EntryIndex(0),
            offset: 512,
            need: 1536,
            have: 688
        }
    ));
    // The header of entry 0 is at byte 512: padding, flags, length of a mark.
    assert!(matches!(
        error(&patched(512 + 40, 1)),
        WitnessError::BadHeader { .. }
    ));
    assert!(matches!(
        error(&patched(512 + 16, 0x10)),
        WitnessError::UnknownFlags { flags: 0x10, .. }
    ));
    assert!(matches!(
        error(&patched(512 + 24, 1)),
        WitnessError::BadHeader { .. }
    ));

    let one = |sector, sectors, flags, data: &[u8]| {
        let mut builder = LogBuilder::new();
        builder.raw(sector, sectors, flags, data);
        error(&builder.finish())
    };
    assert!(matches!(
        one(0, 0, 0, &[1; 512]),
        WitnessError::Unwritten { .. }
    ));
    assert!(matches!(one(7, 0, 0, &[]), WitnessError::BadHeader { .. }));
    assert!(matches!(one(7, 0, 4, &[]), WitnessError::BadHeader { .. }));
    assert!(matches!(
        one(7, 1, 8, &[0; 512]),
        WitnessError::BadHeader { .. }
    ));
    assert!(matches!(
        one(u64::MAX, 2, 4, &[]),
        WitnessError::BadHeader { .. }
    ));
    assert!(matches!(
        one(0, u64::MAX, 0, &[]),
        WitnessError::Truncated { .. }
    ));
}

#[test]
fn a_mark_keeps_its_text() {
    let mut builder = LogBuilder::new();
    builder.raw(0, 0, 8, &[]).write(1, &pattern(1, 1, 1));
    let mut log = builder.finish();
    log[512 + 24] = 5;
    log[512 + 32..512 + 37].copy_from_slice(b"mkfs!");
    let log = WitnessLog::parse(&log).expect("a whole log");
    assert_eq!(log.entries()[0].kind, EntryKind::Mark);
    assert_eq!(log.entries()[0].data, b"mkfs!");
    assert_eq!(log.entries()[1].sector, Sector(1));
}

#[test]
fn a_log_of_another_disk_is_refused() {
    let mut builder = LogBuilder::new();
    builder.write(0, &pattern(0, 8, 1)).discard(30, 8);
    let bytes = builder.finish();
    let log = WitnessLog::parse(&bytes).expect("a whole log");
    let base = vec![0; 32 * 512];
    // Also where discards are ignored: the disk has no such sectors.
    let error = Truth::at(&base, &log, log.end(), DiscardModel::Ignored).expect_err("too small");
    assert!(matches!(
        error,
        TruthError::OutOfDisk {
            entry: EntryIndex(1),
            ..
        }
    ));
    let odd = Truth::at(&base[1..], &log, log.end(), DiscardModel::Ignored).expect_err("odd");
    assert_eq!(
        odd,
        TruthError::OddDisk {
            bytes: 32 * 512 - 1
        }
    );
    let size = self_check(&base, &log, &base[512..], DiscardModel::Zeroes).expect_err("shrunk");
    assert!(matches!(size, SelfCheckError::DiskSize { .. }));
}

/// Goal: the layout on disk is the one of the contract. Method: a header spelled out byte by byte.
#[test]
fn epoch_header_layout() {
    let header = EpochHeader {
        uuid: UUID,
        epoch: Epoch(0x0102_0304_0506_0708),
        origin_sectors: 0x1112_1314_1516_1718,
        cow_slots: 0x2122_2324_2526_2728,
        flags: 0x3132_3334,
    };
    let bytes = header.encode();
    let mut expected = Vec::new();
    expected.extend_from_slice(b"COWBIRD\x01");
    expected.extend_from_slice(&[3, 0, 0, 0, 0, 16, 0, 0]);
    expected.extend_from_slice(b"a series of test");
    expected.extend_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
    expected.extend_from_slice(&[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]);
    expected.extend_from_slice(&[0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21]);
    expected.extend_from_slice(&[0x34, 0x33, 0x32, 0x31, 0, 0, 0, 0]);
    assert_eq!(&bytes[..64], &expected[..]);
    assert!(bytes[64..508].iter().all(|byte| *byte == 0));
    assert!(bytes[512..4092].iter().all(|byte| *byte == 0));
    // CRC-32C by the definition, bit by bit: the crate must use the same one as the module.
    let crc_of = |bytes: &[u8]| {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            }
        }
        !crc
    };
    assert_eq!(bytes[508..512], crc_of(&bytes[..508]).to_le_bytes());
    assert_eq!(bytes[4092..], crc_of(&bytes[..4092]).to_le_bytes());
    assert_eq!(EpochHeader::decode(&bytes), Ok(header));

    assert_eq!(
        EpochHeader::decode(&bytes[..4095]),
        Err(HeaderError::Short { bytes: 4095 })
    );
    let mut bad = bytes;
    bad[0] = 0;
    assert_eq!(EpochHeader::decode(&bad), Err(HeaderError::BadMagic));
    let mut bad = bytes;
    bad[3000] ^= 1;
    assert!(matches!(
        EpochHeader::decode(&bad),
        Err(HeaderError::BadChecksum { .. })
    ));
    let mut newer = bytes;
    newer[8] = 4;
    let checksum = crc32c::crc32c(&newer[..4092]);
    newer[4092..].copy_from_slice(&checksum.to_le_bytes());
    assert!(matches!(
        EpochHeader::decode(&newer),
        Err(HeaderError::UnsupportedVersion {
            found: 4,
            header_bytes: 4096
        })
    ));
}

/// Goal: the instant is the one asked for, or none. Method: other epochs, a merged write, a
/// rewrite, a damaged header and a second place.
#[test]
fn markers() {
    let header = |epoch| {
        EpochHeader {
            uuid: UUID,
            epoch: Epoch(epoch),
            origin_sectors: 64,
            cow_slots: 2,
            flags: 0,
        }
        .encode()
    };
    let mut damaged = header(2);
    damaged[100] = 1;
    // The header of epoch 2 is in the middle of a merged write, off any 4 KiB boundary.
    let mut merged = pattern(200, 3, 1);
    merged.extend_from_slice(&header(2));
    merged.extend_from_slice(&pattern(211, 1, 1));
    let mut builder = LogBuilder::new();
    builder
        .write(100, &header(1))
        .write(90, &damaged)
        .write(200, &merged)
        .write(100, &header(1));
    let bytes = builder.finish();
    let log = WitnessLog::parse(&bytes).expect("a whole log");

    let key = |epoch| MarkerKey {
        uuid: UUID,
        epoch: Epoch(epoch),
    };
    let first = find_marker(&log, &key(1)).expect("written twice at one place");
    assert_eq!(
        (first.entry, first.sector, first.rewrites),
        (EntryIndex(0), Sector(100), 1)
    );
    let second = find_marker(&log, &key(2)).expect("written once");
    assert_eq!(
        (second.entry, second.sector, second.rewrites),
        (EntryIndex(2), Sector(203), 0)
    );
    let none = find_marker(&log, &key(3)).expect_err("never written");
    insta::assert_snapshot!(none, @"no epoch header of epoch 3 of series 6120736572696573206f662074657374 in 4 witness entries (3 of other epochs, 1 damaged); check that the COW file lies on the witnessed disk");
    let other = MarkerKey {
        uuid: [0; 16],
        epoch: Epoch(1),
    };
    assert!(matches!(
        find_marker(&log, &other),
        Err(MarkerError::NotFound { others: 3, .. })
    ));
    let all = find_markers(&log);
    assert_eq!((all.found.len(), all.damaged.len()), (3, 1));

    // A copy at another place does not move the instant.
    builder.write(300, &header(2)).write(308, &header(2));
    let bytes = builder.finish();
    let log = WitnessLog::parse(&bytes).expect("a whole log");
    let copied = find_marker(&log, &key(2)).expect("the first one counts");
    assert_eq!(
        (copied.entry, copied.rewrites, copied.copies),
        (EntryIndex(2), 0, 2)
    );
}

#[test]
fn marker_key_from_the_text_of_the_module() {
    let key = MarkerKey::from_hex("61207365726965732066f06620746573", Epoch(7)).expect("32 digits");
    assert_eq!(key.uuid[..4], [0x61, 0x20, 0x73, 0x65]);
    assert_eq!(key.epoch, Epoch(7));
    assert_eq!(MarkerKey::from_hex("61", Epoch(7)), None);
    assert_eq!(
        MarkerKey::from_hex("+1207365726965732066f06620746573", Epoch(7)),
        None
    );
}
