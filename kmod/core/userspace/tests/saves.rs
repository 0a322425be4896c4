//! Goal: whatever saves, crashes, epochs and damage come together, a reload never misses a change, and is exact after
//! a save that was completed. Method: random histories of a series, written as the module's saveslots.c writes them: only
//! slots that have changed, groups of them named by the state, slots of older saves and epochs left in place.

use std::collections::{BTreeMap, BTreeSet};

use cowbird_core::cow_disk::{CowDisk, HEAD_CRC, THIS_BOOT, WRITTEN, next_boot};
use cowbird_core::persist::{
    FineRule, GROUPS, GROUPS_BYTES, Kind, Layout, Mode, PAYLOAD, SLOT_BYTES, Series, Slot, State,
    Status,
};
use proptest::prelude::*;

/// Five slots, the last one short; the COW file is on another disk.
const BLOCKS: u64 = 4 * 32000 + 777;
const SLOTS: u64 = 5;
const REGION_BLOCKS: u64 = 256;

type Blocks = BTreeSet<u64>;

/// A series in memory, and the truth that it must not miss.
struct History {
    disk: CowDisk,
    epoch: u64,
    /// What the module knows: written since `from`, and before.
    tracked: Blocks,
    from: u64,
    before: Option<(u64, Blocks)>,
    /// What was written in each epoch.
    truth: BTreeMap<u64, Blocks>,
    marked: Blocks,
    sequence: u64,
    saved: bool,
    incremental: bool,
    /// Bits of each slot on disk, as far as known; since when.
    on_disk: [Option<usize>; SLOTS as usize],
    changes_on_disk: bool,
    since: Option<u64>,
    /// A slot that may count is damaged.
    damaged: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    Save,
    /// The power goes when so many slots of a save are written.
    CutDuringSave(usize),
    Cut,
    NextEpoch,
    /// A bit of a slot of the maps is lost, then the power goes.
    Damage(u64, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..BLOCKS).prop_map(Step::Write),
        // Places that come again and again.
        6 => (0u64..40).prop_map(|n| Step::Write(n * 3300 % BLOCKS)),
        4 => Just(Step::Save),
        2 => (0usize..6).prop_map(Step::CutDuringSave),
        2 => Just(Step::Cut),
        2 => Just(Step::NextEpoch),
        1 => (0..2 * SLOTS, 0usize..SLOT_BYTES).prop_map(|(slot, at)| Step::Damage(slot, at)),
    ];
    prop::collection::vec(step, 1..60)
}

fn blocks(words: &[u64]) -> Blocks {
    let bits = |(at, &word): (usize, &u64)| {
        (0..64)
            .filter(move |bit| word >> bit & 1 != 0)
            .map(move |bit| at as u64 * 64 + bit)
    };
    words.iter().enumerate().flat_map(bits).collect()
}

fn of_slot(map: &Blocks, slot: u64) -> Vec<u64> {
    map.range(slot * 32000..(slot + 1) * 32000)
        .copied()
        .collect()
}

impl History {
    fn new() -> Self {
        Self {
            disk: CowDisk::new(0, BLOCKS * 8 - 3, &[(BLOCKS * 8 + 64, 64)]),
            epoch: 1,
            tracked: Blocks::new(),
            from: 1,
            before: None,
            truth: BTreeMap::new(),
            marked: Blocks::new(),
            sequence: 1,
            saved: false,
            incremental: true,
            on_disk: [None; SLOTS as usize],
            changes_on_disk: false,
            since: None,
            damaged: false,
        }
    }

    fn state(&self, status: Status) -> State {
        State {
            status,
            mode: if self.incremental {
                Mode::Incremental
            } else {
                Mode::Snapshot
            },
            boot_id: THIS_BOOT,
            written_sectors: WRITTEN,
            head_crc: HEAD_CRC,
            slots_used: self.disk.layout.data_first(),
            tracked_from: self.from,
            changes_from: self.before.as_ref().map_or(0, |before| before.0),
            fine_rule: FineRule::All,
        }
    }

    fn write(&mut self, block: u64) {
        if self.saved {
            self.sequence += 1;
            let state = self.state(Status::Dirty);
            self.disk.put_state(self.sequence, self.epoch, &state);
            self.saved = false;
        }
        if self.marked.insert(block / REGION_BLOCKS) {
            let marked: Vec<u64> = self.marked.iter().copied().collect();
            self.disk.map(Kind::Regions, self.epoch, 0, &marked);
        }
        self.tracked.insert(block);
        self.truth.entry(self.epoch).or_default().insert(block);
    }

