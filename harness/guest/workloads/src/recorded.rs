//! What was done to another device once, done again to this one.
//!
//! Some threads take the operations in turn, so that as many are in flight; [`Schedule`] says which may be
//! issued. Half of the threads are chased by readers of the snapshot. [`fill`] says what is written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::{open_direct, write_durably};
use cowbird_guest_system::sys::{self, DirectBuffer};
use cowbird_proto::message::{Operation as Journalled, RecordedSpec, WriteMode};
use cowbird_proto::recorded::{IDENTITY, fill};
use cowbird_proto::sector::SECTOR_BYTES;
use cowbird_workload::{Action, Extent, Flags, Operation, Schedule, Turn, Workload};

use super::journal::JournalWriter;
use super::progress::count;
use super::racing_reader::RacingReader;
use super::shared::{Body, Parts, Shared};

/// Operations in flight.
const THREADS: u32 = 8;

/// Threads that are chased; more readers would leave no time to the writers.
const CHASED: u32 = 4;

/// Longest single read or write, bytes; longer ones are done piece by piece.
const MAX_IO_BYTES: u64 = 1 << 20;

/// Pause between two looks whether the snapshot is taken or the workload ends.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// Prepares the threads.
pub fn prepare(spec: RecordedSpec) -> GuestResult<Parts> {
    let file = fs::read(&spec.file).context(format_args!("read {}", spec.file))?;
    let workload =
        Workload::decode(&file).map_err(|error| failure(format!("{}: {error}", spec.file)))?;
    let device = open_direct(&spec.device, true)?;
    let bytes = sys::device_bytes(&device).context(format_args!("size of {}", spec.device))?;
    let sectors = bytes / SECTOR_BYTES as u64;
    if workload.space_sectors() > sectors {
        return Err(failure(format!(
            "the workload needs {} sectors, {} has {sectors}",
            workload.space_sectors(),
            spec.device
        )));
    }
    let workload = Arc::new(workload);
    let replay = Arc::new(Replay {
        schedule: Mutex::new(Schedule::new(
            Arc::clone(&workload),
            spec.timing,
            spec.instant,
        )),
        workload,
        changed: Condvar::new(),
        start: Instant::now(),
        device,
        seed: spec.seed,
    });
    let mut threads: Vec<Body> = Vec::new();
    for number in 0..THREADS {
        let racing_reader =
            (number < CHASED).then(|| Arc::new(RacingReader::new(THREADS + number, spec.seed)));
        if let Some(racing_reader) = &racing_reader {
            let racing_reader = Arc::clone(racing_reader);
            threads.push(Box::new(move |shared| racing_reader.run(shared)));
        }
        let replay = Arc::clone(&replay);
        threads.push(Box::new(move |shared| {
            replay.run(shared, number, racing_reader.as_deref())
        }));
    }
    Ok(Parts {
        golden: Vec::new(),
        threads,
    })
}

/// What all threads share.
struct Replay {
    workload: Arc<Workload>,
    schedule: Mutex<Schedule>,
    /// An operation is complete.
    changed: Condvar,
    start: Instant,
    device: File,
    seed: u64,
}

