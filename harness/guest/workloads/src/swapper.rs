//! A process that writes to more memory than its cgroup may have, so that the kernel writes to a swap area all the
//! time. The rest of the machine has memory enough and never swaps.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::swap::make_swap;
use cowbird_guest_system::{console, files, sys};
use cowbird_proto::message::SwapperSpec;
use cowbird_proto::rng::Rng;

use super::group;
use super::shared::{Body, Parts, Shared};

/// Argument that makes this binary the process that swaps.
pub const SWAPPER_ARGUMENT: &str = "swapper";

/// Its group.
const GROUP: &str = "swaps";

/// Where the kernel counts pages that it has written to swap areas, and the line of it.
const COUNTERS: &str = "/proc/vmstat";
const SWAPPED_OUT: &str = "pswpout ";

const PAGE_BYTES: usize = 4096;

/// How long a device may be used by somebody else, and the pause before the next try.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
const BUSY_POLL: Duration = Duration::from_millis(50);

/// The process says something after so many pages, with this word.
const PAGES_EACH: u64 = 64;
const WROTE: &str = "wrote";

/// Makes the swap area and the group, and prepares the one thread.
pub fn prepare(spec: SwapperSpec) -> GuestResult<Parts> {
    let bytes = u64::from(spec.limit_mib) << 20;
    group::make(GROUP, "memory", "memory.max", &bytes.to_string())?;
    make_swap(&spec.device)?;
    swap_on(&spec.device).context(format_args!("swap to {}", spec.device))?;
    let body: Body = Box::new(move |shared| supervise(shared, &spec));
    Ok(Parts {
        golden: Vec::new(),
        threads: vec![body],
    })
}

/// A filesystem that was on the device may take a moment to end.
fn swap_on(device: &str) -> std::io::Result<()> {
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match sys::swap_on(device) {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_POLL);
            }
            end => return end,
        }
    }
}

/// Starts the process and ends it with the workload.
fn supervise(shared: &Arc<Shared>, spec: &SwapperSpec) -> GuestResult<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg(SWAPPER_ARGUMENT)
        .arg(spec.seed.to_string())
        .arg(spec.used_mib.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the process that swaps")?;
    let counted = count(shared, &mut child);
    let ended = child.try_wait().context("look at the process that swaps")?;
    if ended.is_none() {
        child.kill().context("end the process that swaps")?;
        child.wait().context("wait for the process that swaps")?;
    }
    sys::swap_off(&spec.device).context(format_args!("end swapping to {}", spec.device))?;
    match ended {
        Some(status) => Err(failure(format!(
            "the process that swaps ended with {status}"
        ))),
        None => counted,
    }
}

/// Counts what is written to the swap area until the workload is to end.
fn count(shared: &Shared, child: &mut Child) -> GuestResult<()> {
    let before = swapped_out()?;
    let lines = child.stdout.take().map(BufReader::new);
    for line in lines.into_iter().flat_map(BufRead::lines) {
        if shared.stopping() {
            break;
        }
        if line.is_ok_and(|line| line == WROTE) {
            let bytes = (swapped_out()? - before) * PAGE_BYTES as u64;
            shared
                .progress
                .bytes_written
                .store(bytes, Ordering::Relaxed);
            shared.progress.operations.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn swapped_out() -> GuestResult<u64> {
    let text = files::read_text(COUNTERS)?;
    let number = text.lines().find_map(|line| line.strip_prefix(SWAPPED_OUT));
    number
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| failure(format!("{COUNTERS} has no {SWAPPED_OUT}")))
}

/// The process: seed and MiB of memory are its arguments. It is killed.
pub fn swap(arguments: &[String]) -> GuestResult<()> {
    let [seed, mib] = arguments else {
        return Err(failure("the process that swaps has two arguments"));
    };
    let (Ok(seed), Ok(mib)) = (seed.parse::<u64>(), mib.parse::<usize>()) else {
        return Err(failure("seed and MiB are numbers"));
    };
    group::join(GROUP)?;
    let mut memory = vec![0_u8; mib << 20];
    let pages = (memory.len() / PAGE_BYTES) as u64;
    let mut rng = Rng::new(seed);
    let mut generation = 0_u64;
    loop {
        for _ in 0..PAGES_EACH {
            generation += 1;
            let page = rng.below(pages) as usize * PAGE_BYTES;
            for (word, place) in (0_u64..).zip(memory[page..page + PAGE_BYTES].chunks_exact_mut(8))
            {
                place.copy_from_slice(&(generation << 16 | word).to_ne_bytes());
            }
        }
        // Without a supervisor nobody ends it.
        console::line(WROTE).context("tell the supervisor")?;
    }
}
