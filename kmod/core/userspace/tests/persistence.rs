//! Goal: whatever lies in a COW file, taking it up again yields a superset of what was marked or
//! saved, or an error; and nothing that is not this series in this place is believed.
//! Method: COW files made slot by slot, then damaged, moved, torn or overtaken.

use std::collections::BTreeSet;

use cowbird_core::cow_disk::{CowDisk, HEAD_CRC, THIS_BOOT, UUID, WRITTEN, next_boot, same_boot};
use cowbird_core::persist::{
    FineRule, Kind, Layout, Marks, Mode, Now, PAYLOAD, SLOT_BYTES, Slot, State, Status,
};
use cowbird_core::{HEADER_BYTES, HEADER_COW_ON_ORIGIN, HEADER_SUMS, Header, Kept, sum};
use proptest::prelude::*;

/// 3 regions of 256 blocks, the last one short; the COW file lies in the second one.
fn small() -> CowDisk {
    CowDisk::new(
        2048,
        700 * 8 - 3,
        &[(2048 + 300 * 8, 12), (2048 + 400 * 8, 20)],
    )
}

fn blocks(words: &[u64]) -> BTreeSet<u64> {
    (0..words.len() as u64 * 64)
        .filter(|block| words[(block / 64) as usize] >> (block % 64) & 1 != 0)
        .collect()
}

fn saved_snapshot(slots_used: u64) -> State {
    State {
        status: Status::Clean,
        mode: Mode::Snapshot,
        boot_id: THIS_BOOT,
        written_sectors: WRITTEN,
        head_crc: HEAD_CRC,
        slots_used,
        tracked_from: 2,
        changes_from: 1,
        fine_rule: FineRule::All,
    }
}

fn saved(disk: &mut CowDisk, sequence: u64, epoch: u64, mode: Mode, changed: &[u64]) {
    disk.map(Kind::Fine, epoch, sequence, changed);
    disk.put(Kind::Index, 0, epoch, sequence, &mut [0; SLOT_BYTES]);
    disk.state(sequence, epoch, Status::Clean, mode);
}

#[test]
fn after_a_power_cut_the_marked_regions_count_as_changed() {
    let mut disk = small();
    disk.map(Kind::Regions, 1, 0, &[1, 2]);
    let series = disk.reload(&next_boot()).unwrap();
    assert!(!series.clean);
    assert_eq!((series.uuid, series.epoch), (UUID, 1));
    assert_eq!(series.tracked.from_epoch, 1);
    let expected: BTreeSet<u64> = (256..700).collect();
    assert_eq!(
        blocks(&series.tracked.words),
        expected,
        "those of the COW file, too: its extents may be another file's by now"
    );
    assert_eq!(blocks(&series.marked), BTreeSet::from([1, 2]));
    assert_eq!(series.extents, disk.pieces);
}

#[test]
fn a_snapshot_cut_off_counts_the_epoch_before_as_well() {
    let mut disk = small();
    disk.map(Kind::Regions, 1, 0, &[0]);
    disk.header(2, 1);
    // No state was written since T0: the one of epoch 1 is overtaken, even if it was clean.
    disk.state(1, 1, Status::Clean, Mode::Incremental);
    let series = disk.reload(&next_boot()).unwrap();
    assert!(!series.clean, "T0 came after the save");
    assert_eq!((series.epoch, series.mode), (2, Mode::Snapshot));
    assert_eq!(series.tracked.from_epoch, 1);
    assert_eq!(blocks(&series.tracked.words), (0..256).collect());
    assert!(blocks(&series.since_epoch.words).is_empty());
    assert!(
        blocks(&series.marked).is_empty(),
        "marks of epoch 1 are none of epoch 2"
    );
    // Once its backup is known to be complete, the epoch before does not matter.
    disk.state(2, 2, Status::Dirty, Mode::Incremental);
    let series = disk.reload(&next_boot()).unwrap();
    assert_eq!(series.tracked.from_epoch, 2);
    assert!(blocks(&series.tracked.words).is_empty());
}

