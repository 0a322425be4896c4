//! What recording costs the writers.
//!
//! The same random writes with and without a recorder, in turn within one run, so that whatever
//! else the machine does hits both; the figures are the medians of the ratios of neighbours. On a
//! busy machine the writers' own CPU time, in which the programs run, tells more than the clock.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use cowbird_outside::say;
use rustix::time::{ClockId, clock_gettime};

use crate::recording::{Recording, Trace};
use crate::target::{BLOCK, Buffer, open_direct};

/// Blocks that are written at random.
const BLOCKS: usize = 8192;

#[derive(Args)]
pub struct Options {
    /// Block device of at least 32 MiB; overwritten
    device: String,
    /// Threads that write at the same time
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// Writes of each thread in each half of a round
    #[arg(long, default_value_t = 2000)]
    writes: usize,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Fail if the median by CPU time is more than so many percent
    #[arg(long, value_name = "PERCENT")]
    at_most: Option<f64>,
    /// Options of `record`
    #[arg(last = true)]
    record: Vec<String>,
}

/// What a load took.
#[derive(Clone, Copy)]
struct Cost {
    clock: Duration,
    cpu: Duration,
}

impl Cost {
    fn ratio(self, other: Self) -> (f64, f64) {
        (
            self.clock.as_secs_f64() / other.clock.as_secs_f64(),
            self.cpu.as_secs_f64() / other.cpu.as_secs_f64(),
        )
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Writes random blocks from every thread.
fn load(device: &str, options: &Options) -> Result<Cost> {
    let file = open_direct(device)?;
    let (begin, cpu_begin) = (Instant::now(), cpu_time());
    thread::scope(|scope| {
        let writers: Vec<_> = (0..options.writers)
            .map(|writer| {
                let file = &file;
                scope.spawn(move || -> Result<()> {
                    let page = Buffer::of(writer, BLOCK, 0);
                    let mut state = writer as u64 + 1;
                    for _ in 0..options.writes {
                        // Knuth's MMIX generator; only its high bits are good.
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let block = (state >> 33) as usize % BLOCKS;
                        file.write_all_at(&page, (block * BLOCK) as u64)?;
                    }
                    Ok(())
                })
            })
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or_else(|_| panic!("a writer failed")))
    })?;
    Ok(Cost {
        clock: begin.elapsed(),
        cpu: cpu_time() - cpu_begin,
    })
}

fn recorded(tracer: &Path, device: &str, options: &Options) -> Result<(Cost, Trace)> {
    let arguments: Vec<&str> = options.record.iter().map(String::as_str).collect();
    let recording = Recording::start(tracer, device, &arguments)?;
    let time = load(device, options)?;
    Ok((time, recording.stop()?))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 if middle > 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values.get(middle).copied().unwrap_or(f64::NAN),
    }
}

/// Runs the trial.
pub fn run(tracer: &Path, options: &Options) -> Result<()> {
    let device = options.device.as_str();
    load(device, options)?; // warms up
    let writes = (options.writers * options.writes) as f64;
    let us = |time: Duration| time.as_secs_f64() * 1e6 / writes;
    let mut ratios = Vec::new();
    for round in 0..options.rounds {
        // Who comes first changes, so that a drift of the machine cancels out.
        let (bare, (tracked, trace)) = if round % 2 == 0 {
            (load(device, options)?, recorded(tracer, device, options)?)
        } else {
            let tracked = recorded(tracer, device, options)?;
            (load(device, options)?, tracked)
        };
        ratios.push(tracked.ratio(bare));
        say!(
            "round {round}: {:.1} us a write bare, {:.1} recorded; of the CPU {:.1} and {:.1}; {} \
             events, recorder {:.1} us a write, {} dropped",
            us(bare.clock),
            us(tracked.clock),
            us(bare.cpu),
            us(tracked.cpu),
            trace.records.len(),
            us(trace.cpu_time),
            trace.footer.dropped
        );
    }
    let percent = |ratios: Vec<f64>| (median(ratios) - 1.0) * 100.0;
    let (clock, cpu): (Vec<f64>, Vec<f64>) = ratios.into_iter().unzip();
    let (clock, percent) = (percent(clock), percent(cpu));
    say!("overhead {clock:.1} % by the clock, {percent:.1} % of CPU time");
    if let Some(limit) = options.at_most {
        anyhow::ensure!(
            percent <= limit,
            "recording costs {percent:.1} %, more than {limit} %"
        );
    }
    Ok(())
}
