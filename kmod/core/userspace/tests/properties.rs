//! Goal: the core does what its headers say, for every input.
//! Method: each structure against a naive reference that is obviously right.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use cowbird_core::{
    Action, Event, Extents, Geom, HEADER_BYTES, Header, Kept, Phase, SlotMap, Source, crc32c, sum,
    sum_of_pieces, utf8_length,
};
use proptest::prelude::*;

const BLOCK_SECTORS: u64 = 8;

proptest! {
    /// Blocks touched by a write are those that own at least one of its sectors.
    #[test]
    fn geom_touches_what_a_sector_by_sector_walk_touches(
        start in 0u64..200, sectors in 1u64..200, sector in 0u64..450, length in 0u64..100,
    ) {
        let geom = Geom::new(start, sectors).unwrap();
        let touched: BTreeSet<u64> = (sector..sector + length)
            .filter(|s| (start..start + sectors).contains(s))
            .map(|s| (s - start) / BLOCK_SECTORS)
            .collect();
        let expected = touched.first().copied().zip(touched.last().copied());
        prop_assert_eq!(geom.touched(sector, length), expected);
    }

    /// The blocks cover the origin exactly, in order.
    #[test]
    fn geom_blocks_tile_the_origin(start in 0u64..1 << 40, sectors in 1u64..300) {
        let geom = Geom::new(start, sectors).unwrap();
        let mut next = start;
        for block in 0..geom.block_count() {
            prop_assert_eq!(geom.block_start(block), next);
            prop_assert!(geom.block_sectors(block) > 0);
            next += u64::from(geom.block_sectors(block));
        }
        prop_assert_eq!(next, start + sectors);
        prop_assert_eq!(geom.block_sectors(geom.block_count()), 0);
    }

    #[test]
    fn geom_survives_the_ends_of_64_bits(start: u64, sectors: u64, sector: u64, length: u64) {
        if let Ok(geom) = Geom::new(start, sectors) {
            prop_assert!(start.checked_add(sectors).is_some() && sectors > 0);
            if let Some((first, last)) = geom.touched(sector, length) {
                prop_assert!(first <= last && last < geom.block_count());
            }
        } else {
            prop_assert!(sectors == 0 || start.checked_add(sectors).is_none());
        }
    }

    #[test]
    fn slotmap_agrees_with_a_hash_map(
        capacity in 1u32..64,
        inserts in prop::collection::vec((0u64..40, 0u32..70), 0..120),
        spread in prop::sample::select(vec![1u64, 8, 4096, 0x9E37_79B9, 1 << 32]),
    ) {
        let blocks = 40 * spread;
        let mut map = SlotMap::new(capacity, blocks).unwrap();
        let mut model: HashMap<u64, u32> = HashMap::new();
        let mut used = BTreeSet::new();
        for (block, slot) in inserts {
            let block = block * spread;
            if used.contains(&slot) {
                continue; // The engine gives out each slot once.
            }
            let result = map.insert(block, !slot, slot);
            if slot >= capacity || model.len() as u32 >= capacity {
                prop_assert_eq!(result.unwrap_err().0, 22);
            } else if let Entry::Vacant(vacant) = model.entry(block) {
                prop_assert!(result.is_ok());
                vacant.insert(slot);
                used.insert(slot);
            } else {
                prop_assert_eq!(result.unwrap_err().0, 17);
            }
            for probe in 0..40 {
                let block = probe * spread;
                prop_assert_eq!(map.find(block), model.get(&block).copied());
            }
        }
        // A larger map takes over all of it up to the first slot that keeps nothing, and a smaller one only if it
        // has room.
        for slot in 0..capacity {
            prop_assert_eq!(map.keeps(slot), used.contains(&slot));
        }
        let gap = (0..capacity).find(|slot| !used.contains(slot)).unwrap_or(capacity);
        let mut expected = map.entries();
        expected.retain(|kept| kept.slot < gap);
        let bits = 32 - map.sum_bits();
        let kept = |kept: &Kept| kept.sum == (!kept.slot << bits) >> bits;
        prop_assert!(expected.iter().all(kept));
        let mut larger = SlotMap::new(capacity * 3, blocks).unwrap();
        prop_assert_eq!(larger.copy_from(&map, capacity, 3), Ok(gap));
        prop_assert_eq!(larger.entries(), expected);
        let mut smaller = SlotMap::new(capacity.div_ceil(2), blocks).unwrap();
        prop_assert_eq!(smaller.copy_from(&map, capacity, 64).is_ok(), gap <= capacity.div_ceil(2));
    }

    /// Every slot lies inside a piece and on the grid, no two overlap, and what
    /// is not a slot is not touched.
    #[test]
    fn extents_agree_with_a_sector_by_sector_model(
        gaps in prop::collection::vec((0u64..20, 1u64..60), 1..12),
        grid in 0u64..64, seed: u64, probe in 0u64..900, length in 0u64..40,
    ) {
        let mut pieces = Vec::new();
        let mut at = 0;
        for (gap, sectors) in gaps {
            pieces.push((at + gap, sectors));
            at += gap + sectors;
        }
        let mut slots = Vec::new();
        for &(sector, sectors) in &pieces {
            let first = (sector..).find(|s| s % BLOCK_SECTORS == grid % BLOCK_SECTORS).unwrap();
            let mut s = first;
            while s + BLOCK_SECTORS <= sector + sectors {
                slots.push(s);
                s += BLOCK_SECTORS;
            }
        }
        let rotation = (seed % pieces.len() as u64) as usize;
        pieces.rotate_left(rotation);
        match Extents::new(&pieces, grid, at) {
            Err(error) => {
                prop_assert!(slots.is_empty());
                prop_assert_eq!(error.0, 28);
            }
            Ok(extents) => {
                prop_assert_eq!(extents.slots(), slots.len() as u64);
                for (i, &sector) in slots.iter().enumerate() {
                    let (found, run) = extents.slot(i as u64).unwrap();
                    prop_assert_eq!(found, sector);
                    prop_assert!(run >= 1 && i as u64 + run <= slots.len() as u64);
                    prop_assert_eq!(slots[i + run as usize - 1], sector + (run - 1) * BLOCK_SECTORS);
                }
                prop_assert!(extents.slot(slots.len() as u64).is_err());
                let touched = slots.iter().any(|&s| {
                    length > 0 && s < probe + length && probe < s + BLOCK_SECTORS
                });
                prop_assert_eq!(extents.touch(probe, length), touched);
            }
        }
    }

    #[test]
    fn extents_refuse_overlap_and_what_lies_past_the_disk(
        sector in 0u64..1000, sectors in 1u64..100, into in 0u64..100, past in 1u64..100,
    ) {
        let overlap = sector + into % sectors;
        prop_assert!(Extents::new(&[(sector, sectors), (overlap, 16)], 0, 1 << 20).is_err());
        let end = sector + sectors;
        prop_assert!(Extents::new(&[(sector, sectors)], 0, end.saturating_sub(past)).is_err());
        prop_assert!(Extents::new(&[(u64::MAX - 8, sectors)], 0, 1 << 20).is_err());
        prop_assert!(Extents::new(&[(sector, 0)], 0, 1 << 20).is_err());
    }

    #[test]
    fn header_survives_the_disk(
        uuid in any::<[u8; 16]>(), numbers in any::<[u64; 8]>(),
        small in any::<(u32, u32, u32)>(),
    ) {
        let (extent_count, region_shift, flags) = small;
        let [
            epoch, before_epoch, origin_start, origin_sectors, cow_slots, sector, extents_sector,
            data_first,
        ] = numbers;
        let header = Header {
            uuid, epoch, before_epoch, origin_start, origin_sectors, cow_slots, sector,
            extents_sector, data_first, extent_count, region_shift, flags,
        };
        let block: [u8; HEADER_BYTES] = header.encode().try_into().unwrap();
        prop_assert_eq!(Header::decode(&block).unwrap(), header);
    }

    /// No single damaged byte goes unnoticed.
    #[test]
    fn header_notices_damage(at in 0usize..HEADER_BYTES, flip in 1u8..=255, epoch: u64) {
        let header =
            Header { uuid: [7; 16], epoch, origin_sectors: 1 << 20, cow_slots: 99, ..Header::default() };
        let mut block: [u8; HEADER_BYTES] = header.encode().try_into().unwrap();
        block[at] ^= flip;
        prop_assert!(Header::decode(&block).is_err());
    }

    #[test]
    fn crc_is_castagnoli(bytes: Vec<u8>) {
        prop_assert_eq!(crc32c(&bytes), crc32c::crc32c(&bytes));
    }

    /// Goal: a sum is the lower half of XXH64, in whatever pieces the block comes. Method: random blocks, numbers and
    /// places where they are cut, against another implementation.
    #[test]
    fn a_sum_is_the_lower_half_of_xxh64(
        block: u64,
        content in prop::collection::vec(any::<u8>(), 4096),
        mut cuts in prop::collection::vec(0usize..=4096, 0..20),
    ) {
        let expected = xxhash_rust::xxh64::xxh64(&content, block) as u32;
        prop_assert_eq!(sum(block, &content), expected);
        cuts.extend([0, 4096]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| &content[ends[0]..ends[1]]);
        prop_assert_eq!(sum_of_pieces(block, pieces), expected);
    }
}