#[test]
fn what_was_saved_comes_back_exactly() {
    let mut disk = small();
    disk.header(2, 1);
    disk.map(Kind::Regions, 2, 0, &[0, 2]);
    disk.map(Kind::Fine, 1, 6, &[5, 6, 7]);
    disk.map(Kind::Fine, 2, 6, &[0, 63, 64, 699]);
    let data = disk.layout.data_first();
    let mut index: Slot = [0; SLOT_BYTES];
    for (at, word) in [
        (data, 0xFFFF_FFFF_0000_02BBu64),
        (data + 1, 0x8000_0001_0000_0000),
    ] {
        let at = PAYLOAD.start + at as usize * 8;
        index[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    disk.put(Kind::Index, 0, 2, 6, &mut index);
    let state = saved_snapshot(data + 2);
    disk.put_state(6, 2, &state);
    let kept = |slot: u64, block, sum| Kept {
        slot: slot as u32,
        block,
        sum,
    };
    let whole = [kept(data, 699, 0xFFFF_FFFF), kept(data + 1, 0, 0x8000_0001)];
    for now in [same_boot(), next_boot()] {
        let series = disk.reload(&now).unwrap();
        assert!(series.clean);
        assert_eq!(
            blocks(&series.tracked.words),
            BTreeSet::from([0, 63, 64, 699])
        );
        let before = series.before.unwrap();
        assert_eq!(before.from_epoch, 1);
        assert_eq!(blocks(&before.words), BTreeSet::from([5, 6, 7]));
        assert_eq!(series.index, whole);
        assert_eq!(blocks(&series.marked), BTreeSet::from([0, 2]));
    }
    // The state decodes to what it was made from.
    let sector = disk.sector(disk.layout.slots(Kind::State).start);
    assert_eq!(State::decode(&disk.slots[&sector]), Some(state));
    assert!(
        disk.meta(Kind::State, 0, 2, 6)
            .is_that_of(&disk.slots[&sector])
            .unwrap()
    );
}

/// The sum of block 70, all of whose bytes are 7, by an implementation of XXH64 in Python.
const SUM_OF_SEVENS: u32 = 0x6fb3_f6ff;

/// Goal: a snapshot goes on only with a sum for each of its blocks, and none of them can be another one than was saved.
/// Method: a saved index of one block. Each bit of its word turned round in place, which its slot's checksum notices, and
/// in a slot that is whole, which says that it is another block, or has another sum; a header of an earlier version,
/// which had no sums: its changes go on, and count those since the backup before.
#[test]
fn a_snapshot_goes_on_only_with_its_sums() {
    let word = 0x1234_5678_0000_0046u64;
    let saved_with = |word: u64, flags: u32| {
        let mut disk = small();
        disk.flags = flags;
        disk.header(2, 1);
        disk.map(Kind::Fine, 1, 6, &[5]);
        disk.map(Kind::Fine, 2, 6, &[70]);
        let data = disk.layout.data_first();
        let mut index: Slot = [0; SLOT_BYTES];
        let at = PAYLOAD.start + data as usize * 8;
        index[at..at + 8].copy_from_slice(&word.to_le_bytes());
        disk.put(Kind::Index, 0, 2, 6, &mut index);
        disk.put_state(6, 2, &saved_snapshot(data + 1));
        (disk, at)
    };
    let flags = small().flags;
    let (disk, at) = saved_with(word, flags);
    let series = disk.reload(&next_boot()).unwrap();
    assert!(series.snapshot);
    assert_eq!(series.index.len(), 1);
    let kept = series.index[0];
    assert_eq!((kept.block, kept.sum), (70, 0x1234_5678));

    let place = disk.sector(disk.layout.slots(Kind::Index).start);
    for bit in 0..64 {
        let mut damaged = disk.clone();
        damaged.slots.get_mut(&place).unwrap()[at + bit / 8] ^= 1 << (bit % 8);
        let found = damaged.reload(&next_boot()).unwrap();
        assert!(!found.snapshot && found.index.is_empty(), "bit {bit}");

        let other = saved_with(word ^ (1 << bit), flags).0.reload(&next_boot());
        match other {
            Err(lost) => assert!(bit < 32 && lost.reason.contains("index makes no sense")),
            Ok(other) => assert!(other.index[0] != kept && other.index[0].block < 700),
        }
    }

    // 2 is the flag of sums that were computed in another way: it must change with what a sum is.
    assert_eq!((HEADER_SUMS, sum(70, &[7; SLOT_BYTES])), (4, SUM_OF_SEVENS));
    for flags in [HEADER_COW_ON_ORIGIN, HEADER_COW_ON_ORIGIN | 2] {
        let (disk, _) = saved_with(70, flags);
        let series = disk.reload(&next_boot()).unwrap();
        assert!(series.clean && !series.snapshot && series.index.is_empty());
        assert_eq!(series.tracked.from_epoch, 1);
        assert_eq!(blocks(&series.tracked.words), BTreeSet::from([5, 70]));
    }
}

/// Goal: what happened in between is noticed, as far as it can be.
#[test]
fn a_past_that_was_not_seen_ends_tracking() {
    let reason = |disk: &CowDisk, now: Now| disk.reload(&now).unwrap_err().reason;
    let mut disk = small();
    assert!(reason(&disk, same_boot()).contains("without having been saved"));
    saved(&mut disk, 2, 1, Mode::Incremental, &[4]);
    assert!(disk.reload(&same_boot()).unwrap().clean);
    assert!(disk.reload(&next_boot()).unwrap().clean);
    let written = |now: Now, written_sectors| Now {
        written_sectors,
        ..now
    };
    assert!(reason(&disk, written(same_boot(), WRITTEN + 8)).contains("while nothing was tracked"));
    assert!(reason(&disk, written(same_boot(), 0)).contains("while nothing was tracked"));
    assert!(reason(&disk, written(next_boot(), 8)).contains("in this boot before"));
    assert!(reason(&disk, Now::next_boot(HEAD_CRC ^ 1)).contains("first 64 KiB"));
    for now in [same_boot(), next_boot()] {
        let uncounted = Now {
            uncounted: true,
            ..now
        };
        assert!(reason(&disk, uncounted).contains("does not count"));
    }
    for (status, word) in [
        (Status::Lost, "tracking was lost before"),
        (Status::Ended, "ended"),
    ] {
        let mut disk = disk.clone();
        disk.state(3, 1, status, Mode::Incremental);
        assert!(reason(&disk, next_boot()).contains(word));
        assert!(reason(&disk, same_boot()).contains(word));
    }
    // Dirty again: the save counts no more, in this boot or another.
    disk.state(3, 1, Status::Dirty, Mode::Incremental);
    assert!(!disk.reload(&next_boot()).unwrap().clean);
    assert!(reason(&disk, written(next_boot(), 8)).contains("in this boot before"));
}

/// Goal: a COW file with another series in the same place is refused, and only a refusal of what would have gone on
/// asks for the state LOST. Method: reloads with the series that is there, another one, and none.
#[test]
fn only_the_series_that_is_recorded_is_taken_up() {
    let mut disk = small();
    saved(&mut disk, 2, 1, Mode::Incremental, &[]);
    let uuid = disk.reload(&next_boot()).unwrap().uuid;
    let recorded = |series| Now {
        series: Some(series),
        ..next_boot()
    };
    assert!(disk.reload(&recorded(uuid)).is_ok());
    let lost = disk.reload(&recorded([7; 16])).unwrap_err();
    assert!(lost.reason.contains("another series"), "{lost}");
    assert!(!lost.overtaken);

    let written = Now {
        written_sectors: 8,
        ..recorded(uuid)
    };
    assert!(disk.reload(&written).unwrap_err().overtaken);
    // The next boot sees it as well.
    assert!(
        !disk
            .reload(&Now::next_boot(HEAD_CRC ^ 1))
            .unwrap_err()
            .overtaken
    );
    for status in [Status::Lost, Status::Ended] {
        let mut disk = disk.clone();
        disk.state(3, 1, status, Mode::Incremental);
        assert!(!disk.reload(&written).unwrap_err().overtaken);
    }
}

/// Goal: changes are known since an epoch that has begun, whatever a state says that is whole. Found by `cowbird-fuzz`.
#[test]
fn no_change_is_known_from_the_future() {
    for (tracked_from, changes_from) in [(0, 0), (2, 0), (u64::MAX, 0), (1, 1), (1, 7)] {
        let mut disk = small();
        saved(&mut disk, 2, 1, Mode::Incremental, &[4]);
        let state = State {
            status: Status::Clean,
            mode: Mode::Incremental,
            boot_id: THIS_BOOT,
            written_sectors: WRITTEN,
            head_crc: HEAD_CRC,
            slots_used: disk.layout.data_first(),
            tracked_from,
            changes_from,
            fine_rule: FineRule::All,
        };
        disk.put_state(2, 1, &state);
        let lost = disk.reload(&next_boot()).unwrap_err();
        assert!(lost.reason.contains("makes no sense"), "{lost}");
    }
}

/// Goal: a write that the power cut while it was under way leaves the old state, the new one, or
/// more than either. Method: every metadata slot that is rewritten, cut after every sector.
#[test]
fn a_torn_write_loses_nothing() {
    let old = {
        let mut disk = small();
        disk.map(Kind::Regions, 1, 0, &[0]);
        disk
    };
    let mut marked = old.clone();
    marked.map(Kind::Regions, 1, 0, &[0, 2]);
    let mut dirtied = old.clone();
    saved(&mut dirtied, 2, 1, Mode::Snapshot, &[]);
    let clean = dirtied.clone();
    dirtied.state(3, 1, Status::Dirty, Mode::Snapshot);
    let mut begun = old.clone();
    begun.header(2, 1);
    for (from, to) in [(&old, &marked), (&clean, &dirtied), (&old, &begun)] {
        for sectors in 0..=8 {
            let mut disk = from.clone();
            for (sector, slot) in &to.slots {
                let torn = disk.slots.get_mut(sector).unwrap();
                torn[..sectors * 512].copy_from_slice(&slot[..sectors * 512]);
            }
            let series = disk.reload(&next_boot()).unwrap();
            let ends = [from, to].map(|end| end.reload(&next_boot()).unwrap());
            let superset = ends.iter().any(|end| {
                blocks(&series.tracked.words).is_superset(&blocks(&end.tracked.words))
                    && series.tracked.from_epoch <= end.tracked.from_epoch
            });
            assert!(superset, "cut after {sectors} sectors: {series:?}");
        }
    }
}

/// Goal: a COW file that lies elsewhere, in part or as a whole, is not believed.
#[test]
fn a_moved_file_is_noticed() {
    let mut disk = small();
    saved(&mut disk, 2, 1, Mode::Snapshot, &[4]);
    // All of it, copied to where another disk layout has it.
    let mut moved = disk.clone();
    moved.slots = disk
        .slots
        .iter()
        .map(|(&sector, &slot)| (sector + 80, slot))
        .collect();
    let error = moved
        .reload_at(disk.sector(0) + 80, &next_boot())
        .unwrap_err();
    assert!(error.reason.contains("moved"), "{error}");
    assert!(disk.reload_at(disk.sector(1), &next_boot()).is_err());
    // Those of a state of odd sequence.
    let other_samples = disk.layout.slots(Kind::Samples).start + 1;
    // One slot of it, each in turn: copied from elsewhere, of another series, or somebody's data.
    for slot in 0..disk.layout.slots(Kind::Fine).end {
        let sector = disk.sector(slot);
        let other = disk.slots[&disk.sector(if slot == 1 { 2 } else { 1 })];
        let mut of_another_series = disk.slots[&sector];
        of_another_series[16] ^= 1;
        for content in [
            other,
            [0; SLOT_BYTES],
            [0xE5; SLOT_BYTES],
            of_another_series,
        ] {
            let mut damaged = disk.clone();
            damaged.slots.insert(sector, content);
            let result = damaged.reload(&next_boot());
            let unread = disk.layout.area(Kind::Regions, 2).start
                + disk.layout.slots(Kind::Regions).start
                == slot
                || disk.layout.area(Kind::Fine, 2).start + disk.layout.slots(Kind::Fine).start
                    == slot
                || slot == other_samples;
            assert_eq!(result.is_ok(), unread, "slot {slot}: {result:?}");
        }
        let mut unreadable = disk.clone();
        unreadable.slots.remove(&sector);
        assert!(
            unreadable.reload(&next_boot()).is_err()
                || slot >= disk.layout.slots(Kind::Regions).start
                || slot == other_samples
        );
    }
}

/// Goal: an epoch that was begun and given up cannot hide what the one before had marked there.
#[test]
fn an_area_that_a_later_epoch_has_used_counts_as_marked() {
    let mut disk = small();
    disk.header(3, 2);
    disk.map(Kind::Regions, 2, 0, &[0]);
    disk.map(Kind::Regions, 3, 0, &[2]);
    let series = disk.reload(&next_boot()).unwrap();
    let expected: BTreeSet<u64> = (0..256).chain(512..700).collect();
    assert_eq!(blocks(&series.tracked.words), expected);
    disk.map(Kind::Regions, 4, 0, &[]);
    let all: BTreeSet<u64> = (0..700).collect();
    assert_eq!(
        blocks(&disk.reload(&next_boot()).unwrap().tracked.words),
        all
    );
}

#[test]
fn an_older_header_version_is_told_apart() {
    let disk = small();
    let mut old: [u8; HEADER_BYTES] = Header::default().encode().try_into().unwrap();
    old[8] = 1;
    old[508..512].fill(0);
    let crc = crc32c::crc32c(&old[..4092]).to_le_bytes();
    old[4092..].copy_from_slice(&crc);
    let mut damaged = disk.clone();
    damaged.slots.insert(disk.sector(0), old);
    let error = damaged.reload(&next_boot()).unwrap_err();
    assert!(error.reason.contains("another version"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Kinds follow each other without gap or overlap, and the map of regions is bounded.
    #[test]
    fn layouts_tile_the_file(blocks in 1u64..1 << 40, slots in 0u64..1 << 30, extents in 1u32..1 << 20) {
        if let Ok(layout) = Layout::new(blocks, slots, extents) {
            let mut next = 1;
            for kind in [Kind::Extents, Kind::State, Kind::Samples, Kind::Regions, Kind::Fine, Kind::Index] {
                prop_assert_eq!(layout.slots(kind).start, next);
                prop_assert!(!layout.slots(kind).is_empty());
                next = layout.slots(kind).end;
            }
            prop_assert_eq!(layout.data_first(), next);
            prop_assert!(next < slots);
            let regions = layout.area(Kind::Regions, 7);
            prop_assert!(regions.end - regions.start <= 64);
            prop_assert!((regions.end - regions.start) * 32000 >= layout.region_count());
            prop_assert!(layout.region_count() << layout.region_shift() >= blocks);
            prop_assert!((layout.region_count() - 1) << layout.region_shift() < blocks);
            let fine = layout.area(Kind::Fine, 8);
            prop_assert!((fine.end - fine.start) * 32000 >= blocks);
        }
    }

    /// A file in many pieces is found from its header alone, whatever their order on the disk.
    #[test]
    fn a_fragmented_file_is_found(gaps in prop::collection::vec((1u64..4, 1u64..3), 200..700)) {
        let mut at = 4096;
        let pieces: Vec<(u64, u64)> = gaps
            .iter()
            .map(|&(gap, slots)| {
                let sector = at + gap * 8;
                at = sector + slots * 8;
                (sector, slots)
            })
            .collect();
        let mut disk = CowDisk::new(0, 64, &pieces);
        disk.map(Kind::Regions, 1, 0, &[0]);
        let series = disk.reload(&next_boot()).unwrap();
        prop_assert_eq!(series.extents, pieces);
    }

    /// No single damaged byte of what is read goes unnoticed or takes a block out of the map.
    #[test]
    fn damage_is_noticed_or_costs_precision(at in 0usize..SLOT_BYTES, flip in 1u8..=255, pick: u64) {
        let mut disk = small();
        disk.map(Kind::Regions, 1, 0, &[1]);
        saved(&mut disk, 2, 1, Mode::Incremental, &[300, 260]);
        disk.state(3, 1, Status::Dirty, Mode::Incremental);
        let good = disk.reload(&next_boot()).unwrap();
        let slot = pick % disk.layout.slots(Kind::Regions).end;
        let sector = disk.sector(slot);
        disk.slots.get_mut(&sector).unwrap()[at] ^= flip;
        if let Ok(series) = disk.reload(&next_boot()) {
            let state = disk.layout.slots(Kind::State);
            // The latest state is gone, and the save before it comes up: the writes that it does
            // not know were held until the later one was on disk. Damage, not a power cut.
            if slot != state.start + 1 {
                prop_assert!(
                    blocks(&series.tracked.words).is_superset(&blocks(&good.tracked.words)),
                    "slot {} byte {}", slot, at
                );
            }
        }
    }

    /// Marks: stable is what was issued when the last completed write began.
    #[test]
    fn marks_agree_with_sets(
        steps in prop::collection::vec((0u8..3, 0u64..40_000, 0u64..600), 1..60),
    ) {
        let layout = Layout::new(40_000 << 8, 1 << 20, 1).unwrap();
        let mut marks = Marks::new(&layout);
        let mut wanted = [BTreeSet::new(), BTreeSet::new()];
        let mut issued = [BTreeSet::new(), BTreeSet::new()];
        let mut flying = [false, false];
        let mut stable: BTreeSet<u64> = BTreeSet::new();
        for (step, region, length) in steps {
            let slot = (region / 32000) as usize;
            match step {
                0 => {
                    let last = (region + length).min(39_999);
                    marks.want(region << 8, (last << 8) + 255);
                    for region in region..=last {
                        let slot = (region / 32000) as usize;
                        if !issued[slot].contains(&region) {
                            wanted[slot].insert(region);
                        }
                    }
                }
                1 if !flying[slot] && marks.wanted_slots() >> slot & 1 != 0 => {
                    let mut bytes: Slot = [0xAA; SLOT_BYTES];
                    marks.issue(slot as u32, &mut bytes);
                    let new = std::mem::take(&mut wanted[slot]);
                    issued[slot].extend(new);
                    flying[slot] = true;
                    let written: BTreeSet<u64> = (0..32000)
                        .filter(|bit| bytes[PAYLOAD.start + bit / 8] >> (bit % 8) & 1 != 0)
                        .map(|bit| bit as u64 + 32000 * slot as u64)
                        .collect();
                    prop_assert_eq!(&written, &issued[slot]);
                }
                2 if flying[slot] => {
                    marks.done(slot as u32);
                    stable.extend(&issued[slot]);
                    flying[slot] = false;
                }
                _ => {}
            }
            for (slot, wanted) in wanted.iter().enumerate() {
                prop_assert_eq!(marks.wanted_slots() >> slot & 1 != 0, !wanted.is_empty());
            }
            let last = (region + length).min(39_999);
            let expected = (region..=last).find(|region| !stable.contains(region));
            let found = marks.next_unstable((region << 8) + 7, (last << 8) + 255);
            prop_assert_eq!(found.map(|block| block >> 8), expected);
        }
    }
}