    /// Writes so many slots of a save at most; true when that was all.
    fn save_slots(&mut self, mut room: usize) -> bool {
        let sequence = self.sequence + 1;
        self.since.get_or_insert(sequence);
        let mut put = |disk: &mut CowDisk, epoch: u64, slot: u64, map: &Blocks| {
            if room == 0 {
                return false;
            }
            room -= 1;
            let mut bytes: Slot = [0; SLOT_BYTES];
            for block in of_slot(map, slot) {
                let bit = block - slot * 32000;
                bytes[PAYLOAD.start + (bit / 8) as usize] |= 1 << (bit % 8);
            }
            let index = disk.layout.area(Kind::Fine, epoch).start + slot;
            disk.put(Kind::Fine, index, epoch, sequence, &mut bytes);
            true
        };
        if let Some((_, changes)) = self.before.as_ref().filter(|_| !self.changes_on_disk) {
            for slot in (0..SLOTS).filter(|&slot| !of_slot(changes, slot).is_empty()) {
                if !put(&mut self.disk, self.epoch - 1, slot, changes) {
                    return false;
                }
            }
            self.changes_on_disk = true;
        }
        for slot in 0..SLOTS {
            let bits = of_slot(&self.tracked, slot).len();
            if bits == 0 || self.on_disk[slot as usize] == Some(bits) {
                continue;
            }
            if !put(&mut self.disk, self.epoch, slot, &self.tracked) {
                return false;
            }
            self.on_disk[slot as usize] = Some(bits);
        }
        true
    }

    fn save(&mut self) {
        if self.saved {
            return;
        }
        assert!(self.save_slots(usize::MAX));
        let since = self.since.unwrap_or(self.sequence + 1);
        self.sequence += 1;
        let mut slot: Slot = [0; SLOT_BYTES];
        State {
            fine_rule: FineRule::Groups { since },
            ..self.state(Status::Clean)
        }
        .encode(&mut slot);
        let maps = [Some(&self.tracked), self.before.as_ref().map(|it| &it.1)];
        for (map, at) in maps.into_iter().zip([0, GROUPS_BYTES / 2]) {
            for group in map.into_iter().flatten().map(|block| block / 32000) {
                slot[GROUPS.start + at + (group / 8) as usize] |= 1 << (group % 8);
            }
        }
        let index = self.sequence % 2;
        self.disk.samples(self.sequence, self.epoch, &[]);
        self.disk
            .put(Kind::State, index, self.epoch, self.sequence, &mut slot);
        self.saved = true;
        // All that counts was written since the last boot.
        self.damaged = false;
    }

    fn next_epoch(&mut self) {
        self.before = Some((self.from, std::mem::take(&mut self.tracked)));
        self.disk.header(self.epoch + 1, self.epoch);
        self.epoch += 1;
        self.from = self.epoch;
        self.marked.clear();
        // As after a backup: nothing but changes counts.
        self.saved = false;
        self.sequence += 1;
        let state = self.state(Status::Dirty);
        self.disk.put_state(self.sequence, self.epoch, &state);
        self.forget();
    }

    fn forget(&mut self) {
        self.on_disk = [None; SLOTS as usize];
        self.changes_on_disk = false;
        self.since = None;
    }

    fn written_since(&self, epoch: u64, end: u64) -> Blocks {
        self.truth
            .range(epoch..end)
            .flat_map(|(_, blocks)| blocks.iter().copied())
            .collect()
    }

