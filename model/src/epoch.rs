//! The epoch header: how the snapshot instant is found in the witness.
//!
//! With the origin quiet, the module writes this header to the first 4 KiB slot of the COW file.
//! In the witness log everything before that entry is the origin at T0, everything after it is
//! the future. All fields are little endian:
//!
//! ```text
//!    0  magic          8 bytes  "COWBIRD" 0x01
//!    8  version        u32      2
//!   12  header bytes   u32      4096
//!   16  uuid           16 bytes series of snapshots
//!   32  epoch          u64      number of the snapshot instant in the series
//!   40  origin sectors u64      512-byte sectors of the origin
//!   48  COW slots      u64      4 KiB slots of the COW file, this one included
//!   56  flags          u32
//!   60  layout                  of the COW file; not interpreted here
//!  508  checksum       u32      CRC-32C of bytes 0..508
//!  512  zeros
//! 4092  checksum       u32      CRC-32C (Castagnoli) of bytes 0..4092
//! ```

use thiserror::Error;

use crate::bytes::{u32_at, u64_at};
use crate::units::{EntryIndex, Epoch, PIECE_SECTORS, SECTOR_BYTES, Sector};
use crate::witness::{EntryKind, WitnessLog};

/// Bytes of a header: one block.
pub const HEADER_BYTES: usize = 4096;
/// First eight bytes of a header.
pub const HEADER_MAGIC: [u8; 8] = *b"COWBIRD\x01";
/// The version written and understood.
pub const HEADER_VERSION: u32 = 3;
const SECTOR_CHECKSUM_AT: usize = SECTOR_BYTES - 4;
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

/// The fields of an epoch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochHeader {
    /// Series of snapshots that the epoch belongs to.
    pub uuid: [u8; 16],
    /// Number of the snapshot instant.
    pub epoch: Epoch,
    /// Size of the origin in 512-byte sectors.
    pub origin_sectors: u64,
    /// 4 KiB slots of the COW file, the header's own included.
    pub cow_slots: u64,
    /// Flags of the format; not interpreted here.
    pub flags: u32,
}

/// Why bytes are not an epoch header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    #[error("epoch header: {bytes} bytes, a header has {HEADER_BYTES}")]
    Short {
        /// Bytes given.
        bytes: usize,
    },
    /// The magic is another.
    #[error("epoch header: the magic is missing")]
    BadMagic,
    /// The checksum does not fit the bytes.
    #[error("epoch header: checksum {computed:#010x} computed, {stored:#010x} stored")]
    BadChecksum {
        /// Value in the header.
        stored: u32,
        /// Value of the bytes.
        computed: u32,
    },
    /// A version of the format that this code does not know.
    #[error("epoch header: version {found} with {header_bytes} header bytes is not supported")]
    UnsupportedVersion {
        /// Version found.
        found: u32,
        /// Length of header found.
        header_bytes: u32,
    },
}

impl EpochHeader {
    /// Reads a header from the first [`HEADER_BYTES`] of `bytes`.
    ///
    /// # Errors
    /// In this order: too few bytes, another magic, a checksum that does not fit, a version that is
    /// not known. So a damaged header is told from a newer one.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = bytes
            .get(..HEADER_BYTES)
            .ok_or(HeaderError::Short { bytes: bytes.len() })?;
        if header[..8] != HEADER_MAGIC {
            return Err(HeaderError::BadMagic);
        }
        let stored = u32_at(header, CHECKSUM_AT);
        let computed = crc32c::crc32c(&header[..CHECKSUM_AT]);
        if stored != computed {
            return Err(HeaderError::BadChecksum { stored, computed });
        }
        let (found, header_bytes) = (u32_at(header, 8), u32_at(header, 12));
        if found != HEADER_VERSION || header_bytes as usize != HEADER_BYTES {
            return Err(HeaderError::UnsupportedVersion {
                found,
                header_bytes,
            });
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&header[16..32]);
        Ok(Self {
            uuid,
            epoch: Epoch(u64_at(header, 32)),
            origin_sectors: u64_at(header, 40),
            cow_slots: u64_at(header, 48),
            flags: u32_at(header, 56),
        })
    }

    /// The bytes of the header, checksums included, with a layout of zeros.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&HEADER_MAGIC);
        header[8..12].copy_from_slice(&HEADER_VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        header[16..32].copy_from_slice(&self.uuid);
        header[32..40].copy_from_slice(&self.epoch.0.to_le_bytes());
        header[40..48].copy_from_slice(&self.origin_sectors.to_le_bytes());
        header[48..56].copy_from_slice(&self.cow_slots.to_le_bytes());
        header[56..60].copy_from_slice(&self.flags.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..SECTOR_CHECKSUM_AT]);
        header[SECTOR_CHECKSUM_AT..SECTOR_BYTES].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..CHECKSUM_AT]);
        header[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

/// Which snapshot instant is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkerKey {
    /// Series of snapshots.
    pub uuid: [u8; 16],
    /// Number of the snapshot instant.
    pub epoch: Epoch,
}

