//! Readers and writers of which it matters how long they wait.
//!
//! The writers share a stretch of blocks: each block is written once before any is written again, and blocks that
//! follow each other in time lie far from each other, so that every region of the module is marked early and no two
//! writes are merged.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cowbird_guest_system::async_io::Queue;
use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::{open_direct, read_text, size_of};
use cowbird_guest_system::sys::DirectBuffer;
use cowbird_proto::message::{Operation, PollSpec, TimedMode, TimedSpec, WriteMode};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};

use super::progress::count;
use super::shared::{Body, Parts, Shared};
use super::snapshot_view::BLOCK_BYTES;
use super::watch::now_us;

/// Argument that makes this binary the process that writes in a control group.
pub const GROUPED_WRITER_ARGUMENT: &str = "grouped-writer";

/// What such a process does.
const READS: &str = "read";
const WRITES: &str = "write";

/// Identity in the sectors that this workload writes.
const IDENTITY: u64 = 0x71ED;

/// How far apart blocks are that are written one after the other, blocks; the next larger number that divides nothing.
const STRIDE: u64 = 97;

/// Pause between two looks whether a process is to end.
const POLL: Duration = Duration::from_millis(20);

/// Which blocks are written, and in what order.
#[derive(Debug, Clone, Copy)]
struct Order {
    first: u64,
    blocks: u64,
    stride: u64,
    writers: u64,
}

impl Order {
    fn of(spec: &TimedSpec) -> Self {
        let blocks = spec.blocks.max(1);
        let stride = (STRIDE..).find(|stride| divisor(*stride, blocks) == 1);
        Self {
            first: spec.first_block,
            blocks,
            stride: stride.unwrap_or(1),
            writers: u64::from(spec.writers.max(1)),
        }
    }

    /// The block that a writer writes after so many others of its own, and in which pass; `None` when it has none.
    fn block(&self, writer: u32, index: u64) -> (u64, u64) {
        let step = index * self.writers + u64::from(writer);
        let (pass, within) = (step / self.blocks, step % self.blocks);
        (self.first + within * self.stride % self.blocks, pass)
    }
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// Prepares the threads.
pub fn prepare(spec: TimedSpec) -> GuestResult<Parts> {
    let end = (spec.first_block + spec.blocks) * BLOCK_BYTES as u64;
    for device in &spec.devices {
        if size_of(device)? < end {
            return Err(failure(format!("{device} has less than {end} bytes")));
        }
    }
    if spec.devices.is_empty() || spec.blocks == 0 {
        return Err(failure("there is nothing to read and write"));
    }
    let generation = now_us();
    let spec = Arc::new(spec);
    let mut threads: Vec<Body> = Vec::new();
    if let TimedMode::Grouped(depth) = spec.mode {
        for number in 0..spec.readers + spec.writers {
            threads.extend(supervisors(&spec, number, depth)?);
        }
    } else {
        for number in 0..spec.readers {
            let spec = Arc::clone(&spec);
            threads.push(Box::new(move |shared| read(shared, &spec, number)));
        }
        for number in 0..spec.writers {
            let spec = Arc::clone(&spec);
            threads.push(Box::new(move |shared| match spec.mode {
                TimedMode::Deep(depth) => write_deep(shared, &spec, number, depth),
                _ => write(shared, &spec, number, generation),
            }));
        }
    }
    Ok(Parts {
        golden: Vec::new(),
        threads,
    })
}

/// Prepares the one thread that reads a file again and again.
pub fn prepare_poll(spec: PollSpec) -> GuestResult<Parts> {
    let body: Body = Box::new(move |shared| {
        let watch = shared.watches.add();
        while !shared.stopping() {
            watch.time(|| read_text(&spec.path))?;
            count(&shared.progress.operations, 1);
            std::thread::sleep(Duration::from_millis(spec.pause_ms));
        }
        Ok(())
    });
    Ok(Parts {
        golden: Vec::new(),
        threads: vec![body],
    })
}

/// The device of one thread.
fn device_of(spec: &TimedSpec, number: u32) -> &str {
    &spec.devices[number as usize % spec.devices.len()]
}

fn read(shared: &Arc<Shared>, spec: &TimedSpec, number: u32) -> GuestResult<()> {
    let path = device_of(spec, number);
    let device = open_direct(path, false)?;
    let watch = shared.watches.add();
    let mut rng = Rng::for_part(spec.seed, u64::from(number));
    let mut buffer = DirectBuffer::new(BLOCK_BYTES);
    while !shared.stopping() {
        let offset = (spec.first_block + rng.below(spec.blocks)) * BLOCK_BYTES as u64;
        watch
            .time(|| device.read_exact_at(&mut buffer, offset))
            .context(format_args!("read {path} at {offset}"))?;
        count(&shared.progress.operations, 1);
        std::thread::sleep(Duration::from_micros(spec.pause_us));
    }
    Ok(())
}

fn write(shared: &Arc<Shared>, spec: &TimedSpec, number: u32, begun: u64) -> GuestResult<()> {
    let synced = spec.mode == TimedMode::Synced;
    let path = device_of(spec, number);
    let device = match synced {
        true => open_cached(path)?,
        false => open_direct(path, true)?,
    };
    let watch = shared.watches.add();
    let mut journal = shared.journal(number);
    let mut buffer = DirectBuffer::new(BLOCK_BYTES);
    let order = Order::of(spec);
    for index in 0.. {
        let (block, pass) = order.block(number, index);
        if shared.stopping() || (spec.once && pass > 0) {
            break;
        }
        let (offset, generation) = (block * BLOCK_BYTES as u64, begun + pass);
        fill(&mut buffer, spec.seed, offset, number, generation);
        let what = Operation::Write {
            identity: IDENTITY,
            offset,
            length: BLOCK_BYTES as u64,
            generation,
            mode: match synced {
                true => WriteMode::Synced,
                false => WriteMode::Direct,
            },
        };
        journal.run(what, || {
            watch.time(|| {
                device.write_all_at(&buffer, offset)?;
                match synced {
                    true => device.sync_data(),
                    false => Ok(()),
                }
            })
        })?;
        count(&shared.progress.bytes_written, BLOCK_BYTES as u64);
        std::thread::sleep(Duration::from_micros(spec.pause_us));
    }
    Ok(())
}

fn open_cached(path: &str) -> GuestResult<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    options.open(path).context(format_args!("open {path}"))
}