/// The layout is part of the interface: these bytes must not change.
/// Goal: a word has room for every block of an origin and for as much of a sum as can be, and no block is taken for
/// another one. Method: origins around each power of two, their first and last blocks, sums of all bits.
#[test]
fn a_word_holds_a_block_and_what_fits_of_its_sum() {
    for (blocks, bits) in [
        (1, 32),
        (1 << 32, 32), // 16 TiB
        ((1 << 32) + 1, 31),
        (1 << 34, 30), // 64 TiB
        ((1 << 34) + 1, 29),
        (1 << 40, 24),
        (1 << 61, 3),
    ] {
        let mut map = SlotMap::new(4, blocks).unwrap();
        assert_eq!(map.sum_bits(), bits, "{blocks} blocks");
        let room = 1u64 << (64 - bits);
        for (slot, block) in [(0, 0), (1, blocks - 1), (2, room - 1)] {
            for beyond in [room, u64::MAX] {
                assert_eq!(map.insert(beyond, 0, slot).unwrap_err().0, 22);
            }
            match map.insert(block, u32::MAX, slot) {
                Ok(()) => assert_eq!(map.find(block), Some(slot)),
                Err(error) => assert_eq!(
                    error.0, 17,
                    "the last block is the last that fits, or the first"
                ),
            }
        }
        for kept in map.entries() {
            assert_eq!(u64::from(kept.sum), (1u64 << bits) - 1);
        }
    }
}

