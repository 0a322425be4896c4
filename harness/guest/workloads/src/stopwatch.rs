//! One writer, one block at a time, anywhere on a device; what counts is how long the slowest write takes.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_guest_system::files::{open_direct, size_of};
use cowbird_guest_system::sys::DirectBuffer;
use cowbird_proto::message::StopwatchSpec;
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};

use super::progress::count;
use super::shared::{Body, Parts, Shared};
use super::snapshot_view::BLOCK_BYTES;

/// Identity in the sectors that this workload writes.
const IDENTITY: u64 = 0x570B;

/// Prepares the one thread.
pub fn prepare(spec: StopwatchSpec) -> GuestResult<Parts> {
    let body: Body = Box::new(move |shared| write(shared, &spec));
    Ok(Parts {
        golden: Vec::new(),
        threads: vec![body],
    })
}

fn write(shared: &Arc<Shared>, spec: &StopwatchSpec) -> GuestResult<()> {
    let device = open_direct(&spec.device, true)?;
    let blocks = size_of(&spec.device)? / BLOCK_BYTES as u64;
    let mut rng = Rng::new(spec.seed);
    let mut buffer = DirectBuffer::new(BLOCK_BYTES);
    let mut generation = 0;
    while !shared.stopping() {
        let at = rng.below(blocks) * BLOCK_BYTES as u64;
        generation += 1;
        let first = SectorIdentity {
            identity: IDENTITY,
            sector: at / SECTOR_BYTES as u64,
            generation,
            seed: spec.seed,
            writer: 0,
        };
        sector::fill(first, &mut buffer);
        let begun = Instant::now();
        device
            .write_all_at(&buffer, at)
            .context(format_args!("write to {} at byte {at}", spec.device))?;
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        shared.longest_us.fetch_max(took, Ordering::AcqRel);
        shared.progress.operations.fetch_add(1, Ordering::AcqRel);
        count(&shared.progress.bytes_written, BLOCK_BYTES as u64);
        std::thread::sleep(Duration::from_micros(spec.pause_us));
    }
    Ok(())
}