fn fill(buffer: &mut [u8], seed: u64, offset: u64, writer: u32, generation: u64) {
    let first = SectorIdentity {
        identity: IDENTITY,
        sector: offset / SECTOR_BYTES as u64,
        generation,
        seed,
        writer,
    };
    sector::fill(first, buffer);
}

/// Keeps so many writes in flight. Each is as old as the time since it was handed to the kernel.
fn write_deep(shared: &Arc<Shared>, spec: &TimedSpec, number: u32, depth: u32) -> GuestResult<()> {
    let device = open_direct(device_of(spec, number), true)?;
    let watch = shared.watches.add();
    let order = Order::of(spec);
    let mut buffer = DirectBuffer::new(depth as usize * BLOCK_BYTES);
    let mut queue = Queue::new(depth as usize).context("prepare asynchronous writes")?;
    let mut free: Vec<usize> = (0..depth as usize).collect();
    let mut begun = vec![0; depth as usize];
    let mut in_order: VecDeque<usize> = VecDeque::new();
    let mut index = 0;
    // What the kernel could not take without waiting.
    let mut again: Vec<usize> = Vec::new();
    let mut offsets = vec![0; depth as usize];
    loop {
        let (block, pass) = order.block(number, index);
        let ends = shared.stopping() || (spec.once && pass > 0);
        if ends && in_order.is_empty() {
            return Ok(());
        }
        let (slot, may_wait) = match again.pop() {
            Some(slot) => (Some(slot), true),
            None => (free.pop().filter(|_| !ends), false),
        };
        if let Some(slot) = slot {
            let place = slot * BLOCK_BYTES..(slot + 1) * BLOCK_BYTES;
            if !may_wait {
                index += 1;
                offsets[slot] = block * BLOCK_BYTES as u64;
                fill(
                    &mut buffer[place.clone()],
                    spec.seed,
                    offsets[slot],
                    number,
                    pass + 1,
                );
                begun[slot] = now_us();
                in_order.push_back(slot);
                watch.oldest(in_order.front().map(|slot| begun[*slot]));
            }
            let offset = offsets[slot];
            queue
                .submit(&device, &buffer[place], offset, slot as u64, may_wait)
                .context(format_args!("submit a write at {offset}"))?;
        }
        let wait = again.is_empty() && (ends || free.is_empty());
        for (slot, end) in queue.reap(wait).context("wait for writes")? {
            let slot = slot as usize;
            match end {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    again.push(slot);
                    continue;
                }
                end => end.context(format_args!("write at {}", offsets[slot]))?,
            }
            watch.ended(now_us().saturating_sub(begun[slot]));
            in_order.retain(|other| *other != slot);
            watch.oldest(in_order.front().map(|slot| begun[*slot]));
            free.push(slot);
            count(&shared.progress.operations, 1);
            count(&shared.progress.bytes_written, BLOCK_BYTES as u64);
        }
    }
}

