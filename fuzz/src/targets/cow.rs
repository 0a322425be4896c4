//! What lies in a COW file, by the C code of the module.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use cowbird_core::cow_disk::{CowDisk, HEAD_CRC, THIS_BOOT, UUID, WRITTEN, next_boot, same_boot};
use cowbird_core::persist::{
    self, FineRule, GROUPS, Kind as SlotKind, Meta, Mode, Now, SLOT_BYTES, Series, Slot, State,
    Status,
};
use cowbird_core::{HEADER_BYTES, Header};
use cowbird_model::EpochHeader;

use crate::target::{Kind, LIMIT_BYTES, Target, put_crc, repairs_nothing, same};

/// Where the checksum of a slot lies, and that of the header's first sector.
const CRC_AT: usize = SLOT_BYTES - 4;
const SECTOR_CRC_AT: usize = 508;

pub(super) const FILE: Target = Target {
    name: "cow-file",
    reads: "a whole COW file: header, extents, states, marks, saved maps, index (kmod/core)",
    seeds: file_seeds,
    words: &[],
    max_bytes: 1 << 10,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_file,
};

pub(super) const HEADER: Target = Target {
    name: "cow-header",
    reads: "the epoch header, by the module and by the oracle (kmod/core, model)",
    seeds: header_seeds,
    words: &[b"COWBIRD\x01"],
    max_bytes: HEADER_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repair_header,
    check: check_header,
};

pub(super) const STATE: Target = Target {
    name: "cow-state",
    reads: "a state record and the identity of its slot (kmod/core)",
    seeds: state_seeds,
    words: &[b"COWBMTA\x01"],
    max_bytes: SLOT_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repair_slot,
    check: check_state,
};

// ---- whole files ----

/// Of the second block behind the head.
const SAMPLE: persist::Sample = persist::Sample {
    sector: 136,
    sectors: 8,
    crc: 0xC0FF_EE01,
};

/// COW files that inputs are changes of.
static BASES: LazyLock<Vec<CowDisk>> = LazyLock::new(|| {
    let fresh = || {
        CowDisk::new(
            2048,
            700 * 8 - 3,
            &[(2048 + 300 * 8, 12), (2048 + 400 * 8, 20)],
        )
    };
    let mut dirty = fresh();
    dirty.map(SlotKind::Regions, 1, 0, &[0, 2]);
    let mut second = dirty.clone();
    second.header(2, 1);
    second.map(SlotKind::Regions, 2, 0, &[1]);
    let saved = |disk: &CowDisk, epoch: u64, mode: Mode, rule: FineRule| {
        let mut disk = disk.clone();
        disk.map(SlotKind::Fine, epoch, 4, &[1, 5, 520]);
        disk.map(SlotKind::Fine, epoch.wrapping_sub(1), 4, &[7]);
        let index = &mut [0; SLOT_BYTES];
        disk.put(SlotKind::Index, 0, epoch, 4, index);
        let mut slot = [0; SLOT_BYTES];
        State {
            status: Status::Clean,
            mode,
            boot_id: THIS_BOOT,
            written_sectors: WRITTEN,
            head_crc: HEAD_CRC,
            slots_used: disk.layout.data_first() + 3,
            tracked_from: epoch,
            changes_from: epoch - 1,
            fine_rule: rule,
        }
        .encode(&mut slot);
        slot[GROUPS.start] = 1;
        disk.samples(4, epoch, &[SAMPLE]);
        disk.put(SlotKind::State, 0, epoch, 4, &mut slot);
        disk
    };
    // More pieces than one slot of the list has room for.
    let pieces: Vec<(u64, u64)> = (0..260).map(|piece| (4096 + piece * 16, 1)).collect();
    let scattered = CowDisk::new(0, 40_000 * 8, &pieces);
    vec![
        saved(&second, 2, Mode::Incremental, FineRule::All),
        saved(&second, 2, Mode::Snapshot, FineRule::Groups { since: 3 }),
        saved(&dirty, 1, Mode::Snapshot, FineRule::Groups { since: 4 }),
        fresh(),
        dirty,
        second,
        scattered,
    ]
});

