//! Every class of wrong block by a hand-made image, and the limits of the input.

use crate::common::{LogBuilder, marker_of, pattern};
use cowbird_model::{
    BLOCK_BYTES, BlockIndex, BlockSet, Class, DiscardModel, EntryIndex, Oracle, Report, Sector,
    SectorRange, Verdict, VerifyError, WitnessLog, find_marker, verify, verify::VerifyInput,
};

/// The origin begins off any boundary and ends with a block of 3 sectors.
const ORIGIN: SectorRange = SectorRange {
    start: Sector(7),
    sectors: 10 * 8 + 3,
};
const DISK_SECTORS: u64 = 200;
/// The epoch header lies behind the origin, except where a test says otherwise.
const HEADER_SECTOR: u64 = 120;

/// A sector of the disk from a block of the origin and a sector in it.
fn at(block: u64, sector: u64) -> u64 {
    ORIGIN.start.0 + block * 8 + sector
}

/// A log, the disk before it, and what the snapshot should be.
struct Scene {
    base: Vec<u8>,
    log: Vec<u8>,
    zeroed: BlockSet,
    discard: DiscardModel,
}

impl Scene {
    /// Blocks 0..4 written twice before the instant and once after it; block 5 half overwritten
    /// after it; block 6 discarded and block 7 zeroed after it; block 8 untouched; the short block
    /// 10 written before and after it.
    fn new() -> Self {
        let mut builder = LogBuilder::new();
        builder
            .write(at(0, 0), &pattern(at(0, 0), 32, 1))
            .write(at(0, 0), &pattern(at(0, 0), 32, 2))
            .write(at(5, 0), &pattern(at(5, 0), 24, 1))
            .write(at(10, 0), &pattern(at(10, 0), 3, 1))
            .flush()
            .marker(HEADER_SECTOR, ORIGIN.sectors, 1)
            .write(at(0, 0), &pattern(at(0, 0), 32, 3))
            .write(at(5, 2), &pattern(at(5, 2), 3, 2))
            .discard(at(6, 0), 8)
            .write(at(7, 0), &[0; BLOCK_BYTES])
            .write(at(10, 1), &pattern(at(10, 1), 1, 2));
        Self {
            base: vec![0; DISK_SECTORS as usize * 512],
            log: builder.finish(),
            zeroed: BlockSet::new(),
            discard: DiscardModel::Zeroes,
        }
    }

    /// The right image, changed by `damage`, judged.
    fn judge(&self, damage: impl FnOnce(&mut Vec<u8>)) -> Report {
        let log = WitnessLog::parse(&self.log).expect("the log is whole");
        let marker = marker_of(&log);
        let oracle = Oracle::new(&self.base, &log, marker, ORIGIN, &self.zeroed, self.discard)
            .expect("fits");
        let mut image = Vec::new();
        for block in 0..11 {
            image.extend(oracle.expected(BlockIndex(block)));
        }
        damage(&mut image);
        oracle.verify(&image).expect("the image fits")
    }
}

/// The bytes of `sectors` sectors of the image from `sector` of `block` on.
fn part(image: &mut [u8], block: u64, sector: u64, sectors: u64) -> &mut [u8] {
    let from = (block * 8 + sector) as usize * 512;
    &mut image[from..from + sectors as usize * 512]
}

/// The report of exactly one bad block of this class.
fn only(report: &Report, block: u64, class: Class) -> &cowbird_model::BadBlock {
    assert_eq!(report.blocks_checked, 11);
    assert_eq!(report.blocks_bad, 1, "{}", report.render(20));
    assert_eq!(report.verdict(), Verdict::Mismatch);
    assert_eq!(report.classes, [(class, 1)].into(), "{}", report.render(20));
    assert_eq!(report.bad[0].block, BlockIndex(block));
    assert_eq!(report.bad[0].class, class);
    &report.bad[0]
}

fn culprit(bad: &cowbird_model::BadBlock) -> Option<u64> {
    bad.culprit.map(|culprit| culprit.entry.0)
}

#[test]
fn the_right_image_passes() {
    let report = Scene::new().judge(|_| {});
    assert_eq!((report.blocks_checked, report.blocks_bad), (11, 0));
    assert_eq!(report.verdict(), Verdict::Pass);
    assert_eq!(report.render(10), "11 blocks checked, 0 bad\n");
}

#[test]
fn future_names_the_later_write() {
    let report = Scene::new().judge(|image| {
        part(image, 2, 0, 8).copy_from_slice(&pattern(at(2, 0), 8, 3));
    });
    let bad = only(&report, 2, Class::Future);
    let culprit = bad.culprit.expect("the log has the write");
    assert_eq!(
        (culprit.entry, culprit.sector, culprit.sectors),
        (EntryIndex(6), Sector(7), 32)
    );
}

