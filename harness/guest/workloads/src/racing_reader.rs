//! Readers that chase writers: each reads on the snapshot what its writer is about to overwrite.
//!
//! A copy of the snapshot reads every block once and meets a write to the same block only by
//! chance. A racing reader is told the place before each write, reads it at about the same moment and once
//! more behind it; the two reads must agree.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use cowbird_guest_system::error::GuestResult;
use cowbird_guest_system::race::{MAX_DELAY_US, wait_for};
use cowbird_guest_system::sys::DirectBuffer;
use cowbird_proto::rng::Rng;

use super::raced_snapshot::MAX_READ_BYTES;
use super::shared::Shared;

/// Pause between two looks whether the workload ends.
const IDLE_PAUSE: Duration = Duration::from_millis(50);

/// What one writer and its racing reader share.
pub struct RacingReader {
    target: Mutex<Option<Range<u64>>>,
    changed: Condvar,
    /// Number of the reader.
    reader: u32,
    seed: u64,
    writer_delays: Mutex<Rng>,
}

impl RacingReader {
    /// The racing reader with the number `reader` in a workload with this seed.
    pub fn new(reader: u32, seed: u64) -> Self {
        Self {
            target: Mutex::new(None),
            changed: Condvar::new(),
            reader,
            seed,
            writer_delays: Mutex::new(Rng::for_part(!seed, u64::from(reader) << 32)),
        }
    }

    /// The writer is about to overwrite these bytes of its device. In half of the cases it waits a
    /// little, because the racing reader has to wake up. A racing reader that still reads the last place misses
    /// this one.
    pub fn aim(&self, range: Range<u64>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(range);
        self.changed.notify_one();
        let delay_us = {
            let mut delays = self
                .writer_delays
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if delays.percent(50) {
                delays.below(MAX_DELAY_US)
            } else {
                0
            }
        };
        wait_for(Duration::from_micros(delay_us));
    }

    /// The thread; it ends with the workload.
    pub fn run(&self, shared: &Arc<Shared>) -> GuestResult<()> {
        let mut rng = Rng::for_part(self.seed, u64::from(self.reader) << 32);
        let mut buffer = DirectBuffer::new(MAX_READ_BYTES as usize);
        while !shared.stopping() {
            let (Some(target), Some(raced)) = (self.next_target(), shared.raced()) else {
                continue;
            };
            let blocks = raced.blocks_of(&target);
            if blocks.is_empty() {
                continue;
            }
            wait_for(Duration::from_micros(rng.below(MAX_DELAY_US / 2)));
            let bytes = &mut buffer[..(blocks.end - blocks.start) as usize];
            for _ in 0..2 {
                raced.read(&shared.progress, self.reader, blocks.start, bytes)?;
            }
        }
        Ok(())
    }

    fn next_target(&self) -> Option<Range<u64>> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut target, _) = self
            .changed
            .wait_timeout_while(target, IDLE_PAUSE, |target| target.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        target.take()
    }
}
