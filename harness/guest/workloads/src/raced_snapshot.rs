//! The snapshot that is read while writers write.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_guest_system::files::{open_direct, size_of};
use cowbird_proto::message::Chase;

use super::progress::Progress;
use super::snapshot_view::{BLOCK_BYTES, SnapshotView};

/// Longest read, bytes.
pub const MAX_READ_BYTES: u64 = 512 << 10;

/// The snapshot that is read while writers write.
pub struct RacedSnapshot {
    path: String,
    snapshot: File,
    shift_bytes: u64,
    view: SnapshotView,
}

impl RacedSnapshot {
    /// Opens the snapshot.
    pub fn open(chase: Chase) -> GuestResult<Self> {
        Ok(Self {
            snapshot: open_direct(&chase.snapshot, false)?,
            view: SnapshotView::new(size_of(&chase.snapshot)?),
            shift_bytes: chase.shift_bytes,
            path: chase.snapshot,
        })
    }

    /// The whole blocks of the snapshot that hold a range of the writers' device; both in bytes.
    pub fn blocks_of(&self, range: &Range<u64>) -> Range<u64> {
        let block = BLOCK_BYTES as u64;
        let start = (range.start + self.shift_bytes) / block * block;
        let end = (range.end + self.shift_bytes).next_multiple_of(block);
        start..end.min(start + MAX_READ_BYTES).min(self.view.bytes())
    }

    /// The reader with this number reads at `offset` of the snapshot, and what it reads is compared.
    pub fn read(
        &self,
        progress: &Progress,
        reader: u32,
        offset: u64,
        bytes: &mut [u8],
    ) -> GuestResult<()> {
        self.snapshot
            .read_exact_at(bytes, offset)
            .context(format_args!("read {} at {offset}", self.path))?;
        self.view.record(progress, reader, offset, bytes);
        Ok(())
    }
}