/// Starts a process in the control group, the readers first; one thread counts what it does, one ends it.
fn supervisors(spec: &TimedSpec, number: u32, depth: u32) -> GuestResult<[Body; 2]> {
    let group = spec.group.as_deref();
    let group = group.ok_or_else(|| failure("a grouped writer has a control group"))?;
    let writer = number.checked_sub(spec.readers);
    let share = spec.blocks / u64::from(spec.writers.max(1));
    let (what, first, blocks) = match writer {
        Some(writer) => (WRITES, spec.first_block + u64::from(writer) * share, share),
        None => (READS, spec.first_block, spec.blocks),
    };
    let mut child = Command::new("/proc/self/exe")
        .arg(GROUPED_WRITER_ARGUMENT)
        .args([what, group, device_of(spec, number)])
        .args([spec.seed, first, blocks, spec.pause_us, depth.into()].map(|it| it.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the grouped writer")?;
    let lines = child.stdout.take().map(BufReader::new);
    let child = Arc::new(Mutex::new(child));
    let killed = Arc::clone(&child);
    let count: Body = Box::new(move |shared| {
        let watch = shared.watches.add();
        watch.oldest(Some(now_us()));
        for line in lines.into_iter().flat_map(BufRead::lines) {
            let Some(took_us) = line.ok().and_then(|line| line.parse().ok()) else {
                break;
            };
            watch.ended(took_us);
            watch.oldest(Some(now_us()));
            count(&shared.progress.operations, 1);
        }
        watch.oldest(None);
        // It has closed its output, and ends.
        let status = lock(&child)
            .wait()
            .context("wait for the grouped process")?;
        if !shared.stopping() && !status.success() {
            return Err(failure(format!("the grouped writer ended with {status}")));
        }
        Ok(())
    });
    let end: Body = Box::new(move |shared| {
        while !shared.stopping() && !matches!(lock(&killed).try_wait(), Ok(Some(_))) {
            std::thread::sleep(POLL);
        }
        // It may have ended by itself.
        let _ = lock(&killed).kill();
        Ok(())
    });
    Ok([count, end])
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process in the control group. Each line that it prints is how long an access took, us.
pub fn write_grouped(arguments: &[String]) -> GuestResult<()> {
    let [what, group, device, numbers @ ..] = arguments else {
        return Err(failure("the grouped process has eight arguments"));
    };
    let parsed: Result<Vec<u64>, _> = numbers.iter().map(|number| number.parse()).collect();
    let Ok([seed, first_block, blocks, pause_us, depth]) = parsed.as_deref() else {
        return Err(failure(
            "seed, first block, blocks, pause and depth are numbers",
        ));
    };
    let own = std::process::id().to_string();
    fs::write(format!("{group}/cgroup.procs"), own).context(format_args!("join {group}"))?;
    let file = open_direct(device, true)?;
    let offsets = (*first_block..first_block + blocks).map(|block| block * BLOCK_BYTES as u64);
    if what == WRITES && *depth > 1 {
        return write_many(&file, *seed, offsets, *depth as usize);
    }
    let mut buffer = DirectBuffer::new(BLOCK_BYTES);
    for offset in offsets {
        fill(&mut buffer, *seed, offset, 0, 1);
        let begun = now_us();
        match what.as_str() {
            WRITES => file.write_all_at(&buffer, offset),
            _ => file.read_exact_at(&mut buffer, offset),
        }
        .context(format_args!("{what} at {offset} of {device}"))?;
        tell(begun)?;
        std::thread::sleep(Duration::from_micros(*pause_us));
    }
    Ok(())
}

/// Says how long an access took.
fn tell(begun_us: u64) -> GuestResult<()> {
    let took_us = now_us().saturating_sub(begun_us);
    writeln!(std::io::stdout(), "{took_us}").context("tell how long an access took")
}

/// Writes each block once, with `depth` writes in flight as long as there are so many.
fn write_many(
    file: &File,
    seed: u64,
    mut offsets: impl Iterator<Item = u64>,
    depth: usize,
) -> GuestResult<()> {
    let mut buffer = DirectBuffer::new(depth * BLOCK_BYTES);
    let mut queue = Queue::new(depth).context("prepare asynchronous writes")?;
    let mut free: Vec<usize> = (0..depth).collect();
    let mut begun = vec![0; depth];
    loop {
        while let Some(slot) = free.pop() {
            let Some(offset) = offsets.next() else {
                free.push(slot);
                break;
            };
            let place = slot * BLOCK_BYTES..(slot + 1) * BLOCK_BYTES;
            fill(&mut buffer[place.clone()], seed, offset, 0, 1);
            begun[slot] = now_us();
            queue
                .submit(file, &buffer[place], offset, slot as u64, true)
                .context(format_args!("submit a write at {offset}"))?;
        }
        if free.len() == depth {
            return Ok(());
        }
        for (slot, end) in queue.reap(true).context("wait for writes")? {
            end.context("write in the group")?;
            tell(begun[slot as usize])?;
            free.push(slot as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the writers together write each block once in each pass. Method: odd numbers of writers and blocks.
    #[test]
    fn each_block_is_written_once_in_a_pass() {
        for (writers, blocks) in [(1_u32, 1_u64), (3, 97), (16, 4096), (5, 194)] {
            let order = Order::of(&TimedSpec {
                devices: Vec::new(),
                seed: 0,
                readers: 0,
                writers,
                first_block: 7,
                blocks,
                mode: TimedMode::Direct,
                group: None,
                once: true,
                pause_us: 0,
            });
            let mut seen = vec![0; blocks as usize];
            for writer in 0..writers {
                for index in 0.. {
                    let (block, pass) = order.block(writer, index);
                    if pass > 0 {
                        break;
                    }
                    seen[(block - 7) as usize] += 1;
                }
            }
            assert!(seen.iter().all(|count| *count == 1), "{writers} {blocks}");
        }
    }
}