impl Replay {
    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The thread; it ends with the operations or with the workload.
    fn run(
        &self,
        shared: &Arc<Shared>,
        number: u32,
        racing_reader: Option<&RacingReader>,
    ) -> GuestResult<()> {
        let mut journal = shared.journal(number);
        let mut buffer = DirectBuffer::new(MAX_IO_BYTES as usize);
        while let Some(at) = self.next(shared) {
            let operation = &self.workload.operations()[at];
            if let Some(racing_reader) = racing_reader
                && operation.action.modifies()
                && shared.epoch_has_passed()
            {
                let offset = operation.extent.offset_bytes();
                racing_reader.aim(offset..offset + operation.extent.length_bytes());
            }
            self.issue(shared, &mut journal, &mut buffer, at)?;
            let mut schedule = self.lock();
            schedule.complete(at);
            if schedule.is_done() {
                shared.finished.store(true, Ordering::Release);
            }
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Waits for an operation that this thread may issue.
    fn next(&self, shared: &Shared) -> Option<usize> {
        let mut schedule = self.lock();
        while !shared.stopping() {
            let now_ns = self.now_ns();
            if shared.epoch_has_passed() {
                schedule.release(now_ns);
            }
            let pause = match schedule.turn(now_ns) {
                Turn::Go(at) => return Some(at),
                Turn::Over => return None,
                Turn::WaitUntil(due_ns) => Duration::from_nanos(due_ns - now_ns).min(LOOK_PERIOD),
                Turn::WaitForOthers => LOOK_PERIOD,
            };
            (schedule, _) = self
                .changed
                .wait_timeout(schedule, pause)
                .unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn issue(
        &self,
        shared: &Shared,
        journal: &mut JournalWriter,
        buffer: &mut DirectBuffer,
        at: usize,
    ) -> GuestResult<()> {
        let operation = &self.workload.operations()[at];
        let (offset, length) = (
            operation.extent.offset_bytes(),
            operation.extent.length_bytes(),
        );
        let device = &self.device;
        match operation.action {
            Action::Read => {
                for part in parts(operation.extent) {
                    let bytes = &mut buffer[..part.length_bytes() as usize];
                    device
                        .read_exact_at(bytes, part.offset_bytes())
                        .context(format_args!("read {length} bytes at {offset}"))?;
                }
                shared.progress.operations.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Action::Write => {
                let what = journalled(operation, at);
                journal.run(what, || self.write(operation, at, buffer))?;
                count(&shared.progress.bytes_written, length);
                Ok(())
            }
            Action::Flush => {
                let what = Journalled::Sync { identity: IDENTITY };
                journal.run(what, || device.sync_data())
            }
            Action::Discard => journal.run(Journalled::Discard { offset, length }, || {
                sys::discard(device, offset, length).map_err(Into::into)
            }),
            Action::WriteZeroes => journal.run(Journalled::ZeroOut { offset, length }, || {
                sys::zero_out(device, offset, length).map_err(Into::into)
            }),
        }
    }

    fn write(
        &self,
        operation: &Operation,
        at: usize,
        buffer: &mut DirectBuffer,
    ) -> std::io::Result<()> {
        if operation.flags.has(Flags::PREFLUSH) {
            self.device.sync_data()?;
        }
        for part in parts(operation.extent) {
            let bytes = &mut buffer[..part.length_bytes() as usize];
            fill(operation, at, self.seed, part, bytes);
            if operation.flags.has(Flags::FUA) {
                write_durably(&self.device, bytes, part.offset_bytes())?;
            } else {
                self.device.write_all_at(bytes, part.offset_bytes())?;
            }
        }
        Ok(())
    }
}

/// Parts of an extent that fit the buffer, cut at blocks.
fn parts(extent: Extent) -> impl Iterator<Item = Extent> {
    let unit = MAX_IO_BYTES / SECTOR_BYTES as u64;
    let (mut start, end) = (extent.start, extent.end());
    std::iter::from_fn(move || {
        let cut = start.0 / unit * unit + unit;
        let part = Extent::between(start, end.min(cowbird_workload::Sector(cut)));
        start = part.end();
        (!part.is_empty()).then_some(part)
    })
}

fn journalled(write: &Operation, at: usize) -> Journalled {
    let mode = match (
        write.flags.has(Flags::FUA),
        write.flags.has(Flags::PREFLUSH),
    ) {
        (true, _) => WriteMode::DataSync,
        (false, true) => WriteMode::Flushed,
        (false, false) => WriteMode::Direct,
    };
    Journalled::Write {
        identity: IDENTITY,
        offset: write.extent.offset_bytes(),
        length: write.extent.length_bytes(),
        generation: at as u64 + 1,
        mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_workload::{Builder, Content};

    /// Goal: equal contents are equal bytes wherever they are and however the write is cut into parts,
    /// all others differ. Method: one write of 2 MiB that begins inside a block, in parts and block by block.
    #[test]
    fn contents_are_those_of_the_recording() {
        let mut builder = Builder::default();
        let extent = Extent::of_bytes(512, 2 << 20);
        let write = |builder: &mut Builder| {
            let place = builder.push(0, Action::Write, Flags::default(), extent);
            place.expect("it has sectors")
        };
        let (known, _unknown) = (write(&mut builder), write(&mut builder));
        for (piece, content) in [
            (1, Content::Known(4)),
            (2, Content::Zeroes),
            (300, Content::Known(4)),
            (301, Content::Known(5)),
        ] {
            builder.content(known, piece, content);
        }
        let workload = builder.finish("x", Vec::new());
        let bytes_of = |at: usize| {
            let operation = &workload.operations()[at];
            let mut bytes = vec![0xEE; extent.length_bytes() as usize];
            for part in parts(extent) {
                assert!(part.length_bytes() <= MAX_IO_BYTES);
                let start = (part.offset_bytes() - extent.offset_bytes()) as usize;
                let out = &mut bytes[start..start + part.length_bytes() as usize];
                fill(operation, at, 7, part, out);
            }
            bytes
        };
        let (first, second) = (bytes_of(0), bytes_of(1));
        let piece = |index: usize| &first[index * 4096 - 512..(index + 1) * 4096 - 512];
        assert_eq!(piece(1), piece(300));
        assert_ne!(piece(1), piece(301));
        assert!(piece(2).iter().all(|byte| *byte == 0));
        let mut sectors: Vec<&[u8]> = second.chunks(512).collect();
        sectors.extend(first[3 * 4096..200 * 4096].chunks(512));
        let count = sectors.len();
        sectors.sort_unstable();
        sectors.dedup();
        assert_eq!(
            sectors.len(),
            count,
            "contents that nobody looked at are equal"
        );
    }
}