/// An input is which base, what is known of the present, and changes: slot, place (2 bytes), length, bytes.
fn file_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, base) in (0..).zip(BASES.iter()) {
        seeds.extend([vec![number, 0], vec![number, 1]]);
        // One change of each slot of metadata; of the index, the first block that is kept.
        let first = base.layout.data_first();
        for slot in 0..first.min(16) {
            let at = match slot + 1 == first {
                true => 64 + 8 * first,
                false => 64,
            };
            let [low, high, ..] = at.to_le_bytes();
            seeds.push(vec![number, 1, slot as u8, low, high, 2, 9, 0]);
        }
    }
    seeds
}

/// The slots that an input changes, checksums put right but where its second byte says otherwise.
fn changed_slots(base: &CowDisk, sealed: bool, mut changes: &[u8]) -> BTreeMap<u64, Slot> {
    let places: Vec<u64> = base.slots.keys().copied().collect();
    let mut changed: BTreeMap<u64, Slot> = BTreeMap::new();
    while let [slot, low, high, length, rest @ ..] = changes {
        let sector = places[usize::from(*slot) % places.len()];
        let at = usize::from(u16::from_le_bytes([*low, *high])) % SLOT_BYTES;
        let length = usize::from(*length).min(rest.len()).min(SLOT_BYTES - at);
        let bytes = changed.entry(sector).or_insert_with(|| base.slots[&sector]);
        bytes[at..at + length].copy_from_slice(&rest[..length]);
        changes = &rest[length..];
    }
    if sealed {
        let header = base.sector(0);
        for (sector, slot) in &mut changed {
            if *sector == header {
                put_crc(slot, 0..SECTOR_CRC_AT, SECTOR_CRC_AT);
            }
            put_crc(slot, 0..CRC_AT, CRC_AT);
        }
    }
    changed
}

fn check_file(input: &[u8]) -> Result<Kind, String> {
    let [base, present, changes @ ..] = input else {
        return Ok(Kind(0));
    };
    let base = &BASES[usize::from(*base) % BASES.len()];
    let changed = changed_slots(base, present & 0x80 == 0, changes);
    let now: Now = match present % 2 {
        0 => same_boot(),
        _ => next_boot(),
    };
    let read = |sector: u64| {
        let slot = changed.get(&sector).or_else(|| base.slots.get(&sector));
        slot.copied()
    };
    let header = base.sector(0);
    let disk_sectors = base.slots.keys().max().map_or(0, |sector| sector + 8);
    let series = match persist::reload(read, header, disk_sectors.max(700 * 8 + 2048), &now) {
        Ok(series) => series,
        Err(lost) => return Ok(Kind::refused(lost)),
    };
    let blocks = series.block_count;
    if !series.clean && !changed.contains_key(&header) {
        check_marked(&series)?;
    }
    for range in series.tracked.ranges() {
        if range.end > blocks {
            return Err(format!(
                "the map names block {}, of {blocks}",
                range.end - 1
            ));
        }
    }
    if series.tracked.from_epoch > series.epoch {
        return Err("changes are known from an epoch that has not begun".to_owned());
    }
    let mut kept: Vec<u64> = series.index.iter().map(|kept| kept.block).collect();
    kept.sort_unstable();
    kept.dedup();
    same("blocks of the index", &kept.len(), &series.index.len())?;
    if kept.last().is_some_and(|block| *block >= blocks) {
        return Err("the index keeps a block behind the origin".to_owned());
    }
    Ok(Kind::accepted(&[
        u64::from(series.clean),
        u64::from(series.snapshot),
        series.unusable,
        series.index.len() as u64,
        u64::from(series.mode == Mode::Snapshot),
        u64::from(series.before.is_some()),
        u64::from(series.tracked.from_epoch == series.epoch),
    ]))
}

/// Blocks of regions that are marked on disk are in the map.
fn check_marked(series: &Series) -> Result<(), String> {
    for block in 0..series.block_count {
        let region = block / series.region_blocks;
        let is_marked = series.marked[(region / 64) as usize] >> (region % 64) & 1 != 0;
        if is_marked && !series.tracked.contains(block) {
            return Err(format!("block {block} is marked and not in the map"));
        }
    }
    Ok(())
}

