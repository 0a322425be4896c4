//! `report`: a trace as one HTML page.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use cowbird_events::devices;
use cowbird_events::event::{BLOCK_BYTES, DeviceNumber, SECTOR_BYTES, Sector};
use cowbird_trace::output::Draft;
use cowbird_trace::report::{Collector, Head, Span, page};

use super::{Outcome, Overview};

#[derive(Args)]
pub struct Options {
    /// Trace file
    file: PathBuf,
    /// Page to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn head(options: &Options, overview: &Overview, span: Span, events: u64) -> Head {
    let mut facts = Vec::new();
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    if let Some(meta) = &overview.meta {
        add("kernel", format!("{} {}", meta.kernel, meta.machine));
        add("recorded by", meta.tool.clone());
        let filter = meta.filter.as_deref();
        add("devices", filter.unwrap_or("all").to_owned());
        let content = match meta.fingerprint_grid {
            Some(_) => "fingerprinted",
            None => "not recorded",
        };
        add("content", content.to_owned());
    }
    add("time", format!("{:.3} s", span.seconds()));
    add("events", events.to_string());
    for snapshot in overview.snapshots() {
        add(
            &format!("snapshot {}", snapshot.minor),
            format!("of {}", snapshot.block_device),
        );
    }
    facts.dedup();
    let name = options.file.file_name().unwrap_or(options.file.as_os_str());
    Head {
        title: format!("Trace {}", name.to_string_lossy()),
        facts,
        losses: overview.losses.clone(),
    }
}

pub fn run(options: &Options) -> Result<Outcome> {
    let cannot = || format!("cannot write {}", options.output.display());
    // First: a trace takes minutes to read.
    let draft = Draft::create(&options.output).with_context(cannot)?;
    let mut times: Option<(u64, u64)> = None;
    let input = super::open(&options.file)?;
    let overview = super::read(&input, |record| {
        let (first, last) = times.unwrap_or((record.time_ns, record.time_ns));
        times = Some((first.min(record.time_ns), last.max(record.time_ns)));
        Ok(())
    })?;
    let (start_ns, last_ns) =
        times.context("the trace holds no event; there is nothing to show")?;
    let span = Span {
        start_ns,
        end_ns: last_ns + 1,
    };
    let disks = overview.devices().iter().filter(|device| device.is_disk());
    let of_snapshots = || {
        overview
            .snapshots()
            .filter_map(|known| known.device.as_ref())
    };
    let sizes: BTreeMap<u32, u64> = disks
        .chain(of_snapshots())
        .filter_map(|device| Some((device.disk()?.0, device.sectors)))
        .collect();
    let origins = overview
        .snapshots()
        .filter_map(|snapshot| {
            let bytes = (snapshot.origin.as_ref()?.sectors).saturating_mul(SECTOR_BYTES);
            Some((snapshot.minor, bytes.div_ceil(BLOCK_BYTES)))
        })
        .collect();
    let mut collector = Collector::new(span, sizes, origins);
    super::read(&input, |record| {
        collector.take(record);
        Ok(())
    })?;
    let head = head(options, &overview, span, collector.events);
    let name = |disk: u32| {
        let number = DeviceNumber(disk);
        let snapshot = of_snapshots().find(|device| device.disk() == Some(number));
        snapshot.map_or_else(
            || devices::name_of(overview.devices(), number, Sector(u64::MAX)),
            |device| device.name.clone(),
        )
    };
    let text = page(&head, &collector, name);
    draft.put(text.as_bytes()).with_context(cannot)?;
    Ok(overview.warn())
}