/// Half a block overwritten after the instant is a whole version: future, not torn.
#[test]
fn future_by_a_partial_write() {
    let report = Scene::new().judge(|image| {
        part(image, 5, 2, 3).copy_from_slice(&pattern(at(5, 2), 3, 2));
    });
    assert_eq!(culprit(only(&report, 5, Class::Future)), Some(7));
}

#[test]
fn future_in_the_short_last_block() {
    let report = Scene::new().judge(|image| {
        part(image, 10, 1, 1).copy_from_slice(&pattern(at(10, 1), 1, 2));
    });
    assert_eq!(culprit(only(&report, 10, Class::Future)), Some(10));
}

/// Zeros that a discard or a write-zeroes made after the instant are future, not zeroed.
#[test]
fn zeros_of_the_future() {
    let scene = Scene::new();
    let report = scene.judge(|image| part(image, 6, 0, 8).fill(0));
    assert_eq!(culprit(only(&report, 6, Class::Future)), Some(8));
    let report = scene.judge(|image| part(image, 7, 0, 8).fill(0));
    assert_eq!(culprit(only(&report, 7, Class::Future)), Some(9));
    // A disk that ignores discards never had those zeros.
    let ignoring = Scene {
        discard: DiscardModel::Ignored,
        ..Scene::new()
    };
    let report = ignoring.judge(|image| part(image, 6, 0, 8).fill(0));
    only(&report, 6, Class::Zeroed);
}

#[test]
fn stale_names_what_it_has_and_what_it_lacks() {
    let report = Scene::new().judge(|image| {
        part(image, 3, 0, 8).copy_from_slice(&pattern(at(3, 0), 8, 1));
    });
    let bad = only(&report, 3, Class::Stale);
    assert_eq!(culprit(bad), Some(0));
    assert_eq!(bad.detail, "content of entry #0; entry #1 is missing");
}

#[test]
fn zeroed_says_when_an_older_version_was_zeros() {
    let report = Scene::new().judge(|image| part(image, 1, 0, 8).fill(0));
    let bad = only(&report, 1, Class::Zeroed);
    assert_eq!(
        bad.detail,
        "all zeros (so was the content from before the log)"
    );
}

#[test]
fn torn_between_versions() {
    let report = Scene::new().judge(|image| {
        part(image, 0, 0, 1).copy_from_slice(&pattern(at(0, 0), 1, 1));
        part(image, 0, 4, 2).copy_from_slice(&pattern(at(0, 4), 2, 3));
    });
    let bad = only(&report, 0, Class::Torn);
    assert_eq!(culprit(bad), Some(6));
    assert!(bad.detail.contains("[-===++==]"), "{}", bad.detail);
}

#[test]
fn misplaced_by_blocks_and_by_sectors() {
    let scene = Scene::new();
    let report = scene.judge(|image| {
        let other = part(image, 6, 0, 8).to_vec();
        part(image, 2, 0, 8).copy_from_slice(&other);
    });
    let bad = only(&report, 2, Class::Misplaced);
    assert_eq!((bad.distance_sectors, culprit(bad)), (Some(32), Some(2)));
    assert_eq!(bad.detail, "content of block 6 (+4 blocks)");
    let report = scene.judge(|image| {
        let other = part(image, 1, 5, 8).to_vec();
        part(image, 2, 0, 8).copy_from_slice(&other);
    });
    let bad = only(&report, 2, Class::Misplaced);
    assert_eq!(bad.distance_sectors, Some(-3));
    // The short last block has a place, too.
    let report = scene.judge(|image| {
        let other = part(image, 7, 0, 3).to_vec();
        part(image, 10, 0, 3).copy_from_slice(&other);
    });
    assert_eq!(
        only(&report, 10, Class::Misplaced).distance_sectors,
        Some(-24)
    );
}

/// Of several places with the same content, whole blocks come before shifts, then the nearest.
#[test]
fn misplaced_from_the_likeliest_place() {
    let content = pattern(1000, 8, 1);
    let mut builder = LogBuilder::new();
    for place in [at(0, 0), at(2, 6), at(5, 0), at(8, 0)] {
        builder.write(place, &content);
    }
    builder.marker(HEADER_SECTOR, ORIGIN.sectors, 1);
    let scene = Scene {
        log: builder.finish(),
        ..Scene::new()
    };
    for (block, distance) in [(1, -8), (3, 16), (4, 8), (6, -8), (7, 8), (9, -8)] {
        let report = scene.judge(|image| part(image, block, 0, 8).copy_from_slice(&content));
        assert_eq!(
            only(&report, block, Class::Misplaced).distance_sectors,
            Some(distance)
        );
    }
}

