//! A COW file on a disk in memory, made slot by slot with the core's own encoders: what tests
//! damage, move and cut off.

use std::collections::BTreeMap;

use crate::persist::{
    self, FineRule, Kind, Layout, Lost, Meta, Mode, Now, PAYLOAD, SLOT_BYTES, Sample, Series, Slot,
    State, Status,
};
use crate::{Extents, HEADER_COW_ON_ORIGIN, HEADER_SUMS, Header};

/// Series of every such file.
pub const UUID: [u8; 16] = *b"the series' uuid";
/// Boot that wrote it.
pub const THIS_BOOT: [u8; 16] = *b"the boot in hand";
/// Write counter in its states.
pub const WRITTEN: u64 = 777;
/// Checksum of the origin's head in its states.
pub const HEAD_CRC: u32 = 0xC0FF_EE00;

/// A COW file with nothing but metadata.
#[derive(Clone)]
pub struct CowDisk {
    /// Slots by sector.
    pub slots: BTreeMap<u64, Slot>,
    /// Pieces, `(first sector, slots)`.
    pub pieces: Vec<(u64, u64)>,
    /// What lies where.
    pub layout: Layout,
    origin_start: u64,
    origin_sectors: u64,
    disk_sectors: u64,
    /// Of the next header.
    pub flags: u32,
}

impl CowDisk {
    /// The file as a set-up leaves it, header of epoch 1 included.
    pub fn new(origin_start: u64, origin_sectors: u64, pieces: &[(u64, u64)]) -> Self {
        let cow_slots: u64 = pieces.iter().map(|piece| piece.1).sum();
        let block_count = origin_sectors.div_ceil(8);
        let disk_sectors = pieces
            .iter()
            .map(|&(sector, slots)| sector + slots * 8)
            .chain([origin_start + origin_sectors])
            .max()
            .unwrap_or(0);
        let mut disk = Self {
            slots: BTreeMap::new(),
            pieces: pieces.to_vec(),
            layout: Layout::new(block_count, cow_slots, pieces.len() as u32)
                .expect("the pieces are enough for metadata"),
            origin_start,
            origin_sectors,
            disk_sectors,
            flags: HEADER_COW_ON_ORIGIN | HEADER_SUMS,
        };
        for (index, mut slot) in persist::encode_extents(pieces).into_iter().enumerate() {
            disk.put(Kind::Extents, index as u64, 0, 0, &mut slot);
        }
        let kinds = [Kind::Samples, Kind::Regions, Kind::Fine, Kind::Index];
        for kind in kinds {
            let slots = disk.layout.slots(kind);
            for index in 0..slots.end - slots.start {
                disk.put(kind, index, 0, 0, &mut [0; SLOT_BYTES]);
            }
        }
        disk.state(0, 1, Status::Dirty, Mode::Snapshot);
        disk.state(1, 1, Status::Dirty, Mode::Snapshot);
        disk.header(1, 0);
        disk
    }

    /// Where a slot lies.
    pub fn sector(&self, slot: u64) -> u64 {
        let sized: Vec<(u64, u64)> = self
            .pieces
            .iter()
            .map(|&(sector, slots)| (sector, slots * 8))
            .collect();
        let extents = Extents::new(&sized, self.pieces[0].0, self.disk_sectors)
            .expect("the pieces are in order");
        persist::sector_of(&extents, slot).expect("the slot exists")
    }

    /// What a slot says of itself.
    pub fn meta(&self, kind: Kind, index: u64, epoch: u64, sequence: u64) -> Meta {
        Meta {
            kind,
            uuid: UUID,
            epoch,
            index,
            sector: self.sector(self.layout.slots(kind).start + index),
            sequence,
        }
    }

    /// Completes and writes a slot whose payload is in place.
    pub fn put(&mut self, kind: Kind, index: u64, epoch: u64, sequence: u64, slot: &mut Slot) {
        let meta = self.meta(kind, index, epoch, sequence);
        meta.seal(slot);
        self.slots.insert(meta.sector, *slot);
    }

    /// Writes the epoch header.
    pub fn header(&mut self, epoch: u64, before_epoch: u64) {
        let header = Header {
            uuid: UUID,
            epoch,
            before_epoch,
            origin_start: self.origin_start,
            origin_sectors: self.origin_sectors,
            cow_slots: self.pieces.iter().map(|piece| piece.1).sum(),
            sector: self.sector(0),
            extents_sector: self.sector(1),
            data_first: self.layout.data_first(),
            extent_count: self.pieces.len() as u32,
            region_shift: self.layout.region_shift(),
            flags: self.flags,
        };
        let bytes = header.encode().try_into().expect("a header is a slot");
        self.slots.insert(header.sector, bytes);
    }

    /// Writes a state that says nothing else.
    pub fn state(&mut self, sequence: u64, epoch: u64, status: Status, mode: Mode) {
        let state = State {
            status,
            mode,
            boot_id: THIS_BOOT,
            written_sectors: WRITTEN,
            head_crc: HEAD_CRC,
            slots_used: self.layout.data_first(),
            tracked_from: epoch,
            changes_from: 0,
            fine_rule: FineRule::All,
        };
        self.put_state(sequence, epoch, &state);
    }

    /// Writes a state; before a clean one, that there are no samples.
    pub fn put_state(&mut self, sequence: u64, epoch: u64, state: &State) {
        if state.status == Status::Clean {
            self.samples(sequence, epoch, &[]);
        }
        let mut slot = [0; SLOT_BYTES];
        state.encode(&mut slot);
        self.put(Kind::State, sequence % 2, epoch, sequence, &mut slot);
    }

    /// Writes the samples that belong to a clean state.
    pub fn samples(&mut self, sequence: u64, epoch: u64, samples: &[Sample]) {
        let mut slot = [0; SLOT_BYTES];
        persist::encode_samples(samples, &mut slot);
        self.put(Kind::Samples, sequence % 2, epoch, sequence, &mut slot);
    }

    /// A map of an epoch, in its area; bits beyond a slot go to the next one.
    pub fn map(&mut self, kind: Kind, epoch: u64, sequence: u64, bits: &[u64]) {
        for (at, index) in self.layout.area(kind, epoch).enumerate() {
            let mut slot = [0; SLOT_BYTES];
            let first = at as u64 * 32000;
            for &bit in bits
                .iter()
                .filter(|&&bit| (first..first + 32000).contains(&bit))
            {
                let bit = bit - first;
                slot[PAYLOAD.start + (bit / 8) as usize] |= 1 << (bit % 8);
            }
            self.put(kind, index, epoch, sequence, &mut slot);
        }
    }

    /// Takes the series up again, from a header elsewhere.
    pub fn reload_at(&self, header_sector: u64, now: &Now) -> Result<Series, Lost> {
        persist::reload(
            |sector| self.slots.get(&sector).copied(),
            header_sector,
            self.disk_sectors,
            now,
        )
    }

    /// Takes the series up again.
    pub fn reload(&self, now: &Now) -> Result<Series, Lost> {
        self.reload_at(self.sector(0), now)
    }
}

/// The same boot, nothing written.
pub fn same_boot() -> Now {
    Now {
        boot_id: THIS_BOOT,
        written_sectors: WRITTEN,
        head_crc: HEAD_CRC,
        ..Now::default()
    }
}

/// Another boot, nothing written.
pub fn next_boot() -> Now {
    Now::next_boot(HEAD_CRC)
}
