//! Builds witness logs by hand, in the format of QEMU, for the tests of this crate.

use cowbird_model::{
    DiscardModel, Entry, Epoch, EpochHeader, Marker, MarkerKey, SECTOR_BYTES, WitnessLog,
    find_marker,
};

/// Series of all headers in these tests.
pub const UUID: [u8; 16] = *b"a series of test";

/// A log under construction.
#[derive(Clone)]
pub struct LogBuilder {
    bytes: Vec<u8>,
    entries: u64,
}

impl LogBuilder {
    pub fn new() -> Self {
        Self {
            bytes: vec![0; SECTOR_BYTES],
            entries: 0,
        }
    }

    /// A header with any fields, and its data.
    pub fn raw(&mut self, sector: u64, sectors: u64, flags: u64, data: &[u8]) -> &mut Self {
        let mut header = [0; SECTOR_BYTES];
        header[0..8].copy_from_slice(&sector.to_le_bytes());
        header[8..16].copy_from_slice(&sectors.to_le_bytes());
        header[16..24].copy_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(data);
        self.entries += 1;
        self
    }

    pub fn write(&mut self, sector: u64, data: &[u8]) -> &mut Self {
        self.raw(sector, (data.len() / SECTOR_BYTES) as u64, 0, data)
    }

    pub fn discard(&mut self, sector: u64, sectors: u64) -> &mut Self {
        self.raw(sector, sectors, 4, &[])
    }

    pub fn flush(&mut self) -> &mut Self {
        self.raw(0, 0, 1, &[])
    }

    /// The snapshot instant: an epoch header at `sector`, which nothing else uses.
    pub fn marker(&mut self, sector: u64, origin_sectors: u64, epoch: u64) -> &mut Self {
        let header = EpochHeader {
            uuid: UUID,
            epoch: Epoch(epoch),
            origin_sectors,
            cow_slots: 4,
            flags: 0,
        };
        self.write(sector, &header.encode())
    }

    /// The log with a superblock that counts all entries.
    pub fn finish(&self) -> Vec<u8> {
        self.finish_counting(self.entries)
    }

    /// The log with a superblock that counts `entries`.
    pub fn finish_counting(&self, entries: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[0..8].copy_from_slice(&0x006a_7366_7773_6872_u64.to_le_bytes());
        bytes[8..16].copy_from_slice(&1u64.to_le_bytes());
        bytes[16..24].copy_from_slice(&entries.to_le_bytes());
        bytes[24..28].copy_from_slice(&(SECTOR_BYTES as u32).to_le_bytes());
        bytes
    }
}

/// Finds the marker of epoch 1.
pub fn marker_of(log: &WitnessLog<'_>) -> Marker {
    find_marker(
        log,
        &MarkerKey {
            uuid: UUID,
            epoch: Epoch(1),
        },
    )
    .expect("the test wrote a marker")
}

/// Self-describing content: each sector names its place and its generation, as the workloads do.
pub fn pattern(sector: u64, sectors: u64, generation: u64) -> Vec<u8> {
    (sector..sector + sectors)
        .flat_map(|sector| {
            let mut bytes = [0x5a; SECTOR_BYTES];
            bytes[0..8].copy_from_slice(&sector.to_le_bytes());
            bytes[8..16].copy_from_slice(&generation.to_le_bytes());
            bytes
        })
        .collect()
}

/// The naive reference: the whole disk, changed in place.
pub fn replay(disk: &mut [u8], entry: &Entry<'_>, discard: DiscardModel) {
    let from = entry.sector.0 as usize * SECTOR_BYTES;
    match entry.kind {
        cowbird_model::EntryKind::Write => {
            disk[from..from + entry.data.len()].copy_from_slice(entry.data);
        }
        cowbird_model::EntryKind::Discard if discard == DiscardModel::Zeroes => {
            disk[from..from + entry.sectors as usize * SECTOR_BYTES].fill(0);
        }
        _ => {}
    }
}