/// A constant shift shows as such: the mark of one wrong address computation.
#[test]
fn a_shift_of_the_whole_image() {
    let report = Scene::new().judge(|image| {
        let right = image.clone();
        image[BLOCK_BYTES..10 * BLOCK_BYTES].copy_from_slice(&right[..9 * BLOCK_BYTES]);
    });
    assert_eq!(
        report.shifts.first(),
        Some(&(-8, 7)),
        "{}",
        report.render(20)
    );
}

#[test]
fn foreign_of_the_log_and_of_nowhere() {
    let scene = Scene::new();
    let report = scene.judge(|image| {
        // What block 1 got after the instant, in block 3.
        part(image, 3, 0, 8).copy_from_slice(&pattern(at(1, 0), 8, 3));
    });
    assert_eq!(culprit(only(&report, 3, Class::Foreign)), Some(6));
    let report = scene.judge(|image| part(image, 3, 2, 1).fill(0xff));
    let bad = only(&report, 3, Class::Foreign);
    assert_eq!(bad.culprit, None);
    assert!(bad.detail.contains("[==?=====]"), "{}", bad.detail);
}

/// The COW file's own blocks must be zeros, whatever the disk holds there.
#[test]
fn own_blocks_are_zeros() {
    let mut builder = LogBuilder::new();
    builder
        .write(at(4, 0), &pattern(at(4, 0), 16, 1))
        .marker(at(4, 0), ORIGIN.sectors, 1)
        .write(at(5, 0), &pattern(at(5, 0), 8, 2));
    let mut scene = Scene {
        log: builder.finish(),
        ..Scene::new()
    };
    scene.zeroed.insert(BlockIndex(4), 2);
    assert_eq!(scene.judge(|_| {}).blocks_bad, 0);
    // The content of the instant is the content of the file: not the snapshot's business.
    let report = scene.judge(|image| {
        part(image, 5, 0, 8).copy_from_slice(&pattern(at(5, 0), 8, 1));
    });
    let bad = only(&report, 5, Class::Stale);
    assert_eq!(
        bad.detail,
        "the COW file's own content, which must read as zeros"
    );
    let report = scene.judge(|image| {
        part(image, 5, 0, 8).copy_from_slice(&pattern(at(5, 0), 8, 2));
    });
    only(&report, 5, Class::Future);
}

#[test]
fn observations_are_judged_alone() {
    let scene = Scene::new();
    let log = WitnessLog::parse(&scene.log).expect("the log is whole");
    let oracle = Oracle::new(
        &scene.base,
        &log,
        marker_of(&log),
        ORIGIN,
        &scene.zeroed,
        DiscardModel::Zeroes,
    )
    .expect("fits");
    let right = oracle.classify_observation(BlockIndex(2), &pattern(at(2, 0), 8, 2));
    assert_eq!(right, Ok(None));
    let wrong = oracle
        .classify_observation(BlockIndex(2), &pattern(at(2, 0), 8, 3))
        .expect("one block")
        .expect("wrong");
    assert_eq!((wrong.class, culprit(&wrong)), (Class::Future, Some(6)));
    let moved = oracle
        .classify_observation(BlockIndex(2), &pattern(at(1, 0), 8, 2))
        .expect("one block")
        .expect("wrong");
    assert_eq!(
        (moved.class, moved.distance_sectors),
        (Class::Misplaced, Some(-8))
    );
    // Too short for this block, right for the last one, and past the end.
    let short = pattern(at(10, 0), 3, 1);
    assert!(oracle.classify_observation(BlockIndex(2), &short).is_err());
    assert_eq!(
        oracle.classify_observation(BlockIndex(10), &short),
        Ok(None)
    );
    assert!(oracle.classify_observation(BlockIndex(11), &short).is_err());
    assert!(oracle.classify_observation(BlockIndex(11), &[]).is_err());
}

