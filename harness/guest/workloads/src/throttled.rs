//! Direct writes that a cgroup's limit (`io.max`) delays after they were submitted.
//!
//! A cgroup holds processes, so a process of its own writes: it joins the group, submits all of its
//! writes with one call, says so, and waits for them. They leave the block layer at the pace of the
//! limit, some before the snapshot instant and some after it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cowbird_guest_system::async_io::{Aio, MAX_PARTS, Part};
use cowbird_guest_system::console;
use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::{open_direct, size_of};
use cowbird_guest_system::sys::DirectBuffer;
use cowbird_proto::message::ThrottledSpec;
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};

use super::group;
use super::progress::count;
use super::shared::{Body, Parts, Shared};
use super::snapshot_view::BLOCK_BYTES;

/// Argument that makes this binary the process that is throttled.
pub const DELAYED_WRITER_ARGUMENT: &str = "delayed-writer";

/// Identity in the sectors that this workload writes.
const IDENTITY: u64 = 0xDE1A;

const GROUP: &str = "slow";

/// What the process says when all writes are submitted.
const SUBMITTED: &str = "submitted";

/// Prepares the group and the one thread.
pub fn prepare(spec: ThrottledSpec) -> GuestResult<Parts> {
    if spec.blocks as usize > MAX_PARTS {
        return Err(failure(format!("at most {MAX_PARTS} blocks")));
    }
    limit(&spec)?;
    let body: Body = Box::new(move |shared| supervise(shared, &spec));
    Ok(Parts {
        golden: Vec::new(),
        threads: vec![body],
    })
}

fn limit(spec: &ThrottledSpec) -> GuestResult<()> {
    let device = fs::read_to_string(format!("/sys/block/{}/dev", spec.disk))
        .context(format_args!("find the number of {}", spec.disk))?;
    let limit = format!("{} wbps={}", device.trim(), spec.bytes_per_second);
    group::make(GROUP, "io", "io.max", &limit)
}

/// Starts the process and counts: one operation when all is submitted, finished at its end.
fn supervise(shared: &Arc<Shared>, spec: &ThrottledSpec) -> GuestResult<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg(DELAYED_WRITER_ARGUMENT)
        .arg(&spec.device)
        .arg(spec.seed.to_string())
        .arg(spec.blocks.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the delayed writer")?;
    let lines = child.stdout.take().map(BufReader::new);
    for line in lines.into_iter().flat_map(BufRead::lines) {
        if line.is_ok_and(|line| line == SUBMITTED) {
            shared.progress.operations.fetch_add(1, Ordering::AcqRel);
        }
    }
    let status = child.wait().context("wait for the delayed writer")?;
    if !status.success() {
        return Err(failure(format!("the delayed writer ended with {status}")));
    }
    let bytes = u64::from(spec.blocks) * BLOCK_BYTES as u64;
    count(&shared.progress.bytes_written, bytes);
    shared.finished.store(true, Ordering::Release);
    Ok(())
}

/// The process: device, seed and number of blocks are its arguments.
pub fn write_delayed(arguments: &[String]) -> GuestResult<()> {
    let [device, seed, blocks] = arguments else {
        return Err(failure("the delayed writer has three arguments"));
    };
    let (Ok(seed), Ok(blocks)) = (seed.parse::<u64>(), blocks.parse::<u64>()) else {
        return Err(failure("seed and number of blocks are numbers"));
    };
    group::join(GROUP)?;
    let block = BLOCK_BYTES as u64;
    let stretch = size_of(device)? / block / blocks.max(1);
    let mut buffer = DirectBuffer::new(blocks as usize * BLOCK_BYTES);
    let mut rng = Rng::new(seed);
    // Far from each other, so that none are merged.
    let parts: Vec<Part> = (0..blocks)
        .map(|index| Part {
            bytes: index as usize * BLOCK_BYTES..(index as usize + 1) * BLOCK_BYTES,
            offset: (index * stretch + rng.below(stretch)) * block,
        })
        .collect();
    for part in &parts {
        let first = SectorIdentity {
            identity: IDENTITY,
            sector: part.offset / SECTOR_BYTES as u64,
            generation: 1,
            seed,
            writer: 0,
        };
        sector::fill(first, &mut buffer[part.bytes.clone()]);
    }
    let file = open_direct(device, true)?;
    let mut aio = Aio::new().context("prepare asynchronous writes")?;
    aio.submit(&file, &buffer, &parts).context("submit")?;
    // The writes are under way, whoever hears of it.
    let _ = console::line(SUBMITTED);
    aio.wait(&parts).context("wait for the writes")
}
