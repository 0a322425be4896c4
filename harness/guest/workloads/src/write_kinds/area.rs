//! The places of the writers: each has a zone of the device, or a file of its own.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::size_of;
use cowbird_proto::message::WriteKindsSpec;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};

use super::kind::Kind;

/// Identity of the first writer's sectors; the others follow.
const IDENTITY: u64 = 0x417D_0000;

/// Bytes written at once when a file is made.
const PREPARE_BYTES: usize = 1 << 20;

/// Where one writer writes.
pub(super) struct Area {
    /// File or device.
    pub(super) path: String,
    pub(super) is_file: bool,
    /// Sectors of the file or device.
    pub(super) zone: Range<u64>,
    /// Sectors of a logical block: every write is a whole number of it.
    pub(super) unit: u64,
}

impl Area {
    /// Makes what the writer needs. On a device its zone begins at the sector `start`.
    pub(super) fn prepare(
        spec: &WriteKindsSpec,
        kind: Kind,
        writer: u32,
        unit: u64,
        start: u64,
    ) -> GuestResult<Self> {
        if spec.fstype.is_none() {
            let zone = start..start + kind.zone_sectors();
            let path = spec.target.clone();
            if size_of(&path)? < zone.end * SECTOR_BYTES as u64 {
                return Err(failure(format!("{path} is too small for all writers")));
            }
            return Ok(Self {
                path,
                is_file: false,
                zone,
                unit,
            });
        }
        let area = Self {
            path: format!("{}/{kind:?}", spec.target),
            is_file: true,
            zone: 0..kind.zone_sectors(),
            unit,
        };
        area.make_file(spec.seed, writer)
            .context(format_args!("make {}", area.path))?;
        Ok(area)
    }

    /// A file that is written once, so that it is overwritten in place.
    fn make_file(&self, seed: u64, writer: u32) -> io::Result<()> {
        let file = File::create(&self.path)?;
        let mut chunk = vec![0; PREPARE_BYTES];
        let chunk_sectors = (PREPARE_BYTES / SECTOR_BYTES) as u64;
        for sector in (0..self.zone.end).step_by(chunk_sectors as usize) {
            sector::fill(identity(seed, writer, sector, 0), &mut chunk);
            file.write_all_at(&chunk, sector * SECTOR_BYTES as u64)?;
        }
        file.sync_all()
    }
}

/// What a sector of a writer holds.
pub(super) fn identity(seed: u64, writer: u32, sector: u64, generation: u64) -> SectorIdentity {
    SectorIdentity {
        identity: IDENTITY + u64::from(writer),
        sector,
        generation,
        seed,
        writer,
    }
}

/// Offset and length in bytes of a range of sectors.
pub(super) fn bytes_of(range: &Range<u64>) -> (u64, u64) {
    let sector = SECTOR_BYTES as u64;
    (range.start * sector, (range.end - range.start) * sector)
}