/// Goal: a block that is damaged, or is another one, does not have the sum of what was stored, wherever its origin's size
/// leaves so much of the sum. Method: each bit of a block turned round, in turn, and its content in the place of others.
#[test]
fn a_sum_tells_a_block_from_all_that_it_may_have_become() {
    let content: Vec<u8> = (0..4096u32).map(|at| ((at * at) >> 5) as u8).collect();
    for bits in [32, 30, 24] {
        let cut = |sum: u32| (sum << (32 - bits)) >> (32 - bits);
        let stored = cut(sum(77, &content));
        let mut bytes = content.clone();
        for bit in 0..4096 * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(cut(sum(77, &bytes)), stored, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for block in (0..4096).filter(|block| *block != 77) {
            assert_ne!(cut(sum(block, &content)), stored, "block {block}");
        }
    }
}

#[test]
fn header_has_the_documented_layout() {
    let uuid = *b"0123456789abcdef";
    let header = Header {
        uuid,
        epoch: 0x0102,
        before_epoch: 0x0101,
        origin_start: 0x0800,
        origin_sectors: 0x0304,
        cow_slots: 0x0506,
        sector: 0x0908,
        extents_sector: 0x0910,
        data_first: 0x11,
        extent_count: 0x0C,
        region_shift: 8,
        flags: 7,
    };
    let block = header.encode();
    assert_eq!(&block[..8], b"COWBIRD\x01");
    assert_eq!(block[8..12], 3u32.to_le_bytes());
    assert_eq!(block[12..16], 4096u32.to_le_bytes());
    assert_eq!(block[16..32], uuid);
    assert_eq!(block[32..40], 0x0102u64.to_le_bytes());
    assert_eq!(block[40..48], 0x0304u64.to_le_bytes());
    assert_eq!(block[48..56], 0x0506u64.to_le_bytes());
    assert_eq!(block[56..60], 7u32.to_le_bytes());
    assert_eq!(block[60..64], 0x0Cu32.to_le_bytes());
    assert_eq!(block[64..72], 0x0800u64.to_le_bytes());
    assert_eq!(block[72..80], 0x0101u64.to_le_bytes());
    assert_eq!(block[80..88], 0x0908u64.to_le_bytes());
    assert_eq!(block[88..96], 0x0910u64.to_le_bytes());
    assert_eq!(block[96..104], 0x11u64.to_le_bytes());
    assert_eq!(block[104..108], 8u32.to_le_bytes());
    assert!(block[108..508].iter().all(|&byte| byte == 0));
    assert_eq!(block[508..512], crc32c::crc32c(&block[..508]).to_le_bytes());
    assert!(block[512..4092].iter().all(|&byte| byte == 0));
    assert_eq!(block[4092..], crc32c::crc32c(&block[..4092]).to_le_bytes());
}

fn small_header(epoch: u64) -> Header {
    Header {
        uuid: [1; 16],
        epoch,
        origin_sectors: 1,
        cow_slots: 1,
        ..Header::default()
    }
}

#[test]
fn header_tells_kinds_of_damage_apart() {
    let good: [u8; HEADER_BYTES] = small_header(1).encode().try_into().unwrap();
    assert_eq!(Header::decode(&[0; HEADER_BYTES]).unwrap_err().0, 2); // ENOENT
    let mut future = good;
    future[8] = 4;
    let crc = crc32c::crc32c(&future[..4092]).to_le_bytes();
    future[4092..].copy_from_slice(&crc);
    assert_eq!(Header::decode(&future).unwrap_err().0, 71); // EPROTO
    let mut damaged = good;
    damaged[100] = 1;
    assert_eq!(Header::decode(&damaged).unwrap_err().0, 74); // EBADMSG
}

/// Goal: a header that the power cut at any sector is the old or the new one.
#[test]
fn a_torn_header_is_the_old_or_the_new_one() {
    let (old, new) = (small_header(4), small_header(5));
    for sectors in 0..=8 {
        let at = sectors * 512;
        let mut block: [u8; HEADER_BYTES] = old.encode().try_into().unwrap();
        block[..at].copy_from_slice(&new.encode()[..at]);
        let expected = if sectors == 0 { old } else { new };
        assert_eq!(Header::decode(&block).unwrap(), expected);
    }
}

/// Goal: the protocol's rules, for every phase and every answer.
#[test]
fn protocol_rules_hold_in_every_phase() {
    for phase in Phase::ALL {
        for preserved in [false, true] {
            for (marked, advisory) in [(false, false), (false, true), (true, false), (true, true)] {
                let action = phase.write_action(preserved, marked, advisory);
                let expected = match phase {
                    // I3, a true cut: while the cut is made nothing passes.
                    Phase::Holding => Action::Hold,
                    // I6, the map is true: nor before a disk knows that tracking is lost.
                    Phase::Losing => Action::Hold,
                    // I1, old before new: only preserved blocks are overwritten.
                    Phase::Active if !preserved && advisory => Action::Absorb,
                    Phase::Active if !preserved => Action::Hold,
                    // I6, the map is true: the disk knows of it before it is released ...
                    Phase::Active | Phase::Invalidated | Phase::Tracking if !marked => Action::Hold,
                    // ... and so does the map in memory.
                    Phase::Invalidated | Phase::Tracking if !preserved => Action::Note,
                    // I4, the origin first: once tracking is lost, no write is held.
                    _ => Action::Pass,
                };
                assert_eq!(
                    action, expected,
                    "{phase:?} {preserved} {marked} {advisory}"
                );
            }
            // I2, revalidate: what may have been overwritten is never returned.
            assert_eq!(
                phase.read_confirmed(preserved),
                phase == Phase::Active && !preserved
            );
            for own in [false, true] {
                for in_memory in [false, true] {
                    let source = phase.read_source(own, preserved, in_memory);
                    let expected = match (phase, own, preserved, in_memory) {
                        (Phase::Active, true, _, _) => Source::Zero, // I9, own blocks.
                        (Phase::Active, false, false, _) => Source::Origin,
                        (Phase::Active, false, true, true) => Source::Memory,
                        (Phase::Active, false, true, false) => Source::Cow,
                        _ => Source::Fail,
                    };
                    assert_eq!(source, expected);
                }
            }
        }
    }
}

fn reachable_from(start: Phase) -> BTreeSet<Phase> {
    let mut reached = BTreeSet::from([start]);
    let mut work = vec![start];
    while let Some(phase) = work.pop() {
        for event in Event::ALL {
            if let Ok(next) = phase.next(event)
                && reached.insert(next)
            {
                work.push(next);
            }
        }
    }
    reached
}

/// What was lost never comes back, whatever happens afterwards.
#[test]
fn a_lost_snapshot_stays_lost() {
    let lost = [Phase::Failed, Phase::Closing];
    assert_eq!(reachable_from(Phase::Failed), BTreeSet::from(lost));
    let losing = [Phase::Losing, Phase::Failed, Phase::Closing];
    assert_eq!(reachable_from(Phase::Losing), BTreeSet::from(losing));
    assert!(!reachable_from(Phase::Invalidated).contains(&Phase::Active));
    assert!(reachable_from(Phase::Invalidated).contains(&Phase::Tracking));
    assert_eq!(
        Phase::New.next(Event::Begin).unwrap_err().0,
        22,
        "no epoch without a gate"
    );
}

/// Goal: no write passes between the loss of tracking and the moment at which a disk knows of it.
#[test]
fn tracking_that_is_lost_holds_writes_until_it_is_told() {
    for phase in [Phase::Active, Phase::Invalidated, Phase::Tracking] {
        let losing = phase.next(Event::Fail).unwrap();
        assert_eq!(losing.write_action(true, true, false), Action::Hold);
        assert_eq!(losing.write_action(false, false, true), Action::Hold);
        assert!(losing.next(Event::Fail).is_err());
        assert_eq!(losing.next(Event::Told), Ok(Phase::Failed));
    }
    // An epoch that has not begun has nothing to lose.
    assert_eq!(Phase::Holding.next(Event::Fail), Ok(Phase::Failed));
    assert!(Phase::Tracking.next(Event::Told).is_err());
}

/// Goal: a character is UTF-8 exactly if Rust says so. Method: all strings of up to three bytes, and of four those with a
/// first byte that may begin one.
#[test]
fn utf8_is_what_rust_takes_for_it() {
    fn check(bytes: &[u8]) {
        let text = std::ffi::CString::new(bytes).unwrap();
        let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let expected = valid.chars().next().map_or(0, char::len_utf8);
        assert_eq!(utf8_length(&text) as usize, expected, "{bytes:x?}");
    }
    check(&[]);
    for first in 1..=255 {
        check(&[first]);
        for second in 1..=255 {
            check(&[first, second]);
            for third in 1..=255 {
                check(&[first, second, third]);
            }
        }
    }
    for first in 0xee..=255 {
        for second in 1..=255 {
            for third in [1, 0x7f, 0x80, 0xbf, 0xc0, 0xff] {
                for fourth in [1, 0x7f, 0x80, 0xbf, 0xc0, 0xff] {
                    check(&[first, second, third, fourth]);
                }
            }
        }
    }
}
