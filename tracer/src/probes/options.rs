//! What is attached.

use cowbird_events::devices::{BLOCK_SECTORS, BlockDevice};
use cowbird_events::prints::PrintKey;

/// What to attach.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// Bytes of the ring buffer, a power of two and at least a page.
    pub ring_bytes: u32,
    /// Only this device's block events.
    pub device: Option<BlockDevice>,
    /// Whether the content of reads and writes is fingerprinted.
    pub fingerprints: bool,
    /// What fingerprints are sealed with; plain ones are for tests.
    pub print_key: Option<PrintKey>,
    /// At most so many events in a second.
    pub rate_limit: Option<u64>,
}

impl ProbeOptions {
    /// Everything, without fingerprints or limits.
    #[must_use]
    pub fn plain(ring_bytes: u32) -> Self {
        Self {
            ring_bytes,
            device: None,
            fingerprints: false,
            print_key: None,
            rate_limit: None,
        }
    }

    /// Where on a disk the grid of blocks begins, in sectors modulo those of a block.
    #[must_use]
    pub fn grid_sectors(&self) -> u32 {
        let start = self.device.as_ref().map_or(0, |device| device.start_sector);
        (start % BLOCK_SECTORS) as u32
    }
}