/// Inputs that do not fit are errors, never bad blocks.
#[test]
fn inputs_that_do_not_fit() {
    let scene = Scene::new();
    let log = WitnessLog::parse(&scene.log).expect("the log is whole");
    let marker = marker_of(&log);
    let image = vec![0; ORIGIN.bytes() as usize];
    let input = VerifyInput {
        base: &scene.base,
        log: &log,
        marker,
        origin: ORIGIN,
        image: &image,
        zeroed: &scene.zeroed,
        discard: DiscardModel::Zeroes,
    };
    assert!(verify(&input).is_ok());
    for length in [0, image.len() - 1, image.len() - 512] {
        let short = VerifyInput {
            image: &image[..length],
            ..input
        };
        assert!(matches!(verify(&short), Err(VerifyError::ImageSize { .. })));
    }
    let long = vec![0; image.len() + 512];
    let long = VerifyInput {
        image: &long,
        ..input
    };
    assert!(matches!(verify(&long), Err(VerifyError::ImageSize { .. })));
    let small = VerifyInput {
        base: &scene.base[..60 * 512],
        ..input
    };
    assert!(matches!(verify(&small), Err(VerifyError::Truth(_))));
    let outside = VerifyInput {
        origin: SectorRange::new(Sector(DISK_SECTORS - 8), ORIGIN.sectors),
        ..input
    };
    assert!(matches!(
        verify(&outside),
        Err(VerifyError::OriginOutOfDisk { .. })
    ));
    let other = VerifyInput {
        origin: SectorRange::new(Sector(7), 80),
        ..input
    };
    assert!(matches!(
        verify(&other),
        Err(VerifyError::OriginSize { .. })
    ));
    let mut builder = LogBuilder::new();
    builder.flush();
    let short_log = builder.finish();
    let short_log = WitnessLog::parse(&short_log).expect("the log is whole");
    let no_marker = VerifyInput {
        log: &short_log,
        ..input
    };
    assert!(matches!(
        verify(&no_marker),
        Err(VerifyError::MarkerOutOfLog { .. })
    ));
}

/// Of two epochs each has its own truth.
#[test]
fn two_epochs_two_truths() {
    let mut builder = LogBuilder::new();
    builder
        .write(at(0, 0), &pattern(at(0, 0), 8, 1))
        .marker(HEADER_SECTOR, ORIGIN.sectors, 1)
        .write(at(0, 0), &pattern(at(0, 0), 8, 2))
        .marker(HEADER_SECTOR, ORIGIN.sectors, 2);
    let bytes = builder.finish();
    let log = WitnessLog::parse(&bytes).expect("the log is whole");
    let base = vec![0; DISK_SECTORS as usize * 512];
    let zeroed = BlockSet::new();
    for (epoch, generation, wrong, class) in [(1, 1, 2, Class::Future), (2, 2, 1, Class::Stale)] {
        let key = cowbird_model::MarkerKey {
            uuid: crate::common::UUID,
            epoch: cowbird_model::Epoch(epoch),
        };
        let marker = find_marker(&log, &key).expect("both are written");
        let oracle =
            Oracle::new(&base, &log, marker, ORIGIN, &zeroed, DiscardModel::Zeroes).expect("fits");
        let block = BlockIndex(0);
        let judge =
            |generation| oracle.classify_observation(block, &pattern(at(0, 0), 8, generation));
        assert_eq!(judge(generation), Ok(None));
        assert_eq!(
            judge(wrong).expect("one block").map(|bad| bad.class),
            Some(class)
        );
    }
}

/// Goal: counts stay exact when the lists are full. Method: an origin larger than both lists with
/// every other block wrong.
#[test]
fn lists_are_bounded_and_counts_are_not() {
    let blocks = 5000;
    let mut builder = LogBuilder::new();
    builder.marker(blocks * 8, blocks * 8, 1);
    let bytes = builder.finish();
    let log = WitnessLog::parse(&bytes).expect("the log is whole");
    let base = vec![0; (blocks as usize + 1) * BLOCK_BYTES];
    let mut image = vec![0; blocks as usize * BLOCK_BYTES];
    for block in (0..blocks as usize).step_by(2) {
        image[block * BLOCK_BYTES + 1000] = 1;
    }
    let input = VerifyInput {
        base: &base,
        log: &log,
        marker: marker_of(&log),
        origin: SectorRange::new(Sector(0), blocks * 8),
        image: &image,
        zeroed: &BlockSet::new(),
        discard: DiscardModel::Zeroes,
    };
    let report = verify(&input).expect("fits");
    assert_eq!(
        (report.blocks_checked, report.blocks_bad, report.runs_bad),
        (5000, 2500, 2500)
    );
    assert_eq!(report.classes, [(Class::Foreign, 2500)].into());
    assert_eq!((report.bad.len(), report.runs.len()), (1000, 1000));
}

#[test]
fn report_as_text_and_as_json() {
    let report = Scene::new().judge(|image| {
        part(image, 0, 0, 8).copy_from_slice(&pattern(at(0, 0), 8, 3));
        part(image, 1, 0, 8).fill(0);
        let other = part(image, 5, 0, 8).to_vec();
        part(image, 2, 0, 8).copy_from_slice(&other);
        part(image, 3, 0, 8).copy_from_slice(&pattern(at(3, 0), 8, 1));
        part(image, 8, 0, 8).fill(0xff);
        part(image, 10, 0, 3).copy_from_slice(&pattern(99, 3, 9));
    });
    insta::assert_snapshot!("report_text", report.render(4));
    insta::assert_snapshot!(
        "report_json",
        serde_json::to_string_pretty(&report).expect("a report serializes")
    );
}