impl MarkerKey {
    /// The key from the 32 hexadecimal digits that `/proc/cowbird-info` shows; `None` when `uuid`
    /// is something else.
    #[must_use]
    pub fn from_hex(uuid: &str, epoch: Epoch) -> Option<Self> {
        if uuid.len() != 32 || !uuid.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let number = u128::from_str_radix(uuid, 16).ok()?;
        Some(Self {
            uuid: number.to_be_bytes(),
            epoch,
        })
    }
}

/// An epoch header seen in the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The entry that wrote it: entries before this one are the origin at T0.
    pub entry: EntryIndex,
    /// The sector of the disk that it begins at.
    pub sector: Sector,
    /// Its fields.
    pub header: EpochHeader,
    /// How often the same header was written again to the same sector, later.
    pub rewrites: u32,
    /// How often the same header was written to other sectors, later.
    pub copies: u32,
}

/// Why no snapshot instant can be named.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MarkerError {
    /// No entry holds a header of that series and epoch.
    #[error(
        "no epoch header of epoch {epoch} of series {uuid} in {entries} witness entries ({others} of other epochs, {damaged} damaged); check that the COW file lies on the witnessed disk"
    )]
    NotFound {
        /// The epoch wanted.
        epoch: Epoch,
        /// The series wanted, in hexadecimal.
        uuid: String,
        /// Entries searched.
        entries: usize,
        /// Headers of other series or epochs that were seen.
        others: usize,
        /// Places that begin as a header but do not decode.
        damaged: usize,
    },
}

/// Everything in a log that begins as an epoch header, in log order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markers {
    /// Whole headers, without counts of rewrites and copies.
    pub found: Vec<Marker>,
    /// Places that have the magic but do not decode, and why.
    pub damaged: Vec<(EntryIndex, Sector, HeaderError)>,
}

/// Finds all epoch headers in the log.
///
/// A header may begin at any sector of an entry, because the block layer may merge its write with
/// a neighbour, and because a partition may begin at any sector. It does not find a header that
/// the guest split over two requests.
#[must_use]
pub fn find_markers(log: &WitnessLog<'_>) -> Markers {
    find_all(log, &mut || {})
}

fn find_all(log: &WitnessLog<'_>, after_piece: &mut dyn FnMut()) -> Markers {
    let mut markers = Markers::default();
    let mut looked_at = 0;
    for entry in log
        .entries()
        .iter()
        .filter(|entry| entry.kind == EntryKind::Write)
    {
        looked_at += entry.sectors;
        if looked_at >= PIECE_SECTORS {
            looked_at = 0;
            after_piece();
        }
        for (at, chunk) in entry.data.chunks_exact(SECTOR_BYTES).enumerate() {
            if chunk[..8] != HEADER_MAGIC {
                continue;
            }
            let sector = Sector(entry.sector.0 + at as u64);
            match EpochHeader::decode(&entry.data[at * SECTOR_BYTES..]) {
                Ok(header) => {
                    markers.found.push(Marker {
                        entry: entry.index,
                        sector,
                        header,
                        rewrites: 0,
                        copies: 0,
                    });
                }
                Err(error) => markers.damaged.push((entry.index, sector, error)),
            }
        }
    }
    markers
}

/// Finds the snapshot instant `key`: the first entry that holds its header.
///
/// The same header may come again. To the same sector, it is a change of flags or a clean shutdown.
/// To another sector, it is a copy: of the COW file by the guest, or by a module that preserves the
/// wrong block and so carries the header into a slot of data (a mutant does). None of these moves the
/// instant, because a copy cannot be older than what it is a copy of; all are counted.
///
/// # Errors
/// When there is none.
pub fn find_marker(log: &WitnessLog<'_>, key: &MarkerKey) -> Result<Marker, MarkerError> {
    find_marker_sparse(log, key, &mut || {})
}

/// The same of a mapped log, as [`crate::Oracle::verify_sparse`] takes it.
///
/// # Errors
/// As [`find_marker`].
pub fn find_marker_sparse(
    log: &WitnessLog<'_>,
    key: &MarkerKey,
    after_piece: &mut dyn FnMut(),
) -> Result<Marker, MarkerError> {
    let Markers { found, damaged } = find_all(log, after_piece);
    let wanted =
        |marker: &&Marker| marker.header.uuid == key.uuid && marker.header.epoch == key.epoch;
    let mut matching = found.iter().filter(wanted);
    let mut marker = *matching.next().ok_or_else(|| MarkerError::NotFound {
        epoch: key.epoch,
        uuid: format!("{:032x}", u128::from_be_bytes(key.uuid)),
        entries: log.entries().len(),
        others: found.len(),
        damaged: damaged.len(),
    })?;
    for again in matching {
        if again.sector == marker.sector {
            marker.rewrites += 1;
        } else {
            marker.copies += 1;
        }
    }
    Ok(marker)
}
