//! States after a power cut, and what changed between two states, against a naive disk.
//!
//! Goal: nothing that a flush covered is ever lost, nothing from after the cut appears, and what
//! survives of the rest is what was asked for. Method: random logs, replayed sector by sector.

use std::collections::HashMap;

use cowbird_model::{
    BlockIndex, DiscardModel, Entry, EntryIndex, EntryKind, Origin, SECTOR_BYTES, Sector,
    SectorRange, Survival, Truth, WitnessLog, changed_blocks, stable_until,
};
use proptest::prelude::*;

use crate::common::{LogBuilder, replay};
use crate::reference::{DISK_SECTORS, Op, op, sector};

/// What survives of an entry in doubt, by its index.
fn survival() -> impl Strategy<Value = Survival> {
    let run = (0..DISK_SECTORS, 0u64..12)
        .prop_map(|(start, sectors)| SectorRange::new(Sector(start), sectors));
    prop_oneof![
        Just(Survival::Whole),
        Just(Survival::Lost),
        prop::collection::vec(run, 0..4).prop_map(Survival::Torn),
    ]
}

fn log_of(ops: &[Op]) -> Vec<u8> {
    let mut builder = LogBuilder::new();
    for op in ops {
        match op {
            Op::Write {
                sector: at,
                contents,
            } => {
                let data: Vec<u8> = contents
                    .iter()
                    .flat_map(|content| sector(*content))
                    .collect();
                builder.write(*at, &data)
            }
            Op::Discard { sector, sectors } => builder.discard(*sector, *sectors),
            Op::Flush => builder.flush(),
        };
    }
    builder.finish()
}

/// Replays an entry, or the sectors of it that `keep` names.
fn replay_sectors(
    disk: &mut [u8],
    entry: &Entry<'_>,
    discard: DiscardModel,
    keep: impl Fn(u64) -> bool,
) {
    let before = disk.to_vec();
    replay(disk, entry, discard);
    for at in (0..DISK_SECTORS).filter(|at| !keep(*at)) {
        let bytes = at as usize * SECTOR_BYTES..(at as usize + 1) * SECTOR_BYTES;
        disk[bytes.clone()].copy_from_slice(&before[bytes]);
    }
}

proptest! {
    #[test]
    fn a_power_cut_loses_only_what_no_flush_covered(
        base in prop::collection::vec(0u8..4, DISK_SECTORS as usize),
        ops in prop::collection::vec(op(), 0..30),
        cut in any::<prop::sample::Index>(),
        choices in prop::collection::vec(survival(), 30),
        zeroes in any::<bool>(),
    ) {
        let discard = if zeroes { DiscardModel::Zeroes } else { DiscardModel::Ignored };
        let base: Vec<u8> = base.iter().flat_map(|content| sector(*content)).collect();
        let bytes = log_of(&ops);
        let log = WitnessLog::parse(&bytes).unwrap();
        let cut = cut.index(ops.len() + 1);
        let mut asked = HashMap::new();
        let state = Truth::after_power_cut(
            &base,
            &log,
            EntryIndex(cut as u64),
            discard,
            |entry| {
                let choice = choices[entry.index.0 as usize].clone();
                assert!(asked.insert(entry.index, ()).is_none(), "asked twice");
                choice
            },
        )
        .unwrap();

        let flushed = ops[..cut].iter().rposition(|op| matches!(op, Op::Flush)).unwrap_or(0);
        prop_assert_eq!(stable_until(&log, EntryIndex(cut as u64)), EntryIndex(flushed as u64));
        let mut disk = base.clone();
        for (index, entry) in log.entries()[..cut].iter().enumerate() {
            match &choices[index] {
                _ if index < flushed => replay(&mut disk, entry, discard),
                Survival::Whole => replay(&mut disk, entry, discard),
                Survival::Lost => {}
                Survival::Torn(runs) => replay_sectors(&mut disk, entry, discard, |at| {
                    runs.iter().any(|run| (run.start.0..run.end().0).contains(&at))
                }),
            }
        }
        prop_assert_eq!(state.read(SectorRange::new(Sector(0), DISK_SECTORS)), disk);
        for index in asked.keys() {
            prop_assert!(index.0 >= flushed as u64 && index.0 < cut as u64);
            prop_assert!(log.entries()[index.0 as usize].kind != EntryKind::Flush);
        }
    }

    #[test]
    fn changed_blocks_are_those_that_differ(
        base in prop::collection::vec(0u8..4, DISK_SECTORS as usize),
        ops in prop::collection::vec(op(), 0..30),
        between in any::<(prop::sample::Index, prop::sample::Index)>(),
        one_base in any::<bool>(),
        start in 0u64..20,
        sectors in 1u64..=76,
    ) {
        let base: Vec<u8> = base.iter().flat_map(|content| sector(*content)).collect();
        let bytes = log_of(&ops);
        let log = WitnessLog::parse(&bytes).unwrap();
        let copy = base.clone();
        let state = |base, upto: prop::sample::Index| {
            let upto = EntryIndex(upto.index(ops.len() + 1) as u64);
            Truth::at(base, &log, upto, DiscardModel::Zeroes).unwrap()
        };
        let before = state(&base, between.0);
        let after = state(if one_base { &base } else { &copy }, between.1);
        let origin = Origin::new(SectorRange::new(Sector(start), sectors));
        let changed = changed_blocks(&before, &after, &origin);
        for block in (0..origin.blocks() + 2).map(BlockIndex) {
            let differs = before.block(&origin, block) != after.block(&origin, block);
            prop_assert_eq!(changed.contains(block), differs, "block {}", block);
        }
    }
}