    /// Another boot; what is known afterwards.
    fn boot(&mut self) -> Result<(), TestCaseError> {
        let series: Series = self
            .disk
            .reload(&next_boot())
            .map_err(|lost| TestCaseError::fail(lost.to_string()))?;
        let tracked = blocks(&series.tracked.words);
        prop_assert_eq!(series.epoch, self.epoch);
        prop_assert_eq!(series.clean, self.saved);
        let truth = self.written_since(series.tracked.from_epoch, u64::MAX);
        prop_assert!(tracked.is_superset(&truth), "a change was missed");
        if let Some(before) = &series.before {
            let known = blocks(&before.words);
            let truth = self.written_since(before.from_epoch, self.epoch);
            prop_assert!(known.is_superset(&truth), "a change before was missed");
        }
        if self.saved && !self.damaged {
            prop_assert_eq!(series.unusable, 0);
            prop_assert_eq!(&tracked, &self.tracked);
            prop_assert_eq!(series.before.is_some(), self.before.is_some());
            let before = series.before.as_ref().map(|before| blocks(&before.words));
            prop_assert_eq!(
                &before,
                &self.before.as_ref().map(|before| before.1.clone())
            );
        }
        self.tracked = tracked;
        self.from = series.tracked.from_epoch;
        self.before = series
            .before
            .map(|before| (before.from_epoch, blocks(&before.words)));
        self.marked = blocks(&series.marked);
        self.forget();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_history_loses_a_change(steps in steps()) {
        let mut series = History::new();
        for step in steps.into_iter().chain([Step::Cut]) {
            match step {
                Step::Write(block) => series.write(block),
                Step::Save => series.save(),
                Step::CutDuringSave(slots) => {
                    if !series.saved {
                        series.save_slots(slots);
                    }
                    series.boot()?;
                }
                Step::Cut => series.boot()?,
                Step::NextEpoch => series.next_epoch(),
                Step::Damage(slot, at) => {
                    let sector = series.disk.sector(series.disk.layout.slots(Kind::Fine).start + slot);
                    // An identity that is wrong is a file that was moved.
                    let at = 64 + at % (SLOT_BYTES - 64);
                    series.disk.slots.get_mut(&sector).unwrap()[at] ^= 1;
                    series.damaged = true;
                    series.boot()?;
                }
            }
        }
    }
}

/// Goal: a slot that was left from a save before the first one that counts is not believed. Method: a state that names
/// its group, and a slot of the right epoch with a sequence that is too old, and one that is too new.
#[test]
fn a_stale_slot_is_stood_in_for() {
    for stale in [3, 7] {
        let mut series = History::new();
        series.write(40_000);
        series.write(300);
        series.sequence = 4;
        series.save();
        let index = series.disk.layout.area(Kind::Fine, 1).start + 1;
        series
            .disk
            .put(Kind::Fine, index, 1, stale, &mut [0; SLOT_BYTES]);
        let found = series.disk.reload(&next_boot()).unwrap();
        assert_eq!(found.unusable, 1);
        let region = 40_000 / REGION_BLOCKS * REGION_BLOCKS;
        let expected: Blocks = (region..region + REGION_BLOCKS).chain([300]).collect();
        assert_eq!(blocks(&found.tracked.words), expected);
    }
}

/// Goal: a snapshot whose map or index cannot be read does not go on, and its changes are those of the backup before.
#[test]
fn a_snapshot_without_its_map_counts_what_was_before() {
    let mut series = History::new();
    series.write(5);
    series.next_epoch();
    series.incremental = false;
    series.write(70_000);
    series.save();
    let sequence = series.sequence;
    let mut disk = series.disk;
    disk.put(Kind::Index, 0, 2, sequence, &mut [0; SLOT_BYTES]);
    let good = disk.reload(&next_boot()).unwrap();
    assert!(good.snapshot && good.clean);
    assert_eq!(good.tracked.from_epoch, 2);
    let of_map = disk.layout.area(Kind::Fine, 2).start + 2;
    for (kind, index) in [(Kind::Fine, of_map), (Kind::Index, 0)] {
        let mut damaged = disk.clone();
        let sector = damaged.sector(damaged.layout.slots(kind).start + index);
        damaged.slots.get_mut(&sector).unwrap()[2000] ^= 1;
        let found = damaged.reload(&next_boot()).unwrap();
        assert!(!found.snapshot, "{kind:?}");
        assert_eq!(found.tracked.from_epoch, 1);
        assert!(found.tracked.contains(5) && found.tracked.contains(70_000));
    }
}

/// Goal: a state that gives out slots of the metadata, or behind the file, is not believed.
#[test]
fn slots_used_lies_behind_the_metadata() {
    let series = History::new();
    let layout = series.disk.layout;
    for slots_used in [0, layout.data_first() - 1, 65] {
        let mut disk = series.disk.clone();
        disk.map(Kind::Fine, 1, 2, &[]);
        disk.put(Kind::Index, 0, 1, 2, &mut [0; SLOT_BYTES]);
        let state = State {
            slots_used,
            mode: Mode::Snapshot,
            ..series.state(Status::Clean)
        };
        disk.put_state(2, 1, &state);
        let lost = disk.reload(&next_boot()).unwrap_err();
        assert!(
            lost.reason.contains("makes no sense"),
            "{slots_used}: {lost}"
        );
    }
}

/// Goal: origins of any size have groups that a state has room for, and up to 119 TiB a group is one bio.
#[test]
fn groups_fit_into_a_state() {
    for (tib, slots) in [(1, 1), (2, 2), (20, 16), (64, 64), (119, 64)] {
        let blocks = tib << 28;
        let layout = Layout::new(blocks, 1 << 30, 1).unwrap();
        let area = layout.area(Kind::Fine, 1);
        let mut group = 1;
        while (area.end - area.start).div_ceil(group) > cowbird_core::persist::GROUPS_MAX {
            group *= 2;
        }
        assert_eq!(group, slots, "{tib} TiB");
    }
}
