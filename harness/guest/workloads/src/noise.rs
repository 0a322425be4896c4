//! Noise that moves threads in time: CPUs that go and come back, and threads of high priority that take one for
//! a moment. A race of two threads that on a quiet machine always ends in one order has many orders then.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_guest_system::sys;
use cowbird_proto::message::NoiseSpec;
use cowbird_proto::rng::Rng;

use super::shared::{Body, Parts, Shared};

/// Pauses between two changes of a CPU, ms. Each change stops all CPUs for a moment.
const HOTPLUG_PAUSE_MS: (u64, u64) = (20, 200);

/// How long a thread keeps its CPU, and how long it leaves it alone, microseconds.
const SPIN_US: (u64, u64) = (50, 3000);
const REST_US: (u64, u64) = (500, 8000);

/// Prepares the threads.
pub fn prepare(spec: NoiseSpec) -> GuestResult<Parts> {
    let mut threads: Vec<Body> = Vec::new();
    if spec.hotplug {
        threads.push(Box::new(move |shared| hotplug(shared, spec.seed)));
    }
    for number in 0..spec.spinners {
        threads.push(Box::new(move |shared| spin(shared, spec.seed, number)));
    }
    Ok(Parts {
        golden: Vec::new(),
        threads,
    })
}

/// Takes CPUs away and gives them back; in the end all are there.
fn hotplug(shared: &Arc<Shared>, seed: u64) -> GuestResult<()> {
    let mut rng = Rng::for_part(seed, u64::MAX);
    let cpus: Vec<String> = (1..)
        .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/online"))
        .take_while(|path| fs::metadata(path).is_ok())
        .collect();
    if cpus.is_empty() {
        shared.leave_out("no CPU can be taken away".to_owned());
        return Ok(());
    }
    while !shared.stopping() {
        let cpu = &cpus[rng.below(cpus.len() as u64) as usize];
        for online in ["0", "1"] {
            fs::write(cpu, online).context(format_args!("write {online} to {cpu}"))?;
            shared
                .progress
                .operations
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (least, most) = HOTPLUG_PAUSE_MS;
            std::thread::sleep(Duration::from_millis(rng.between(least, most)));
        }
    }
    Ok(())
}

/// Takes a CPU from whoever has it, now and then.
fn spin(shared: &Arc<Shared>, seed: u64, number: u32) -> GuestResult<()> {
    sys::be_urgent().context("ask for a real-time priority")?;
    let mut rng = Rng::for_part(seed, u64::from(number));
    let mut within = |(least, most): (u64, u64)| Duration::from_micros(rng.between(least, most));
    while !shared.stopping() {
        let end = Instant::now() + within(SPIN_US);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        std::thread::sleep(within(REST_US));
    }
    Ok(())
}
