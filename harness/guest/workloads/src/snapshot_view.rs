//! What the snapshot was seen to contain: the first read of every block, against which every
//! further read is compared.
//!
//! A snapshot never changes, so two reads that differ are proof enough that one of them is wrong;
//! the host finds out which.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cowbird_guest_system::clock::uptime_ns;
use cowbird_proto::message::{Event, Observation};

use super::progress::{Progress, count};

/// Unit of comparison, bytes.
pub const BLOCK_BYTES: usize = 4096;

/// Blocks under one lock: readers of different places must not wait for each other.
const STRIPE_BLOCKS: u64 = 64;

/// Observations sent to the host; the number of differing reads is counted exactly all the same.
const MAX_OBSERVATIONS: u64 = 256;

/// First content of every block.
pub struct SnapshotView {
    bytes: u64,
    stripes: Vec<Mutex<Stripe>>,
    sent: AtomicU64,
}

struct Stripe {
    blocks: Vec<FirstRead>,
    content: Vec<u8>,
}

/// The first read of one block.
#[derive(Clone, Copy, Default)]
struct FirstRead {
    seen: bool,
    /// Whether its content was sent to the host.
    sent: bool,
    reader: u32,
    at_ns: u64,
}

impl SnapshotView {
    /// A view of a device of `bytes` bytes of which nothing was read yet.
    pub fn new(bytes: u64) -> Self {
        let stripe_bytes = STRIPE_BLOCKS * BLOCK_BYTES as u64;
        let stripes = (0..bytes.div_ceil(stripe_bytes))
            .map(|index| {
                let length = (bytes - index * stripe_bytes).min(stripe_bytes) as usize;
                Mutex::new(Stripe {
                    blocks: vec![FirstRead::default(); length.div_ceil(BLOCK_BYTES)],
                    content: vec![0; length],
                })
            })
            .collect();
        Self {
            bytes,
            stripes,
            sent: AtomicU64::new(0),
        }
    }

    /// Size of the device, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes what a read at `offset` (a whole number of blocks) gave.
    pub fn record(&self, progress: &Progress, reader: u32, offset: u64, content: &[u8]) {
        let first = offset / BLOCK_BYTES as u64;
        let blocks = content.chunks(BLOCK_BYTES);
        count(&progress.block_reads, blocks.len() as u64);
        count(&progress.bytes_read, content.len() as u64);
        let at_ns = uptime_ns();
        for (block, content) in (first..).zip(blocks) {
            let observation = |reader, at_ns, content: &[u8]| Observation {
                workload: progress.id,
                block,
                reader,
                at_ns,
                content: content.to_vec(),
            };
            let mut stripe = self.stripe(block);
            let (read, known) = stripe.block(block, content.len());
            if !read.seen {
                *read = FirstRead {
                    seen: true,
                    sent: false,
                    reader,
                    at_ns,
                };
                known.copy_from_slice(content);
            } else if *known != *content {
                // Either of the two may be the wrong one.
                let first = (!std::mem::replace(&mut read.sent, true))
                    .then(|| observation(read.reader, read.at_ns, known));
                drop(stripe);
                count(&progress.differing_reads, 1);
                self.send(progress, first);
                self.send(progress, Some(observation(reader, at_ns, content)));
            }
        }
    }

    fn stripe(&self, block: u64) -> std::sync::MutexGuard<'_, Stripe> {
        self.stripes[(block / STRIPE_BLOCKS) as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, progress: &Progress, observation: Option<Observation>) {
        if let Some(observation) = observation
            && self.sent.fetch_add(1, Ordering::Relaxed) < MAX_OBSERVATIONS
        {
            progress.port.event(Event::Observation(observation));
        }
    }

    /// Gives all stripes in order, each with its offset, to `write`. Every block must have been
    /// read; the offset of one that was not is the error.
    pub fn for_each_stripe<E>(
        &self,
        mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Result<(), u64>, E> {
        for (index, stripe) in self.stripes.iter().enumerate() {
            let stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            let offset = index as u64 * STRIPE_BLOCKS * BLOCK_BYTES as u64;
            if let Some(unseen) = stripe.blocks.iter().position(|read| !read.seen) {
                return Ok(Err(offset + (unseen * BLOCK_BYTES) as u64));
            }
            write(offset, &stripe.content)?;
        }
        Ok(Ok(()))
    }
}

impl Stripe {
    fn block(&mut self, block: u64, bytes: usize) -> (&mut FirstRead, &mut [u8]) {
        let index = (block % STRIPE_BLOCKS) as usize;
        let at = index * BLOCK_BYTES;
        (&mut self.blocks[index], &mut self.content[at..at + bytes])
    }
}
