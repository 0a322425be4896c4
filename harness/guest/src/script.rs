//! One stage of a script: a few tasks of a few threads, begun in their order.
//!
//! Where threads meet, each waits a little after its turn has come, so that over many rounds a read sweeps
//! the time that the copy-on-write of the same block takes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cowbird_guest_system::clock::uptime_ns;
use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::{open_direct, size_of, write_durably};
use cowbird_guest_system::race::{MAX_DELAY_US, wait_for};
use cowbird_guest_system::sys::{self, DirectBuffer};
use cowbird_proto::message::{Observation, PerformSpec, WorkloadId};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SectorIdentity};
use cowbird_workload::{BLOCK_SECTORS, Extent, Op, SECTOR_BYTES, Sector, Task, Thread, Way};

/// Identity in the sectors that scripts write.
const IDENTITY: u64 = 0x5C217;

/// Blocks of which both reads are sent; more would not fit an answer.
const MAX_SENT_BLOCKS: usize = 32;

/// Bytes of a block.
const BLOCK_BYTES: usize = (BLOCK_SECTORS * SECTOR_BYTES) as usize;

/// Does the tasks; gives the snapshot reads that differ from a second read behind them.
pub fn perform(spec: PerformSpec) -> GuestResult<Vec<Observation>> {
    let threads: BTreeMap<Thread, Vec<usize>> = {
        let mut threads = BTreeMap::<Thread, Vec<usize>>::new();
        for (at, task) in spec.tasks.iter().enumerate() {
            threads.entry(task.thread).or_default().push(at);
        }
        threads
    };
    let stage = Stage {
        direct: open_direct(&spec.device, true)?,
        cached: OpenOptions::new()
            .read(true)
            .write(true)
            .open(&spec.device)
            .context(format_args!("open {}", spec.device))?,
        pauses: threads.len() > 1,
        order: Mutex::new(Order {
            begun: 0,
            done: vec![false; spec.tasks.len()],
            failed: false,
        }),
        changed: Condvar::new(),
        spec,
    };
    let reads = std::thread::scope(|scope| {
        let running: Vec<_> = threads
            .values()
            .map(|tasks| scope.spawn(|| stage.run(tasks)))
            .collect();
        let mut reads = Vec::new();
        for thread in running {
            let panicked = |_| failure("a thread of the script panicked");
            reads.extend(thread.join().map_err(panicked)??);
        }
        Ok(reads)
    })?;
    stage.read_again(reads)
}

/// What all threads share.
struct Stage {
    spec: PerformSpec,
    direct: File,
    cached: File,
    /// Whether several threads meet.
    pauses: bool,
    order: Mutex<Order>,
    changed: Condvar,
}

struct Order {
    /// Tasks that have begun: the first so many.
    begun: usize,
    done: Vec<bool>,
    failed: bool,
}

