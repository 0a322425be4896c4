//! Writers that write to two volumes in lockstep, each write waited for before the next: so that images
//! of the two tell whether they show one instant.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cowbird_guest_system::error::{GuestResult, failure};
use cowbird_guest_system::files::{open_direct, size_of};
use cowbird_guest_system::sys::DirectBuffer;
use cowbird_proto::message::{LockstepWritersSpec, Operation, WriteMode};
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};

use super::progress::count;
use super::shared::{Body, Parts, Shared};
use super::snapshot_view::BLOCK_BYTES;

/// Prepares one thread for each writer.
pub fn prepare(spec: LockstepWritersSpec) -> GuestResult<Parts> {
    let needed = u64::from(spec.writers) * u64::from(spec.slots) * BLOCK_BYTES as u64;
    for device in &spec.devices {
        if size_of(device)? < needed {
            return Err(failure(format!("{device} has less than {needed} bytes")));
        }
    }
    let spec = Arc::new(spec);
    let threads = (0..spec.writers).map(|writer| {
        let spec = Arc::clone(&spec);
        let body: Body = Box::new(move |shared| run(shared, &spec, writer));
        body
    });
    Ok(Parts {
        golden: Vec::new(),
        threads: threads.collect(),
    })
}

fn run(shared: &Arc<Shared>, spec: &LockstepWritersSpec, writer: u32) -> GuestResult<()> {
    let volumes = [
        open_direct(&spec.devices[0], true)?,
        open_direct(&spec.devices[1], true)?,
    ];
    let mut journal = shared.journal(writer);
    let mut buffer = DirectBuffer::new(BLOCK_BYTES);
    let mut round = 0;
    while !shared.stopping() {
        round += 1;
        let offset = spec.block(writer, round) * BLOCK_BYTES as u64;
        for (volume, file) in volumes.iter().enumerate() {
            let identity = LockstepWritersSpec::identity(volume);
            let first = SectorIdentity {
                identity,
                sector: offset / SECTOR_BYTES as u64,
                generation: round,
                seed: spec.seed,
                writer,
            };
            sector::fill(first, &mut buffer);
            let what = Operation::Write {
                identity,
                offset,
                length: BLOCK_BYTES as u64,
                generation: round,
                mode: WriteMode::Direct,
            };
            journal.run(what, || write(file, &buffer, offset))?;
            count(&shared.progress.bytes_written, BLOCK_BYTES as u64);
        }
    }
    Ok(())
}

fn write(file: &File, block: &[u8], offset: u64) -> std::io::Result<()> {
    file.write_all_at(block, offset)
}