// ---- single slots ----

fn header_seeds() -> Vec<Vec<u8>> {
    let header = Header {
        uuid: UUID,
        epoch: 7,
        before_epoch: 6,
        origin_start: 2048,
        origin_sectors: 5597,
        cow_slots: 32,
        sector: 4448,
        extents_sector: 4456,
        data_first: 10,
        extent_count: 2,
        region_shift: 8,
        flags: 1,
    };
    vec![header.encode()]
}

fn repair_header(input: &mut [u8]) {
    put_crc(input, 0..SECTOR_CRC_AT, SECTOR_CRC_AT);
    put_crc(input, 0..CRC_AT, CRC_AT);
}

fn check_header(input: &[u8]) -> Result<Kind, String> {
    let oracle = EpochHeader::decode(input);
    let Ok(block) = <&[u8; HEADER_BYTES]>::try_from(input) else {
        return match oracle {
            Ok(_) => Err("the oracle reads a header that is cut off".to_owned()),
            Err(error) => Ok(Kind::refused(error)),
        };
    };
    let header = match Header::decode(block) {
        Ok(header) => header,
        Err(error) => return Ok(Kind::refused(error)),
    };
    let again: [u8; HEADER_BYTES] = header
        .encode()
        .try_into()
        .map_err(|_| "a header has another length".to_owned())?;
    same("written again", &Header::decode(&again), &Ok(header))?;
    // What the module takes, the oracle takes, and reads the same.
    let oracle = oracle.map_err(|error| format!("the oracle refuses it: {error}"))?;
    same("series", &oracle.uuid, &header.uuid)?;
    same("epoch", &oracle.epoch.0, &header.epoch)?;
    same("sectors", &oracle.origin_sectors, &header.origin_sectors)?;
    same("slots", &oracle.cow_slots, &header.cow_slots)?;
    same("flags", &oracle.flags, &header.flags)?;
    Ok(Kind::accepted(&[
        header.epoch,
        header.cow_slots,
        header.extent_count.into(),
    ]))
}

fn meta() -> Meta {
    Meta {
        kind: SlotKind::State,
        uuid: UUID,
        epoch: 2,
        index: 0,
        sector: 4464,
        sequence: 6,
    }
}

fn state_seeds() -> Vec<Vec<u8>> {
    let rules = [FineRule::All, FineRule::Groups { since: 3 }];
    let seed = |(rule, status): (FineRule, Status)| {
        let mut slot = [0; SLOT_BYTES];
        State {
            status,
            mode: Mode::Snapshot,
            boot_id: THIS_BOOT,
            written_sectors: WRITTEN,
            head_crc: HEAD_CRC,
            slots_used: 12,
            tracked_from: 2,
            changes_from: 1,
            fine_rule: rule,
        }
        .encode(&mut slot);
        meta().seal(&mut slot);
        slot.to_vec()
    };
    rules
        .into_iter()
        .zip([Status::Clean, Status::Dirty])
        .map(seed)
        .collect()
}

fn repair_slot(input: &mut [u8]) {
    put_crc(input, 0..CRC_AT, CRC_AT);
}

fn check_state(input: &[u8]) -> Result<Kind, String> {
    let Ok(slot) = <&Slot>::try_from(input) else {
        return Ok(Kind(0));
    };
    let whole = match meta().is_that_of(slot) {
        Ok(whole) => whole,
        Err(error) => return Ok(Kind::refused(error)),
    };
    let Some(state) = State::decode(slot) else {
        return Ok(Kind(1 + u64::from(whole)));
    };
    let mut again = [0; SLOT_BYTES];
    state.encode(&mut again);
    same("written again", &State::decode(&again), &Some(state))?;
    Ok(Kind::accepted(&[
        u64::from(whole),
        state.status as u64,
        u64::from(state.fine_rule == FineRule::All),
        state.slots_used,
    ]))
}