/// What a task read on the snapshot: whole blocks.
struct Read {
    offset: u64,
    reader: u32,
    at_ns: u64,
    content: Vec<u8>,
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, tasks: &[usize]) -> GuestResult<Vec<Read>> {
        let mut reads = Vec::new();
        for &at in tasks {
            if !self.await_turn(at) {
                break;
            }
            if self.pauses {
                let seed = self.spec.seed ^ self.spec.generation;
                let pause_us = Rng::for_part(seed, at as u64).below(MAX_DELAY_US);
                wait_for(Duration::from_micros(pause_us));
            }
            let done = self.perform(at);
            let mut order = self.lock();
            order.done[at] = true;
            order.failed |= done.is_err();
            self.changed.notify_all();
            drop(order);
            reads.extend(done?);
        }
        Ok(reads)
    }

    /// Waits until a task may begin; false if another one has failed.
    fn await_turn(&self, at: usize) -> bool {
        let tasks = &self.spec.tasks;
        let mut order = self.lock();
        loop {
            if order.failed {
                return false;
            }
            let undone = |earlier: usize| !order.done[earlier];
            let is_free =
                !(0..at).any(|earlier| undone(earlier) && tasks[earlier].precedes(&tasks[at]));
            if order.begun == at && is_free {
                order.begun += 1;
                self.changed.notify_all();
                return true;
            }
            order = self
                .changed
                .wait(order)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn perform(&self, at: usize) -> GuestResult<Option<Read>> {
        let task = &self.spec.tasks[at];
        let (offset, length) = (task.extent.offset_bytes(), task.extent.length_bytes());
        let what = || format!("task {at}, {:?} {length} bytes at {offset}", task.op);
        match task.op {
            Op::Read => return self.read(at, task).map(Some),
            Op::Write(way) => self.write(at, task, way),
            Op::Discard => sys::discard(&self.direct, offset, length).map_err(Into::into),
            Op::Zero => sys::zero_out(&self.direct, offset, length).map_err(Into::into),
        }
        .context(what())?;
        Ok(None)
    }

    fn write(&self, at: usize, task: &Task, way: Way) -> io::Result<()> {
        let mut content = DirectBuffer::new(task.extent.length_bytes() as usize);
        let first = SectorIdentity {
            identity: IDENTITY,
            sector: task.extent.start.0,
            generation: self.spec.generation + at as u64,
            seed: self.spec.seed,
            writer: at as u32,
        };
        sector::fill(first, &mut content);
        let offset = task.extent.offset_bytes();
        match way {
            Way::Direct => self.direct.write_all_at(&content, offset),
            Way::Durable => write_durably(&self.direct, &content, offset),
            Way::Flushed => {
                self.direct.write_all_at(&content, offset)?;
                self.direct.sync_data()
            }
            Way::Cached => {
                self.cached.write_all_at(&content, offset)?;
                self.cached.sync_data()
            }
        }
    }

    fn read(&self, at: usize, task: &Task) -> GuestResult<Read> {
        let extent = self.whole_blocks(task.extent)?;
        Ok(Read {
            offset: extent.offset_bytes(),
            reader: at as u32,
            at_ns: uptime_ns(),
            content: self.read_snapshot(extent)?,
        })
    }

    /// The blocks of the snapshot that hold an extent; the last one may be short.
    fn whole_blocks(&self, extent: Extent) -> GuestResult<Extent> {
        let end = size_of(&self.spec.snapshot)? / SECTOR_BYTES;
        let start = extent.start.0 / BLOCK_SECTORS * BLOCK_SECTORS;
        let behind = extent.end().0.next_multiple_of(BLOCK_SECTORS).min(end);
        Ok(Extent::between(Sector(start), Sector(behind)))
    }

    fn read_snapshot(&self, extent: Extent) -> GuestResult<Vec<u8>> {
        let snapshot = open_direct(&self.spec.snapshot, false)?;
        let mut content = DirectBuffer::new(extent.length_bytes() as usize);
        snapshot
            .read_exact_at(&mut content, extent.offset_bytes())
            .context(format_args!("read {}", self.spec.snapshot))?;
        Ok(content.to_vec())
    }

    /// Reads again what was read; gives both reads of every block that differs.
    fn read_again(&self, reads: Vec<Read>) -> GuestResult<Vec<Observation>> {
        let mut observations = Vec::new();
        for read in reads {
            let extent = Extent::of_bytes(read.offset, read.content.len() as u64);
            let again = self.read_snapshot(extent)?;
            let blocks = read.content.chunks(BLOCK_BYTES);
            for (at, (first, second)) in blocks.zip(again.chunks(BLOCK_BYTES)).enumerate() {
                if first == second || observations.len() >= 2 * MAX_SENT_BLOCKS {
                    continue;
                }
                observations.extend([first, second].map(|content| Observation {
                    workload: WorkloadId(0),
                    block: read.offset / BLOCK_BYTES as u64 + at as u64,
                    reader: read.reader,
                    at_ns: read.at_ns,
                    content: content.to_vec(),
                }));
            }
        }
        Ok(observations)
    }
}
