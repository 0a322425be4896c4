//! `info`: what a trace holds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use cowbird_events::devices;
use cowbird_events::event::{DeviceNumber, Kind, Record, Sector};
use cowbird_events::format::{Footer, Meta};
use cowbird_outside::say;

use super::{Outcome, Overview};

mod workload;

const NANOS: f64 = 1e9;

#[derive(Args)]
pub struct Options {
    /// Trace; or a workload, or what can be read as one
    file: PathBuf,
    /// Print each operation of a workload
    #[arg(long)]
    operations: bool,
}

/// Sums over all events.
#[derive(Default)]
struct Counts {
    kinds: BTreeMap<Kind, u64>,
    /// By disk and operation: bios and their bytes.
    queued: BTreeMap<(DeviceNumber, &'static str), (u64, u64)>,
    errors: u64,
    events: u64,
    times: Option<(u64, u64)>,
}

impl Counts {
    fn add(&mut self, record: &Record) {
        self.events += 1;
        *self.kinds.entry(record.kind).or_default() += 1;
        self.errors += u64::from(record.status != 0);
        let (first, last) = self.times.unwrap_or((record.time_ns, record.time_ns));
        self.times = Some((first.min(record.time_ns), last.max(record.time_ns)));
        if record.kind == Kind::BioQueue {
            let key = (DeviceNumber(record.disk), record.op.name());
            let (bios, bytes) = self.queued.entry(key).or_default();
            *bios += 1;
            *bytes += u64::from(record.amount);
        }
    }
}

fn print_start(meta: &Meta) {
    say!("recorded by    {}", meta.tool);
    say!("kernel         {} {}", meta.kernel, meta.machine);
    say!("boot           {}", meta.boot_id);
    say!("device         {}", meta.filter.as_deref().unwrap_or("all"));
    say!("ring buffer    {} bytes", meta.ring_bytes);
    let prints = match (meta.fingerprint_grid, meta.fingerprints_sealed) {
        (None, _) => "none",
        (Some(_), true) => "sealed: contents cannot be recognised by them",
        (Some(_), false) => "plain: known contents can be found by them",
    };
    say!("fingerprints   {prints}");
    let module = if meta.module_events {
        "recorded"
    } else {
        "not recorded"
    };
    say!("module events  {module}");
}

fn print_end(footer: &Footer) {
    say!("stopped by     {}", footer.stopped_by);
    say!(
        "accounting     {} produced = {} received + {} dropped + {} left out by the rate limit; {} \
         read faults",
        footer.produced,
        footer.received,
        footer.dropped,
        footer.limited,
        footer.read_faults
    );
    match footer.recursion_misses {
        Some(misses) => say!(
            "skipped runs   {misses}, of which {} rescued; at most {} events lost",
            footer.rescued,
            footer.lost_to_recursion
        ),
        None => say!("skipped runs   this kernel skips none"),
    }
    say!(
        "requests       {} issues or completions missing; {} not complete at the end",
        footer.unpaired,
        footer.open_requests
    );
}

fn print_counts(counts: &Counts, overview: &Overview) {
    let span = counts.times.map_or(0, |(first, last)| last - first);
    say!(
        "events         {} in {:.3} s",
        counts.events,
        span as f64 / NANOS
    );
    for (kind, count) in &counts.kinds {
        say!("  {:<26} {count}", kind.name());
    }
    if counts.errors > 0 {
        say!("  with an error status       {}", counts.errors);
    }
    for ((disk, op), (bios, bytes)) in &counts.queued {
        let name = devices::name_of(overview.devices(), *disk, Sector(u64::MAX));
        say!("queued on {name:<12} {op:<12} {bios} bios, {bytes} bytes");
    }
}

pub fn run(options: &Options) -> Result<Outcome> {
    let input = super::open(&options.file)?;
    if workload::is_one(&input)? {
        return workload::run(&input, options.operations);
    }
    ensure!(
        !options.operations,
        "{} is a trace; `export` prints its events",
        options.file.display()
    );
    let mut counts = Counts::default();
    let overview = super::read(&input, |record| {
        counts.add(record);
        Ok(())
    })?;
    if let Some(meta) = &overview.meta {
        print_start(meta);
    }
    if let Some(footer) = &overview.footer {
        print_end(footer);
    }
    print_counts(&counts, &overview);
    match overview.losses.is_empty() {
        true => say!("complete       yes"),
        false => say!("complete       no"),
    }
    Ok(overview.warn())
}
